"""How long from the start of the process to a model that has generated a token.

Prints the median of several starts with the machine, and what the interpreter alone takes.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

NUM_RUNS = 5


def seconds_until_first_line(command: list[str]) -> float:
    """From starting the command to its first line on stdout; it is then stopped."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout
    line = process.stdout.readline()
    elapsed_s = time.perf_counter() - start
    process.terminate()
    process.wait()
    if not line:
        raise SystemExit(f"{' '.join(command)} printed nothing")
    return elapsed_s


def main() -> None:
    serve = [sys.executable, "-m", "emulator", "serve", "--port", "0"]
    interpreter = [sys.executable, "-c", "print('up', flush=True)"]
    seconds_until_first_line(serve)  # converts weights, fills the page cache
    ready = [seconds_until_first_line(serve) for _ in range(NUM_RUNS)]
    bare = [seconds_until_first_line(interpreter) for _ in range(NUM_RUNS)]
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    print("embedded model as Q8_0, default settings (where memory allows 8 sequences of 4096)")
    for name, times in {"start to ready": ready, "interpreter alone": bare}.items():
        print(f"{name}: median {statistics.median(times):.2f} s, best {min(times):.2f} s")


if __name__ == "__main__":
    main()
