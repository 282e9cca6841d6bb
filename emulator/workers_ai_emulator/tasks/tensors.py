"""Parses requests of the SDK `@cloudflare/ai` 1.0, which sends a model's input as tensors.

[source: the code and the requests of npm @cloudflare/ai 1.0.12 to 1.0.53]
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.wire.errors import INCOMPLETE_REQUEST, WireError


@dataclass(frozen=True, slots=True)
class TensorCall:
    """A model's input, read from the tensors of a request.

    `has_echo`: whether the response must repeat the prompt before the completion.
    """

    prompt: str
    max_tokens: int
    stream: bool
    has_echo: bool

    @property
    def inputs(self) -> dict[str, Any]:
        """The model's input, in the form in which `ai/run` accepts it.

        `raw` is true, because the SDK has already applied the chat template to the prompt.
        """
        return {
            "prompt": self.prompt,
            "raw": True,
            "max_tokens": self.max_tokens,
            "stream": self.stream,
        }


def parse(body: Any) -> TensorCall:
    """Parses a request body `{"input": [TENSOR, …], "stream": …}`.

    The tensor `INPUT_0` is the prompt, and `INPUT_1` is the maximum number of completion tokens.
    For models that Cloudflare runs on vLLM, SDK 1.0.53 sends other tensors: `text_input` is the
    prompt, and `sampling_parameters` is a JSON text with the key `max_tokens`. Raises WireError for
    any other body.
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


def parse_texts(body: Any) -> dict[str, Any]:
    """Parses a request body for an embedding model: the tensor `input_text` has the texts.

    Returns the model's input, in the form in which `ai/run` accepts it. Raises WireError for any
    other body.
    """
    match body:
        case {"input": [*tensors]}:
            for tensor in tensors:
                match tensor:
                    case {"name": "input_text", "value": [*texts]}:
                        return {"text": texts}
            raise WireError(INCOMPLETE_REQUEST, "the tensor input_text")
    raise WireError(INCOMPLETE_REQUEST, "input")


def _value(tensor: Any) -> tuple[str, Any] | None:
    """Returns the name and the only value of a tensor. Returns None if `tensor` is no tensor."""
    match tensor:
        case {"name": str(name), "value": [value]} | {"name": str(name), "value": value}:
            return name, value
    return None


def _max_tokens(parameters: Any) -> int:
    try:
        match json.loads(parameters):
            case {"max_tokens": int(max_tokens)}:
                return max_tokens
    except (TypeError, ValueError, RecursionError):
        pass
    raise WireError(INCOMPLETE_REQUEST, "max_tokens in sampling_parameters")
