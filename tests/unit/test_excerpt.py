"""Tests the excerpt of a request: the beginning of its prompt or last message."""

from __future__ import annotations

from typing import Any

import pytest
from workers_ai_emulator.wire.excerpt import excerpt_of

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    "inputs",
    [
        {"prompt": "Hi"},
        {"prompt": ["Hi", "Ho"]},
        {"prompt": None, "messages": MESSAGES},
        {"messages": MESSAGES},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": {}}, {"text": "Hi"}]}]},
        {"input": "Hi"},
        {"input": [{"type": "message", "content": [{"type": "input_text", "text": "Hi"}]}]},
        {"input": [{"type": "function_call_output", "call_id": "1", "output": "Hi"}]},
        {"text": ["Hi", "Ho"]},
        {"queries": "Hi"},
        {"queries": ["Hi"], "documents": ["Ho"]},
        {"contexts": [{"text": "Hi"}]},
        {"requests": [{"prompt": "Hi"}, {"prompt": "Ho"}]},
        {"inputs": {"messages": MESSAGES}, "options": {}},
        [{"provider": "workers-ai", "query": {"messages": MESSAGES}}],
    ],
    ids=str,
)
def test_the_text_is_found_in_every_form_of_an_input(inputs: Any) -> None:
    assert excerpt_of(inputs) == "Hi"


@pytest.mark.parametrize(
    "inputs",
    [None, 1, {}, [], {"messages": []}, {"messages": 1}, {"prompt": {}}, {"content": None}],
)
def test_an_input_without_text_has_no_excerpt(inputs: Any) -> None:
    assert excerpt_of(inputs) is None


def test_only_the_beginning_is_returned_unchanged() -> None:
    assert excerpt_of({"prompt": " a\n" + "x" * 1000}) == " a\n" + "x" * 197


def test_a_deeply_nested_input_has_no_excerpt() -> None:
    inputs: Any = "Hi"
    for _ in range(10_000):
        inputs = [inputs]
    assert excerpt_of(inputs) is None


def test_only_the_beginning_of_a_long_list_is_searched() -> None:
    assert excerpt_of([1] * 900 + ["Hi"]) == "Hi"
    assert excerpt_of([1] * 1100 + ["Hi"]) is None
