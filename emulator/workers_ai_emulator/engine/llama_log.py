"""Forwards llama.cpp's log to Python's logging, and collects llama.cpp's error lines.

If a llama.cpp function fails, it does not return the reason. It logs the reason on the thread that
called the function.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import llama_cpp.llama_cpp as llama

log = logging.getLogger(__name__)

_ERROR = 4  # llama.cpp's GGML_LOG_LEVEL_ERROR
_errors: ContextVar[list[str] | None] = ContextVar("llama_cpp_errors", default=None)


def attach() -> None:
    """Forwards llama.cpp's log lines to Python's log at level DEBUG. May be called repeatedly."""
    llama.llama_log_set(_forward, ctypes.c_void_p(0))


@contextmanager
def collected_errors() -> Iterator[list[str]]:
    """Yields a list to which llama.cpp's error lines are appended during the `with` block.

    Collects only errors of llama.cpp functions that the current thread calls.
    """
    lines: list[str] = []
    token = _errors.set(lines)
    try:
        yield lines
    finally:
        _errors.reset(token)


def reason(errors: Sequence[str], default: str) -> str:
    """Returns the reason from the first of llama.cpp's error lines; `default` if there is no line.

    An error line has the form `FUNCTION: REASON`.
    """
    return errors[0].split(": ", 1)[-1] if errors else default


@llama.llama_log_callback  # type: ignore[untyped-decorator]  # the bindings are untyped here
def _forward(level: int, text: bytes, _: ctypes.c_void_p) -> None:
    line = text.decode("utf-8", "replace").strip()
    errors = _errors.get()
    if level == _ERROR and errors is not None:
        errors.append(line)
    if line.strip("."):
        log.debug("%s", line)
