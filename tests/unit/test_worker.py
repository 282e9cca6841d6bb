"""Tests the engine with its own thread and a fake model."""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
from workers_ai_emulator.engine import scheduler
from workers_ai_emulator.engine.engine import Engine, EngineGeneration
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    DeadlineExceeded,
    EngineClosed,
    EngineError,
    GrammarFailed,
)
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Chunk, FinishReason, Sampler, SamplingParams, State

from tests.fakes import END, IM_START, FakeRunner, FakeVocabulary
from tests.loop import TIMEOUT_S, in_loop

THREAD = "engine under test"


@asynccontextmanager
async def running(
    runner: FakeRunner, *, queue_size: int = 64, drafts: bool = False
) -> AsyncIterator[Engine]:
    engine = Engine(
        runner,
        queue_size=queue_size,
        tiling=Tiling(),
        snapshot_tokens=256,
        drafts=drafts,
        name=THREAD,
    )
    try:
        yield engine
    finally:
        runner.gate.set()
        await engine.close()


async def blocked(runner: FakeRunner) -> None:
    """Waits until the decode call `block_at` of the fake model is blocked."""
    assert await asyncio.to_thread(runner.is_blocked.wait, TIMEOUT_S)


async def text_of(generation: EngineGeneration) -> str:
    return "".join([chunk.text async for chunk in generation])


def prompt(text: str = "hello") -> list[int]:
    return list(text.encode())


def params(max_tokens: int = 20) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens)


def engine_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@in_loop
async def test_the_chunks_of_a_generation_are_the_text_of_the_runner() -> None:
    runner = FakeRunner(completion_length=7)
    async with running(runner) as engine:
        generation = engine.submit(prompt(), params())
        chunks = [chunk async for chunk in generation]
    assert "".join(chunk.text for chunk in chunks) == runner.text(prompt(), params())
    assert [chunk.finish_reason for chunk in chunks] == [None] * 7 + [FinishReason.STOP]
    assert generation.finish_reason is FinishReason.STOP
    assert generation.usage.num_completion_tokens == 8


@in_loop
async def test_a_completion_that_reaches_max_tokens_ends_by_length() -> None:
    runner = FakeRunner()
    async with running(runner) as engine:
        chunks = [chunk async for chunk in engine.submit(prompt(), params(3))]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, FinishReason.LENGTH]


@in_loop
async def test_a_completion_ends_before_a_stop_string() -> None:
    runner = FakeRunner()
    text = runner.text(prompt(), params(40))
    stopped = SamplingParams(max_tokens=40, stop=("unused", text[20:24]))
    async with running(runner, drafts=True) as engine:
        for _ in range(3):  # the second and the third request have drafts
            generation = engine.submit(prompt(), stopped)
            assert await text_of(generation) == text[:20]
            assert generation.finish_reason is FinishReason.STOP
            assert generation.usage.num_completion_tokens == 24


class SpecialWords(FakeRunner):
    """A fake model whose completions are a letter, a special token, a letter and an EOG token."""

    def next_token(self, cells: list[int], num_prompt_tokens: int, params: SamplingParams) -> int:
        return [ord("a"), IM_START, ord("b"), END][len(cells) - num_prompt_tokens]


@in_loop
async def test_the_names_of_special_tokens_are_text_only_on_request() -> None:
    async with running(SpecialWords()) as engine:
        hidden = engine.submit(prompt(), params())
        assert await text_of(hidden) == "ab"
        shown = engine.submit(prompt(), params(), shows_special_tokens=True)
        assert await text_of(shown) == "a<|im_start|>b"
        assert shown.usage.num_completion_tokens == 4


JSON = r"""start: %json {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": false,
    "x-guidance": {"whitespace_flexible": false}
}"""


@in_loop
async def test_a_completion_has_the_form_of_its_grammar() -> None:
    async with running(FakeRunner()) as engine:
        grammar = await asyncio.to_thread(engine.compile, 'start: "ab" /[x-z]{4}/ "!"')
        generation = engine.submit(prompt(), params(100), grammar=grammar)
        text = await text_of(generation)
        assert re.fullmatch("ab[xyz]{4}!", text)
        assert generation.finish_reason is FinishReason.STOP
        assert generation.usage.num_completion_tokens == 7


