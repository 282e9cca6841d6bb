"""Runs a child process, sends it requests, and replaces it if it fails or takes too long.

The child runs `python -m MODULE ARGUMENT...`. It reads requests from its standard input, writes
replies to its standard output, and exits when its standard input is closed. It inherits only the
environment variables that it needs, so it gets no credentials. Each request and each reply is a
frame: one byte for the kind of frame, four bytes for the length of the content, and the content.
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

_START_LIMIT_S = 60.0  # how many seconds a child process may take to start
_END_LIMIT_S = 5.0  # how many seconds a child process may take to end after it closed its pipe
_KEPT_VARIABLES = (
    *("SYSTEMROOT", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME"),
    *("GGML_BACKEND_PATH", "LLAMA_CPP_LIB_PATH"),
)
# Kinds of frames: a child sends `_READY` when it has started, and receives `_REQUEST`. The modules
# that run in a child define the kinds of their replies.
_READY, _REQUEST = b"rq"
_FRAME_HEAD = struct.Struct(">BI")

# Whether the operating system can limit the processor time of a reply.
LIMITS_CPU_TIME = sys.platform != "win32"

# A function that returns the kind and the content of the reply to a request.
Answer = Callable[[bytes], tuple[int, bytes]]

Reason = Literal["late", "slow", "killed", "crashed", "busy", "closed"]
# Why a child has ended, by its exit status, which is negative if a signal has ended it.
_REASONS: dict[int, Reason] = {}
if sys.platform != "win32":
    _REASONS = {-signal.SIGPROF: "slow", -signal.SIGKILL: "killed"}


class ChildFailed(Exception):
    """The child process sent no valid reply.

    `reason` has one of these values:

    - `late`: the reply took too long.
    - `slow`: the child exceeded its limit of processor time (`cpu_limit_s` of `serve`).
    - `killed`: another process or the operating system killed the child, for example because the
      machine has no free memory.
    - `crashed`: the child ended before it sent a reply, or its reply was too long.
    - `busy`: other threads used the child for too long.
    - `closed`: the child's `Supervisor` has been closed.

    `is_prepared`: False if a new child failed before it could be used.
    """

    def __init__(self, reason: Reason, *, is_prepared: bool = True) -> None:
        super().__init__(f"the child process failed: {reason}")
        self.reason = reason
        self.is_prepared = is_prepared


class Child:
    """Starts a child process, sends it requests and returns its replies.

    Any thread may call `kill` at any time. Only one thread at a time may call the other methods.
    The constructor raises OSError if the process cannot be started.
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
        """Sends a request to the child, and returns the kind and the content of its reply.

        Kills the child if the reply takes longer than `limit_s` seconds. Raises ChildFailed if the
        child was killed or has ended, or if the content has more than `max_bytes` bytes. The caller
        must then close the child.
        """
        if not self._is_ready:
            with _preparing(), self._limited(_START_LIMIT_S):
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
        with suppress(OSError):  # closing the pipe fails if the child has not read all bytes
            self._requests.close()

    @contextmanager
    def _limited(self, limit_s: float) -> Iterator[None]:
        """Kills the child if the `with` block takes longer than `limit_s` seconds.

        Raises ChildFailed if the block takes longer, or if it raises OSError, EOFError or
        ValueError.
        """
        end = time.monotonic() + limit_s
        timer = threading.Timer(limit_s, self.kill)
        timer.daemon = True
        timer.start()
        failure: Exception | None = None
        try:
            yield
        except (OSError, EOFError, ValueError) as error:
            failure = error
        finally:
            timer.cancel()
        # If the block took too long, ChildFailed is raised even if the block raised no error: the
        # timer may have killed the child just after the child's reply.
        if time.monotonic() >= end:
            raise ChildFailed("late") from failure
        if failure:
            raise ChildFailed(self._end_reason(failure)) from failure

    def _end_reason(self, failure: Exception) -> Reason:
        """Returns why the child has ended. `failure`: the error of reading or writing."""
        if isinstance(failure, ValueError):
            return "crashed"  # the reply is too long, and the child still runs
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_LIMIT_S)
        return _REASONS.get(self._process.returncode, "crashed")


