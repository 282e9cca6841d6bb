"""The backend `scripted`: returns the completions in the rules of a script, without a model."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal, TypeVar

from workers_ai_emulator.backends.conditions import Cost, Counter, Match, Subject, subject_of
from workers_ai_emulator.backends.decisions import decide_by_similarity
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
from workers_ai_emulator.backends.rules import ReadyResponse, Rule
from workers_ai_emulator.backends.scripted_decisions import given_answers, merged, without
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
from workers_ai_emulator.tasks.decisions import DecisionRequest, Decisions
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores
from workers_ai_emulator.tasks.json_mode import JsonMode
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.accounts import AccountStates
from workers_ai_emulator.wire.context import CallContext
from workers_ai_emulator.wire.endpoints import Access
from workers_ai_emulator.wire.errors import (
    INCOMPLETE_REQUEST,
    NOT_SCRIPTED,
    WireError,
    refused_by_engine,
)
from workers_ai_emulator.wire.faults import ERRORS, error_of
from workers_ai_emulator.wire.validation import bounded, shown

log = logging.getLogger(__name__)

MODEL_NAME = "scripted"

_T = TypeVar("_T")

_MAX_COMPARED = 1000  # how many rules are compared with a request to find the nearest one

# Matches the tokens of models that send a number as a JSON number. As in Llama 3's vocabulary, the
# space before a number is a token of its own, and a number has at most three digits.
_LLAMA_3_PIECE = re.compile(r"\d{1,3}|\s+(?=\d)|\s*[^\s\d]+|\s+")

_NO_RULE = ReadyResponse()  # the response to requests to which no rule applies
# A request without one of these parameters gets at most as many tokens as the model's default.
_LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_RANKING_DIMENSIONS = 384  # of the vectors with which texts are compared with a query


class ActiveRule:
    """A rule and its counts.

    `number`: the rule's position in the script, from 1 on. `is_open`: whether the rule can apply to
    further requests.
    """

    __slots__ = ("counter", "is_open", "number", "rule")

    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number
        self.rule = rule
        self.counter = Counter(rule)
        self.is_open = True

    @property
    def num_uses(self) -> int:
        """The number of requests that got a response of the rule."""
        return self.counter.num_uses

    def count(self, *, is_used: bool) -> None:
        """Counts a request that meets the rule's conditions. `is_used`: whether it is answered."""
        self.counter.count(is_used=is_used)
        if self.rule.times is not None or self.rule.nth:
            self.is_open = self.counter.times_left != 0

    def to_json(self) -> dict[str, Any]:
        """Returns the rule as the user wrote it, with its number and its counts of requests."""
        return {
            "number": self.number,
            "rule": self.rule.source,
            "times_left": self.counter.times_left,
            "used": self.num_uses,
        }


class _Script:
    """The rules of one account, or the rules that all other accounts share.

    `cost`: the cost of comparing a request with all rules. `counts_all`: whether a rule has the
    condition `nth`. Such a rule counts all requests that meet its other conditions, also those to
    which an earlier rule applies.
    """

    def __init__(self) -> None:
        self.replace([])

    def replace(self, rules: Sequence[Rule]) -> None:
        self.rules = [ActiveRule(number, rule) for number, rule in enumerate(rules, 1)]
        self.cost = Cost.total(rules)
        self.counts_all = any(rule.nth for rule in rules)
        self.has_faults = any(rule.has_faults for rule in rules)


@dataclass(frozen=True, slots=True)
class _Found:
    """A rule whose conditions a request meets, apart from those that count requests."""

    active: ActiveRule
    match: Match