@in_loop
async def test_a_constrained_completion_is_the_same_alone_with_others_and_with_drafts() -> None:
    texts = []
    for drafts in (False, True):
        async with running(FakeRunner(), drafts=drafts) as engine:
            grammar = engine.compile(r"start: /([a-f]{3}[0-9]){8}/")
            for _ in range(3):
                texts.append(await text_of(engine.submit(prompt(), params(), grammar=grammar)))
            beside = [engine.submit(prompt(), params(), grammar=grammar) for _ in range(4)]
            others = [engine.submit(prompt(f"x{n}"), params()) for n in range(4)]
            texts += await asyncio.gather(*map(text_of, beside))
            await asyncio.gather(*map(text_of, others))
    assert len(set(texts)) == 1
    assert len(texts[0]) == 20


@in_loop
async def test_max_tokens_ends_a_constrained_completion() -> None:
    async with running(FakeRunner()) as engine:
        grammar = engine.compile(JSON)
        generation = engine.submit(prompt(), params(5), grammar=grammar)
        assert await text_of(generation) == '{"nam'
        assert generation.finish_reason is FinishReason.LENGTH


@in_loop
async def test_the_model_can_end_where_the_grammar_allows_it() -> None:
    async with running(FakeRunner(completion_length=3)) as engine:
        generation = engine.submit(prompt(), params(), grammar=engine.compile("start: /[a-z]*/"))
        assert len(await text_of(generation)) == 3
        assert generation.finish_reason is FinishReason.STOP
        assert generation.usage.num_completion_tokens == 4


def test_a_grammar_that_exceeds_a_limit_fails_only_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pattern = r'start: %json {"type": "string", "pattern": "^.*a.{200}b.{200}$"}'

    @in_loop
    async def run() -> None:
        async with running(FakeRunner(context_length=4096, vocabulary=TwoLetters())) as engine:
            failing = engine.submit(prompt(), params(4000), grammar=engine.compile(pattern))
            other = asyncio.create_task(text_of(engine.submit(prompt("other"), params(60))))
            with pytest.raises(GrammarFailed, match="the grammar stopped"):
                await text_of(failing)
            assert len(await other) == 60
            assert len(await text_of(engine.submit(prompt(), params()))) == 20
            assert engine.status.finished == {"error": 1, "length": 2}

    run()
    assert not caplog.records, "the schema is the client's, so this is no error of the engine"


class TwoLetters(FakeVocabulary):
    """A vocabulary whose letters are only `a` and `b`."""

    def piece(self, token: int) -> bytes:
        is_letter = bytes([token % 256]).isalpha()
        return super().piece(ord("a") + token % 2 if is_letter and token < END else token)


@in_loop
async def test_requests_with_different_grammars_have_different_fingerprints() -> None:
    async with running(FakeRunner()) as engine:
        grammars = [None, engine.compile('start: "a"'), engine.compile('start: "b"')]
        fingerprints = [engine.submit(prompt(), params(), grammar=g).fingerprint for g in grammars]
        assert len(set(fingerprints)) == 3


async def repeat(runner: FakeRunner) -> tuple[list[int], list[list[Chunk]]]:
    """Sends a request six times. Returns the numbers of decode calls, and the chunks."""
    chunks, num_decodes = [], []
    async with running(runner, drafts=True) as engine:
        for _ in range(6):
            before = runner.num_decodes
            chunks.append([chunk async for chunk in engine.submit(prompt(), params(100))])
            num_decodes.append(runner.num_decodes - before)
    return num_decodes, chunks


@in_loop
async def test_a_repeated_completion_takes_fewer_decode_calls_and_has_the_same_chunks() -> None:
    runner = FakeRunner(completion_length=60)
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)  # all calls take equally long
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "time", clock)
        num_decodes, chunks = await repeat(runner)
    assert all(of_request == chunks[0] for of_request in chunks)
    assert "".join(chunk.text for chunk in chunks[0]) == runner.text(prompt(), params(100))
    assert [chunk.finish_reason for chunk in chunks[0]] == [None] * 60 + [FinishReason.STOP]
    assert num_decodes[-1] < num_decodes[0] / 2


