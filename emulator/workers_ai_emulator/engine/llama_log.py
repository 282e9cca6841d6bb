"""llama.cpp's log. It is also the only place where llama.cpp says why a call failed."""

from __future__ import annotations

import ctypes
import logging
from collections import deque

import llama_cpp.llama_cpp as llama

log = logging.getLogger(__name__)

_ERROR = 4  # of ggml_log_level
_complaints: deque[str] = deque(maxlen=4)


def attach() -> None:
    """Send llama.cpp's lines to our log (level debug) and forget old complaints."""
    llama.llama_log_set(_take_line, ctypes.c_void_p(0))
    _complaints.clear()


def complaint(default: str) -> str:
    """The first reason since `attach`, without the name of llama.cpp's function before it."""
    return _complaints[0].split(": ", 1)[-1] if _complaints else default


@llama.llama_log_callback  # type: ignore[untyped-decorator]  # the bindings are untyped here
def _take_line(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level == _ERROR:
        _complaints.append(line)
    if line.strip("."):
        log.debug("%s", line)
