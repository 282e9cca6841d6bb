"""Keeps completions short: what schemathesis tests is the wire, not the model."""

from __future__ import annotations

from typing import Any

import schemathesis

MAX_TOKENS = 2


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: Any
) -> None:
    body = case.body
    for inputs in (body, body.get("input")) if isinstance(body, dict) else ():
        if isinstance(inputs, dict) and _allows_many(inputs.get("max_tokens")):
            inputs["max_tokens"] = MAX_TOKENS


def _allows_many(max_tokens: Any) -> bool:
    is_number = isinstance(max_tokens, int | float) and not isinstance(max_tokens, bool)
    return max_tokens is None or (is_number and max_tokens > MAX_TOKENS)
