"""Measures the speed of the emulator and of other servers, such as llama-server.

`python -m benchmarks` prints Markdown tables. All servers get the same weights, number of threads
and number of slots. The test suite does not run the benchmarks.
"""
