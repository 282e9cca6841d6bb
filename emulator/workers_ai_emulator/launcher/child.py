"""An emulator of one's own: a process that ends with whoever started it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from workers_ai_emulator.errors import CommandError

_COMMAND = [sys.executable, "-P", "-m", "workers_ai_emulator.cli.exit_with_parent", "serve"]
_STOP_LIMIT_S = 10.0


@contextmanager
def started(
    flags: Sequence[str], variables: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[str]:
    """The base URL of a new emulator, ready, on a free port of this machine.

    A child process rather than a thread: should llama.cpp crash, its parent goes on. `log` gets
    its stderr, which else is the parent's. Raises CommandError where that says why.
    """
    process = subprocess.Popen(
        [*_COMMAND, *flags, "--host", "127.0.0.1", "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=variables,
        start_new_session=True,  # Ctrl-C is for the parent, which may live on
    )
    assert process.stdin and process.stdout
    try:
        if not (base_url := process.stdout.readline().strip()):
            raise CommandError("the emulator did not start, so nothing was run")
        yield base_url
    finally:
        process.stdin.close()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
