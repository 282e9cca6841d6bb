"""Renders untrusted chat templates, from imported files or from the user, in a subprocess.

A chat template is a program. It can loop forever or fill the memory, and Jinja's sandbox does not
prevent this. So the template runs in a subprocess with limits for time and memory. The subprocess,
`python -m workers_ai_emulator.prompts.template_process LIMIT_S`, reads requests from its standard
input, and exits when its standard input is closed.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from typing import Any

from jinja2 import TemplateError

from workers_ai_emulator.engine.child import Child, ChildFailed, limit, restrict, serve
from workers_ai_emulator.prompts.template import (
    MAX_REASON_LENGTH,
    Conversation,
    JinjaRenderer,
    LimitExceeded,
    reason_of,
)

if sys.platform != "win32":
    import resource

MODULE = "workers_ai_emulator.prompts.template_process"  # in the subprocess, __name__ is __main__
_MEMORY = 768 * 2**20  # limit for the process's address space in bytes; Python needs 50 MiB
_TEXT, _REJECTED, _EXCEEDED, _INVALID = b"txli"  # kinds of replies


class IsolatedRenderer:
    """Renders a chat template in a subprocess; kills it if a rendering takes longer than `limit_s`.

    The subprocess has no secrets in its environment. Its memory is limited, and it cannot write
    files, if the operating system supports such limits. It renders one conversation after the
    other. If it has crashed or was killed, the next rendering starts a new subprocess. The
    constructor raises ValueError if the template does not compile or no process can be started.
    """

    is_isolated = True

    def __init__(self, source: str, *, limit_s: float = 5.0) -> None:
        self._source = source
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._is_closed = False
        try:
            self._start()
        except OSError as error:
            raise ValueError(f"no process can be started for its chat template: {error}") from error
        except LimitExceeded as error:
            raise ValueError(str(error)) from error

    def render(self, conversation: Conversation) -> str:
        if not self._lock.acquire(timeout=self._limit_s):
            raise LimitExceeded("its chat template is busy with other conversations")
        try:
            child = self._child
            if child is None or not child.is_alive:
                child = self._start()
            return self._request(child, asdict(conversation), conversation.max_characters)
        finally:
            self._lock.release()

    def close(self) -> None:
        self._is_closed = True
        if child := self._child:
            # A rendering in progress then fails, and releases the lock that is acquired below.
            child.kill()
        with self._lock:
            self._drop()

    def _start(self) -> Child:
        """Starts a subprocess, which compiles the template.

        Raises ValueError if the template does not compile, OSError if no process can be started,
        and LimitExceeded if the subprocess exceeds a limit or the renderer is closed.
        """
        self._drop()
        if self._is_closed:
            raise LimitExceeded("its chat template is being unloaded")
        child = self._child = Child(MODULE, str(self._limit_s))
        self._request(child, self._source, 0)
        return child

    def _request(self, child: Child, request: Any, max_characters: int) -> str:
        """Sends a request to the subprocess, and returns the text of the reply.

        If TemplateError, LimitExceeded or ValueError occurred in the subprocess, raises it here.
        Also raises LimitExceeded if the subprocess crashes or takes too long.
        """
        content = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")
        max_bytes = 4 * max(max_characters, MAX_REASON_LENGTH)
        try:
            kind, reply = child.exchange(content, max_bytes=max_bytes, limit_s=self._limit_s)
        except ChildFailed as error:
            self._drop()
            late = f"did not end within {self._limit_s:g} s"
            what = late if error.is_late else "broke the process it ran in"
            raise LimitExceeded(f"its chat template {what}") from error
        text = reply.decode("utf-8", "surrogatepass")
        if kind == _REJECTED:
            raise TemplateError(text)
        if kind in (_EXCEEDED, _INVALID):
            self._drop()
            raise LimitExceeded(text) if kind == _EXCEEDED else ValueError(text)
        return text

    def _drop(self) -> None:
        if child := self._child:
            self._child = None
            child.close()


def main(limit_s: float) -> None:
    """Runs in the subprocess: replies to requests.

    The first request contains the template's source. Each later request contains a conversation.
    """
    restrict()
    if sys.platform != "win32":
        limit(resource.RLIMIT_AS, _MEMORY)
    serve(_Program().answer, limit_s=limit_s)


class _Program:
    """Replies to requests in the subprocess. Stores the compiled template."""

    def __init__(self) -> None:
        self._renderer: JinjaRenderer | None = None

    def answer(self, request: bytes) -> tuple[int, bytes]:
        """Returns the kind and the content of the reply to a request."""
        try:
            kind, text = _TEXT, self._text(json.loads(request.decode("utf-8", "surrogatepass")))
        except LimitExceeded as error:
            kind, text = _EXCEEDED, reason_of(error)
        except TemplateError as error:
            kind, text = _REJECTED, reason_of(error)
        except ValueError as error:
            kind, text = _INVALID, reason_of(error)
        return kind, text.encode("utf-8", "surrogatepass")  # JSON can contain lone surrogates

    def _text(self, request: Any) -> str:
        if self._renderer is None:
            self._renderer = JinjaRenderer(request)
            return ""
        return self._renderer.render(Conversation(**request))


if __name__ == "__main__":
    main(float(sys.argv[1]))