class ScriptedBackend:
    """Returns the response of the first rule that applies to a request.

    If no rule applies, the completion quotes the request's prompt or last message. If the request
    then requires a tool call or JSON, the completion is a small tool call or JSON text that
    satisfies the request's schema.
    """

    def __init__(self, rules: list[Rule], *, is_strict: bool = False) -> None:
        self._initial_rules = rules
        self._is_strict = is_strict
        self._running = RunningGenerations()
        self._scripts = AccountStates(_Script)
        self._has_warned = False
        self.reset()

    def replace(self, rules: list[Rule], account: str | None = None) -> None:
        """Replaces the rules of an account, and restarts their counts of requests.

        An account that has no rules of its own uses the shared rules. If `account` is None,
        replaces the shared rules. Raises ValueError if too many accounts have their own rules.
        """
        self._scripts.own(account).replace(rules)
        self._find_faults()

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
            self._find_faults()

    def rules(self, account: str | None = None) -> list[ActiveRule]:
        """Returns the rules that apply to the requests of an account."""
        return self._script(account).rules

    def is_immediate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> bool:
        return True

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, context: CallContext
    ) -> StartedGeneration:
        subject = _subject(request, spec, context)
        response, completion = await self._respond(subject, context)
        prompt = transcript(request.messages) if request.prompt is None else request.prompt
        if response.fault and (error := _fault(response, spec, context, is_stream=request.stream)):
            if not response.delay_s:
                raise error
            return self._failing(error, response.delay_s, prompt)
        if completion is None:
            completion = await _default_completion(request, subject.text, context)
        else:
            completion = _fitting(completion, request, spec)
        piece = _LLAMA_3_PIECE if spec.traits.parses_texts else WORD
        return await self._started(response, completion, piece, request, prompt, context)

    async def embed(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Embeddings, str]:
        return await _in_thread(_embeddings, request.texts, spec), MODEL_NAME

    async def rank(
        self, request: EmbeddingRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Scores, str]:
        texts = [request.query or "", *request.texts]
        return await _in_thread(_scores, texts, spec), MODEL_NAME

    async def decide(
        self, request: DecisionRequest, spec: ModelSpec, context: CallContext
    ) -> tuple[Decisions, str]:
        """Answers by the rule that applies, and all other questions by the similarity of words."""
        subject = subject_of(context.inputs, model=spec.name, context=context)
        response, completion = await self._respond(subject, context)
        await asyncio.sleep(response.delay_s)
        if response.fault and (error := _fault(response, spec, context, is_stream=False)):
            raise error
        try:
            given = {} if completion is None else given_answers(request, completion.text)
        except ValueError as error:
            reason = f"the script's rule {context.rule} does not fit this decision: {error}"
            raise WireError(INCOMPLETE_REQUEST, bounded(reason)) from error
        # A script answers without reading the images.
        others = replace(request, questions=without(request, given), has_images=False)
        decisions, model = await decide_by_similarity(self.embed, others, spec, context)
        return merged(request, given, decisions), model

    def cancel_all(self) -> None:
        self._running.cancel_all()

    async def close(self) -> None:
        self.cancel_all()

    def _script(self, account: str | None) -> _Script:
        return self._scripts.find(account) or self._scripts.shared

    def _find_faults(self) -> None:
        self.has_faults = any(script.has_faults for script in self._scripts)

    async def _respond(
        self, subject: Subject, context: CallContext
    ) -> tuple[ReadyResponse, Completion | None]:
        """Returns the response of the rule that applies to a call, and its completion, if any.

        Raises WireError if no rule applies and the backend is strict, or if the completion is a
        template that cannot be rendered.
        """
        found = await self._use_rule(subject)
        if found is None:
            context.is_unmatched = True
            if self._is_strict:
                rules = self.rules(context.account)
                reason = await asyncio.to_thread(_strict_reason, rules, subject)
                raise WireError(NOT_SCRIPTED, reason)
            return _NO_RULE, None
        context.rule = found.active.number
        response = found.active.rule.response(found.active.num_uses - 1)
        if response.render is not None:
            return response, await _rendered(response.render, found, subject)
        return response, response.completion

    async def _started(
        self,
        response: ReadyResponse,
        completion: Completion,
        piece: re.Pattern[str],
        request: TextGenerationRequest,
        prompt: str,
        context: CallContext,
    ) -> StartedGeneration:
        """Returns a generation of the completion, with the delays of the response.

        `piece`: matches each token of the completion's text.
        """
        is_large = context.is_large
        num_tokens = await asyncio.to_thread(num_words, prompt) if is_large else num_words(prompt)
        completion = _before_stop(completion, request.params.stop)
        chunks = _chunks(completion, piece, response.finish, request.params.max_tokens)
        if chunks[-1].finish_reason is FinishReason.LENGTH and response.finish != "length":
            self._warn_of_cut(request.params.max_tokens, context)
        if not request.separates_reasoning:
            chunks = [*map(ReasoningText().feed, chunks)]
        fingerprint = f"{prompt} {request.params}"
        generation: Generation
        if response.has_delays or len(chunks) > MAX_UNREAD:
            generation = self._running.start(
                _delayed(chunks, response), num_prompt_tokens=num_tokens, fingerprint=fingerprint
            )
        else:
            generation = ReadyGeneration(
                chunks, num_prompt_tokens=num_tokens, fingerprint=fingerprint
            )
        return StartedGeneration(generation, MODEL_NAME, lambda: prompt)

    def _failing(self, error: WireError, delay_s: float, prompt: str) -> StartedGeneration:
        """Returns a generation that ends with an error after a delay."""
        generation = self._running.start(
            _failed(error, delay_s), num_prompt_tokens=0, fingerprint=""
        )
        return StartedGeneration(generation, MODEL_NAME, lambda: prompt)

    def _warn_of_cut(self, max_tokens: int | None, context: CallContext) -> None:
        """Logs once that a completion was cut because the request does not limit its length."""
        inputs = context.inputs if isinstance(context.inputs, dict) else {}
        if self._has_warned or any(inputs.get(name) is not None for name in _LIMITS):
            return
        self._has_warned = True
        log.warning(
            "a scripted completion was cut after %d tokens (words), because the request has no "
            "`max_tokens`, and the service then sends no more than that; send `max_tokens`, or "
            "shorten the answer. This is logged once.",
            max_tokens,
        )

    async def _use_rule(self, subject: Subject) -> _Found | None:
        """Returns the first rule that applies to a request, and counts the request for its rules.

        Returns None if no rule applies. Raises WireError if searching the request's text for a
        rule's `matches` could take minutes.
        """
        while True:
            script = self._script(subject.account)
            if script.cost.is_high(subject):
                matching = await asyncio.to_thread(_search, script, subject)
            else:
                matching = _search(script, subject)
            used = next((each for each in matching if each.active.counter.is_due), None)
            # While a thread searches for rules, another request may use up the rule that the thread
            # finds. The loop then searches again.
            is_used_up = used is None and any(not each.active.rule.nth for each in matching)
            if not is_used_up:
                for each in matching:
                    if each is used or each.active.rule.nth:
                        each.active.count(is_used=each is used)
                return used


