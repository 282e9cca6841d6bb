"""Tests the backend `llama` with the fake runner: grammars, parsers and what they do together."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from workers_ai_emulator.backends.local import LocalBackend
from workers_ai_emulator.engine.engine import Engine
from workers_ai_emulator.engine.errors import CapacityExceeded, GrammarUnsupported
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import FinishReason, Generation, SamplingParams
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.prompts.chat import JinjaTemplate
from workers_ai_emulator.prompts.messages import Message
from workers_ai_emulator.prompts.tools import Tool, ToolChoice
from workers_ai_emulator.runtime.embedders import Embedders
from workers_ai_emulator.runtime.model_manager import ModelManager, OtherModels
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.tasks.completion import Completion, collect
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.context import CallContext

from tests.fakes import FakeRunner
from tests.loop import TIMEOUT_S, in_loop

SPEC = next(iter(CATALOG.values()))
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
UNIT = {"type": "object", "properties": {"unit": {"enum": ["C", "F"]}}, "required": ["unit"]}
UNSUPPORTED = {"type": "object", "properties": {"x": {"not": {}}}}
REQUEST = TextGenerationRequest(
    None, [Message("user", "Hi")], raw=False, stream=False, params=SamplingParams(max_tokens=200)
)
REQUIRED = replace(
    REQUEST,
    tools=(Tool("get_weather", "", UNIT),),
    tool_choice=ToolChoice("required", is_parallel=False),
)


@dataclass
class OneModel:
    """A fake of ModelManager, which has one loaded model."""

    loaded: Any

    @asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[Any]:
        yield self.loaded

    def loaded_model(self, spec: ModelSpec) -> Any:
        return self.loaded

    def share_memory(self, others: OtherModels) -> None:
        pass

    async def close(self) -> None:
        await self.loaded.engine.close()


@asynccontextmanager
async def backend(
    source: str = CHATML, *, num_slots: int = 4, block_at: int | None = None
) -> AsyncIterator[LocalBackend]:
    runner = FakeRunner(
        context_length=2048, completion_length=20, num_slots=num_slots, block_at=block_at
    )
    engine = Engine(
        runner, queue_size=8, tiling=Tiling(), snapshot_tokens=256, drafts=False, name="test"
    )
    template = JinjaTemplate(source, runner.vocabulary)
    loaded = SimpleNamespace(engine=engine, template=template, weights=SimpleNamespace(name="w"))
    models = cast(ModelManager, OneModel(loaded))
    local = LocalBackend(models, Embedders(Settings(), models))
    try:
        yield local
    finally:
        runner.gate.set()
        await local.close()


async def start(of: LocalBackend, request: TextGenerationRequest) -> Generation:
    return (await of.generate(request, SPEC, CallContext())).generation


async def completion(of: LocalBackend, request: TextGenerationRequest) -> Completion:
    return await collect(aiter(await start(of, request)))


@in_loop
async def test_a_required_tool_is_called_with_valid_arguments() -> None:
    async with backend() as local:
        generation = await start(local, REQUIRED)
        chunks = [chunk async for chunk in generation]
    deltas = [chunk.tool_call for chunk in chunks if chunk.tool_call]
    assert deltas[0].name == "get_weather"
    assert "".join(d.arguments for d in deltas) in ('{"unit": "C"}', '{"unit": "F"}')
    assert chunks[-1].finish_reason is generation.finish_reason is FinishReason.TOOL_CALLS
    num_tokens = sum(chunk.num_tokens for chunk in chunks)
    assert num_tokens == generation.usage.num_completion_tokens


@in_loop
async def test_json_mode_gives_json() -> None:
    request = replace(REQUEST, json_mode=JsonMode({"enum": ["yes", "no"]}))
    async with backend() as local:
        assert (await completion(local, request)).text in ('"yes"', '"no"')


@in_loop
async def test_json_after_a_raw_prompt_has_nothing_of_the_model_s_format() -> None:
    harmony = CHATML + "{# <|channel|><|message|> #}{% for t in tools %}{% endfor %}"
    request = replace(REQUEST, prompt="Hi", raw=True, json_mode=JsonMode({"enum": ["yes", "no"]}))
    async with backend(harmony) as local:
        assert (await completion(local, request)).text in ('"yes"', '"no"')


@in_loop
async def test_json_comes_after_the_reasoning() -> None:
    request = replace(REQUEST, json_mode=JsonMode({"enum": ["yes", "no"]}))
    async with backend(CHATML + "<think></think>x<think>\n") as local:
        generation = await start(local, replace(request, params=SamplingParams(max_tokens=20)))
        assert (await collect(aiter(generation))).text == ""
        assert generation.finish_reason is FinishReason.LENGTH
        bare = await completion(local, replace(request, separates_reasoning=False))
        assert bare.text in ('"yes"', '"no"')


@in_loop
async def test_with_auto_a_schema_that_cannot_be_enforced_is_not_enforced() -> None:
    request = replace(REQUIRED, tools=(Tool("f", "", UNSUPPORTED),), tool_choice=ToolChoice())
    async with backend() as local:
        assert (await completion(local, request)).text
        with pytest.raises(GrammarUnsupported, match='"not"'):
            await start(local, replace(request, tool_choice=ToolChoice("required")))
        with pytest.raises(GrammarUnsupported):
            await start(local, replace(REQUEST, json_mode=JsonMode(UNSUPPORTED)))


async def grammar_of(tools: tuple[Tool, ...], monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns the text of the grammar with which a completion of the tools is constrained."""
    texts = []
    submit = Engine.submit

    def recording_submit(*arguments: Any, grammar: Any, **others: Any) -> Generation:
        texts.append(grammar.text)
        return submit(*arguments, grammar=grammar, **others)

    monkeypatch.setattr(Engine, "submit", recording_submit)
    async with backend() as local:
        await completion(local, replace(REQUEST, tools=tools))
    (text,) = texts
    return str(text)


