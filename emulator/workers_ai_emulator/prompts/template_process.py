"""Renders untrusted chat templates, from imported files or from the user, in a subprocess.

A template is a program: it can loop forever or fill the memory, and Jinja's sandbox does not stop
that. So it runs in `python -m workers_ai_emulator.prompts.template_process LIMIT_S`, which reads
requests from its standard input and exits when that is closed.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from jinja2 import TemplateError

from workers_ai_emulator.prompts.template import (
    MAX_REASON_LENGTH,
    Conversation,
    JinjaRenderer,
    LimitExceeded,
    reason_of,
)

if sys.platform != "win32":
    import resource

MODULE = "workers_ai_emulator.prompts.template_process"  # __name__ may be __main__
_START_LIMIT_S = 60.0  # the time that Python takes to start is not limited by `limit_s`
_MEMORY = 768 * 2**20  # bytes of address space; the child needs about 50 MiB to start
_KEPT_VARIABLES = ("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")

_READY, _TEXT, _REJECTED, _EXCEEDED, _INVALID, _REQUEST = b"rtxliq"  # kinds of frames
_FRAME_HEAD = struct.Struct(">BI")


class IsolatedRenderer:
    """Renders a template in a child process, which is killed if it takes longer than `limit_s`.

    The child has little memory and no secrets in its environment, and cannot write files. It
    handles one conversation after the other, and is replaced after it was killed. Raises ValueError
    if the template does not compile.
    """

    is_isolated = True

    def __init__(self, source: str, *, limit_s: float = 5.0) -> None:
        self._source = source
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._child: _Child | None = None
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
            child.kill()  # a rendering in progress fails and releases the lock
        with self._lock:
            self._drop()

    def _start(self) -> _Child:
        """Starts a child that compiles the template. Raises ValueError, OSError, LimitExceeded."""
        self._drop()
        if self._is_closed:
            raise LimitExceeded("its chat template is being unloaded")
        child = self._child = _Child(self._limit_s)
        self._request(child, self._source, 0)
        return child

    def _request(self, child: _Child, request: Any, max_characters: int) -> str:
        try:
            return child.request(request, max_characters, self._limit_s)
        except (LimitExceeded, ValueError):
            self._drop()
            raise

    def _drop(self) -> None:
        if child := self._child:
            self._child = None
            child.close()


class _Child:
    """A child process. One thread uses it, except for `kill`, which any thread may call."""

    def __init__(self, limit_s: float) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                MODULE,
                str(limit_s),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_bare_environment(),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        assert self._process.stdin and self._process.stdout
        self._requests, self._replies = self._process.stdin, self._process.stdout
        self._is_ready = False

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def request(self, request: Any, max_characters: int, limit_s: float) -> str:
        """Sends a request and returns the reply's text.

        Raises TemplateError, LimitExceeded or ValueError if that happened in the child.
        """
        if not self._is_ready:
            self._exchange(None, 0, _START_LIMIT_S)
            self._is_ready = True
        kind, text = self._exchange(request, max_characters, limit_s)
        if kind == _INVALID:
            raise ValueError(text)
        if kind == _EXCEEDED:
            raise LimitExceeded(text)
        if kind == _REJECTED:
            raise TemplateError(text)
        return text

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._replies.close()
        with suppress(OSError):  # bytes that the child did not read
            self._requests.close()

    def _exchange(self, request: Any, max_characters: int, limit_s: float) -> tuple[int, str]:
        """Sends the request, unless it is None, and returns the kind and the text of the reply.

        Kills the child and raises LimitExceeded after `limit_s`.
        """
        max_bytes = 4 * max(max_characters, MAX_REASON_LENGTH)
        end = time.monotonic() + limit_s
        timer = threading.Timer(limit_s, self.kill)
        timer.daemon = True
        timer.start()
        try:
            if request is not None:
                _write(self._requests, _REQUEST, json.dumps(request, ensure_ascii=False))
            kind, text = _read(self._replies, max_bytes)
        except (OSError, EOFError, ValueError) as error:
            is_late = time.monotonic() >= end
            what = f"did not end within {limit_s:g} s" if is_late else "broke the process it ran in"
            raise LimitExceeded(f"its chat template {what}") from error
        finally:
            timer.cancel()
        if time.monotonic() >= end:  # the timer may have killed it after the reply
            raise LimitExceeded(f"its chat template did not end within {limit_s:g} s")
        return kind, text


def _bare_environment() -> dict[str, str]:
    """Returns the variables that Python needs to find its modules, and no others."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _write(stream: IO[bytes], kind: int, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")  # JSON can contain a lone surrogate
    stream.write(_FRAME_HEAD.pack(kind, len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes], max_bytes: int) -> tuple[int, str]:
    """Reads a frame; returns its kind and text. Raises EOFError, or ValueError if too long."""
    kind, size = _FRAME_HEAD.unpack(_read_exactly(stream, _FRAME_HEAD.size))
    if size > max_bytes:
        raise ValueError(f"a frame of {size} bytes is too long")
    return kind, _read_exactly(stream, size).decode("utf-8", "surrogatepass")


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _limit_resources() -> None:
    """Disables core dumps and file writes, and limits the memory, if the system supports that."""
    if sys.platform == "win32":
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_AS: _MEMORY}
    for name, limit in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(name, (limit, limit))


def main(limit_s: float) -> None:
    """Runs in the child: the first request is the template, all later ones are conversations."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    _limit_resources()
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    _write(replies, _READY, "")
    renderer: JinjaRenderer | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            _, text = _read(requests, sys.maxsize)
            # If the parent has been killed, this ends the process, even in an endless loop.
            faulthandler.dump_traceback_later(limit_s + 1, exit=True)
            renderer, reply = _reply(renderer, json.loads(text))
            faulthandler.cancel_dump_traceback_later()
            _write(replies, *reply)


def _reply(
    renderer: JinjaRenderer | None, request: Any
) -> tuple[JinjaRenderer | None, tuple[int, str]]:
    """Returns the renderer for later requests, and the frame of the reply."""
    try:
        if renderer is None:
            return JinjaRenderer(request), (_TEXT, "")
        return renderer, (_TEXT, renderer.render(Conversation(**request)))
    except LimitExceeded as error:
        return renderer, (_EXCEEDED, reason_of(error))
    except TemplateError as error:
        return renderer, (_REJECTED, reason_of(error))
    except ValueError as error:
        return renderer, (_INVALID, reason_of(error))


if __name__ == "__main__":
    main(float(sys.argv[1]))
