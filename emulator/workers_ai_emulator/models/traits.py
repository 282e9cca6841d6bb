"""Describes how the service treats a model: response form, tools, JSON mode and reasoning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Traits:
    """How the service treats a model.

    `form`: the response form of `ai/run`: a text in the key `response`, OpenAI's list `choices`, or
    both. `server`: for `choices`, the inference server behind the service, which decides the order
    of keys, the ids and the token counts in events [inferred from recorded responses].
    `has_tools`: whether the service offers the request's tools to the model.
    `json_mode`: how the service sends the result of JSON mode: as a JSON object, or as a text that
    contains JSON; `none` if the model has no JSON mode. `guided_json`: whether the service also
    accepts the request's key `guided_json`. `has_image`: whether the request's key `image` has an
    image for the model, which the emulator refuses.
    `thinking`: whether the model writes its reasoning before its answer. With `in_text`, the
    reasoning is part of the text. With `on` or `off`, the request may switch the reasoning on and
    off, and the value is the default. With `always`, it cannot be switched off.
    `thinking_key`: the key of `chat_template_kwargs` that switches the reasoning on and off.
    `reasoning_keys`: for vLLM, the keys of the reasoning in whole responses of OpenAI's endpoints.
    gpt-oss-120b and glm-4.7-flash have both [measured, 2026-09]; nemotron-3-120b-a12b has only
    `reasoning` [recorded, 2026-08].
    `needs_system_first`: whether a system message must be the first message.
    `max_temperature`: the highest temperature that the inference server accepts; None if it accepts
    all that the schema accepts. `refuses_top_p_0`: whether it refuses a `top_p` of 0, and any
    other that is not in (0, 1], although the schema accepts it.
    """

    form: Literal["response", "choices", "both"] = "response"
    server: Literal["vllm", "sglang"] = "vllm"
    has_tools: bool = False
    json_mode: Literal["none", "object", "text"] = "none"
    guided_json: bool = False
    has_image: bool = False
    thinking: Literal["none", "in_text", "on", "off", "always"] = "none"
    thinking_key: Literal["enable_thinking", "thinking"] = "enable_thinking"
    reasoning_keys: tuple[str, ...] = ("reasoning", "reasoning_content")
    needs_system_first: bool = False
    max_temperature: float | None = None
    refuses_top_p_0: bool = False

    @property
    def parses_texts(self) -> bool:
        """Whether texts that are JSON are sent as JSON values, such as the number 7 for `7`.

        [recorded for llama-3.3, 2026-06 to 2026-10; inferred for llama-4-scout, which sends texts]
        """
        return self.form == "both" and self.json_mode == "object"
