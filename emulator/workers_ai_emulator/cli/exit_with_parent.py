"""Runs the command line as a child process that exits when its parent exits.

The child's stdin is a pipe from the parent. When the parent exits or is killed, the operating
system closes the pipe, and the child then exits. A pipe is used because it works on every operating
system. Only some systems can send a signal to a child when its parent exits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from workers_ai_emulator.cli import main


def _exit_with_stdin() -> None:
    """Sends SIGTERM to this process when its parent closes the stdin pipe or exits."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    main()
