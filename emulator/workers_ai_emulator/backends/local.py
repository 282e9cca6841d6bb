"""The backend `llama`: runs a model with llama.cpp."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from workers_ai_emulator.engine.errors import ContextTooLong
from workers_ai_emulator.engine.types import StartedGeneration, Vocabulary
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.runtime.model_manager import LoadedModel, ModelManager
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest

# The maximum number of characters of a prompt for each token of the context length. A longer prompt
# is rejected before it is tokenised.
_MAX_CHARACTERS_PER_TOKEN = 32


class LocalBackend:
    """Generates completions with llama.cpp. Loads the requested model first if necessary."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    def is_immediate(self, spec: ModelSpec) -> bool:
        return self._models.is_loaded(spec)

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, *, is_large: bool
    ) -> StartedGeneration:
        async with self._models.lease(spec) as loaded:
            # If the engine cannot accept a request now, raises the error before tokenising, because
            # tokenising takes time.
            loaded.engine.check_capacity()
            if is_large or loaded.template.is_isolated:
                tokens = await asyncio.to_thread(tokenize, request, loaded)
            else:
                tokens = tokenize(request, loaded)
            generation = loaded.engine.submit(tokens, request.params)
        vocabulary = loaded.engine.vocabulary
        return StartedGeneration(generation, loaded.weights.name, lambda: _text(tokens, vocabulary))

    def cancel_all(self) -> None:
        self._models.cancel_all()

    async def close(self) -> None:
        await self._models.close()


def tokenize(request: TextGenerationRequest, model: LoadedModel) -> list[int]:
    """Returns the tokens of the request's prompt.

    Raises ContextTooLong if the prompt has more than 32 characters for each token of the context
    length. The error then contains an estimated number of tokens, because the prompt is not
    tokenised.
    """
    limit = model.engine.context_length
    if request.num_characters > limit * _MAX_CHARACTERS_PER_TOKEN:
        # Estimates one token for every four characters, as in a recorded error text of Cloudflare.
        raise ContextTooLong(request.num_characters // 4 + (request.params.max_tokens or 1), limit)
    return request.render(model.template)


def _text(tokens: Sequence[int], vocabulary: Vocabulary) -> str:
    """Returns the text of the tokens. A special token becomes its name, such as `</s>`."""
    names = {token: name for name, token in vocabulary.special_tokens.items()}
    pieces = (
        names[token].encode() if token in names else vocabulary.piece(token) for token in tokens
    )
    return b"".join(pieces).decode("utf-8", "replace")