@in_loop
async def test_a_decode_call_generates_one_token_and_the_accepted_tokens() -> None:
    runner = FakeRunner(completion_length=60)
    async with running(runner, drafts=True) as engine:
        while runner.num_decodes < 10:  # until the engine has measured its decode calls
            await asyncio.sleep(0.001)
        for _ in range(6):
            await text_of(engine.submit(prompt(), params(100)))
        status = engine.status
    num_calls = runner.num_decodes - 10
    assert status.num_completion_tokens == num_calls + status.num_accepted_tokens
    assert status.num_accepted_tokens <= status.num_drafted_tokens


@in_loop
async def test_an_idle_engine_measures_decode_calls_in_a_slot_without_cells() -> None:
    runner = FakeRunner(num_slots=2)
    async with running(runner, drafts=True) as engine:
        while runner.num_decodes < 10:
            await asyncio.sleep(0.001)
        await text_of(engine.submit(prompt("p" * 40), params(2)))
        again = engine.submit(prompt("p" * 40), params(2))
        assert await text_of(again) == runner.text(prompt("p" * 40), params(2))
    assert again.usage.num_cached_tokens == 39
    assert [] in runner.cells


@in_loop
async def test_a_decode_call_that_cannot_be_measured_does_not_end_the_engine() -> None:
    runner = FakeRunner(num_slots=1, fail_at=range(1, 11))
    async with running(runner, drafts=True) as engine:
        while runner.num_decodes < 10:
            await asyncio.sleep(0.001)
        assert await text_of(engine.submit(prompt(), params(3))) == runner.text(prompt(), params(3))


@in_loop
async def test_concurrent_generations_get_their_own_texts() -> None:
    runner = FakeRunner(num_slots=3, completion_length=12)
    prompts = [prompt("a prefix that all of them share, " * 2 + "x" * n) for n in range(20)]
    async with running(runner) as engine:
        texts = await asyncio.gather(*(text_of(engine.submit(p, params())) for p in prompts))
        assert engine.status.num_cached_tokens > 0
    assert texts == [runner.text(p, params()) for p in prompts]


@in_loop
async def test_a_generation_that_is_not_read_does_not_delay_another() -> None:
    runner = FakeRunner(num_slots=1)
    async with running(runner) as engine:
        engine.submit(prompt("unread"), params())
        assert await text_of(engine.submit(prompt(), params())) == runner.text(prompt(), params())


@in_loop
async def test_the_prompt_of_a_finished_request_is_reused() -> None:
    runner = FakeRunner()
    async with running(runner) as engine:
        await text_of(engine.submit(prompt("p" * 40), params(2)))
        again = engine.submit(prompt("p" * 40), params(2))
        assert await text_of(again) == runner.text(prompt("p" * 40), params(2))
    assert again.usage.num_cached_tokens == 39


@pytest.mark.parametrize(("is_sentencepiece", "text"), [(True, "a b"), (False, " a b")])
def test_a_leading_space_is_stripped_for_sentencepiece(is_sentencepiece: bool, text: str) -> None:
    class Words(FakeRunner):
        def next_token(self, cells: list[int], num_prompt_tokens: int, _: SamplingParams) -> int:
            return b" a b"[len(cells) - num_prompt_tokens]

    @in_loop
    async def check() -> None:
        runner = Words(vocabulary=FakeVocabulary(is_sentencepiece=is_sentencepiece))
        async with running(runner) as engine:
            assert await text_of(engine.submit(prompt(), params(4))) == text

    check()


@in_loop
async def test_an_unfinished_character_ends_as_a_replacement_character() -> None:
    class Euro(FakeRunner):
        def next_token(self, cells: list[int], num_prompt_tokens: int, _: SamplingParams) -> int:
            return "\u20ac".encode()[len(cells) - num_prompt_tokens]

    async with running(Euro()) as engine:
        assert await text_of(engine.submit(prompt(), params(3))) == "\u20ac"
        assert await text_of(engine.submit(prompt(), params(2))) == "\ufffd"


