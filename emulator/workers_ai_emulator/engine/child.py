"""Exchanges frames with a child process. Kills a late child, and replaces a child that has failed.

The child runs `python -m MODULE ARGUMENT...`. It reads requests from its standard input, writes
replies to its standard output, and exits when its standard input is closed. It inherits only the
environment variables that it needs, so it gets no secrets. Each request and each reply is a frame:
a byte for the kind, four bytes for the length, and the content.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Literal

if sys.platform != "win32":
    import resource

_START_LIMIT_S = 60.0  # how long the child may take to start; `limit_s` begins after that
_KEPT_VARIABLES = (
    *("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME"),
    *("GGML_BACKEND_PATH", "LLAMA_CPP_LIB_PATH"),
)
_READY, _REQUEST = b"rq"  # two kinds of frames; each child module defines the kinds of its replies
_FRAME_HEAD = struct.Struct(">BI")

# A function that returns the kind and the content of the reply to a request.
Answer = Callable[[bytes], tuple[int, bytes]]


class ChildFailed(Exception):
    """The child sent no valid reply.

    `reason`: `late` if the child exceeded its time limit, and `crashed` if it ended before it sent
    its reply, or sent a reply that is too long. A supervisor also has the reasons `busy` (other
    threads used the child for too long) and `closed` (the supervisor starts no new child).
    """

    def __init__(self, reason: Literal["late", "crashed", "busy", "closed"]) -> None:
        super().__init__(f"the child process failed: {reason}")
        self.reason = reason


class Child:
    """Starts a child process, and exchanges requests and replies with it.

    Only one thread at a time may call its methods, except for `kill`, which any thread may call at
    any time. The constructor raises OSError if the process cannot be started.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
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

    def exchange(self, request: bytes, *, max_bytes: int, limit_s: float) -> tuple[int, bytes]:
        """Sends a request to the child, and returns the kind and the content of the reply.

        Kills the child if the reply takes longer than `limit_s` seconds. Raises ChildFailed if the
        child fails, takes too long, or sends more than `max_bytes` bytes. After this error, the
        caller must close the child.
        """
        if not self._is_ready:
            with self._limited(_START_LIMIT_S):
                read_frame(self._replies, 0)
            self._is_ready = True
        with self._limited(limit_s):
            write_frame(self._requests, _REQUEST, request)
            return read_frame(self._replies, max_bytes)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self._replies.close()
        with suppress(OSError):  # closing fails if the child has not read all bytes
            self._requests.close()

    def _limited(self, limit_s: float) -> _TimeLimit:
        return _TimeLimit(limit_s, self.kill)


class Supervisor:
    """Runs one child process at a time, and starts a new one if the last one has failed or died.

    The constructor starts the first child. `prepare` is called with each new child before the child
    is used. The constructor raises OSError if no process can be started, and any exception that
    `prepare` raises.
    """

    def __init__(
        self, *command: str, prepare: Callable[[Child], object] = lambda child: None
    ) -> None:
        self._command = command  # the arguments of `Child`
        self._prepare = prepare
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._is_closed = False
        with self.child(limit_s=0):
            pass

    @contextmanager
    def child(self, *, limit_s: float) -> Iterator[Child]:
        """Gives the child to one thread for a `with` block. Ends the child if the block fails.

        Raises ChildFailed if other threads use the child for longer than `limit_s` seconds, or the
        supervisor is closed. Also raises the exceptions of the constructor.
        """
        if not self._lock.acquire(timeout=limit_s):
            raise ChildFailed("busy")
        try:
            yield self._running()
        except BaseException:
            self._drop()
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ends the child. Any thread may call this at any time, more than once."""
        self._is_closed = True
        if child := self._child:
            child.kill()  # makes a `with` block in progress fail and release the lock
        with self._lock:
            self._drop()

    def _running(self) -> Child:
        if self._child is None or not self._child.is_alive:
            self._drop()
            if self._is_closed:
                raise ChildFailed("closed")
            self._child = Child(*self._command)
            self._prepare(self._child)
        return self._child

    def _drop(self) -> None:
        if child := self._child:
            self._child = None
            child.close()


class _TimeLimit:
    """Context manager that calls `kill` if its block takes longer than `limit_s` seconds.

    Raises ChildFailed if the block takes too long or raises OSError, EOFError or ValueError.
    """

    def __init__(self, limit_s: float, kill: Callable[[], None]) -> None:
        self._end = time.monotonic() + limit_s
        self._timer = threading.Timer(limit_s, kill)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._timer.cancel()
        # A late block fails even if it raised no error: the timer may have killed the child just
        # after its reply.
        is_late = time.monotonic() >= self._end
        if is_late or isinstance(error, (OSError, EOFError, ValueError)):
            raise ChildFailed("late" if is_late else "crashed") from error


def serve(answer: Answer, *, limit_s: float) -> None:
    """Runs in the child: replies to requests until its standard input is closed.

    Ends the child if a reply takes longer than `limit_s` plus one second. This happens only if the
    parent process was killed: a living parent kills the child after `limit_s`.
    """
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    write_frame(replies, _READY, b"")
    with suppress(EOFError, BrokenPipeError):
        while True:
            _, request = read_frame(requests, sys.maxsize)
            faulthandler.dump_traceback_later(limit_s + 1, exit=True)  # ends even an endless loop
            reply = answer(request)
            faulthandler.cancel_dump_traceback_later()
            write_frame(replies, *reply)


def restrict() -> None:
    """Runs in the child: ignores Ctrl-C, and prevents core dumps and writing to files.

    On Windows, only ignores Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends the child
    if sys.platform != "win32":
        limit(resource.RLIMIT_CORE, 0)
        limit(resource.RLIMIT_FSIZE, 0)


def limit(resource_type: int, value: int) -> None:
    """Limits a resource (`RLIMIT_...`) of this process. Does nothing if that is impossible."""
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            resource.setrlimit(resource_type, (value, value))


def write_frame(stream: IO[bytes], kind: int, content: bytes) -> None:
    stream.write(_FRAME_HEAD.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes], max_bytes: int) -> tuple[int, bytes]:
    """Reads a frame from `stream`, and returns its kind and its content.

    Raises EOFError if the stream ends before the frame is complete, and ValueError if the content
    has more than `max_bytes` bytes.
    """
    kind, size = _FRAME_HEAD.unpack(_read_exactly(stream, _FRAME_HEAD.size))
    if size > max_bytes:
        raise ValueError(f"a frame of {size} bytes is too long")
    return kind, _read_exactly(stream, size)


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _bare_environment() -> dict[str, str]:
    """Returns only the environment variables that Python and llama.cpp need in the child."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
