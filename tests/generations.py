"""Generations whose chunks the test chooses, for tests of response formats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from workers_ai_emulator.engine.types import Chunk, FinishReason, SamplingParams, Usage
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ADDED_PRICE, ModelSpec
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.tasks.completion import collect
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.response_formats.choice import FormatChoice
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest

from tests.server import INT8


@dataclass
class FakeGeneration:
    """A generation that yields these chunks."""

    chunks: Sequence[Chunk]
    num_prompt_tokens: int = 7
    fingerprint: str = "fingerprint"

    @property
    def usage(self) -> Usage:
        return Usage(self.num_prompt_tokens, sum(chunk.num_tokens for chunk in self.chunks))

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.chunks[-1].finish_reason

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        for chunk in self.chunks:
            yield chunk

    def cancel(self) -> None:
        """Does nothing."""

    def cancel_after(self, limit_s: float) -> None:
        """Does nothing."""


def spec(
    name: str = INT8, price: Price = ADDED_PRICE, *, is_retired: bool = False, **traits: Any
) -> ModelSpec:
    """Returns a model with this name, price and traits."""
    retired_on = date(2026, 5, 30) if is_retired else None
    model = replace(CATALOG[INT8], name=name, price=price, retired_on=retired_on)
    return replace(model, traits=Traits(**traits))


def request(prompt: str | None = None, json_mode: JsonMode | None = None) -> TextGenerationRequest:
    return TextGenerationRequest(
        prompt, [], raw=False, stream=True, params=SamplingParams(), json_mode=json_mode
    )


def events(
    choose: FormatChoice,
    model: ModelSpec,
    generation: FakeGeneration,
    task_request: TextGenerationRequest | None = None,
) -> list[str]:
    """Returns the data of all events of a streamed response."""
    response_format = choose(model, task_request or request())

    async def read() -> str:
        stream = response_format.events(aiter(generation), generation)
        return b"".join([event async for event in stream]).decode()

    return data(asyncio.run(read()))


def whole(
    choose: FormatChoice,
    model: ModelSpec,
    generation: FakeGeneration,
    task_request: TextGenerationRequest | None = None,
) -> str:
    """Returns the body of a response that is not a stream."""
    completion = asyncio.run(collect(aiter(generation)))
    return choose(model, task_request or request()).whole(completion, generation).decode()


def data(stream: str) -> list[str]:
    """Returns the data of each event in the text of a stream."""
    assert stream.endswith("\n\n")
    lines = stream.removesuffix("\n\n").split("\n\n")
    return [line.removeprefix("data: ") for line in lines]
