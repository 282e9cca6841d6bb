"""Tests the queue of batches: order, waiting for other calls, limits, and what ends a batch."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest
from workers_ai_emulator.app import create_app
from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.routes.batch import MAX_REQUESTS, supports_batches
from workers_ai_emulator.routes.services import Services
from workers_ai_emulator.runtime import batches
from workers_ai_emulator.runtime.batches import Batch, BatchQueue, BatchResult, BatchStatus
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.errors import BAD_INPUT, INTERNAL_ERROR, OUT_OF_CAPACITY, WireError

from tests.loop import in_loop
from tests.pages import ROOT

ONE, OTHER = "1" * 32, "2" * 32
MODEL = "@cf/baai/bge-m3"
REFUSED = BatchResult(None, error=WireError(OUT_OF_CAPACITY), is_refused=True)


@dataclass
class FakeServer:
    """Runs the requests of batches, each only after `permits.release()`.

    `now`: the time in seconds. `is_busy`: whether other calls are in progress. `outcomes`: the
    results of the next requests, which are otherwise the request as JSON. An exception is raised.
    `num_bytes`: how much longer each result is. `num_checks`: how often `is_busy` was read.
    """

    now: float = 0
    is_busy: bool = False
    started: list[Any] = field(default_factory=list)
    cancelled: list[Any] = field(default_factory=list)
    outcomes: list[BatchResult | Exception] = field(default_factory=list)
    permits: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    num_bytes: int = 0
    num_checks: int = 0

    def queue(self, **options: Any) -> BatchQueue:
        return BatchQueue(
            is_busy=self._check,
            clock=lambda: self.now,
            **{"num_parallel": 1, "patience_s": 5.0, **options},
        )

    def batch(
        self,
        *requests: Any,
        account: str | None = ONE,
        model: str = MODEL,
        num_bytes: int = 0,
    ) -> Batch:
        references = [None] * len(requests)
        return Batch(account, model, requests, references, self._run, num_bytes=num_bytes)

    def _check(self) -> bool:
        self.num_checks += 1
        return self.is_busy

    async def _run(self, request: Any) -> BatchResult:
        self.started.append(request)
        try:
            await self.permits.acquire()
        except asyncio.CancelledError:
            self.cancelled.append(request)
            raise
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        result = json.dumps(request) + " " * self.num_bytes
        return outcome or BatchResult(result.encode(), Usage(1, 2))

    def permit(self, number: int) -> None:
        for _ in range(number):
            self.permits.release()


async def until(is_met: Callable[[], bool]) -> None:
    while not is_met():  # the test's time limit ends this loop if the condition is never met
        await asyncio.sleep(0.001)


async def some_steps() -> None:
    """Lets all tasks run that do not wait for anything."""
    for _ in range(100):
        await asyncio.sleep(0)


def texts(batch: Batch) -> list[Any]:
    return [result and result.result and json.loads(result.result) for result in batch.results]


def codes(batch: Batch) -> list[int | None]:
    return [result.error.type.code if result and result.error else None for result in batch.results]


@in_loop
async def test_the_results_of_a_batch_have_the_order_of_its_requests() -> None:
    server = FakeServer()
    queue = server.queue(num_parallel=2)
    batch = server.batch("a", "b", "c")
    queue.submit(batch)
    assert batch.status.value == "queued"
    await until(lambda: server.started == ["a", "b"])
    assert batch.status.value == "running"
    server.permit(3)
    await until(lambda: batch.status is BatchStatus.ENDED)
    assert texts(batch) == ["a", "b", "c"] == server.started
    assert queue.find(ONE, MODEL, batch.id) is batch


@in_loop
async def test_a_batch_ends_with_its_last_request() -> None:
    server = FakeServer()
    queue = server.queue(num_parallel=2)
    batch = server.batch("a", "b")
    queue.submit(batch)
    server.permit(1)
    await until(lambda: batch.results.count(None) == 1)
    assert batch.status is BatchStatus.RUNNING
    server.permit(1)
    await until(lambda: batch.status is BatchStatus.ENDED)


@pytest.fixture
def rare_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the queue check so rarely whether other calls have ended that no test waits for it."""
    monkeypatch.setattr(batches, "_CHECK_S", 1000)


@pytest.mark.usefixtures("rare_checks")
@in_loop
async def test_a_request_starts_at_once_when_another_of_a_batch_ends() -> None:
    server = FakeServer()
    server.permit(2)
    batch = server.batch("a", "b")
    server.queue().submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)


