"""Runs models with continuous batching: takes prompt tokens and returns chunks of text.

This package contains no HTTP code.
"""

import os

# llama.cpp's OpenMP threads wait for each other many times per token. A waiting thread first spins
# (keeps its core busy) and then sleeps. By default, it spins for a long time. With a GOMP_SPINCOUNT
# of 1000, it sleeps sooner, so other processes can use the core; llama.cpp is just as fast.
# If the process has ever had more threads than cores, OpenMP by default uses a much smaller count.
# With the policy `active`, it uses 1000 in this case, too. OpenMP reads both variables only once,
# when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
