"""The backend `scripted`: answers by rules, at once and the same each time, without a model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from emulator.backends.backend import Started
from emulator.backends.streamed import StreamedGeneration
from emulator.catalog import ModelSpec
from emulator.engine.types import Chunk, FinishReason
from emulator.errors import SettingInvalid
from emulator.tasks.text_generation import TextGenerationRequest

MODEL_NAME = "scripted"
_TOKEN = re.compile(r"\s*\S+|\s+")


class Rule(BaseModel):
    """What to answer to which requests. Where nothing is said, all match.

    `model` is a name, with `*` for any part of one; `contains` is looked for in the last message
    or the prompt, `matches` is a regular expression for it. `tokens_per_second` and
    `first_token_after` (seconds) pace the answer, which else comes at once. `times`: after so many
    answers the rule matches no more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: str
    model: str = "*"
    contains: str = ""
    matches: str = ""
    tokens_per_second: float | None = Field(default=None, gt=0)
    first_token_after: float = Field(default=0.0, ge=0)
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


class Script:
    """Rules, of which the first that applies answers; without any, the text is repeated."""

    def __init__(self, rules: list[Rule]) -> None:
        self._own_rules = rules
        self.replace(rules)

    def replace(self, rules: list[Rule]) -> None:
        """Take other rules from now on."""
        self._rules = [(rule, rule.times) for rule in rules]

    def reset(self) -> None:
        """Go back to the rules of the start."""
        self.replace(self._own_rules)

    def is_immediate(self, spec: ModelSpec) -> bool:
        return True

    async def generate(
        self, request: TextGenerationRequest, spec: ModelSpec, *, takes_long: bool
    ) -> Started:
        prompt = _prompt(request)
        rule = self._rule(spec.name, _last_text(request))
        generation = StreamedGeneration(
            _chunks(rule, request.params.max_tokens),
            num_prompt_tokens=len(_TOKEN.findall(prompt)),
            fingerprint=f"{prompt} {request.params}",
        )
        return Started(generation, MODEL_NAME, lambda: prompt)

    def _rule(self, model: str, text: str) -> Rule:
        for index, (rule, times) in enumerate(self._rules):
            if times != 0 and rule.applies(model, text):
                self._rules[index] = (rule, times and times - 1)
                return rule
        return Rule(answer=f"This is a scripted answer to: {text}")


def read_rules(path: Path) -> list[Rule]:
    """The rules in a file, YAML or JSON. Raises SettingInvalid, with a line for each mistake."""
    try:
        return parse_rules(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingInvalid(f"--script: cannot read {path}: {error}") from error
    except ValueError as error:
        lines = [f"--script: {path}: {line}" for line in str(error).splitlines()]
        raise SettingInvalid("\n".join(lines)) from error


def parse_rules(value: Any) -> list[Rule]:
    """The rules in a list, or under `rules`. Raises ValueError, with a line for each mistake."""
    if isinstance(value, dict) and set(value) == {"rules"}:
        value = value["rules"]
    if not isinstance(value, list):
        raise ValueError("it takes a list of rules, each with an `answer`")
    rules, mistakes = [], []
    for number, item in enumerate(value, 1):
        try:
            rules.append(Rule.model_validate(item))
        except ValidationError as error:
            mistakes += [f"rule {number}: {_mistake(detail)}" for detail in error.errors()]
    if mistakes:
        raise ValueError("\n".join(mistakes))
    return rules


def _mistake(detail: Any) -> str:
    where = ".".join(map(str, detail["loc"]))
    given = json.dumps(detail["input"], default=str)[:80]
    return f"{where}: {detail['msg']}, not {given}" if where else f"{detail['msg']}"


def _prompt(request: TextGenerationRequest) -> str:
    """All of it, for people and for counting."""
    if request.prompt is not None:
        return request.prompt
    return "\n".join(f"{message.role}: {message.content}" for message in request.messages)


def _last_text(request: TextGenerationRequest) -> str:
    if request.prompt is not None:
        return request.prompt
    return request.messages[-1].content if request.messages else ""


async def _chunks(rule: Rule, max_tokens: int) -> AsyncIterator[Chunk]:
    """One for each word; like a model's, the answer ends with a token that has no text."""
    pieces = _TOKEN.findall(rule.answer)
    is_cut = len(pieces) >= max_tokens
    ending = FinishReason.LENGTH if is_cut or rule.finish == "length" else FinishReason.STOP
    if ending is FinishReason.STOP:
        pieces.append("")
    pieces = pieces[:max_tokens] or [""]
    await asyncio.sleep(rule.first_token_after)
    for number, piece in enumerate(pieces, 1):
        if number > 1 and rule.tokens_per_second:
            await asyncio.sleep(1 / rule.tokens_per_second)
        yield Chunk(piece, ending if number == len(pieces) else None)
