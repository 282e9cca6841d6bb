"""Runs the command line as a child process that exits when its parent exits.

The parent keeps the write end of the child's stdin, a pipe. The operating system closes that end
even if the parent is killed; not every system signals the death of a parent to its children.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from workers_ai_emulator.cli import main


def _exit_with_stdin() -> None:
    """Terminates this process once the write end of stdin is closed."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_exit_with_stdin, daemon=True).start()
    main()