class Supervisor:
    """Runs one child process, and starts a new one after the child has failed or ended.

    `command`: the child's module and the arguments of the module. `prepare`: a function that is
    called with each new child before the child is used. The constructor starts the first child. It
    raises OSError if no process can be started, and any exception that `prepare` raises.
    """

    def __init__(
        self, *command: str, prepare: Callable[[Child], object] = lambda child: None
    ) -> None:
        self._command = command  # the arguments for the constructor of `Child`
        self._prepare = prepare
        self._lock = threading.Lock()
        self._child: Child | None = None
        self._is_closed = False
        with self.child(limit_s=0):
            pass

    @contextmanager
    def child(self, *, limit_s: float) -> Iterator[Child]:
        """Yields the child process for a `with` block, to one thread at a time.

        Ends the child if the `with` block raises an exception. Raises ChildFailed if other threads
        use the child for longer than `limit_s` seconds, or if the supervisor is closed. Raises
        OSError if a new child is needed and cannot be started.
        """
        if not self._lock.acquire(timeout=limit_s):
            raise ChildFailed("busy")
        try:
            yield self._running()
        except BaseException as error:
            self._drop()
            if self._is_closed and isinstance(error, ChildFailed):  # `close` has killed the child
                raise ChildFailed("closed") from error
            raise
        finally:
            self._lock.release()

    def close(self) -> None:
        """Ends the child process. Any thread may call this method, at any time and repeatedly."""
        self._is_closed = True
        if child := self._child:
            child.kill()  # makes a `with` block that is using the child fail and release the lock
        with self._lock:
            self._drop()

    def _running(self) -> Child:
        if self._child is None or not self._child.is_alive:
            self._drop()
            if self._is_closed:
                raise ChildFailed("closed")
            self._child = Child(*self._command)
            with _preparing():
                self._prepare(self._child)
        return self._child

    def _drop(self) -> None:
        if child := self._child:
            self._child = None
            child.close()


@contextmanager
def _preparing() -> Iterator[None]:
    """Sets `is_prepared` to False in each ChildFailed that the `with` block raises."""
    try:
        yield
    except ChildFailed as error:
        raise ChildFailed(error.reason, is_prepared=False) from error


def serve(answer: Answer, *, limit_s: float, cpu_limit_s: float = 0) -> None:
    """Runs in the child process: replies to requests until its standard input is closed.

    `answer`: a function that returns the reply to a request. `limit_s`: if a reply takes longer
    than this many seconds, the parent process kills the child. If the parent process has died and
    cannot kill the child, the child ends itself when a reply takes `limit_s` + 1 seconds.
    `cpu_limit_s`: the operating system ends the child if a reply takes this many seconds of
    processor time; 0: no limit. On Windows, this limit has no effect: see `LIMITS_CPU_TIME`.
    """
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    write_frame(replies, _READY, b"")
    with suppress(EOFError, BrokenPipeError):
        while True:
            _, request = read_frame(requests, sys.maxsize)
            # Ends this process after `limit_s + 1` seconds, even if `answer` loops endlessly.
            faulthandler.dump_traceback_later(limit_s + 1, exit=True)
            _limit_cpu_time(cpu_limit_s)
            reply = answer(request)
            _limit_cpu_time(0)
            faulthandler.cancel_dump_traceback_later()
            write_frame(replies, *reply)


def restrict(*, memory: int | None = None) -> None:
    """Runs in the child process: ignores Ctrl-C, and prevents core dumps and writes to files.

    `memory`: the limit for the address space of the process, in bytes; None: no limit. On Windows,
    the process only ignores Ctrl-C.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C, the parent process ends this process
    if sys.platform != "win32":
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_FSIZE, 0)
        if memory is not None:
            _limit(resource.RLIMIT_AS, memory)


def _limit_cpu_time(limit_s: float) -> None:
    """Makes the operating system end this process after so much processor time; 0: never."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, limit_s)  # SIGPROF ends the process


def _limit(resource_type: int, value: int) -> None:
    """Sets a resource limit of this process, such as `RLIMIT_CORE`, to `value`.

    Does nothing on Windows, or if the operating system refuses the change.
    """
    if sys.platform != "win32":
        with suppress(OSError, ValueError):
            resource.setrlimit(resource_type, (value, value))


def write_frame(stream: IO[bytes], kind: int, content: bytes) -> None:
    stream.write(_FRAME_HEAD.pack(kind, len(content)))
    stream.write(content)
    stream.flush()


def read_frame(stream: IO[bytes], max_bytes: int) -> tuple[int, bytes]:
    """Reads a frame (a request or a reply) from `stream`, and returns its kind and its content.

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
