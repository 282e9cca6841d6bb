"""Runs the command line as a child process that exits when its parent exits.

The child's stdin is a pipe, and the parent holds its write end. When the parent exits, even if it
is killed, the operating system closes the pipe, and the child then exits. This also works on
operating systems that cannot send a signal to the child when the parent exits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from workers_ai_emulator.cli import main


def _exit_with_stdin() -> None:
    """Stops this process with SIGTERM when its stdin is closed, because its parent has exited."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    main()
