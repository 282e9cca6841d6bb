"""Forwards llama.cpp's log to ours, and collects its error lines.

llama.cpp reports why a call failed only in its log, on the thread that made the call.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import llama_cpp.llama_cpp as llama

log = logging.getLogger(__name__)

_ERROR = 4  # GGML_LOG_LEVEL_ERROR
_errors: ContextVar[list[str] | None] = ContextVar("llama_cpp_errors", default=None)


def attach() -> None:
    """Makes llama.cpp write its log lines to our log, at level debug. May be called repeatedly."""
    llama.llama_log_set(_forward, ctypes.c_void_p(0))


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Yields a list that receives the error lines of llama.cpp calls in the block.

    Only calls of the current thread count.
    """
    lines: list[str] = []
    token = _errors.set(lines)
    try:
        yield lines
    finally:
        _errors.reset(token)


def reason(errors: Sequence[str], default: str) -> str:
    """Returns the first error line without the name of llama.cpp's function, or `default`."""
    return errors[0].split(": ", 1)[-1] if errors else default


@llama.llama_log_callback  # type: ignore[untyped-decorator]  # the bindings are untyped here
def _forward(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").strip()
    errors = _errors.get()
    if level == _ERROR and errors is not None:
        errors.append(line)
    if line.strip("."):
        log.debug("%s", line)
