"""Continuous batching over one model: tokens in, text out. Knows no HTTP."""

import os

# llama.cpp's threads wait for each other many times a token. By default they spin for long, which
# burns the core that a busy neighbour (a test run, say) needs to let the other thread catch up, or
# hardly at all once more threads have ever computed than there are cores. A short spin, then sleep,
# is as fast as a long one. OpenMP reads both when it is loaded; `active` keeps it in all cases.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
