"""Runs a model whose result is numbers: embeddings, scores or the probabilities of answers."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import Request

from workers_ai_emulator.backends.backend import Backend
from workers_ai_emulator.backends.choice import BACKEND_HEADER
from workers_ai_emulator.backends.relayed import ReadyGeneration
from workers_ai_emulator.engine.errors import DeadlineExceeded
from workers_ai_emulator.engine.types import Chunk, FinishReason, StartedGeneration
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.generation import model_headers
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.disconnect import while_connected
from workers_ai_emulator.wire.errors import wire_errors


class _Result(Protocol):
    @property
    def num_tokens(self) -> int:
        """The number of tokens that the model has read."""


_R = TypeVar("_R", bound=_Result)


async def run_backend(
    request: Request,
    spec: ModelSpec,
    texts: Sequence[str],
    run: Callable[[Backend], Coroutine[Any, Any, tuple[_R, str]]],
) -> tuple[_R, dict[str, str]]:
    """Runs the model with the request's backend. Returns the result and the response's headers.

    `texts`: what the model reads. `run`: calls the backend's method `embed`, `rank` or `decide`;
    its work is cancelled if the client disconnects. Stores the texts and their number of tokens in
    the request's context, for the journal, the log and the neurons. Raises WireError if the server
    does not have the backend, or if the work fails or takes longer than the request's time limit.
    """
    backends, context = services_of(request).backends, context_of(request.scope)
    backend = backends.choose(request.headers.get(BACKEND_HEADER))
    with wire_errors():
        try:
            result, model = await while_connected(
                run(backend), request.receive, limit_s=backends.request_timeout_s
            )
        except TimeoutError as error:
            raise DeadlineExceeded from error
    chunks = [Chunk("", FinishReason.STOP, num_tokens=0)]
    ended = ReadyGeneration(chunks, num_prompt_tokens=result.num_tokens, fingerprint="")
    context.started = StartedGeneration(ended, model, lambda: "\n\n".join(texts))
    context.model = spec.name
    return result, model_headers(context.started) | UsageDetails.of(spec).headers(ended.usage)