@in_loop
async def test_only_the_schemas_that_cannot_be_enforced_are_left_out() -> None:
    tools = (Tool("f", "", UNSUPPORTED), Tool("g", "", UNIT), Tool("h", "", UNSUPPORTED))
    with pytest.MonkeyPatch.context() as monkeypatch:
        text = await grammar_of(tools, monkeypatch)
    assert '"unit"' in text and '"not"' not in text


@in_loop
async def test_schemas_that_together_exceed_a_limit_are_left_out() -> None:
    long = UNIT | {"description": 400 * "x"}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("workers_ai_emulator.engine.grammar_compiler._MAX_CHARACTERS", 1300)
        text = await grammar_of((Tool("f", "", long), Tool("g", "", long)), monkeypatch)
    assert '"unit"' not in text


@in_loop
async def test_a_tool_that_was_not_tried_in_time_does_not_count_as_unsupported() -> None:
    tools = (Tool("f", "", UNSUPPORTED), Tool("g", "", UNIT))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("workers_ai_emulator.backends.local._MAX_TRYING_S", 0)
        with pytest.raises(CapacityExceeded, match="take too long to compile"):
            await grammar_of(tools, monkeypatch)
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert '"unit"' in await grammar_of(tools, monkeypatch)


@in_loop
async def test_a_request_does_not_wait_for_the_grammars_of_other_requests() -> None:
    gate, started = threading.Event(), threading.Semaphore(0)
    compile_grammar = Engine.compile

    def compile_slowly(engine: Engine, grammar: str) -> Any:
        started.release()
        assert gate.wait(TIMEOUT_S), "the test did not open the gate"
        return compile_grammar(engine, grammar)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "compile", compile_slowly)
        async with backend() as local:
            slow = [asyncio.create_task(completion(local, REQUIRED)) for _ in range(3)]
            for _ in range(2):
                await asyncio.to_thread(started.acquire, timeout=TIMEOUT_S)
            large = await local.generate(REQUEST, SPEC, CallContext(is_large=True))
            assert len((await collect(aiter(large.generation))).text) == 20
            gate.set()
            assert all(of.tool_calls for of in await asyncio.gather(*slow))


@in_loop
async def test_a_request_that_may_not_wait_is_rejected_if_its_slot_is_taken_meanwhile() -> None:
    for request, is_large in ((REQUEST, True), (REQUIRED, False)):
        context = CallContext(is_large=is_large, rejects_if_busy=True)
        async with backend(num_slots=1, block_at=1) as local:
            # Both requests find a free slot, and then wait for a thread.
            both = (local.generate(request, SPEC, context) for _ in range(2))
            results = await asyncio.gather(*both, return_exceptions=True)
        assert [type(result) for result in results].count(CapacityExceeded) == 1


@in_loop
async def test_only_a_request_that_waits_for_no_thread_is_immediate() -> None:
    large, context = CallContext(is_large=True), CallContext()
    unused = replace(REQUIRED, tool_choice=ToolChoice("none"))
    as_json = replace(REQUEST, json_mode=JsonMode({}))
    async with backend() as local:
        assert all(local.is_immediate(request, SPEC, context) for request in (REQUEST, unused))
        assert not local.is_immediate(REQUEST, SPEC, large)
        for request in (REQUIRED, replace(REQUIRED, tool_choice=ToolChoice()), as_json):
            assert not local.is_immediate(request, SPEC, context)
        local._models.loaded_model(SPEC).template.is_isolated = True  # type: ignore[union-attr]
        assert not local.is_immediate(REQUEST, SPEC, context)


@in_loop
async def test_a_request_without_tools_and_json_mode_is_not_constrained() -> None:
    async with backend() as local:
        generation = await start(local, REQUEST)
        assert len((await collect(aiter(generation))).text) == 20
        assert generation.finish_reason is FinishReason.STOP


@in_loop
async def test_equal_requests_have_equal_fingerprints() -> None:
    async with backend() as local:
        first, second = await asyncio.gather(start(local, REQUIRED), start(local, REQUIRED))
        assert first.fingerprint == second.fingerprint
        other = await start(local, replace(REQUIRED, tool_choice=ToolChoice()))
        assert other.fingerprint != first.fingerprint
        for generation in (first, second, other):
            generation.cancel()


@in_loop
async def test_a_constrained_generation_can_be_cancelled() -> None:
    async with backend() as local:
        generation = await start(local, REQUIRED)
        generation.cancel()
        reasons = [chunk.finish_reason async for chunk in generation]
        assert reasons[-1] is FinishReason.CANCELLED