# Returns whether the request was cancelled. Computations in threads then stop.
_IsCancelled = Callable[[], bool]


async def _in_thread(
    compute: Callable[[Sequence[str], ModelSpec, _IsCancelled], _T],
    texts: Sequence[str],
    spec: ModelSpec,
) -> _T:
    """Calls `compute` in a thread, and returns its result.

    If this coroutine is cancelled, the computation in the thread is cancelled, too.
    """
    is_cancelled = threading.Event()
    try:
        return await asyncio.to_thread(compute, texts, spec, is_cancelled.is_set)
    finally:
        is_cancelled.set()


def _embeddings(texts: Sequence[str], spec: ModelSpec, is_cancelled: _IsCancelled) -> Embeddings:
    vectors = _vectors(texts, spec, is_cancelled)
    return Embeddings(vectors, sum(map(num_words, texts)))


def _scores(texts: Sequence[str], spec: ModelSpec, is_cancelled: _IsCancelled) -> Scores:
    """Returns the similarity of the first text, the query, with each of the other texts."""
    query, *others = _vectors(texts, spec, is_cancelled)
    return Scores([similarity(query, other) for other in others], sum(map(num_words, texts)))


def _vectors(
    texts: Sequence[str], spec: ModelSpec, is_cancelled: _IsCancelled
) -> list[list[float]]:
    assert spec.embedding is not None
    dimensions = spec.embedding.dimensions or _RANKING_DIMENSIONS
    return [word_vector(text, dimensions, is_cancelled) for text in texts]


