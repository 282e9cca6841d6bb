"""Defines the interface of all backends, which generate completions."""

from __future__ import annotations

from typing import Protocol

from workers_ai_emulator.engine.types import StartedGeneration
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.context import CallContext


class Backend(Protocol):
    """Generates completions with a local model, a script or another server."""

    def is_immediate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> bool:
        """Returns whether `generate` with these arguments waits for nothing.

        Otherwise, it is cancelled if the client disconnects or the request takes too long.
        """

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> StartedGeneration:
        """Starts a generation and returns it. This coroutine may be cancelled at any time.

        `context`: the context of the HTTP request. If its `is_large` is True, the prompt is
        tokenised in a thread, because tokenising it on the event loop would delay other requests.
        Raises WireError for an invalid request, EngineError if the generation cannot start, and
        WeightsUnusable if the model's weights cannot be loaded.
        """

    async def embed(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Embeddings, str]:
        """Returns the embeddings of the request's texts, and the name of what computed them.

        This coroutine may be cancelled at any time. Raises the same errors as `generate`, and
        TextTooLong if the request refuses to have long texts cut.
        """

    async def rank(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Scores, str]:
        """Returns how well each text answers the request's query, and what computed the scores.

        Is like `embed` otherwise.
        """

    async def decide(
        self, request: DecisionRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Decisions, str]:
        """Returns the probabilities of the answers to the request's questions, and what computed
        them.

        Is like `embed` otherwise. Raises WireError if the backend cannot read the request's images.
        """

    def cancel_all(self) -> None:
        """Cancels all generations of this backend that have not ended."""

    async def close(self) -> None:
        """Cancels all generations of this backend and frees its models or connections."""
