"""The one interface of all backends."""

from __future__ import annotations

from typing import Protocol

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest


class Backend(Protocol):
    """Generates the text of requests, in its own way."""

    def is_immediate(self, spec: ModelSpec) -> bool:
        """Whether `generate` starts without waiting for anything."""

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, *, is_large: bool
    ) -> StartedGeneration:
        """Start to generate. May be cancelled. Raises an WireError, EngineError or WeightsUnusable.

        `is_large`: the request is so large that others would notice work on the event loop.
        """

    def cancel_all(self) -> None:
        """Cancel every request that has not ended."""

    async def close(self) -> None:
        """Cancel everything and give back what it holds."""
