"""Tests that copies of KV cells are right for models with sliding windows, such as Gemma 3.

In some layers of these models, a token sees only the last tokens before it. llama.cpp leaves out
the other tokens when it saves the KV cells of a sequence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from workers_ai_emulator.engine.engine import Engine
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import SamplingParams, Span

from tests.gguf_files import sliding_window_model

WINDOW = 32
RANDOM = Random(1)
TOKENS = [RANDOM.randrange(300, 30_000) for _ in range(400)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "gemma3.gguf"
    path.write_bytes(sliding_window_model(WINDOW))
    return path


@pytest.fixture
def runner(file: Path) -> Iterator[LlamaRunner]:
    model = LlamaModel(file)
    assert model.has_windows
    runner = LlamaRunner(model, num_slots=4, context_length=512, batch_length=512, num_threads=2)
    yield runner
    runner.close()


def evaluate(runner: LlamaRunner, slot: int, start: int, end: int) -> bytes:
    """Evaluates tokens in calls of up to 63. Returns the bytes of the last token's logits."""
    for at in range(start, end, 63):
        tokens = TOKENS[at : min(at + 63, end)]
        runner.decode([Span(slot, at, tokens, num_outputs=int(at + 63 >= end))])
    return bytes(runner.logits(0).tobytes())


def test_a_copy_of_a_slot_can_be_truncated(runner: LlamaRunner) -> None:
    evaluate(runner, 0, 0, 189)
    expected = evaluate(runner, 0, 189, 252)
    runner.copy(0, 2)
    runner.truncate(0, 0)  # llama.cpp copies the cells later, in the next decode call
    runner.truncate(2, 189)
    assert evaluate(runner, 2, 189, 252) == expected


def test_completions_are_the_same_alone_and_with_others(file: Path) -> None:
    lengths = [Random(2).randrange(5, 380) for _ in range(4)] + [120, 130, 140, 300, 310, 320]
    prompts = [[*TOKENS[:length], 1000 + length] for length in lengths]
    params = SamplingParams(max_tokens=12, temperature=0.0)

    async def completions(*, together: bool) -> list[str]:
        runner = LlamaRunner(
            LlamaModel(file), num_slots=4, context_length=512, batch_length=1087, num_threads=2
        )
        engine = Engine(runner, queue_size=64, tiling=Tiling())

        async def complete(prompt: list[int]) -> str:
            return "".join([chunk.text async for chunk in engine.submit(prompt, params)])

        try:
            if together:
                return list(await asyncio.gather(*map(complete, prompts * 2)))
            return [await complete(prompt) for prompt in prompts * 2]
        finally:
            await engine.close()

    alone = asyncio.run(completions(together=False))
    assert alone[: len(prompts)] == alone[len(prompts) :]
    assert asyncio.run(completions(together=True)) == alone