@pytest.mark.usefixtures("rare_checks")
@in_loop
async def test_the_queue_does_not_check_all_the_time_whether_other_calls_have_ended() -> None:
    server = FakeServer()
    queue = server.queue()
    batch = server.batch("a", "b")
    queue.submit(batch)
    await until(lambda: server.started == ["a"])
    server.is_busy = True
    server.permit(1)
    await until(lambda: server.num_checks >= 2)  # one for each request
    await some_steps()
    num_checks, server.is_busy = server.num_checks, False
    await queue.close()
    assert num_checks == 2


@in_loop
async def test_the_oldest_batch_runs_first_and_a_later_one_runs_after_the_queue_was_empty() -> None:
    server = FakeServer()
    queue = server.queue()
    server.permit(5)
    first, second = server.batch("a", "b"), server.batch("c", account=OTHER)
    queue.submit(first)
    queue.submit(second)
    await until(lambda: second.status is BatchStatus.ENDED)
    third = server.batch("d")
    queue.submit(third)
    await until(lambda: third.status is BatchStatus.ENDED)
    assert server.started == ["a", "b", "c", "d"]


@in_loop
async def test_the_models_take_turns() -> None:
    server = FakeServer()
    queue = server.queue()
    server.permit(6)
    first, other = server.batch("a", "b", "c"), server.batch("x", "y", model="@cf/a/other")
    second = server.batch("d")
    for batch in (first, second, other):
        queue.submit(batch)
    await until(lambda: second.status is BatchStatus.ENDED)
    assert server.started == ["a", "x", "b", "y", "c", "d"]


@in_loop
async def test_the_older_batch_comes_first_after_both_had_no_capacity() -> None:
    server = FakeServer(outcomes=[REFUSED, REFUSED])
    queue = server.queue(patience_s=0, num_parallel=2)
    older, newer = server.batch("a", "b"), server.batch("c")
    for batch in (older, newer):
        queue.submit(batch)
    await until(lambda: server.started == ["a", "b"])
    server.permit(1)
    await until(lambda: server.started == ["a", "b", "a"])
    server.permit(4)
    await until(lambda: newer.status is BatchStatus.ENDED)
    assert server.started == ["a", "b", "a", "b", "c"]


@in_loop
async def test_a_request_without_capacity_does_not_outlive_its_batch() -> None:
    server = FakeServer(outcomes=[REFUSED])
    queue = server.queue(patience_s=0)
    batch = server.batch("a", "b")
    queue.submit(batch)
    server.permit(1)
    await until(lambda: server.started == ["a", "a"])  # the second time, after it was put back
    queue.reset()
    server.permit(4)
    after = server.batch("c")
    queue.submit(after)
    await until(lambda: after.status is BatchStatus.ENDED)
    assert server.started == ["a", "a", "c"]


def test_the_log_says_how_many_batches_wait_and_how_many_requests_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    ids = []

    @in_loop
    async def run_two() -> None:
        server = FakeServer(outcomes=[BatchResult(None, error=WireError(INTERNAL_ERROR))])
        queue = server.queue()
        batches = [server.batch("a", "b"), server.batch("c")]
        for batch in batches:
            queue.submit(batch)
            ids.append(batch.id)
        server.permit(3)
        await until(lambda: batches[1].status is BatchStatus.ENDED)

    run_two()
    first, second = ids
    assert caplog.messages == [
        f"batch {first} is queued (model {MODEL}, requests: 2, waiting batches of the model: 0)",
        f"batch {second} is queued (model {MODEL}, requests: 1, waiting batches of the model: 1)",
        f"batch {first} has ended (failed requests: 1)",
        f"batch {second} has ended (failed requests: 0)",
    ]


@in_loop
async def test_a_request_starts_only_when_no_other_call_is_in_progress() -> None:
    server = FakeServer(is_busy=True)
    queue = server.queue()
    batch = server.batch("a")
    queue.submit(batch)
    await asyncio.sleep(3 * batches._CHECK_S)
    assert (server.started, batch.status) == ([], BatchStatus.QUEUED)
    server.is_busy = False
    await until(lambda: server.started == ["a"])


@in_loop
async def test_a_request_starts_after_a_while_although_other_calls_never_end() -> None:
    server = FakeServer(is_busy=True)
    queue = server.queue()
    server.permit(2)
    batch = server.batch("a", "b")
    queue.submit(batch)
    await asyncio.sleep(3 * batches._CHECK_S)
    server.now = 5
    await until(lambda: server.started == ["a"])
    await asyncio.sleep(3 * batches._CHECK_S)
    assert server.started == ["a"]  # the next request waits as long as the first
    server.now = 10
    await until(lambda: batch.status is BatchStatus.ENDED)


