"""Runs the command of `exec` as a subprocess, and forwards signals to the command."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

_KEYBOARD_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (*_KEYBOARD_SIGNALS, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Foreground:
    """Runs a command, and forwards the signals of this process to the command.

    Signals that arrive before the command starts are forwarded after its start. Signals that this
    process already ignores, for example under `nohup`, stay ignored.
    """

    def __init__(self) -> None:
        self._signals: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signals.put_nowait, number)

    async def run(self, command: Sequence[str], variables: Mapping[str, str]) -> int:
        """Runs the command and returns its exit code, or 128 + N if signal N ended it.

        Raises OSError if the command cannot be started.
        """
        process = await asyncio.create_subprocess_exec(*command, env=variables)
        forwarding = asyncio.create_task(self._forward(process))
        try:
            status = await process.wait()
        finally:
            forwarding.cancel()
        return status if status >= 0 else 128 - status

    async def _forward(self, process: asyncio.subprocess.Process) -> None:
        while number := await self._signals.get():
            if number in _KEYBOARD_SIGNALS and _is_in_foreground():
                continue  # the terminal has already sent this signal to the command
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _is_in_foreground() -> bool:
    """Returns whether our process group is the foreground process group of the terminal.

    The terminal sends the signals of keys such as Ctrl+C to every process of this group, so the
    command receives them without forwarding.
    """
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
