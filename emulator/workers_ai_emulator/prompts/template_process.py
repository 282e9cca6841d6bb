"""A chat template from somebody's weights runs in a process of its own.

Such a template is a program: it may loop for ever or fill the memory, and no sandbox inside a
process stops that. So it runs in a child, `python -m
workers_ai_emulator.prompts.template_process LIMIT_S`, which reads requests from its standard input
and exits when that closes.
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
_START_LIMIT_S = 60.0  # Python's start is our business, so a slow machine may take its time
_MEMORY = 768 * 2**20  # addresses; the child begins with some 50 MiB of them
_KEPT_VARIABLES = ("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")

_READY, _TEXT, _REFUSED, _EXCEEDED, _INVALID, _REQUEST = b"rtxliq"  # kinds of frames
_FRAME_HEAD = struct.Struct(">BI")


class IsolatedRenderer:
    """Runs a template in a child process, which is killed if it takes longer than `limit_s`.

    The child has little memory, none of our environment variables and no file to write to. It is
    kept between calls and replaced after it was killed. Raises ValueError if the template does not
    parse.
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
            raise ValueError(f"its chat template has no process to run in: {error}") from error
        except LimitExceeded as error:
            raise ValueError(str(error)) from error

    def render(self, conversation: Conversation) -> str:
        if not self._lock.acquire(timeout=self._limit_s):
            raise LimitExceeded("its chat template is busy with other conversations")
        try:
            child = self._child
            if child is None or not child.is_alive:
                child = self._start()
            return self._ask(child, asdict(conversation), conversation.max_characters)
        finally:
            self._lock.release()

    def close(self) -> None:
        self._is_closed = True
        if child := self._child:
            child.kill()  # whoever waits for it gets an error, so the lock is free at once
        with self._lock:
            self._drop()

    def _start(self) -> _Child:
        """A child that has compiled the template. Raises ValueError, OSError, LimitExceeded."""
        self._drop()
        if self._is_closed:
            raise LimitExceeded("its chat template is being unloaded")
        child = self._child = _Child(self._limit_s)
        self._ask(child, self._source, 0)
        return child

    def _ask(self, child: _Child, request: Any, max_characters: int) -> str:
        try:
            return child.ask(request, max_characters, self._limit_s)
        except (LimitExceeded, ValueError):
            self._drop()
            raise

    def _drop(self) -> None:
        if child := self._child:
            self._child = None
            child.close()


class _Child:
    """The process, from outside. One thread uses it; only `kill` may come from another."""

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

    def ask(self, request: Any, max_characters: int, limit_s: float) -> str:
        """The reply's text. Raises TemplateError, LimitExceeded or ValueError, as the child did."""
        if not self._is_ready:
            self._exchange(None, 0, _START_LIMIT_S)
            self._is_ready = True
        kind, text = self._exchange(request, max_characters, limit_s)
        if kind == _INVALID:
            raise ValueError(text)
        if kind == _EXCEEDED:
            raise LimitExceeded(text)
        if kind == _REFUSED:
            raise TemplateError(text)
        return text

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._replies.close()
        with suppress(OSError):  # what it did not read
            self._requests.close()

    def _exchange(self, request: Any, max_characters: int, limit_s: float) -> tuple[int, str]:
        """Send a request, if there is one, and read a frame; the child is killed if it is late."""
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
        if time.monotonic() >= end:  # it may have been killed after its reply
            raise LimitExceeded(f"its chat template did not end within {limit_s:g} s")
        return kind, text


def _bare_environment() -> dict[str, str]:
    """Where Python finds its modules, and no secrets."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _write(stream: IO[bytes], kind: int, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")  # a lone one passes the service's JSON parser
    stream.write(_FRAME_HEAD.pack(kind, len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes], max_bytes: int) -> tuple[int, str]:
    """A frame's kind and text. Raises EOFError, or ValueError for what is no frame."""
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
    """No dump, no file, little memory; what a system does not know or allow is left out."""
    if sys.platform == "win32":
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_AS: _MEMORY}
    for name, limit in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(name, (limit, limit))


def main(limit_s: float) -> None:
    """The child's work: the first request is the template, each other one a conversation."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when it is over
    _limit_resources()
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    _write(replies, _READY, "")
    renderer: JinjaRenderer | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            _, text = _read(requests, sys.maxsize)
            # A parent that was killed cannot kill: then this does, whatever the interpreter does.
            faulthandler.dump_traceback_later(limit_s + 1, exit=True)
            renderer, reply = _reply(renderer, json.loads(text))
            faulthandler.cancel_dump_traceback_later()
            _write(replies, *reply)


def _reply(
    renderer: JinjaRenderer | None, request: Any
) -> tuple[JinjaRenderer | None, tuple[int, str]]:
    """What renders from here on, and the frame that answers the request."""
    try:
        if renderer is None:
            return JinjaRenderer(request), (_TEXT, "")
        return renderer, (_TEXT, renderer.render(Conversation(**request)))
    except LimitExceeded as error:
        return renderer, (_EXCEEDED, reason_of(error))
    except TemplateError as error:
        return renderer, (_REFUSED, reason_of(error))
    except ValueError as error:
        return renderer, (_INVALID, reason_of(error))


if __name__ == "__main__":
    main(float(sys.argv[1]))