@in_loop
async def test_a_request_for_which_the_server_has_no_capacity_is_tried_again() -> None:
    server = FakeServer(outcomes=[REFUSED, REFUSED])
    queue = server.queue(patience_s=0.0)
    server.permit(5)
    batch, later = server.batch("a", "b"), server.batch("c")
    queue.submit(batch)
    queue.submit(later)
    await until(lambda: later.status is BatchStatus.ENDED)
    assert server.started == ["a", "a", "a", "b", "c"]
    assert texts(batch) == ["a", "b"]


@in_loop
async def test_a_request_is_not_tried_again_at_once() -> None:
    server = FakeServer(outcomes=[REFUSED])
    queue = server.queue(patience_s=1000.0)
    server.permit(2)
    queue.submit(server.batch("a", "b"))
    await until(lambda: server.started == ["a"])
    await some_steps()
    assert server.started == ["a"]
    await queue.close()


@in_loop
async def test_the_number_of_tries_is_limited() -> None:
    server = FakeServer(outcomes=[REFUSED] * batches.MAX_TRIES)
    queue = server.queue(patience_s=0.0)
    server.permit(batches.MAX_TRIES)
    batch = server.batch("a")
    queue.submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)
    assert codes(batch) == [3040]
    assert len(server.started) == batches.MAX_TRIES


@in_loop
async def test_an_error_of_capacity_that_a_script_sends_is_not_tried_again() -> None:
    server = FakeServer(outcomes=[replace(REFUSED, is_refused=False)])
    queue = server.queue()
    server.permit(2)
    batch = server.batch("a", "b")
    queue.submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)
    assert (codes(batch), server.started) == ([3040, None], ["a", "b"])


def test_a_request_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    _check_that_a_failure_does_not_stop_others()
    (record,) = caplog.records
    assert record.message == "a request of a batch failed" and record.exc_info


@in_loop
async def _check_that_a_failure_does_not_stop_others() -> None:
    invalid = BatchResult(None, error=WireError(BAD_INPUT, "x"))
    server = FakeServer(outcomes=[invalid, ValueError("a fault of the emulator")])
    queue = server.queue()
    server.permit(3)
    batch = server.batch("a", "b", "c")
    queue.submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)
    assert codes(batch) == [BAD_INPUT.code, INTERNAL_ERROR.code, None]
    assert texts(batch)[2] == "c"


@in_loop
async def test_a_batch_is_found_only_with_its_account_model_and_id() -> None:
    queue = (server := FakeServer()).queue()
    batch = server.batch("a")
    queue.submit(batch)
    assert queue.find(OTHER, MODEL, batch.id) is None
    assert queue.find(None, MODEL, batch.id) is None
    assert queue.find(ONE, "@cf/baai/bge-small-en-v1.5", batch.id) is None
    assert queue.find(ONE, MODEL, "x") is None
    await queue.close()


@in_loop
async def test_results_are_kept_for_a_day_after_the_end_although_nobody_retrieves_them() -> None:
    server = FakeServer()
    queue = server.queue()
    server.permit(1)
    batch = server.batch("a")
    queue.submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)
    server.now = batches.RETENTION_S
    assert queue.find(ONE, MODEL, batch.id) is batch
    server.now += 1
    assert queue.find(ONE, MODEL, batch.id) is None


@in_loop
async def test_a_batch_that_waits_for_longer_than_a_day_is_kept() -> None:
    server = FakeServer()
    queue = server.queue()
    batch = server.batch("a")
    queue.submit(batch)
    server.now = 2 * batches.RETENTION_S
    assert queue.find(ONE, MODEL, batch.id) is batch
    await queue.close()


@in_loop
async def test_batches_whose_results_have_expired_make_room_for_new_ones() -> None:
    server = FakeServer()
    queue = server.queue(max_bytes=3 * SIZE)
    server.permit(2)
    batch = server.batch("a", num_bytes=2 * SIZE)
    queue.submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)
    server.now = batches.RETENTION_S + 1
    queue.submit(server.batch("b", num_bytes=2 * SIZE))
    await queue.close()


