"""Builds requests for servers with OpenAI's API. Does no I/O."""

from __future__ import annotations

from workers_ai_emulator.backends.openai_api import Json
from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.prompts.chat import wrap_prompt
from workers_ai_emulator.prompts.messages import Message, parse_flattened, parse_llama2
from workers_ai_emulator.tasks.text_generation import TextGenerationRequest


def streaming_request(request: TextGenerationRequest, model: str) -> tuple[str, Json]:
    """Converts a Workers AI request to an OpenAI request: returns its path and its body.

    The OpenAI request asks for a stream. If the Workers AI request sets `raw`, its prompt is sent
    unchanged to `/completions`. Any other prompt is converted to messages, as Workers AI converts
    it, and sent to `/chat/completions`.
    """
    if request.prompt is not None and request.raw and not request.is_flattened:
        return "/completions", {"model": model, "prompt": request.prompt} | _options(request.params)
    messages = [{"role": m.role, "content": m.content} for m in _messages(request)]
    return "/chat/completions", {"model": model, "messages": messages} | _options(request.params)


def _messages(request: TextGenerationRequest) -> list[Message]:
    if request.prompt is None:
        return request.messages
    if request.is_flattened:
        return parse_flattened(request.prompt) or [Message("user", request.prompt)]
    return parse_llama2(request.prompt) or wrap_prompt(request.prompt)


def _options(params: SamplingParams) -> Json:
    """Returns the sampling parameters and stream options as keys of an OpenAI request.

    Omits parameters that are unset or have no effect, because some servers reject keys that they do
    not support, such as `top_k`. The repetition penalty has two keys: vLLM reads
    `repetition_penalty`, and llama.cpp's servers read `repeat_penalty`.
    """
    options: Json = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": params.seed,
        "frequency_penalty": params.frequency_penalty or None,
        "presence_penalty": params.presence_penalty or None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if params.repetition_penalty not in (0, 1):
        options["repetition_penalty"] = options["repeat_penalty"] = params.repetition_penalty
    return {key: value for key, value in options.items() if value is not None}
