"""Runs models with continuous batching: takes prompt tokens, returns chunks of text.

The engine has no HTTP code.
"""

import os

# llama.cpp's OpenMP threads wait for each other many times per token. These two variables make a
# waiting thread spin briefly, then sleep: this is as fast as OpenMP's default, a long spin, but
# leaves the core to other processes. `active` is needed because OpenMP otherwise hardly spins once
# the process has had more threads than cores. OpenMP reads the variables only when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
