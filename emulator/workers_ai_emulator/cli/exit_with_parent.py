"""Runs the command line as a child process that exits when its parent exits.

The child's stdin is a pipe to which only the parent can write. When the parent exits, even if it is
killed, the operating system closes the pipe, and the child then exits. This works on all operating
systems, even if they cannot send a signal to the child when the parent exits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from workers_ai_emulator.cli import main


def _exit_with_stdin() -> None:
    """Waits until stdin is closed (the parent has exited), then sends SIGTERM to this process."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    main()
