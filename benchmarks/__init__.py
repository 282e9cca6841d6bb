"""Measures the emulator and its peers: `python -m benchmarks` prints Markdown tables.

Not part of any test run. The peers get the same weights, threads and slots as the emulator.
"""
