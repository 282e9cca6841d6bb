"""The command line, as a child process that ends when its parent does.

Whoever starts it holds the other end of that pipe. It closes however they end: a process that is
killed can do nothing for its children, and only some systems tell children of its death.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from workers_ai_emulator.cli import main


def _end_with_stdin() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    main()
