"""The rules of a script: which completion a request gets. Users write them in YAML or JSON."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from workers_ai_emulator.backends.patterns import SIZE_OF_LARGE, Pattern, PatternTooLarge
from workers_ai_emulator.wire.validation import parse_rules_of

_MAX_WAIT_S = 86400
_MAX_RULES = 10_000
_MAX_PATTERN = 10_000  # the maximum number of characters of a regular expression
# The maximum total size of a script's regular expressions, in RE2 instructions.
_MAX_PATTERNS_SIZE = 5_000_000


def parse_rules(value: Any) -> list[Rule]:
    """Converts parsed YAML or JSON to rules.

    `value`: a list of rules, or an object whose only key `rules` has this list. Raises ValueError,
    with one line per mistake, if the value has another form or a rule is invalid.
    """
    if isinstance(value, dict) and set(value) == {"rules"}:
        value = value["rules"]
    if not isinstance(value, list):
        raise ValueError("it takes a list of rules, each with an `answer`")
    if len(value) > _MAX_RULES:
        raise ValueError(f"it has {len(value)} rules; {_MAX_RULES} are the most")
    return parse_rules_of(Rule, value, context=_PatternBudget())


class Rule(BaseModel):
    """A completion (`answer`), and the conditions under which a request gets it.

    A rule applies to a request if all its conditions hold:
    `model`: the name of the requested model; `*` matches any text;
    `contains`: a text that occurs in the prompt or in the last message;
    `matches`: a regular expression that has a match in the prompt or the last message;
    `times`: the rule has applied to fewer requests than this number; None: no limit.

    `finish`: the finish reason. `first_token_after`: the delay of the first token, in seconds.
    `tokens_per_second`: the rate of all later tokens; None: no delay.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    answer: str
    model: str = Field(default="*", max_length=200)
    contains: str = ""
    matches: Pattern | None = None
    tokens_per_second: float | None = Field(default=None, ge=1 / _MAX_WAIT_S)
    first_token_after: float = Field(default=0.0, ge=0, le=_MAX_WAIT_S)
    finish: Literal["stop", "length"] = "stop"
    times: int | None = Field(default=None, ge=1)

    @field_validator("matches", mode="before")
    @classmethod
    def _to_pattern(cls, value: Any, info: ValidationInfo) -> Pattern:
        if not isinstance(value, str):
            raise ValueError("Input should be a valid string")
        if len(value) > _MAX_PATTERN:
            raise ValueError(f"no regular expression: it is longer than {_MAX_PATTERN} characters")
        return (info.context or _PatternBudget()).compile(value)

    @property
    def cost(self) -> int:
        """An estimate of the time to compare this rule with a text, per character of the text.

        The estimate is 1, plus the number of RE2 instructions if the rule has a condition
        `matches`.
        """
        return 1 if self.matches is None else 1 + self.matches.size

    @property
    def has_delays(self) -> bool:
        return self.first_token_after > 0 or self.tokens_per_second is not None

    def applies(self, model: str, text: str) -> bool:
        """Returns whether the rule's conditions `model`, `contains` and `matches` hold.

        `text`: the request's prompt or last message. Raises PatternTooCostly if searching `text`
        for `matches` could take minutes.
        """
        return (
            fnmatchcase(model, self.model)
            and self.contains in text
            and (self.matches is None or self.matches.found_in(text))
        )


class _PatternBudget:
    """Compiles the regular expressions of one script, and limits their total size.

    The limit keeps the compilation of a script's expressions to a few seconds and little memory.
    """

    def __init__(self) -> None:
        self._left = _MAX_PATTERNS_SIZE

    def compile(self, source: str) -> Pattern:
        """Compiles a regular expression.

        Raises ValueError if the expression is invalid, or if the script's earlier expressions have
        reached the limit of the total size.
        """
        if self._left <= 0:
            raise ValueError("the script's regular expressions are too large together")
        try:
            pattern = Pattern(source)
        except PatternTooLarge:
            self._left -= SIZE_OF_LARGE
            raise
        self._left -= pattern.size
        return pattern