@pytest.mark.parametrize(("num_batches", "num_requests"), [(8, 1), (1, 100)])
def test_each_batch_and_each_request_needs_memory(
    num_batches: int, num_requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    server = FakeServer()

    def batch() -> Batch:
        return server.batch(*["a"] * num_requests)

    @in_loop
    async def submit() -> None:
        queue = server.queue(max_bytes=num_batches * batch().num_bytes)
        for _ in range(num_batches):
            queue.submit(batch())
        with pytest.raises(WireError):
            queue.submit(batch())
        await queue.close()

    submit()
    assert num_batches * batch().num_bytes > 100_000
    assert f"a batch is refused: the {num_batches} stored batches and this one" in caplog.text


PAGE = " ".join((ROOT / "docs/batch.md").read_text("utf-8").split())


def test_the_models_with_batches_are_those_of_the_documentation() -> None:
    names = PAGE.partition(" for these models: ")[2].partition(". Except for")[0]
    listed = re.split(r", | and ", names)
    supported = [spec.name for spec in CATALOG.values() if supports_batches(spec)]
    assert sorted(name.rpartition("/")[2] for name in supported) == sorted(listed)


def test_the_limits_are_those_of_the_documentation() -> None:
    assert f"results | are kept for {batches.RETENTION_S // 3600} hours after" in PAGE
    assert f"memory for all batches and their results | {batches.MAX_BYTES // 2**20} MiB" in PAGE
    assert f"a request of the batch starts every {batches.PATIENCE_S:.0f} seconds" in PAGE
    assert batches.MAX_TRIES == 10 and "After ten tries in all" in PAGE
    assert f"requests of a batch | {MAX_REQUESTS:,} |" in PAGE


SIZE = 10 * batches._BATCH_BYTES  # the memory of a batch in the next tests, approximately


@in_loop
async def test_only_retrieved_batches_make_room_for_new_ones() -> None:
    server = FakeServer()
    queue = server.queue(max_bytes=3 * SIZE)
    server.permit(4)
    first, second = server.batch("a", num_bytes=SIZE), server.batch("b", num_bytes=SIZE)
    queue.submit(first)
    queue.submit(second)
    await until(lambda: second.status is BatchStatus.ENDED)
    with pytest.raises(WireError) as refusal:
        queue.submit(server.batch("c", num_bytes=SIZE))
    assert refusal.value.type is OUT_OF_CAPACITY
    second.is_retrieved = True
    third = server.batch("c", num_bytes=SIZE)
    queue.submit(third)
    await until(lambda: third.status is BatchStatus.ENDED)
    assert queue.find(ONE, MODEL, first.id) is first
    assert queue.find(ONE, MODEL, second.id) is None
    first.is_retrieved = third.is_retrieved = True
    queue.submit(server.batch("d", num_bytes=SIZE))
    assert queue.find(ONE, MODEL, first.id) is None  # the oldest
    assert queue.find(ONE, MODEL, third.id) is third
    await queue.close()


@in_loop
async def test_results_that_a_client_has_got_are_marked_as_retrieved() -> None:
    services = Services.create(Settings(backend="scripted"), CATALOG)
    transport = httpx.ASGITransport(create_app(services))
    url = f"http://localhost/client/v4/accounts/{ONE}/ai/run/{MODEL}?queueRequest=true"
    async with httpx.AsyncClient(transport=transport) as client:
        queued = await client.post(url, json={"requests": [{"text": "a"}]})
        request_id = queued.json()["result"]["request_id"]
        batch = services.batches.find(ONE, MODEL, request_id)
        assert batch is not None
        await until(lambda: batch.status is BatchStatus.ENDED)
        assert not batch.is_retrieved
        results = await client.post(url, json={"request_id": request_id})
    assert results.json()["result"]["responses"][0]["success"] and batch.is_retrieved


@in_loop
async def test_a_result_for_which_there_is_no_memory_is_an_error() -> None:
    server = FakeServer(num_bytes=SIZE)
    queue = server.queue(max_bytes=3 * SIZE)
    server.permit(5)
    batch = server.batch("a", "b", "c", "d")
    queue.submit(batch)
    await until(lambda: batch.status is BatchStatus.ENDED)
    assert codes(batch) == [None, None, 3040, 3040]
    server.permit(1)
    batch.is_retrieved = True
    server.num_bytes = 0
    other = server.batch("e", num_bytes=2 * SIZE)
    queue.submit(other)  # the memory is free again
    await until(lambda: other.status is BatchStatus.ENDED)


@in_loop
async def test_a_reset_discards_the_batches_of_one_account_and_cancels_their_requests() -> None:
    server = FakeServer()
    queue = server.queue(num_parallel=3)
    first, last = (server.batch(text, account=OTHER) for text in "ae")
    own = server.batch("b", "c", "d")
    for batch in (first, own, last):
        queue.submit(batch)
    await until(lambda: server.started == ["a", "b", "c"])
    queue.reset(ONE)
    await until(lambda: server.started == ["a", "b", "c", "e"])
    assert sorted(server.cancelled) == ["b", "c"]
    server.permit(2)
    await until(lambda: first.status is last.status is BatchStatus.ENDED)
    assert queue.find(ONE, MODEL, own.id) is None
    assert queue.find(OTHER, MODEL, last.id) is last


@in_loop
async def test_after_close_no_request_runs() -> None:
    server = FakeServer()
    queue = server.queue()
    queue.submit(server.batch("a", "b"))
    await until(lambda: server.started == ["a"])
    await queue.close()
    assert server.cancelled == ["a"]
    assert len(asyncio.all_tasks()) == 1  # only this test
