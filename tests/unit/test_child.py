"""Tests when the supervisor starts a new child process, and when it ends the child process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from workers_ai_emulator.engine.child import LIMITS_CPU_TIME, Child, ChildFailed, Supervisor

# A child process that replies with its process id to all requests except `exit`, `kill`, `sleep`
# and `compute`. It works for a while before its reply to `work`.
PROGRAM = """
import os, time
from workers_ai_emulator.engine.child import serve

def answer(request):
    if request == b"exit":
        os._exit(1)
    if request == b"kill":
        os.kill(os.getpid(), 9)
    if request == b"sleep":
        time.sleep(600)
    while request == b"compute":
        pass
    end = time.process_time() + 0.2
    while request == b"work" and time.process_time() < end:
        pass
    return 0, str(os.getpid()).encode()

serve(answer, limit_s=600, cpu_limit_s=0.5)
"""


posix = pytest.mark.skipif(not LIMITS_CPU_TIME, reason="Windows has no signals")


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "replies_with_its_pid.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with closing(Supervisor("replies_with_its_pid")) as supervisor:
        yield supervisor


def pid_of(child: Child) -> int:
    return int(child.exchange(b"", max_bytes=20, limit_s=60)[1])


def pid(supervisor: Supervisor) -> int:
    with supervisor.child(limit_s=60) as child:
        return pid_of(child)


def failure(supervisor: Supervisor, request: bytes, limit_s: float = 60) -> ChildFailed:
    """Sends a request to which the child does not reply. Returns the error."""
    with pytest.raises(ChildFailed) as caught, supervisor.child(limit_s=60) as child:
        child.exchange(request, max_bytes=20, limit_s=limit_s)
    return caught.value


def test_all_blocks_use_the_same_child(supervisor: Supervisor) -> None:
    assert pid(supervisor) == pid(supervisor) != os.getpid()


@pytest.mark.parametrize(
    ("request_", "limit_s", "reason"),
    [
        (b"exit", 60, "crashed"),
        (b"sleep", 0.1, "late"),
        pytest.param(b"kill", 60, "killed", marks=posix),
        pytest.param(b"compute", 600, "slow", marks=posix),
    ],
)
def test_a_child_that_failed_is_replaced(
    supervisor: Supervisor, request_: bytes, limit_s: float, reason: str
) -> None:
    before = pid(supervisor)
    assert failure(supervisor, request_, limit_s).reason == reason
    assert pid(supervisor) != before


def test_a_child_whose_block_failed_is_replaced(supervisor: Supervisor) -> None:
    before = pid(supervisor)
    with pytest.raises(LookupError), supervisor.child(limit_s=60):
        raise LookupError
    assert pid(supervisor) != before


def test_a_child_that_was_killed_between_two_blocks_is_replaced(supervisor: Supervisor) -> None:
    with supervisor.child(limit_s=60) as child:
        before = pid_of(child)
    child.kill()
    child._process.wait(timeout=60)
    assert pid(supervisor) != before


def test_each_new_child_is_prepared_before_it_is_used() -> None:
    prepared: list[int] = []

    def prepare(child: Child) -> None:
        prepared.append(pid_of(child))

    with closing(Supervisor("replies_with_its_pid", prepare=prepare)) as supervisor:
        first = pid(supervisor)
        failure(supervisor, b"exit")
        assert prepared == [first]
        second = pid(supervisor)
        assert prepared == [first, second]


def test_a_child_that_cannot_be_prepared_is_ended() -> None:
    children: list[Child] = []

    def prepare(child: Child) -> None:
        children.append(child)
        raise LookupError

    with pytest.raises(LookupError):
        Supervisor("replies_with_its_pid", prepare=prepare)
    assert not children[0].is_alive


def test_a_child_that_ends_before_it_can_be_used_was_not_prepared(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    assert failure(supervisor, b"exit").is_prepared
    (tmp_path / "replies_with_its_pid.py").write_text("raise SystemExit")
    assert not failure(supervisor, b"").is_prepared


def test_a_child_whose_preparation_failed_was_not_prepared() -> None:
    def prepare(child: Child) -> None:
        child.exchange(b"exit", max_bytes=20, limit_s=60)

    with pytest.raises(ChildFailed, match="crashed") as caught:
        Supervisor("replies_with_its_pid", prepare=prepare)
    assert not caught.value.is_prepared


@posix
def test_each_reply_has_its_own_processor_time(supervisor: Supervisor) -> None:
    before = pid(supervisor)
    for _ in range(4):
        with supervisor.child(limit_s=60) as child:
            child.exchange(b"work", max_bytes=20, limit_s=600)
    assert pid(supervisor) == before


def test_only_one_thread_at_a_time_uses_the_child(supervisor: Supervisor) -> None:
    with ThreadPoolExecutor(1) as pool, supervisor.child(limit_s=60) as child:
        with pytest.raises(ChildFailed, match="busy"):
            pool.submit(supervisor.child(limit_s=0.01).__enter__).result(timeout=60)
        waiting = pool.submit(pid, supervisor)
        assert not waiting.done()
        used = pid_of(child)
    assert waiting.result() == used


def test_closing_ends_the_child_and_may_be_repeated(supervisor: Supervisor) -> None:
    with supervisor.child(limit_s=60) as child:
        pass
    supervisor.close()
    supervisor.close()
    assert not child.is_alive
    with pytest.raises(ChildFailed, match="closed"):
        pid(supervisor)


def test_closing_makes_a_block_in_progress_fail(supervisor: Supervisor) -> None:
    is_used = threading.Event()

    def use() -> None:
        with supervisor.child(limit_s=60) as child:
            is_used.set()
            child.exchange(b"sleep", max_bytes=20, limit_s=600)

    with ThreadPoolExecutor(1) as pool:
        using = pool.submit(use)
        assert is_used.wait(timeout=60)
        supervisor.close()
        error = using.exception(timeout=60)
        assert isinstance(error, ChildFailed) and error.reason == "closed"
