"""The backend `llama`: runs a model with llama.cpp."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from workers_ai_emulator.backends.decisions import decide_by_similarity
from workers_ai_emulator.backends.local_embeddings import LocalEmbeddings
from workers_ai_emulator.backends.output_plan import needs_grammar, plan, without_schemas
from workers_ai_emulator.backends.parsed_generation import ParsedGeneration
from workers_ai_emulator.engine.errors import (
    CapacityExceeded,
    ContextTooLong,
    GrammarUnsupported,
)
from workers_ai_emulator.engine.grammar_threads import GrammarThreads
from workers_ai_emulator.engine.types import Generation, StartedGeneration, Vocabulary
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.prompts.output_formats.hermes import HermesFormat
from workers_ai_emulator.prompts.output_formats.output_format import Constraint, OutputFormat
from workers_ai_emulator.prompts.tools import Tool
from workers_ai_emulator.runtime.embedders import Embedders
from workers_ai_emulator.runtime.model_manager import LoadedModel, ModelManager
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.context import CallContext

if TYPE_CHECKING:  # these imports are slow, and a scripted server does not need them
    from workers_ai_emulator.engine.engine import Engine
    from workers_ai_emulator.engine.grammar import CompiledGrammar

log = logging.getLogger(__name__)

# The maximum number of characters of a prompt for each token of the context length. A longer prompt
# is rejected before it is tokenised.
_MAX_CHARACTERS_PER_TOKEN = 32
# How many tokens at the end of the prompt show whether the completion begins with reasoning.
_NUM_END_TOKENS = 16
# How long the schemas of a request's tools may take to be tried one by one.
_MAX_TRYING_S = 20.0


class LocalBackend:
    """Generates completions with llama.cpp. Loads the requested model first if necessary."""

    def __init__(self, models: ModelManager, embedders: Embedders) -> None:
        self._models = models
        self._embedders = embedders
        embeddings = LocalEmbeddings(embedders)
        self.embed, self.rank = embeddings.embed, embeddings.rank
        self._grammar_threads = GrammarThreads()

    async def start(self) -> None:
        """Loads the models of the setting `--preload`.

        Raises SettingInvalid if a name is unknown, and WeightsUnusable if a model cannot be loaded.
        """
        await self._models.start()
        for spec in self._models.to_preload():
            if spec.embedding is not None:
                self._models.phase = f"loading {spec.name}"
                async with self._embedders.lease(spec):
                    pass

    def is_immediate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> bool:
        loaded = self._models.loaded_model(spec)
        return loaded is not None and not (
            _is_tokenised_in_thread(loaded, context) or needs_grammar(request)
        )

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> StartedGeneration:
        async with self._models.lease(spec) as loaded:
            # If the engine cannot accept a request now, raises the error before tokenising, because
            # tokenising takes time.
            may_wait = not context.rejects_if_busy
            loaded.engine.check_capacity(may_wait=may_wait)
            if _is_tokenised_in_thread(loaded, context):
                tokens = await asyncio.to_thread(tokenize, request, loaded)
            else:
                tokens = tokenize(request, loaded)
            generation = await _start(
                request, loaded, tokens, self._grammar_threads, may_wait=may_wait
            )
        vocabulary = loaded.engine.vocabulary
        return StartedGeneration(generation, loaded.weights.name, lambda: _text(tokens, vocabulary))

    async def decide(
        self, request: DecisionRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Decisions, str]:
        return await decide_by_similarity(self.embed, request, spec, context)

    def cancel_all(self) -> None:
        self._models.cancel_all()
        self._embedders.cancel_all()

    async def close(self) -> None:
        await self._embedders.close()
        await self._models.close()
        self._grammar_threads.close()


def _is_tokenised_in_thread(model: LoadedModel, context: CallContext) -> bool:
    return context.is_large or model.template.is_isolated


def tokenize(request: TextGenerationRequest, model: LoadedModel) -> list[int]:
    """Returns the tokens of the request's prompt.

    Raises ContextTooLong if the prompt has more than 32 characters for each token of the context
    length. The error then contains an estimated number of tokens, because the prompt is not
    tokenised.
    """
    limit = model.engine.context_length
    if request.num_characters > limit * _MAX_CHARACTERS_PER_TOKEN:
        # Estimates one token for every four characters, as in a recorded error text of Cloudflare.
        max_tokens = request.params.max_tokens or 1
        raise ContextTooLong(request.num_characters // 4 + max_tokens, limit, max_tokens)
    return request.render(model.template)


async def _start(
    request: TextGenerationRequest,
    model: LoadedModel,
    tokens: list[int],
    threads: GrammarThreads,
    *,
    may_wait: bool,
) -> Generation:
    """Submits a request to the engine, with a grammar and a parser if the request needs them.

    `tokens`: the tokens of the prompt. `threads`: compile the grammar. `may_wait`: whether the
    request may wait for a slot. Raises the errors of `GrammarThreads.call`, of `_compile` and of
    `Engine.submit`.
    """
    engine = model.engine
    # A raw prompt is not in the format of the model, so its completion is only text or JSON.
    output_format = HermesFormat() if request.raw else model.template.output_format
    end = _text(tokens[-_NUM_END_TOKENS:], engine.vocabulary)
    special_tokens = engine.vocabulary.special_tokens
    output = plan(request, output_format, end, special_tokens)
    grammar = None
    if constraint := output.constraint:
        # While the prompt was tokenised, the engine may have been closed or other requests started.
        engine.check_capacity(may_wait=may_wait)
        grammar = await threads.call(partial(_compile, constraint, output_format, engine))
    generation = engine.submit(
        tokens,
        request.params,
        grammar=grammar,
        shows_special_tokens=output.shows_special_tokens,
        may_wait=may_wait,
    )
    return ParsedGeneration(generation, output.parser) if output.parser else generation


def _compile(
    constraint: Constraint, output_format: OutputFormat, engine: Engine
) -> CompiledGrammar:
    """Returns the grammar of a constraint.

    If the schema of a tool cannot be enforced, but the request does not require a tool call, the
    arguments of this tool may be any JSON object: in this case, the service does not enforce
    schemas either [inferred from vLLM]. Raises GrammarUnsupported if a required tool call or JSON
    cannot be enforced, and CapacityExceeded if it takes too long to find out which schemas can be.
    """
    special_tokens = engine.vocabulary.special_tokens

    def grammar(constraint: Constraint) -> str:
        return output_format.grammar(constraint, special_tokens)

    try:
        return engine.compile(grammar(constraint))
    except GrammarUnsupported:
        if constraint.is_required or constraint.is_json:
            raise
    tools = _unsupported_tools(constraint, lambda part: engine.check(grammar(part)))
    log.info(
        "the schemas of these tools cannot be enforced, so their arguments may be any JSON "
        "object: %s",
        ", ".join(tool.name for tool in tools),
    )
    try:
        return engine.compile(grammar(without_schemas(constraint, tools)))
    except GrammarUnsupported:
        log.info("together, the schemas of the tools cannot be enforced, so none is")
        return engine.compile(grammar(without_schemas(constraint, constraint.tools)))


def _unsupported_tools(constraint: Constraint, check: Callable[[Constraint], None]) -> list[Tool]:
    """Returns the tools whose schemas cannot be enforced.

    `check`: finds out whether the grammar of a constraint can be compiled. Raises CapacityExceeded
    if this takes too long: if the remaining tools counted as unsupported, the completion would
    depend on the speed of the machine. If the request is sent again, the tools that have been
    checked take no time, because the engine remembers the results.
    """
    deadline = time.monotonic() + _MAX_TRYING_S
    unsupported = []
    for tool in constraint.tools:
        if time.monotonic() >= deadline:
            raise CapacityExceeded("the schemas of the request's tools take too long to compile")
        try:
            check(replace(constraint, tools=(tool,)))
        except GrammarUnsupported as error:
            log.debug("the schema of the tool %r cannot be enforced: %s", tool.name, error)
            unsupported.append(tool)
    return unsupported


def _text(tokens: Sequence[int], vocabulary: Vocabulary) -> str:
    """Returns the text of the tokens. A special token becomes its name, such as `</s>`."""
    names = {token: name for name, token in vocabulary.special_tokens.items()}
    pieces = (
        names[token].encode() if token in names else vocabulary.piece(token) for token in tokens
    )
    return b"".join(pieces).decode("utf-8", "replace")
