"""The requests of the SDK `@cloudflare/ai` 1.0, whose inputs are tensors.

[the source and the requests of npm @cloudflare/ai 1.0.12 to 1.0.53]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError


@dataclass(frozen=True, slots=True)
class TensorCall:
    """The values of the tensors. `has_echo`: the SDK expects the prompt before the completion."""

    prompt: str
    max_tokens: int
    stream: bool
    has_echo: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """The model's input. It is raw, since the SDK has already applied the chat template."""
        return {
            "prompt": self.prompt,
            "raw": True,
            "max_tokens": self.max_tokens,
            "stream": self.stream,
        }


def parse(body: Any) -> TensorCall:
    """Parses a body `{"input": [tensor, …], "stream": …}`.

    The prompt and the limit of tokens are the tensors `INPUT_0` and `INPUT_1`. SDK 1.0.53 sends
    `text_input` and `sampling_parameters`, a JSON text, to models that run on vLLM. Raises
    WireError for any other body.
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
    """Returns the tensor's name and its only value, or None if it is not a tensor."""
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