def _search(script: _Script, subject: Subject) -> list[_Found]:
    """Returns the rules whose conditions a request meets, up to the first rule without `nth`.

    If a rule has the condition `nth`, also returns the later rules with `nth`, which count the
    request. Raises WireError if searching the text for a rule's `matches` could take minutes.
    """
    found: list[_Found] = []
    is_complete = False
    for active in script.rules:
        rule = active.rule
        if not active.is_open or (is_complete and not rule.nth):
            continue
        try:
            match = rule.match(subject)
        except PatternTooCostly as error:
            raise _too_costly(active, subject) from error
        if match is not None:
            found.append(_Found(active, match))
            is_complete = is_complete or not rule.nth
            if is_complete and not script.counts_all:
                break
    return found


def _too_costly(active: ActiveRule, subject: Subject) -> WireError:
    reason = (
        f"`matches` of the script's rule {active.number} is too complex for a text of "
        f"{len(subject.text)} characters: simplify it, or use `contains`"
    )
    return WireError(INCOMPLETE_REQUEST, reason)


def _strict_reason(rules: Sequence[ActiveRule], subject: Subject) -> str:
    """Returns the text of the error for a request to which no rule applies.

    It names the rule that has the fewest conditions that do not hold.
    """
    start = f"no rule of the script applies to {shown(subject.text)}"
    if not rules:
        return f"{start}: the script has no rules"
    mismatches = [(active, active.rule.mismatches(subject)) for active in rules[:_MAX_COMPARED]]
    active, reasons = min(mismatches, key=lambda each: (len(each[1]), -each[0].rule.num_checks))
    return f"{start}; the nearest is rule {active.number}: {'; '.join(reasons) or _spent(active)}"


def _spent(active: ActiveRule) -> str:
    """Describes why `nth` or `times` prevents a rule whose other conditions hold."""
    rule = active.rule
    if rule.nth:
        numbers = ", ".join(map(str, rule.nth[:10]))
        return f"`nth` is {numbers}, and {active.counter.num_matches} calls have met its conditions"
    return f"it has been used {active.num_uses} times, and `times` is {rule.times}"


async def _rendered(
    render: Callable[[Mapping[str, Any]], Completion], found: _Found, subject: Subject
) -> Completion:
    """Returns the completion of a rule that is a template.

    Raises WireError if the template cannot be rendered.
    """
    make = partial(_render, render, found, subject, found.active.num_uses)
    # A template searches the text again for the groups of `matches`, but not the other messages.
    if found.active.rule.cost._replace(messages=0).is_high(subject):
        return await asyncio.to_thread(make)
    return make()


def _render(
    render: Callable[[Mapping[str, Any]], Completion], found: _Found, subject: Subject, call: int
) -> Completion:
    """Renders the template of a rule. `call`: how many calls have used the rule, with this one."""
    try:
        values = {
            "groups": found.match.groups,
            "text": subject.text,
            "model": subject.model,
            "account": subject.account or "",
            "call": call,
        }
        return render(values)
    except PatternTooCostly as error:
        raise _too_costly(found.active, subject) from error
    except ValueError as error:
        reason = f"the template of the script's rule {found.active.number} failed: {error}"
        raise WireError(INCOMPLETE_REQUEST, bounded(reason)) from error


