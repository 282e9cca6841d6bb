"""The interface of all backends."""

from __future__ import annotations

from typing import Protocol

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest


class Backend(Protocol):
    """Generates completions."""

    def is_immediate(self, spec: ModelSpec) -> bool:
        """Returns whether `generate` starts at once, without loading or searching for a model."""

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, *, is_large: bool
    ) -> StartedGeneration:
        """Starts a generation. The call may be cancelled.

        `is_large`: tokenising the prompt on the event loop would delay other requests. Raises
        WireError, EngineError or WeightsUnusable.
        """

    def cancel_all(self) -> None:
        """Cancels every running generation."""

    async def close(self) -> None:
        """Cancels every running generation and frees all resources."""
