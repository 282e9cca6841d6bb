"""Tests how calls of the journal are found and described in the messages of failed assertions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workers_ai_emulator.launcher.calls import described, is_match, list_of
from workers_ai_emulator.wire.excerpt import excerpt_of

MODEL = "@cf/meta/llama-2-7b-chat-int8"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def call(body: Any, **changes: Any) -> dict[str, Any]:
    request = {"request": {"body": body}, "answer": {"sent": ""}, "excerpt": excerpt_of(body)}
    return {"model": MODEL, "path": "/x", "status": 200, **request, **changes}


@pytest.mark.parametrize(
    ("body", "excerpt"),
    [
        ({"messages": MESSAGES}, "Why?"),
        ({"other": 1}, '{"other": 1}'),
        ("x" * 100, "x" * 80 + "…"),
        (None, "null"),
    ],
)
def test_a_call_is_described_by_the_beginning_of_its_input(body: Any, excerpt: str) -> None:
    shown = json.dumps(excerpt, ensure_ascii=False)
    assert described(call(body)) == f"{MODEL} {shown}: status 200"


def test_the_description_says_what_answered_the_call() -> None:
    found = described(call({"prompt": "Hi"}, model=None, status=429, rule=2, fault="capacity"))
    assert found == '/x "Hi": status 429, rule 2, fault capacity'
    assert described(call({"prompt": "Hi"}, recording="a.json")).endswith("recording a.json")
    assert described(call({"prompt": "Hi"}, status=None)).endswith("no response yet")


@pytest.mark.parametrize(
    "error",
    [
        {"errors": [{"message": "no rule"}]},
        {"error": {"message": "no rule"}},
        {"error": "no rule"},
    ],
)
def test_the_description_of_an_unmatched_call_has_the_error(error: object) -> None:
    found = call({"prompt": "Hi"}, status=500, unmatched=True, answer={"sent": json.dumps(error)})
    assert described(found).endswith("status 500, no rule")


def test_a_long_list_is_cut() -> None:
    lines = list_of([call({"prompt": "Hi"})] * 25).splitlines()
    assert len(lines) == 21 and lines[-1] == "  and 5 more"
    assert list_of([call({"prompt": "Hi"})], 3).splitlines()[1:] == ["  and 2 more"]


@pytest.mark.parametrize(
    ("contains", "model", "expected"),
    [
        (None, None, True),
        ("brief", None, True),
        ("user", None, True),
        ("messages", None, False),
        (None, "@cf/*", True),
        (None, "@hf/*", False),
        (None, MODEL.replace("7b", "*"), True),
        (None, MODEL.upper(), False),
        (None, MODEL.replace("7b", "?b"), False),
        (None, MODEL.replace("7b", "[7]b"), False),
        ("How", MODEL, False),
    ],
)
def test_a_call_matches_if_both_conditions_hold(
    contains: str | None, model: str | None, expected: bool
) -> None:
    assert is_match(call({"messages": MESSAGES}), contains, model) is expected
