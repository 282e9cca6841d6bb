"""The protocol of `@cloudflare/ai` 1.0: tensors in, as the servers behind Workers AI took them.

All of it was read in the SDK and seen on its wire: npm @cloudflare/ai 1.0.12 to 1.0.53.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError


@dataclass(frozen=True, slots=True)
class TensorCall:
    """What the tensors say. With `has_echo` the SDK expects its prompt before the completion."""

    prompt: str
    max_tokens: int
    stream: bool
    has_echo: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """The same as a model's own input: the SDK has templated the prompt already."""
        return {
            "prompt": self.prompt,
            "raw": True,
            "max_tokens": self.max_tokens,
            "stream": self.stream,
        }


def read(body: Any) -> TensorCall:
    """The call in a body `{"input": [tensor, …], "stream": …}`.

    Prompt and limit are the tensors `INPUT_0` and `INPUT_1`, or for the models of 1.0.53 that run
    on vLLM `text_input` and `sampling_parameters`, which is JSON. Raises WireError otherwise.
    """
    match body:
        case {"input": [*tensors]}:
            values = dict(filter(None, map(_value, tensors)))
        case _:
            raise WireError(INCOMPLETE_REQUEST, "input")
    stream = body.get("stream") is True
    match values:
        case {"text_input": str(prompt)}:
            return TensorCall(prompt, _max_tokens(values.get("sampling_parameters")), stream, True)
        case {"INPUT_0": str(prompt), "INPUT_1": int(max_tokens)}:
            return TensorCall(prompt, max_tokens, stream, False)
    raise WireError(INCOMPLETE_REQUEST, "tensors of a text generation")


def _value(tensor: Any) -> tuple[str, Any] | None:
    """The name of a tensor and its only value."""
    match tensor:
        case {"name": str(name), "value": [value]} | {"name": str(name), "value": value}:
            return name, value
    return None


def _max_tokens(parameters: Any) -> int:
    try:
        match json.loads(parameters):
            case {"max_tokens": int(max_tokens)}:
                return max_tokens
    except (TypeError, ValueError):
        pass
    raise WireError(INCOMPLETE_REQUEST, "max_tokens in sampling_parameters")
