"""Starts an emulator as a child process, which exits when its parent exits."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

# Imported as a function, because a test may replace `time.sleep`.
from time import sleep
from typing import IO

from workers_ai_emulator.errors import CommandError

_COMMAND = [sys.executable, "-P", "-m", "workers_ai_emulator.cli.exit_with_parent", "serve"]
_STOP_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.02
_NUM_POLLS = 100


class ChildEmulator:
    """An emulator that runs as a child process on 127.0.0.1. `base_url`: its base URL.

    The emulator is a child process, so that a crash of llama.cpp does not end our process. `flags`:
    flags of the command `serve`. `variables`: the environment variables of the child process. The
    child process writes its stderr to the file `log`, or to our stderr if `log` is None. `port`: 0
    for a free port.

    The constructor returns when the emulator is ready. It raises CommandError if the emulator does
    not start; the reason is then in the child's stderr.
    """

    def __init__(
        self,
        flags: Sequence[str],
        variables: Mapping[str, str],
        log: IO[bytes] | None = None,
        port: int = 0,
    ) -> None:
        self._process = process = subprocess.Popen(
            [*_COMMAND, *flags, "--host", "127.0.0.1", "--port", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=variables,
            start_new_session=True,  # so that Ctrl+C in the terminal does not reach the emulator
        )
        assert process.stdout
        try:
            self.base_url = process.stdout.readline().strip()
        except BaseException:  # Ctrl+C
            self.stop()
            raise
        if not self.base_url:
            self.stop()
            raise CommandError("the emulator did not start, so nothing was run")

    def exit_reason(self, *, is_exiting: bool = False) -> str | None:
        """Returns why the emulator has exited, with its exit status; None while it runs.

        `is_exiting`: waits up to two seconds for the exit, because the emulator's connections end
        slightly earlier than the process.
        """
        for _ in range(_NUM_POLLS if is_exiting else 0):
            if self._process.poll() is not None:
                break
            sleep(_POLL_INTERVAL_S)
        status = self._process.poll()
        if status is None:
            return None
        if status >= 0:
            return f"has exited with the exit status {status}"
        try:
            name = signal.Signals(-status).name
        except ValueError:  # a real-time signal
            name = f"signal {-status}"
        return f"was killed by {name} (exit status {status})"

    def stop(self) -> None:
        """Stops the emulator, and waits until it has exited. Kills it after ten seconds."""
        assert self._process.stdin and self._process.stdout
        # The emulator would also exit when its stdin is closed, but not while a process that our
        # process has forked still has the pipe open.
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


@contextmanager
def emulator_process(
    flags: Sequence[str], variables: Mapping[str, str], log: IO[bytes] | None = None
) -> Iterator[str]:
    """Starts a `ChildEmulator`, and yields its base URL. Stops it at the end of the `with` block.

    Raises CommandError if the emulator does not start.
    """
    emulator = ChildEmulator(flags, variables, log)
    try:
        yield emulator.base_url
    finally:
        emulator.stop()
