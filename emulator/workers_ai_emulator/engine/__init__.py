"""Runs models with continuous batching: takes prompt tokens and returns chunks of text.

This package contains no HTTP code.
"""

import os

# llama.cpp's OpenMP threads wait for each other many times per token. A waiting thread first spins
# (keeps its core busy) and then sleeps. By default, it spins for a long time. With a GOMP_SPINCOUNT
# of 1000, it sleeps sooner, so other processes can use the core; llama.cpp is just as fast.
# The policy `active` keeps this count valid if the process has had more threads than cores. Without
# the policy, a waiting thread would then sleep almost at once. OpenMP reads both variables only
# once, when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
