"""Starts an emulator as a child process, which exits when its parent exits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO

from workers_ai_emulator.errors import CommandError

_COMMAND = [sys.executable, "-P", "-m", "workers_ai_emulator.cli.exit_with_parent", "serve"]
_STOP_TIMEOUT_S = 10.0


@contextmanager
def emulator_process(
    flags: Sequence[str], variables: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[str]:
    """Starts an emulator on a free port of 127.0.0.1, and yields its base URL when it is ready.

    Stops the emulator at the end of the `with` block. The emulator is a child process, so a crash
    of llama.cpp does not end our process. `flags` are flags of the command `serve`. `variables` are
    the environment variables of the child process. The child process writes its stderr to the file
    `log`, or to our stderr if `log` is None. Raises CommandError if the emulator does not start;
    the reason is then in the child's stderr.
    """
    process = subprocess.Popen(
        [*_COMMAND, *flags, "--host", "127.0.0.1", "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=variables,
        start_new_session=True,  # so that Ctrl+C in the terminal does not reach the emulator
    )
    assert process.stdin and process.stdout
    try:
        if not (base_url := process.stdout.readline().strip()):
            raise CommandError("the emulator did not start, so nothing was run")
        yield base_url
    finally:
        process.stdin.close()
        _wait_or_kill(process)
        process.stdout.close()


def _wait_or_kill(process: subprocess.Popen[str]) -> None:
    """Waits until the emulator exits, and kills it if it still runs after ten seconds.

    The emulator exits because the caller of this function has closed the emulator's stdin.
    """
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