@in_loop
async def test_a_waiting_request_can_be_cancelled() -> None:
    runner = FakeRunner(num_slots=1, block_at=1)
    async with running(runner) as engine:
        first = engine.submit(prompt("first"), params())
        await blocked(runner)
        waiting = engine.submit(prompt("waiting"), params())
        waiting.cancel()
        runner.gate.set()
        assert await text_of(waiting) == ""
        assert await text_of(first) == runner.text(prompt("first"), params())
    assert waiting.finish_reason is FinishReason.CANCELLED
    assert waiting.usage.num_completion_tokens == 0


@in_loop
async def test_a_request_can_be_cancelled_while_its_prompt_is_evaluated() -> None:
    runner = FakeRunner(num_slots=1, block_at=2)
    async with running(runner) as engine:
        generation = engine.submit(prompt("p" * 400), params())
        await blocked(runner)
        generation.cancel()
        runner.gate.set()
        chunks = [chunk async for chunk in generation]
        assert await text_of(engine.submit(prompt(), params())) == runner.text(prompt(), params())
    assert [(chunk.text, chunk.finish_reason) for chunk in chunks] == [("", FinishReason.CANCELLED)]


@in_loop
async def test_a_running_request_can_be_cancelled() -> None:
    runner = FakeRunner(num_slots=1, block_at=4)
    async with running(runner) as engine:
        generation = engine.submit(prompt(), params())
        await blocked(runner)
        generation.cancel()  # interrupts the running decode call
        generation.cancel()
        text = await text_of(generation)
        assert await text_of(engine.submit(prompt(), params())) == runner.text(prompt(), params())
    assert text == runner.text(prompt(), params(3))
    assert generation.finish_reason is FinishReason.CANCELLED


@in_loop
async def test_a_decode_call_is_not_interrupted_while_one_of_its_requests_is_not_cancelled() -> (
    None
):
    runner = FakeRunner(num_slots=2, block_at=3)
    async with running(runner) as engine:
        generations = [engine.submit(prompt(text), params(9)) for text in ("ab", "cd")]
        await blocked(runner)
        generations[0].cancel()
        runner.gate.set()
        await text_of(generations[0])
        assert await text_of(generations[1]) == runner.text(prompt("cd"), params(9))
        assert engine.status.finished == {"cancelled": 1, "length": 1}


@in_loop
async def test_the_cells_of_an_interrupted_decode_call_are_not_reused() -> None:
    runner = FakeRunner(num_slots=1, block_at=1)
    async with running(runner) as engine:
        broken = engine.submit(prompt("x" * 40), params())
        await blocked(runner)
        broken.cancel()
        assert await text_of(broken) == ""
        again = engine.submit(prompt("x" * 40), params())
        assert await text_of(again) == runner.text(prompt("x" * 40), params())
        assert engine.status.num_cached_tokens == 0
    assert runner.num_open_samplers == 0


@in_loop
async def test_cancelling_a_finished_request_changes_nothing() -> None:
    runner = FakeRunner()
    async with running(runner) as engine:
        generation = engine.submit(prompt(), params(2))
        await text_of(generation)
        generation.cancel()
        await text_of(engine.submit(prompt(), params(2)))
        assert engine.status.finished == {"length": 2}
    assert generation.finish_reason is FinishReason.LENGTH


@in_loop
async def test_cancelling_during_the_last_decode_call_changes_nothing() -> None:
    runner = FakeRunner(block_at=3, can_be_interrupted=False)
    async with running(runner) as engine:
        generation = engine.submit(prompt(), params(3))
        await blocked(runner)
        generation.cancel()
        runner.gate.set()
        assert await text_of(generation) == runner.text(prompt(), params(3))
        await text_of(engine.submit(prompt(), params(3)))
        assert engine.status.finished == {"length": 2}
    assert generation.finish_reason is FinishReason.LENGTH


@in_loop
async def test_a_request_beyond_the_queue_is_rejected() -> None:
    runner = FakeRunner(num_slots=2, block_at=1)
    async with running(runner, queue_size=1) as engine:
        generations = [engine.submit(prompt(), params()) for _ in range(3)]
        for reject in (engine.check_capacity, lambda: engine.submit(prompt(), params())):
            with pytest.raises(CapacityExceeded):
                reject()
        runner.gate.set()
        await asyncio.gather(*map(text_of, generations))
        engine.check_capacity()
        await text_of(engine.submit(prompt(), params()))


