"""The backend `scripted`: returns the completions in the rules of a script, without a model."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

from workers_ai_emulator.backends.minimal_json import minimal_object, minimal_value
from workers_ai_emulator.backends.patterns import PatternTooCostly
from workers_ai_emulator.backends.reasoning_text import ReasoningText
from workers_ai_emulator.backends.relayed import (
    MAX_UNREAD,
    WORD,
    ReadyGeneration,
    RunningGenerations,
    num_words,
)
from workers_ai_emulator.backends.rules import Rule, Subject
from workers_ai_emulator.backends.similarity import similarity, word_vector
from workers_ai_emulator.backends.transcript import transcript
from workers_ai_emulator.engine.stop_strings import before_stop
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    Generation,
    StartedGeneration,
    ToolCallDelta,
)
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.prompts.tools import Tool, ToolCall
from workers_ai_emulator.tasks.completion import Completion
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.accounts import AccountStates
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.errors import (
    INCOMPLETE_REQUEST,
    NOT_SCRIPTED,
    WireError,
    refused_by_engine,
)
from workers_ai_emulator.wire.validation import shown

MODEL_NAME = "scripted"

# If comparing a request with all rules costs more than this, the comparison runs in a thread. The
# cost is the sum of all rules' `Rule.cost`, times the number of characters of the request's text.
_MAX_IMMEDIATE_COST = 1_000_000

_RANKING_DIMENSIONS = 384  # of the vectors with which texts are compared with a query
_NO_DELAYS = Rule(answer="")  # for completions that come from no rule


@dataclass(slots=True)
class ActiveRule:
    """A rule and its state.

    `number`: the rule's position in the script, from 1 on. `times`: the number of further requests
    to which the rule applies; None: no limit. `num_uses`: the number of requests that got the
    rule's completion.
    """

    number: int
    rule: Rule
    times: int | None
    num_uses: int = 0

    def to_json(self) -> dict[str, Any]:
        """Returns the rule as the user wrote it, with its number and its counts of requests."""
        return {
            "number": self.number,
            "rule": self.rule.source,
            "times_left": self.times,
            "used": self.num_uses,
        }


@dataclass(slots=True)
class _Script:
    """The rules of one account, or the rules that all other accounts share."""

    rules: list[ActiveRule] = field(default_factory=list)


class ScriptedBackend:
    """Returns the completion of the first rule that applies to a request.

    If no rule applies, the completion quotes the request's prompt or last message. If the request
    then requires a tool call or JSON, the completion is a small tool call or JSON text that
    satisfies the request's schema.
    """

    def __init__(self, rules: list[Rule], *, is_strict: bool = False) -> None:
        self._initial_rules = rules
        self._is_strict = is_strict
        self._running = RunningGenerations()
        self._scripts = AccountStates(_Script)
        self.reset()

    def replace(self, rules: list[Rule], account: str | None = None) -> None:
        """Replaces the rules of an account, and restarts their counts of requests.

        An account that has no rules of its own uses the shared rules. If `account` is None,
        replaces the shared rules. Raises ValueError if too many accounts have their own rules.
        """
        self._scripts.own(account).rules = _active(rules)

    def reset(self, account: str | None = None) -> None:
        """Removes the rules of an account, which then uses the shared rules.

        If `account` is None, removes the rules of all accounts, and restores the shared rules that
        the server had at start-up.
        """
        if account is None:
            self._scripts.clear()
            self.replace(self._initial_rules)
        else:
            self._scripts.discard(account)

    def rules(self, account: str | None = None) -> list[ActiveRule]:
        """Returns the rules that apply to the requests of an account."""
        return (self._scripts.find(account) or self._scripts.shared).rules

    def is_immediate(self, spec: ModelSpec) -> bool:
        return True

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> StartedGeneration:
        is_large = context.is_large
        subject = _subject(request, spec)
        if (active := await self._use_rule(subject, context.account)) is not None:
            rule, context.rule = active.rule, active.number
            completion = _fitting(rule.completion, request, spec)
        else:
            rule, context.is_unmatched = _NO_DELAYS, True
            if self._is_strict:
                raise WireError(
                    NOT_SCRIPTED, f"no rule of the script applies to {shown(subject.text)}"
                )
            completion = await _default_completion(request, subject.text, is_large=is_large)
        prompt = transcript(request.messages) if request.prompt is None else request.prompt
        num_tokens = await asyncio.to_thread(num_words, prompt) if is_large else num_words(prompt)
        completion = _before_stop(completion, request.params.stop)
        chunks = _chunks(completion, rule.finish, request.params.max_tokens)
        if not request.separates_reasoning:
            chunks = [*map(ReasoningText().feed, chunks)]
        fingerprint = f"{prompt} {request.params}"
        generation: Generation
        if rule.has_delays or len(chunks) > MAX_UNREAD:
            generation = self._running.start(
                _delayed(chunks, rule), num_prompt_tokens=num_tokens, fingerprint=fingerprint
            )
        else:
            generation = ReadyGeneration(
                chunks, num_prompt_tokens=num_tokens, fingerprint=fingerprint
            )
        return StartedGeneration(generation, MODEL_NAME, lambda: prompt)

    async def embed(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Embeddings, str]:
        vectors = await asyncio.to_thread(_vectors, request.texts, spec)
        return Embeddings(vectors, sum(map(num_words, request.texts))), MODEL_NAME

    async def rank(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Scores, str]:
        texts = [request.query or "", *request.texts]
        query, *others = await asyncio.to_thread(_vectors, texts, spec)
        scores = [similarity(query, other) for other in others]
        return Scores(scores, sum(map(num_words, texts))), MODEL_NAME

    def cancel_all(self) -> None:
        self._running.cancel_all()

    async def close(self) -> None:
        self.cancel_all()

    async def _use_rule(self, subject: Subject, account: str | None) -> ActiveRule | None:
        """Returns the first rule that applies to a request, and counts the request for it.

        Returns None if no rule applies. Raises WireError if searching the request's text for a
        rule's `matches` could take minutes.
        """
        while True:
            rules = [active for active in self.rules(account) if active.times != 0]
            cost = len(subject.text) * sum(active.rule.cost for active in rules)
            if cost > _MAX_IMMEDIATE_COST:
                active = await asyncio.to_thread(_first, rules, subject)
            else:
                active = _first(rules, subject)
            if active is None:
                return None
            # While a thread searches for a rule, another request may use up the rule that the
            # thread finds. The loop then searches again.
            if active.times != 0:
                active.times = active.times and active.times - 1
                active.num_uses += 1
                return active


def _vectors(texts: Sequence[str], spec: ModelSpec) -> list[list[float]]:
    assert spec.embedding is not None
    dimensions = spec.embedding.dimensions or _RANKING_DIMENSIONS
    return [word_vector(text, dimensions) for text in texts]


def _active(rules: Sequence[Rule]) -> list[ActiveRule]:
    return [ActiveRule(number, rule, rule.times) for number, rule in enumerate(rules, 1)]


def _first(rules: Sequence[ActiveRule], subject: Subject) -> ActiveRule | None:
    """Returns the first rule that applies to a request, or None.

    Raises WireError if searching the text for a rule's `matches` could take minutes.
    """
    for active in rules:
        try:
            if active.rule.applies(subject):
                return active
        except PatternTooCostly as error:
            reason = (
                f"`matches` of the script's rule {active.number} is too complex for a text of "
                f"{len(subject.text)} characters: simplify it, or use `contains`"
            )
            raise WireError(INCOMPLETE_REQUEST, reason) from error
    return None


def _fitting(completion: Completion, request: TextGenerationRequest, spec: ModelSpec) -> Completion:
    """Returns a rule's completion, without its reasoning if the request switches reasoning off.

    Raises WireError if the completion has tool calls and the service offers no tools to the model.
    """
    if completion.tool_calls and not spec.traits.has_tools:
        raise refused_by_engine(f"A rule of the script calls a tool, but {spec.name} has no tools.")
    if request.template_variables.get("enable_thinking") is False:
        return replace(completion, reasoning="")
    return completion


def _subject(request: TextGenerationRequest, spec: ModelSpec) -> Subject:
    if request.prompt is not None or not request.messages:
        return Subject(spec.name, request.prompt or "", None)
    last = request.messages[-1]
    return Subject(spec.name, last.content, last.role)


async def _default_completion(
    request: TextGenerationRequest, text: str, *, is_large: bool
) -> Completion:
    """Returns the completion of a request to which no rule of the script applies.

    If the request requires a tool call or JSON, the completion is a small valid one. Otherwise, it
    quotes `text`, the request's prompt or last message. Raises RequestRejected if a JSON schema of
    the request has no small value.
    """
    if tool := _required_tool(request):
        make = partial(_tool_call, tool)
    elif request.json_mode:
        make = partial(_json, request.json_mode)
    else:
        return Completion(f"This is a scripted answer to: {text}")
    return await asyncio.to_thread(make) if is_large else make()


def _required_tool(request: TextGenerationRequest) -> Tool | None:
    """Returns the tool that the completion must call; None if it need not call a tool."""
    choice = request.tool_choice
    if choice.mode != "required":
        return None
    return next((tool for tool in request.tools if choice.name in (None, tool.name)), None)


def _tool_call(tool: Tool) -> Completion:
    arguments = json.dumps(minimal_object(tool.parameters), ensure_ascii=False)
    return Completion("", tool_calls=(ToolCall(tool.name, arguments),))


def _json(mode: JsonMode) -> Completion:
    value = minimal_object({}) if mode.schema is None else minimal_value(mode.schema)
    return Completion(json.dumps(value, ensure_ascii=False))


def _before_stop(completion: Completion, stop: Sequence[str]) -> Completion:
    """Returns the completion up to the stop string that ends first, without this string."""
    text = before_stop(completion.text, stop)
    return completion if text is None else Completion(text, completion.reasoning)


def _chunks(
    completion: Completion, finish: Literal["stop", "length"], max_tokens: int | None
) -> list[Chunk]:
    """Returns a completion as one chunk per word.

    Returns at most `max_tokens` words (None: no limit); if it returns that many, the finish reason
    is `length`. If the finish reason is `stop` or `tool_calls`, an empty chunk follows the last
    word. The empty chunk represents the end-of-text token, which a model would generate and which
    counts as a completion token.
    """
    limit = None if max_tokens is None else min(max_tokens, sys.maxsize)
    chunks = [*islice(_parts(completion), limit)]
    if len(chunks) == max_tokens or finish == "length":
        last = chunks.pop() if chunks else Chunk()
        return [*chunks, replace(last, finish_reason=FinishReason.LENGTH)]
    reason = FinishReason.TOOL_CALLS if completion.tool_calls else FinishReason.STOP
    return [*chunks, Chunk("", reason)]


def _parts(completion: Completion) -> Iterator[Chunk]:
    """Yields the words of the reasoning, of the text and of the tool calls as chunks."""
    for word in _words(completion.reasoning):
        yield Chunk(reasoning=word)
    yield from map(Chunk, _words(completion.text))
    for index, call in enumerate(completion.tool_calls):
        yield Chunk(tool_call=ToolCallDelta(index, name=call.name, id=call.id))
        for word in _words(call.arguments):
            yield Chunk(tool_call=ToolCallDelta(index, word))


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in WORD.finditer(text))


async def _delayed(chunks: Sequence[Chunk], rule: Rule) -> AsyncGenerator[Chunk]:
    """Yields the chunks with the rule's delays."""
    loop = asyncio.get_running_loop()
    start = loop.time() + rule.first_token_after
    for number, chunk in enumerate(chunks):
        due = start + number / (rule.tokens_per_second or math.inf)
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        yield chunk
