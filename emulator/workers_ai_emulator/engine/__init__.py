"""Runs models with continuous batching: takes prompt tokens, returns chunks of text.

The engine has no HTTP code.
"""

import os

# llama.cpp's OpenMP threads wait for each other many times per token. With these two variables, a
# waiting thread spins (keeps its core busy) for a short time, then sleeps. By default, OpenMP spins
# for a long time. Both are equally fast, but a sleeping thread leaves its core to other processes.
# The policy `active` is needed because OpenMP almost stops spinning without it once the process has
# had more threads than cores. OpenMP reads both variables only once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