@in_loop
async def test_a_request_that_may_not_wait_is_rejected_if_no_slot_is_free() -> None:
    runner = FakeRunner(num_slots=2, block_at=1)
    async with running(runner, queue_size=1) as engine:
        generations = [engine.submit(prompt(), params())]
        engine.check_capacity(may_wait=False)
        generations.append(engine.submit(prompt(), params()))
        engine.check_capacity()
        for reject in (engine.check_capacity, partial(engine.submit, prompt(), params())):
            with pytest.raises(CapacityExceeded):
                reject(may_wait=False)
        runner.gate.set()
        await asyncio.gather(*map(text_of, generations))


@in_loop
async def test_a_request_that_does_not_fit_the_context_is_rejected() -> None:
    async with running(FakeRunner(context_length=64)) as engine:
        with pytest.raises(ContextTooLong, match="65 tokens do not fit a context of 64") as caught:
            engine.submit(prompt("p" * 60), params(5))
        assert caught.value.max_tokens == 5
        await text_of(engine.submit(prompt("p" * 60), params(4)))


@in_loop
async def test_without_max_tokens_a_completion_may_fill_the_context() -> None:
    unlimited = SamplingParams(max_tokens=None)
    async with running(FakeRunner(context_length=64, completion_length=100)) as engine:
        generation = engine.submit(prompt("p" * 60), unlimited)
        assert len(await text_of(generation)) == 4
        assert generation.finish_reason is FinishReason.LENGTH
        with pytest.raises(ContextTooLong, match="65 tokens do not fit a context of 64"):
            engine.submit(prompt("p" * 64), unlimited)


@in_loop
async def test_a_default_of_max_tokens_is_reduced_to_the_rest_of_the_context() -> None:
    async with running(FakeRunner(context_length=64, completion_length=100)) as engine:
        for max_tokens, length in ((2000, 4), (3, 3)):
            shortened = SamplingParams(max_tokens=max_tokens, may_shorten=True)
            assert len(await text_of(engine.submit(prompt("p" * 60), shortened))) == length


@pytest.mark.parametrize(("failing", "is_long"), [(2, False), (3, True)])
def test_a_failed_decode_call_ends_only_its_own_requests(failing: int, is_long: bool) -> None:
    """Decode calls 1 and 2 evaluate the short prompt and its next token, call 3 the long prompt."""

    @in_loop
    async def check() -> None:
        runner = FakeRunner(num_slots=2, block_at=1, fail_at={failing})
        prompts = [prompt("short"), prompt("long" * 50)]
        async with running(runner) as engine:
            short = engine.submit(prompts[0], params())
            await blocked(runner)
            generations = [short, engine.submit(prompts[1], params())]
            runner.gate.set()
            with pytest.raises(EngineError, match="decode failed"):
                await text_of(generations[is_long])
            assert await text_of(generations[not is_long]) == runner.text(
                prompts[not is_long], params()
            )
            again = engine.submit(prompts[is_long], params())
            assert await text_of(again) == runner.text(prompts[is_long], params())
            assert engine.status.finished == {"length": 2, "error": 1}
        assert runner.num_open_samplers == 0

    check()


@in_loop
async def test_a_snapshot_that_cannot_be_loaded_ends_only_the_request_that_needs_it() -> None:
    class Forgetful(FakeRunner):
        def load(self, slot: int, state: State) -> None:
            super().load(slot, state[:-1])

    runner = Forgetful(num_slots=1, block_at=3)
    async with running(runner) as engine:
        await text_of(engine.submit(prompt("a" * 40), params(2)))  # these are decode calls 1 and 2
        second = engine.submit(prompt("b" * 40), params(2))
        await blocked(runner)
        again = engine.submit(prompt("a" * 40), params(2))
        waiting = engine.submit(prompt("c" * 40), params(2))
        runner.gate.set()
        await text_of(second)
        with pytest.raises(EngineError, match="incomplete"):
            await text_of(again)
        assert await text_of(waiting) == runner.text(prompt("c" * 40), params(2))


