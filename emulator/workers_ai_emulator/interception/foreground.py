"""A command in our place: the same terminal, the same signals, its exit code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress

_FROM_KEYS = (signal.SIGINT, signal.SIGQUIT)
_FORWARDED = (*_FROM_KEYS, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Foreground:
    """Keeps the signals that come to us, from now on, for the command that it runs.

    Those that we were started to ignore stay ignored, as after `nohup`.
    """

    def __init__(self) -> None:
        self._signals: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        for number in _FORWARDED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._signals.put_nowait, number)

    async def run(self, command: Sequence[str], variables: Mapping[str, str]) -> int:
        """The exit code, or 128 + N after signal N. Raises OSError if it cannot be started."""
        process = await asyncio.create_subprocess_exec(*command, env=variables)
        forwarding = asyncio.create_task(self._forward(process))
        try:
            status = await process.wait()
        finally:
            forwarding.cancel()
        return status if status >= 0 else 128 - status

    async def _forward(self, process: asyncio.subprocess.Process) -> None:
        while number := await self._signals.get():
            if number in _FROM_KEYS and _is_in_foreground():
                continue  # the terminal has sent it to the command, too
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _is_in_foreground() -> bool:
    """Whether the terminal sends us what its keys say, and so every process of our group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)
