"""Runs models with continuous batching: takes prompt tokens, returns chunks of text.

The engine has no HTTP code.
"""

import os

# llama.cpp's OpenMP threads wait for each other many times per token. With these two variables, a
# waiting thread spins briefly, then sleeps. That is as fast as OpenMP's default (a long spin), but
# a sleeping thread leaves its core to other processes. Without the policy
# `active`, OpenMP would almost stop spinning once the process has had more threads than cores. OpenMP reads the variables only when it
# is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
