"""Tests that users' regular expressions have Python's meaning and take linear time."""

from __future__ import annotations

import random
import re

import pytest
from workers_ai_emulator.backends.patterns import Pattern, PatternTooCostly

CHARACTERS = [*"aéÉsß1_.kK- \n", "٣", "\u017f", "\u212a", "猫", "\xa0", "\x1c"]
CLASSES = [r"\w", r"\d", r"\s", r"\W", r"\D", r"\S", ".", r"[^\W\d_]", "[^a-z]", "[\x80-\uffff]"]


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("(a+)+$", "a" * 38 + "!"),
        ("(a|aa)+$", "a" * 100_000 + "!"),
        ("(.*a){20}b", "a" * 1000),
        (r"(\w+\s?)*é$", "mot à mot " * 5000 + "!"),
    ],
)
def test_an_expression_that_backtracks_without_end_elsewhere_ends(source: str, text: str) -> None:
    assert not Pattern(source).found_in(text)


@pytest.mark.parametrize(
    ("source", "text", "is_found"),
    [
        (r"(?i)\bélan\b", "Un ÉLAN!", True),
        (r"\bcaf\b", "un café", False),
        (r"^\w+$", "Grüße", True),
        (r"\d{2}", "٣٣", True),
        (r"(?a)\w{2}", "aé", False),
        ("a$", "a\n", True),
        (r"a\Z", "a\n", False),
        ("(?m)^b$", "a\nb\nc", True),
        ("a.b", "a\nb", False),
        ("(?s)a.b", "a\nb", True),
        (r"(?x) (?P<name> \d+ ) \b  # a number", "no 12", True),
        (r"^(?:\b\w+\b\s?)+\b$", "été là", True),
        ("", "", True),
        ("猫{2,}?", "猫猫", True),
        ("\\bé", "\ud83d é", True),
    ],
)
def test_an_ordinary_expression_has_pythons_meaning(source: str, text: str, is_found: bool) -> None:
    assert Pattern(source).found_in(text) is is_found is (re.search(source, text) is not None)


def test_random_expressions_have_pythons_meaning() -> None:
    numbers = random.Random(1)

    def expression(depth: int = 0) -> str:
        parts = []
        for _ in range(numbers.randint(1, 4)):
            part = numbers.choice([re.escape(numbers.choice(CHARACTERS)), *CLASSES])
            if depth < 2 and numbers.random() < 0.3:
                part = f"({numbers.choice(['', '?:', '?i:'])}{expression(depth + 1)}|{part})"
            parts.append(part + numbers.choice(["", "", "*", "+?", "{1,3}"]))
            parts.append(numbers.choice(["", "", "", r"\b"]))
        return "".join(parts)

    for _ in range(300):
        source = numbers.choice(["", "(?i)", "(?s)", "(?m)^"]) + expression()
        source += numbers.choice(["", "", "$"])
        pattern = Pattern(source)
        for _ in range(8):
            text = "".join(numbers.choices(CHARACTERS, k=numbers.randint(0, 8)))
            assert pattern.found_in(text) is (re.search(source, text) is not None), (source, text)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("(", "no regular expression: missing ), unterminated subpattern at position 0"),
        ("(?=a)b", "look-around such as (?=...) is not supported"),
        ("(?<!a)b", "look-around such as (?!...) is not supported"),
        (r"(a)\1", r"a back-reference such as \1 is not supported"),
        ("(?>a)", "an atomic group is not supported"),
        ("a++", "a possessive repetition such as a++ is not supported"),
        ("a{1001}", "no regular expression: more than 1000 repetitions are not supported"),
        (r"\w{1000}", "no regular expression: pattern too large - compile failed"),
        ("(" * 3000 + ")" * 3000, "no regular expression: it is nested too deep"),
    ],
)
def test_an_expression_that_cannot_be_searched_is_refused(source: str, reason: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pattern(source)
    assert str(caught.value) == reason


def test_a_search_that_could_take_minutes_is_refused() -> None:
    with pytest.raises(PatternTooCostly):
        Pattern("(a?){1000}b").found_in("a" * 1_000_000)