def _fault(
    response: ReadyResponse, spec: ModelSpec, context: CallContext, *, is_stream: bool
) -> WireError | None:
    """Stores the fault of a response in the context. Returns its error, if the fault is one.

    `middleware/faults/` applies all other faults when the response begins. A fault that changes a
    stream is not applied to a call that requests none.
    """
    fault = response.fault
    if fault is None or not fault.fits(is_stream=is_stream):
        return None
    context.scripted_fault = fault
    if fault.fault not in ERRORS:
        return None
    is_gateway = context.call is not None and context.call.endpoint.access is Access.GATEWAY
    return error_of(fault, spec.name, is_gateway=is_gateway)


def _fitting(completion: Completion, request: TextGenerationRequest, spec: ModelSpec) -> Completion:
    """Returns a rule's completion, without its reasoning if the request switches reasoning off.

    Raises WireError if the completion has tool calls and the service offers no tools to the model.
    """
    if completion.tool_calls and not spec.traits.has_tools:
        raise refused_by_engine(f"A rule of the script calls a tool, but {spec.name} has no tools.")
    if request.template_variables.get("enable_thinking") is False:
        return replace(completion, reasoning="")
    return completion


def _subject(request: TextGenerationRequest, spec: ModelSpec, context: CallContext) -> Subject:
    has_messages = request.prompt is None and bool(request.messages)
    messages = request.messages if has_messages else ()
    return Subject(
        spec.name,
        messages[-1].content if messages else request.prompt or "",
        messages[-1].role if messages else None,
        messages,
        context.account,
        context.headers,
        context.inputs if isinstance(context.inputs, dict) else {},
        request.stream,
    )


async def _default_completion(
    request: TextGenerationRequest, text: str, context: CallContext
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
    return await asyncio.to_thread(make) if context.is_large else make()


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
    completion: Completion,
    piece: re.Pattern[str],
    finish: Literal["stop", "length"],
    max_tokens: int | None,
) -> list[Chunk]:
    """Returns a completion as one chunk per token. `piece`: matches the tokens of its text.

    Returns at most `max_tokens` tokens (None: no limit); if it returns that many, the finish reason
    is `length`. If the finish reason is `stop` or `tool_calls`, an empty chunk follows the last
    token. The empty chunk represents the end-of-text token, which a model would generate and which
    counts as a completion token.
    """
    limit = None if max_tokens is None else min(max_tokens, sys.maxsize)
    chunks = [*islice(_parts(completion, piece), limit)]
    if len(chunks) == max_tokens or finish == "length":
        last = chunks.pop() if chunks else Chunk()
        return [*chunks, replace(last, finish_reason=FinishReason.LENGTH)]
    reason = FinishReason.TOOL_CALLS if completion.tool_calls else FinishReason.STOP
    return [*chunks, Chunk("", reason)]


def _parts(completion: Completion, piece: re.Pattern[str]) -> Iterator[Chunk]:
    """Yields the words of the reasoning, the pieces of the text and the words of the tool calls."""
    for word in _words(completion.reasoning):
        yield Chunk(reasoning=word)
    yield from map(Chunk, _words(completion.text, piece))
    for index, call in enumerate(completion.tool_calls):
        yield Chunk(tool_call=ToolCallDelta(index, name=call.name, id=call.id))
        for word in _words(call.arguments):
            yield Chunk(tool_call=ToolCallDelta(index, word))


def _words(text: str, word: re.Pattern[str] = WORD) -> Iterator[str]:
    return (match[0] for match in word.finditer(text))


async def _delayed(chunks: Sequence[Chunk], response: ReadyResponse) -> AsyncGenerator[Chunk]:
    """Yields the chunks with the delays of the response."""
    loop = asyncio.get_running_loop()
    start = loop.time() + response.delay_s
    for number, chunk in enumerate(chunks):
        due = start + number / (response.tokens_per_second or math.inf)
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        yield chunk


async def _failed(error: WireError, delay_s: float) -> AsyncGenerator[Chunk]:
    """Raises the error after a delay."""
    await asyncio.sleep(delay_s)
    raise error
    yield  # makes this function a generator
