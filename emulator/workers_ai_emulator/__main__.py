"""Runs the command line `workers-ai-emulator`, also as `python -m workers_ai_emulator`."""

import os
import signal
from types import FrameType

_INTERRUPTED = 130


def main() -> None:
    """Runs the command line. Ctrl-C while its modules are being imported prints no traceback."""
    previous = signal.getsignal(signal.SIGINT)
    if previous is not signal.SIG_IGN:  # the shell of a script ignores it for `command &`
        signal.signal(signal.SIGINT, _exit_at_once)
    from workers_ai_emulator.cli import main as run

    signal.signal(signal.SIGINT, previous)
    run()


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    """Ends the process. An exception could be caught, or lost, in the import of a module."""
    os.write(2, b"workers-ai-emulator: interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
