"""Chooses the format of a response, by the model, the request and the endpoint."""

from __future__ import annotations

import gzip
from collections.abc import Callable

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.tasks.response_formats.choices import Choices, LlamaChoices, TextChoices
from workers_ai_emulator.tasks.response_formats.dual import DualFormat
from workers_ai_emulator.tasks.response_formats.native import NativeFormat, NativeToolFormat
from workers_ai_emulator.tasks.response_formats.openai import OpenAIFormat
from workers_ai_emulator.tasks.response_formats.response_format import Json, ResponseFormat, Wrap
from workers_ai_emulator.tasks.response_formats.responses import ResponsesFormat
from workers_ai_emulator.tasks.response_formats.sglang import SglangChoices, SglangFormat
from workers_ai_emulator.tasks.response_formats.tensors import TensorFormat
from workers_ai_emulator.tasks.response_formats.vllm import (
    VllmChoices,
    VllmFormat,
    VllmGatewayChoices,
    VllmTextChoices,
)
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest
from workers_ai_emulator.wire.envelope import to_json

# A function that returns the format of a response, by the model spec and the parsed request. The
# functions below return such a function for each endpoint, before the request is parsed.
FormatChoice = Callable[[ModelSpec, TextGenerationRequest], ResponseFormat]


def run_format(wrap: Wrap) -> FormatChoice:
    """Returns the function that chooses the format of a response of `ai/run`.

    `wrap`: converts the result to a body, with Cloudflare's envelope or without it. Events have no
    envelope.
    """

    def choose(spec: ModelSpec, request: TextGenerationRequest) -> ResponseFormat:
        traits = spec.traits
        if traits.form == "both":
            return DualFormat(spec, request, wrap)
        if traits.form == "response":
            is_json = request.json_mode is not None and traits.json_mode == "object"
            native = NativeToolFormat if traits.has_tools else NativeFormat
            return native(spec, wrap, is_json=is_json)
        if request.prompt is not None:
            return VllmFormat(spec, VllmTextChoices(), wrap)
        if traits.server == "sglang":
            return SglangFormat(spec, SglangChoices(), wrap)
        return VllmFormat(spec, VllmChoices(), wrap)

    return choose


def gzipped(result: Json) -> bytes:
    """Returns the gzipped JSON of a result, for the SDK `@cloudflare/ai` 1.1.

    The SDK expects no Cloudflare envelope and no header content-encoding. [source: the SDK's code]
    """
    return gzip.compress(to_json(result))


def chat_format(*, include_usage: bool) -> FormatChoice:
    """Returns the function that chooses the format of a response of `chat/completions`.

    `include_usage`: whether the request sets `stream_options.include_usage`.
    """

    def choose(spec: ModelSpec, request: TextGenerationRequest) -> ResponseFormat:
        return OpenAIFormat(spec, _chat_choices(spec), include_usage=include_usage)

    return choose


def text_format(*, include_usage: bool) -> FormatChoice:
    """Returns a function that returns the format of `completions`, the same for all models.

    `include_usage`: as for `chat_format`.
    """

    def choose(spec: ModelSpec, request: TextGenerationRequest) -> ResponseFormat:
        return OpenAIFormat(spec, TextChoices(), include_usage=include_usage)

    return choose


def responses_format(body: Json, wrap: Wrap) -> FormatChoice:
    """Returns a function that returns the format of the Responses API.

    `body`: the request's body. `wrap`: as for `run_format`.
    """

    def choose(spec: ModelSpec, request: TextGenerationRequest) -> ResponseFormat:
        return ResponsesFormat(spec, body, wrap)

    return choose


def tensor_format(echo: str) -> FormatChoice:
    """Returns a function that returns the format with tensors. `echo`: as for TensorFormat."""

    def choose(spec: ModelSpec, request: TextGenerationRequest) -> ResponseFormat:
        return TensorFormat(echo)

    return choose


def _chat_choices(spec: ModelSpec) -> Choices:
    traits = spec.traits
    if traits.form != "choices":
        # llama-3.3 has the key, and qwq-32b has not [measured, 2026-09]; retired models had no such
        # key [recorded, 2024].
        is_in_text = traits.thinking == "in_text"
        has_reasoning = not is_in_text and spec.retired_on is None
        return LlamaChoices(has_reasoning=has_reasoning, has_numbers=traits.parses_texts)
    return SglangChoices() if traits.server == "sglang" else VllmGatewayChoices(spec)
