"""Limits the completion tokens of the requests that schemathesis generates, for fast tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import schemathesis

MAX_TOKENS = 2


@schemathesis.hook
def before_call(
    context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: Any
) -> None:
    for inputs in _inputs(case.body):
        for key in ("max_tokens", "max_output_tokens"):  # the second is a key of the Responses API
            if _allows_many(inputs.get(key)):
                inputs[key] = MAX_TOKENS


def _inputs(body: Any) -> Iterator[dict[str, Any]]:
    """Yields every object in the request body that may contain the model's parameters."""
    for part in body if isinstance(body, list) else [body]:
        if isinstance(part, dict):
            nested = (part.get(key) for key in ("input", "inputs", "query"))
            for inputs in (part, *nested):
                if isinstance(inputs, dict):
                    yield inputs
                    requests = inputs.get("requests")  # of a batch
                    items = requests if isinstance(requests, list) else ()
                    yield from (item for item in items if isinstance(item, dict))


def _allows_many(max_tokens: Any) -> bool:
    is_number = isinstance(max_tokens, int | float) and not isinstance(max_tokens, bool)
    return max_tokens is None or (is_number and max_tokens > MAX_TOKENS)
