"""Continuous batching over one model: prompt tokens in, chunks of text out. No HTTP in here."""

import os

# llama.cpp's threads wait for each other many times per token. By default, OpenMP lets a waiting
# thread spin for a long time, which takes the core from any other busy process, or hardly at all
# if the process has ever had more computing threads than cores. A short spin followed by sleep is
# as fast as a long spin. OpenMP reads both variables when it is loaded; `active` makes it spin in
# all cases.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
