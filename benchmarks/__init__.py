"""How fast the emulator is beside its peers: `python -m benchmarks` prints Markdown tables.

Never part of a test run. Peers get the same weights, threads and slots.
"""
