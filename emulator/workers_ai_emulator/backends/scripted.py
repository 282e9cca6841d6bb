"""The backend `scripted`: returns the completions in the rules of a script, without a model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from workers_ai_emulator.backends.patterns import PatternTooCostly
from workers_ai_emulator.backends.relayed import (
    MAX_UNREAD,
    WORD,
    ReadyGeneration,
    RunningGenerations,
    num_words,
)
from workers_ai_emulator.backends.rules import Rule, Subject
from workers_ai_emulator.engine.types import (
    Chunk,
    FinishReason,
    Generation,
    StartedGeneration,
    ToolCallDelta,
)
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError

MODEL_NAME = "scripted"

# If comparing a request with all rules costs more than this, the comparison runs in a thread. The
# cost is the sum of all rules' `Rule.cost`, times the number of characters of the request's text.
_MAX_IMMEDIATE_COST = 1_000_000


@dataclass(slots=True)
class _ActiveRule:
    """A rule and its state.

    `number`: the rule's position in the script, from 1 on. `times`: the number of further requests
    to which the rule applies; None: no limit.
    """

    number: int
    rule: Rule
    times: int | None


class ScriptedBackend:
    """Returns the completion of the first rule that applies to a request.

    If no rule applies, the completion quotes the request's prompt or last message.
    """

    def __init__(self, rules: list[Rule]) -> None:
        self._initial_rules = rules
        self._running = RunningGenerations()
        self.replace(rules)

    def replace(self, rules: list[Rule]) -> None:
        """Replaces all rules, and restarts the count of requests for the condition `times`."""
        self._rules = [
            _ActiveRule(number, rule, rule.times) for number, rule in enumerate(rules, 1)
        ]

    def reset(self) -> None:
        """Restores the rules that the server had at start-up."""
        self.replace(self._initial_rules)

    def is_immediate(self, spec: ModelSpec) -> bool:
        return True

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, *, is_large: bool
    ) -> StartedGeneration:
        subject = _subject(request, spec)
        rule = await self._use_rule(subject) or _default_rule(subject)
        prompt = _prompt(request)
        num_tokens = await asyncio.to_thread(num_words, prompt) if is_large else num_words(prompt)
        chunks = _chunks(rule, request.params.max_tokens)
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

    def cancel_all(self) -> None:
        self._running.cancel_all()

    async def close(self) -> None:
        self.cancel_all()

    async def _use_rule(self, subject: Subject) -> Rule | None:
        """Returns the first rule that applies to a request, and decrements the rule's `times`.

        Returns None if no rule applies. Raises WireError if searching the request's text for a
        rule's `matches` could take minutes.
        """
        while True:
            rules = [active for active in self._rules if active.times != 0]
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
                return active.rule


def _first(rules: Sequence[_ActiveRule], subject: Subject) -> _ActiveRule | None:
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


def _subject(request: TextGenerationRequest, spec: ModelSpec) -> Subject:
    if request.prompt is not None or not request.messages:
        return Subject(spec.name, request.prompt or "", None)
    last = request.messages[-1]
    return Subject(spec.name, last.content, last.role)


def _default_rule(subject: Subject) -> Rule:
    """Returns a rule for a request to which no rule applies. Its completion quotes the request."""
    return Rule(answer=f"This is a scripted answer to: {subject.text}")


def _prompt(request: TextGenerationRequest) -> str:
    """Returns the prompt or joined messages of a request, for the journal and the token count."""
    if request.prompt is not None:
        return request.prompt
    return "\n".join(f"{message.role}: {message.content}" for message in request.messages)


def _chunks(rule: Rule, max_tokens: int | None) -> list[Chunk]:
    """Returns the rule's completion, one chunk per word.

    Returns at most `max_tokens` words (None: no limit); if it returns that many, the finish reason
    is `length`. If the finish reason is `stop`, an empty chunk follows the last word. The empty
    chunk represents the end-of-text token, which a model would generate and which counts as a
    completion token.
    """
    chunks = [*islice(_parts(rule), max_tokens)]
    reason = _finish_reason(rule, is_cut=len(chunks) == max_tokens)
    if reason is FinishReason.LENGTH and chunks:
        chunks[-1] = replace(chunks[-1], finish_reason=reason)
    else:
        chunks.append(Chunk("", reason))
    return chunks


def _parts(rule: Rule) -> Iterator[Chunk]:
    """Yields the words of the reasoning, of the text and of the tool calls as chunks."""
    for word in _words(rule.reasoning):
        yield Chunk(reasoning=word)
    yield from map(Chunk, _words(rule.text))
    for index, call in enumerate(rule.tool_calls):
        yield Chunk(tool_call=ToolCallDelta(index, name=call.name, id=call.id))
        for word in _words(call.arguments):
            yield Chunk(tool_call=ToolCallDelta(index, word))


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in WORD.finditer(text))


def _finish_reason(rule: Rule, *, is_cut: bool) -> FinishReason:
    if is_cut or rule.finish == "length":
        return FinishReason.LENGTH
    return FinishReason.TOOL_CALLS if rule.tool_calls else FinishReason.STOP


async def _delayed(chunks: Sequence[Chunk], rule: Rule) -> AsyncGenerator[Chunk]:
    """Yields the chunks with the rule's delays."""
    loop = asyncio.get_running_loop()
    start = loop.time() + rule.first_token_after
    for number, chunk in enumerate(chunks):
        due = start + number / (rule.tokens_per_second or math.inf)
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        yield chunk