@in_loop
async def test_the_text_before_a_failed_decode_call_is_delivered() -> None:
    runner = FakeRunner(fail_at={4})
    text = ""
    async with running(runner) as engine:
        with pytest.raises(EngineError):
            async for chunk in engine.submit(prompt(), params()):
                text += chunk.text
    assert text == runner.text(prompt(), params(3))


@in_loop
async def test_the_engine_survives_an_unexpected_exception() -> None:
    runner = FakeRunner(num_slots=1, fail_at={1}, error=RuntimeError("boom"), block_at=1)
    async with running(runner) as engine:
        failing = engine.submit(prompt(), params())
        await blocked(runner)
        runner.gate.set()
        with pytest.raises(EngineError, match="boom"):
            await text_of(failing)
        assert await text_of(engine.submit(prompt(), params())) == runner.text(prompt(), params())
        assert engine.status.finished == {"error": 1, "length": 1}
    assert runner.num_open_samplers == 0


@in_loop
async def test_closing_cancels_all_requests_and_ends_the_thread() -> None:
    runner = FakeRunner(num_slots=1, block_at=3)
    engine = Engine(runner, queue_size=9, tiling=Tiling(), name=THREAD)
    generations = [engine.submit(prompt(), params()) for _ in range(3)]
    await blocked(runner)
    assert engine_threads()
    await engine.close()
    assert not engine_threads()
    assert runner.is_closed
    assert runner.num_open_samplers == 0
    texts = await asyncio.gather(*map(text_of, generations))
    assert texts == [runner.text(prompt(), params(2)), "", ""]
    assert {generation.finish_reason for generation in generations} == {FinishReason.CANCELLED}


@in_loop
async def test_a_closed_engine_rejects_requests() -> None:
    async with running(FakeRunner()) as engine:
        await engine.close()
        with pytest.raises(EngineClosed):
            engine.submit(prompt(), params())


@in_loop
async def test_a_generation_that_takes_too_long_ends_in_a_timeout_and_frees_its_slot() -> None:
    runner = FakeRunner(num_slots=1, block_at=3)
    async with running(runner) as engine:
        generation = engine.submit(prompt(), params())
        await blocked(runner)
        generation.cancel_after(0)
        with pytest.raises(DeadlineExceeded):
            await text_of(generation)
        runner.gate.set()
        assert await text_of(engine.submit(prompt(), params())) == runner.text(prompt(), params())
        assert engine.status.finished == {"cancelled": 1, "length": 1}


@in_loop
async def test_a_generation_that_ends_in_time_is_not_cancelled() -> None:
    runner = FakeRunner()
    async with running(runner) as engine:
        generation = engine.submit(prompt(), params())
        generation.cancel_after(60)
        assert await text_of(generation) == runner.text(prompt(), params())
        assert engine.status.finished == {"length": 1}


class SlowSampler(FakeRunner):
    """A fake model that waits for `gate` when the first sampler is created."""

    def sampler(self, params: SamplingParams, prompt_tokens: Sequence[int]) -> Sampler:
        self.is_blocked.set()
        assert self.gate.wait(TIMEOUT_S)
        return super().sampler(params, prompt_tokens)


@pytest.mark.parametrize(
    ("create_runner", "drafts", "outcome"),
    [
        (partial(FakeRunner, block_at=3), False, "cancelled"),
        (partial(FakeRunner, block_at=3, can_be_interrupted=False), False, "cancelled"),
        (partial(FakeRunner, block_at=3, can_be_interrupted=False, fail_at={3}), False, "error"),
        (partial(FakeRunner, block_at=1, can_be_interrupted=False), True, "cancelled"),
        (SlowSampler, False, "cancelled"),
    ],
    ids=["interrupted call", "completed call", "failed call", "calibration", "sampling"],
)
def test_requests_fail_while_the_worker_makes_no_progress_and_the_engine_can_recover(
    create_runner: Callable[..., FakeRunner], drafts: bool, outcome: str
) -> None:
    @in_loop
    async def check() -> None:
        runner = create_runner(num_slots=1)
        async with running(runner, drafts=drafts) as engine:
            engine.watch(0.2)
            first, waiting = (engine.submit(prompt(), params()) for _ in range(2))
            for generation in (first, waiting):
                with pytest.raises(EngineError, match="nothing done"):
                    await text_of(generation)
            with pytest.raises(EngineError, match="nothing done"):
                engine.submit(prompt(), params())
            runner.gate.set()
            while engine.failure:
                await asyncio.sleep(0.01)
            text = await text_of(engine.submit(prompt(), params()))
            assert text == runner.text(prompt(), params())
            assert engine.status.finished == Counter([outcome, "cancelled", "length"])

    check()


