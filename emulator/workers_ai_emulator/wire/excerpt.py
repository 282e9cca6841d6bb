"""Finds the beginning of a request's prompt or last message, which describes the request in lists.

The journal, the dashboard and the log show it. A rule of a script that has it as `contains` applies
to the request, because the text is not changed.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from workers_ai_emulator.wire.envelope import text_of

MAX_LENGTH = 200  # characters

_MAX_DEPTH = 8  # levels of objects and lists that are searched
_MAX_ITEMS = 1000  # items of a list that are searched


def excerpt_of(inputs: Any) -> str | None:
    """Returns the first MAX_LENGTH characters of the prompt or of the last message's text.

    `inputs`: the JSON value of a model's input or of a request's body, in any of the forms that the
    endpoints accept; it need not be valid. Of a batch or a list of gateway steps, uses the first
    one. Returns None if the value contains no text.
    """
    text = _text(inputs, _MAX_DEPTH)
    return None if text is None else text[:MAX_LENGTH]


def _text(value: Any, depth: int) -> str | None:
    match value:
        case str():
            return value
        case _ if depth == 0:
            return None
        case {"prompt": inner} if inner is not None:
            return _text(inner, depth - 1)
        case {"state": state, "questions": _}:  # the input of a decision model
            return text_of(state)
        case {"messages": [*_, inner]} | {"input": [*_, inner]}:
            return _text(inner, depth - 1)
        case (
            {"input": inner}
            | {"inputs": inner}
            | {"query": inner}
            | {"requests": inner}
            | {"content": inner}
            | {"output": inner}
            | {"text": inner}
            | {"queries": inner}
            | {"documents": inner}
            | {"contexts": inner}
        ):
            return _text(inner, depth - 1)
        case list():
            items = islice(value, _MAX_ITEMS)
            return next((text for item in items if (text := _text(item, depth - 1))), None)
    return None
