"""Renders untrusted chat templates, from imported files or from the user, in a subprocess.

A chat template is a program. It can loop forever or fill the memory, and Jinja's sandbox does not
prevent this. So the template runs in a subprocess with limits for time and memory. The subprocess,
`python -m workers_ai_emulator.prompts.template_process LIMIT_S`, reads requests from its standard
input, and exits when its standard input is closed.
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

# This module's name as a literal, because `__name__` is `__main__` in the subprocess.
MODULE = "workers_ai_emulator.prompts.template_process"
_START_LIMIT_S = 60.0  # time limit for starting the subprocess; `limit_s` does not include this
_MEMORY = 768 * 2**20  # bytes of the subprocess's address space; it needs 50 MiB to start
_KEPT_VARIABLES = ("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")

# The kinds of messages between the parent and the subprocess: five replies and the request.
_READY, _TEXT, _REJECTED, _EXCEEDED, _INVALID, _REQUEST = b"rtxliq"
_FRAME_HEAD = struct.Struct(">BI")


class IsolatedRenderer:
    """Renders a chat template in a subprocess; kills it if a rendering takes longer than `limit_s`.

    The subprocess has limited memory and no secrets in its environment, and cannot write files. It
    renders one conversation after the other. If it was killed, the next rendering starts another
    one. The constructor raises ValueError if the template does not compile.
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
            child.kill()  # makes a rendering in progress fail and release the lock
        with self._lock:
            self._drop()

    def _start(self) -> _Child:
        """Starts a subprocess, and makes it compile the template.

        Raises ValueError if the template does not compile, OSError if no subprocess can be started,
        and LimitExceeded if compiling takes too long or the renderer is closed.
        """
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
    """The subprocess of a renderer, with the pipes to it.

    Any thread may call `kill`; only one thread at a time may call the other methods.
    """

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
        """Sends the template or a conversation to the subprocess, and returns the reply's text.

        Raises the TemplateError, LimitExceeded or ValueError that the subprocess reports. Raises
        LimitExceeded after `limit_s` seconds.
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
        with suppress(OSError):  # closing fails if the subprocess has not read all bytes
            self._requests.close()

    def _exchange(self, request: Any, max_characters: int, limit_s: float) -> tuple[int, str]:
        """Sends a request to the subprocess, and returns the kind and the text of its next reply.

        Sends nothing if `request` is None. After `limit_s` seconds, kills the subprocess and raises
        LimitExceeded.
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
        if time.monotonic() >= end:  # the timer may have killed the subprocess after its reply
            raise LimitExceeded(f"its chat template did not end within {limit_s:g} s")
        return kind, text


def _bare_environment() -> dict[str, str]:
    """Returns the subprocess's environment: only what Python needs to start, and no secrets."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _write(stream: IO[bytes], kind: int, text: str) -> None:
    # The JSON of a client's request can contain a lone surrogate, which strict UTF-8 rejects.
    data = text.encode("utf-8", "surrogatepass")
    stream.write(_FRAME_HEAD.pack(kind, len(data)))
    stream.write(data)
    stream.flush()


def _read(stream: IO[bytes], max_bytes: int) -> tuple[int, str]:
    """Reads one message from a pipe, and returns its kind and its text.

    Raises EOFError if the pipe is closed, and ValueError if the text exceeds `max_bytes` bytes.
    """
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
    """Limits the memory of this process, and disables core dumps and writing files.

    A limit that the operating system does not support is skipped.
    """
    if sys.platform == "win32":
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_AS: _MEMORY}
    for name, limit in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(name, (limit, limit))


def main(limit_s: float) -> None:
    """Runs in the subprocess: compiles the template, then renders one conversation per request.

    The first request on standard input is the template; all later requests are conversations.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ignores Ctrl-C: the parent ends this process
    _limit_resources()
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    _write(replies, _READY, "")
    renderer: JinjaRenderer | None = None
    with suppress(EOFError, BrokenPipeError):
        while True:
            _, text = _read(requests, sys.maxsize)
            # Ends this process if the template loops forever and the parent cannot kill it.
            faulthandler.dump_traceback_later(limit_s + 1, exit=True)
            renderer, reply = _reply(renderer, json.loads(text))
            faulthandler.cancel_dump_traceback_later()
            _write(replies, *reply)


def _reply(
    renderer: JinjaRenderer | None, request: Any
) -> tuple[JinjaRenderer | None, tuple[int, str]]:
    """Handles one request: compiles the template or renders a conversation.

    Returns the renderer for later requests, and the kind and the text of the reply.
    """
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
