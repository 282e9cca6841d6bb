"""Continuous batching over one model: tokens in, text out. Knows no HTTP."""

import os

# llama.cpp's threads wait for each other many times a token. By default they spin meanwhile, and
# burn the core that a busy neighbour (a test run, say) needs to let the other thread catch up. A
# short spin, then sleep, costs nothing when alone. OpenMP reads this when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
