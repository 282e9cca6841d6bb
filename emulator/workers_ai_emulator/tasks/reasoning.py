"""Converts the parameters of a request that control the model's reasoning.

On the service, models reason by default if they can, even if the default of their chat template is
not to [recorded for Gemma 4].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.wire.errors import refused_by_engine

_EFFORTS = ("low", "medium", "high")
_SGLANG_EFFORTS = ("none", *_EFFORTS, "max")
_EXPECTED = "'none', 'low', 'medium', 'high' or 'max'"


def template_variables(
    values: Mapping[str, Any], traits: Traits, *, is_chat: bool
) -> dict[str, Any]:
    """Returns the variables for the chat template: whether and how much the model should reason.

    `is_chat`: whether the request has messages, and no prompt.

    `chat_template_kwargs` switches the reasoning off [recorded]. For models on SGLang, so does the
    `reasoning_effort` `none`, if `chat_template_kwargs` does not contradict it [documented for
    deepseek-v4, inferred for others], and `max` is the highest effort [inferred]. Raises WireError
    for an effort that SGLang refuses, or if `chat_template_kwargs` is nested too deeply.
    """
    effort, is_on_sglang = _effort(values), traits.server == "sglang"
    if is_on_sglang and is_chat:
        _check_effort(values.get("reasoning_effort"))
    variables: dict[str, Any] = {}
    if traits.thinking != "none":
        is_off = is_on_sglang and values.get("reasoning_effort") == "none"
        variables["enable_thinking"] = traits.thinking != "off" and not is_off
    if isinstance(given := values.get("chat_template_kwargs"), dict):
        if is_too_deep(given):
            raise refused_by_engine("chat_template_kwargs is nested too deeply.")
        variables |= given
    if traits.thinking in ("always", "in_text"):
        variables["enable_thinking"] = True
    if is_on_sglang and effort == "max":
        effort = "high"
    return variables | ({"reasoning_effort": effort} if effort in _EFFORTS else {})


def _check_effort(effort: Any) -> None:
    """Raises WireError if SGLang refuses this value of the key `reasoning_effort`.

    The text contains the representation of a Python dictionary [recorded from kimi-k2.7-code,
    2026-07-17; the spaces at the beginning of lines from another server with SGLang, 2026-02].
    """
    if effort is None or effort in _SGLANG_EFFORTS:
        return
    mistake = {
        "type": "literal_error",
        "loc": ("body", "reasoning_effort"),
        "msg": f"Input should be {_EXPECTED}",
        "input": effort,
        "ctx": {"expected": _EXPECTED},
    }
    file = "/sgl-workspace/sglang/python/sglang/srt/entrypoints/http_server.py"
    raise refused_by_engine(
        f"1 validation error:\n  {mistake}\n\n"
        f'  File "{file}", line 1592, in openai_v1_chat_completions\n'
        f"    POST /v1/chat/completions [{mistake}]",
        kind="Bad Request",
    )


def _effort(values: Mapping[str, Any]) -> Any:
    """Returns `reasoning_effort`, otherwise the key `effort` of `reasoning`, otherwise None."""
    reasoning = values.get("reasoning")
    effort = reasoning.get("effort") if isinstance(reasoning, dict) else None
    return values.get("reasoning_effort", effort)
