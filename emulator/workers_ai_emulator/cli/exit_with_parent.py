"""Runs the command line as a child process that exits when its parent exits.

The child's stdin is a pipe, and the parent holds its write end. When the parent exits, even if it
is killed, the operating system closes the pipe, and the child then exits. This works on every
operating system. A signal when the parent exits would not: not every system sends one.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from workers_ai_emulator.cli import main


def _exit_with_stdin() -> None:
    """Sends SIGTERM to this process as soon as the parent process has closed its stdin."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    main()
