"""The backend `scripted`: returns fixed completions by the user's rules, without a model."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncGenerator
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from workers_ai_emulator.backends.relayed import WORD, RunningGenerations, num_words
from workers_ai_emulator.engine.types import Chunk, FinishReason, StartedGeneration
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.models.catalog import ModelSpec
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.validation import parse_rule_list

MODEL_NAME = "scripted"
_MAX_WAIT_S = 86400


class Rule(BaseModel):
    """A completion (`answer`), and the conditions under which a request gets it.

    A rule applies to a request if all its conditions hold:
    `model`: the name of the requested model; `*` matches any text;
    `contains`: a text that the prompt, or the last message, contains;
    `matches`: a regular expression that matches in the prompt or the last message;
    `times`: the rule has applied to fewer requests than this number; None: no limit.

    `finish` is the finish reason. `first_token_after` (seconds) delays the first token, and
    `tokens_per_second` delays all later tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: str
    model: str = "*"
    contains: str = ""
    matches: str = ""
    tokens_per_second: float | None = Field(default=None, ge=1 / _MAX_WAIT_S)
    first_token_after: float = Field(default=0.0, ge=0, le=_MAX_WAIT_S)
    finish: Literal["stop", "length"] = "stop"
    times: int | None = Field(default=None, ge=1)

    @field_validator("matches")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return value

    def applies(self, model: str, text: str) -> bool:
        return (
            fnmatchcase(model, self.model)
            and self.contains in text
            and re.search(self.matches, text) is not None
        )


class ScriptedBackend:
    """Returns the completion of the first rule that applies to a request.

    If no rule applies, the completion quotes the prompt or the last message.
    """

    def __init__(self, rules: list[Rule]) -> None:
        self._initial_rules = rules
        self._running = RunningGenerations()
        self.replace(rules)

    def replace(self, rules: list[Rule]) -> None:
        """Replaces all rules, and restarts the count of requests for `times`."""
        self._rules = [(rule, rule.times) for rule in rules]

    def reset(self) -> None:
        """Restores the rules that the server had at start-up."""
        self.replace(self._initial_rules)

    def is_immediate(self, spec: ModelSpec) -> bool:
        return True

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, *, is_large: bool
    ) -> StartedGeneration:
        rule = self._use_rule(spec.name, _last_text(request))
        prompt = _prompt(request)
        num_tokens = await asyncio.to_thread(num_words, prompt) if is_large else num_words(prompt)
        generation = self._running.start(
            _chunks(rule, request.params.max_tokens),
            num_prompt_tokens=num_tokens,
            fingerprint=f"{prompt} {request.params}",
        )
        return StartedGeneration(generation, MODEL_NAME, lambda: prompt)

    def cancel_all(self) -> None:
        self._running.cancel_all()

    async def close(self) -> None:
        self.cancel_all()

    def _use_rule(self, model: str, text: str) -> Rule:
        """Returns the first rule that applies to the text and counts this use for `times`.

        If no rule applies, returns a rule whose completion quotes the text.
        """
        for index, (rule, times) in enumerate(self._rules):
            if times != 0 and rule.applies(model, text):
                self._rules[index] = (rule, times and times - 1)
                return rule
        return Rule(answer=f"This is a scripted answer to: {text}")


def read_rules(path: Path) -> list[Rule]:
    """Reads rules from a YAML or JSON file.

    Raises SettingInvalid if the file cannot be read or has mistakes: one line per mistake.
    """
    try:
        return parse_rules(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())  # PyYAML's error texts have several lines
        raise SettingInvalid(f"--script: cannot read {path}: {reason}") from error
    except ValueError as error:
        lines = [f"--script: {path}: {line}" for line in str(error).splitlines()]
        raise SettingInvalid("\n".join(lines)) from error


def parse_rules(value: Any) -> list[Rule]:
    """Converts parsed YAML or JSON to rules: a list, or an object with the list in key `rules`.

    Raises ValueError with one line per mistake.
    """
    if isinstance(value, dict) and set(value) == {"rules"}:
        value = value["rules"]
    if not isinstance(value, list):
        raise ValueError("it takes a list of rules, each with an `answer`")
    return parse_rule_list(Rule, value)


def _prompt(request: TextGenerationRequest) -> str:
    """Returns the prompt, or all messages, as text for the journal and for the token count."""
    if request.prompt is not None:
        return request.prompt
    return "\n".join(f"{message.role}: {message.content}" for message in request.messages)


def _last_text(request: TextGenerationRequest) -> str:
    if request.prompt is not None:
        return request.prompt
    return request.messages[-1].content if request.messages else ""


async def _chunks(rule: Rule, max_tokens: int) -> AsyncGenerator[Chunk]:
    """Yields the rule's completion, one chunk per word, with the rule's delays.

    For the finish reason `stop`, an empty chunk follows, like a model's end-of-text token. If
    the completion is cut to `max_tokens` words, the finish reason is `length`.
    """
    words = [match[0] for match in islice(WORD.finditer(rule.answer), max_tokens)]
    is_cut = len(words) == max_tokens
    reason = FinishReason.LENGTH if is_cut or rule.finish == "length" else FinishReason.STOP
    if reason is FinishReason.STOP or not words:
        words.append("")
    loop = asyncio.get_running_loop()
    start = loop.time() + rule.first_token_after
    for number, word in enumerate(words):
        due = start + number / (rule.tokens_per_second or math.inf)
        if (wait_s := due - loop.time()) > 0:
            await asyncio.sleep(wait_s)
        yield Chunk(word, reason if number == len(words) - 1 else None)