@in_loop
async def test_a_suspension_of_the_process_is_not_counted_as_time_without_progress() -> None:
    runner = FakeRunner(num_slots=1, block_at=3)
    async with running(runner) as engine:
        engine.watch(0.4)  # observes the worker every 0.05 s
        generation = engine.submit(prompt(), params())
        await blocked(runner)
        await asyncio.sleep(0.1)  # the worker is observed while it is blocked
        time.sleep(0.5)  # the event loop does not run, as if the process were suspended
        for _ in range(3):  # the worker is observed again
            await asyncio.sleep(0)
        assert engine.failure is None
        runner.gate.set()
        assert await text_of(generation) == runner.text(prompt(), params())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@in_loop
async def test_requests_fail_after_the_worker_has_died() -> None:
    async with running(FakeRunner(fail_at={3}, error=cast(Exception, SystemExit()))) as engine:
        engine.watch(0.2)
        with pytest.raises(EngineError, match="thread has ended"):
            await text_of(engine.submit(prompt(), params()))
        with pytest.raises(EngineError, match="thread has ended"):
            engine.submit(prompt(), params())


@in_loop
async def test_an_idle_engine_closes() -> None:
    runner = FakeRunner()
    async with running(runner):
        pass
    assert runner.is_closed
    assert not engine_threads()


@in_loop
async def test_cancel_all_ends_every_request_and_the_engine_accepts_new_ones() -> None:
    runner = FakeRunner(num_slots=2, block_at=1)
    async with running(runner) as engine:
        generations = [engine.submit(prompt(), params()) for _ in range(5)]
        await blocked(runner)
        engine.cancel_all()
        runner.gate.set()
        await asyncio.gather(*map(text_of, generations))
        assert engine.status.finished == {"cancelled": 5}
        assert await text_of(engine.submit(prompt(), params())) == runner.text(prompt(), params())


@in_loop
async def test_the_counters_balance() -> None:
    runner = FakeRunner(num_slots=2, completion_length=9, block_at=1, fail_at={12})
    async with running(runner) as engine:
        generations = [engine.submit(prompt("p" * 20 * n), params(2 * n)) for n in range(1, 9)]
        await blocked(runner)
        assert engine.status.num_free_slots == 1
        assert engine.status.num_running == 1
        generations[4].cancel()
        runner.gate.set()
        await asyncio.gather(*map(text_of, generations), return_exceptions=True)
        status = engine.status
    usages = [g.usage for g in generations if g.usage.num_completion_tokens]
    assert set(status.finished) == {"stop", "length", "cancelled", "error"}
    assert sum(status.finished.values()) == len(generations)
    assert status.num_completion_tokens == sum(u.num_completion_tokens for u in usages)
    assert status.num_prompt_tokens == sum(u.num_prompt_tokens for u in usages)
    assert status.num_cached_tokens == sum(u.num_cached_tokens for u in usages)
    assert (status.num_free_slots, status.num_running, status.num_waiting) == (2, 0, 0)


def test_a_decode_call_wakes_the_event_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wakers: list[str] = []
    runner = FakeRunner(num_slots=4, block_at=1)

    @in_loop
    async def check() -> None:
        loop = asyncio.get_running_loop()
        call_soon_threadsafe = loop.call_soon_threadsafe

        def counted(*args: Any, **kwargs: Any) -> asyncio.Handle:  # signature of the loop's method
            wakers.append(threading.current_thread().name)
            return call_soon_threadsafe(*args, **kwargs)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        async with running(runner) as engine:
            first = engine.submit(prompt(), params(6))
            await blocked(runner)
            others = [engine.submit(prompt(), params(6)) for _ in range(3)]
            runner.gate.set()
            await asyncio.gather(*map(text_of, [first, *others]))

    check()
    assert wakers.count(THREAD) == runner.num_decodes < 4 * 6
