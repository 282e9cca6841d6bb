"""Renders chat templates from users' GGUF files or from `models.toml`, in a subprocess.

A chat template is a program: it can loop forever or fill the memory, also in Jinja's sandbox. So
the template runs in a subprocess with limits for time and memory. The subprocess,
`python -m workers_ai_emulator.prompts.template_process LIMIT_S`, reads requests from its standard
input, and exits when its standard input is closed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from jinja2 import TemplateError

from workers_ai_emulator.engine.child import (
    Child,
    ChildFailed,
    Supervisor,
    restrict,
    serve,
)
from workers_ai_emulator.engine.errors import CapacityExceeded, EngineError
from workers_ai_emulator.prompts.template import (
    MAX_REASON_LENGTH,
    Conversation,
    JinjaRenderer,
    LimitExceeded,
    reason_of,
)

# The name of this module. In the subprocess, `__name__` is `__main__` instead.
MODULE = "workers_ai_emulator.prompts.template_process"
_MEMORY = 768 * 2**20  # limit for the process's address space in bytes; Python needs 50 MiB
_NOT_STARTED = "no process can be started for its chat template"
_TEXT, _REJECTED, _EXCEEDED, _INVALID = b"txli"  # kinds of replies of the subprocess


class IsolatedRenderer:
    """Renders a chat template in a subprocess, which may take `limit_s` seconds per conversation.

    The subprocess is killed if it takes longer. After a kill or a crash, the next rendering starts
    a new subprocess. The subprocess has no secrets in its environment. On most operating systems,
    its memory is limited, and it cannot write files. It renders one conversation after the other.
    The constructor raises ValueError if the template does not compile or no process can be started.
    """

    is_isolated = True

    def __init__(self, source: str, *, limit_s: float = 5.0) -> None:
        self._source = source
        self._limit_s = limit_s
        try:
            self._supervisor = Supervisor(MODULE, str(limit_s), prepare=self._compile)
        except OSError as error:
            raise ValueError(f"{_NOT_STARTED}: {error}") from error
        except ChildFailed as error:
            raise ValueError(str(self._limit_exceeded(error))) from error
        except LimitExceeded as error:
            raise ValueError(str(error)) from error

    def render(self, conversation: Conversation) -> str:
        request = asdict(conversation)
        try:
            with self._supervisor.child(limit_s=self._limit_s) as child:
                kind, text = self._request(child, request, conversation.max_characters)
        except ChildFailed as error:
            raise self._failure(error) from error
        except OSError as error:
            raise EngineError(f"{_NOT_STARTED}: {error}") from error
        if kind == _REJECTED:
            raise TemplateError(text)
        return text

    def close(self) -> None:
        self._supervisor.close()

    def _compile(self, child: Child) -> None:
        """Compiles the template in the new subprocess `child`.

        Raises the same exceptions as `_request`.
        """
        self._request(child, self._source, 0)

    def _request(self, child: Child, request: Any, max_characters: int) -> tuple[int, str]:
        """Sends a request to the subprocess, and returns the kind and the text of the reply.

        Raises LimitExceeded if the subprocess reports that a limit was exceeded, and ValueError if
        it reports that the template does not compile. Both exceptions make `_supervisor` end the
        subprocess. Raises ChildFailed if the subprocess crashes or takes too long.
        """
        content = json.dumps(request, ensure_ascii=False).encode("utf-8", "surrogatepass")
        max_bytes = 4 * max(max_characters, MAX_REASON_LENGTH)
        kind, reply = child.exchange(content, max_bytes=max_bytes, limit_s=self._limit_s)
        text = reply.decode("utf-8", "surrogatepass")
        if kind in (_EXCEEDED, _INVALID):
            raise LimitExceeded(text) if kind == _EXCEEDED else ValueError(text)
        return kind, text

    def _failure(self, error: ChildFailed) -> LimitExceeded | EngineError:
        if error.reason == "busy":
            return CapacityExceeded("the model's chat template is busy with other conversations")
        if error.reason == "killed":
            return CapacityExceeded("the process of the model's chat template was killed")
        if error.reason == "closed":
            return EngineError("the model has been unloaded")
        if not error.is_prepared:
            return EngineError(f"{_NOT_STARTED}: {error}")
        return self._limit_exceeded(error)

    def _limit_exceeded(self, error: ChildFailed) -> LimitExceeded:
        if error.reason == "late":
            return LimitExceeded(f"its chat template did not end within {self._limit_s:g} s")
        return LimitExceeded("its chat template broke the process it ran in")


def main(limit_s: float) -> None:
    """Runs in the subprocess: replies to requests.

    The first request contains the template's source. Each later request contains a conversation.
    """
    restrict(memory=_MEMORY)
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
        # The text may contain lone surrogates, because the JSON of the request may contain them.
        return kind, text.encode("utf-8", "surrogatepass")

    def _text(self, request: Any) -> str:
        if self._renderer is None:
            self._renderer = JinjaRenderer(request)
            return ""
        return self._renderer.render(Conversation(**request))


if __name__ == "__main__":
    main(float(sys.argv[1]))
