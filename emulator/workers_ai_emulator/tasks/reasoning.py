"""Converts the parameters of a request that control the model's reasoning.

On the service, models reason by default if they can, even if the default of their chat template is
not to [recorded for Gemma 4].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers_ai_emulator.json_values import is_too_deep
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.wire.errors import refused_by_engine

# The efforts that the chat templates of local weights may have.
_EFFORTS = ("low", "medium", "high")
_ALL_EFFORTS = ("none", "minimal", *_EFFORTS, "xhigh", "max")
# SGLang accepts these for every model [recorded from kimi-k2.7-code, 2026-07-17].
_SGLANG_EFFORTS = ("none", *_EFFORTS, "max")


def template_variables(
    values: Mapping[str, Any], spec: ModelSpec, *, is_chat: bool
) -> dict[str, Any]:
    """Returns the variables for the chat template: whether and how much the model should reason.

    `is_chat`: whether the request has messages, and no prompt.

    `chat_template_kwargs` switches the reasoning off [recorded]. For models on SGLang, so does the
    `reasoning_effort` `none`, if `chat_template_kwargs` does not contradict it [documented for
    deepseek-v4 and kimi-k2.6, inferred for others], and `max` and `xhigh` are the highest effort
    [inferred]. Raises WireError for an effort that the model does not have, or if
    `chat_template_kwargs` is nested too deeply.
    """
    traits, effort = spec.traits, _effort(values)
    is_off = False
    if traits.server == "sglang":
        if is_chat:
            _check_effort(values.get("reasoning_effort"), spec)
        effort = _published_effort(effort, spec)
        is_off = effort == "none" and "reasoning_effort" in values
        effort = "high" if effort in ("xhigh", "max") else effort
    variables: dict[str, Any] = {}
    if traits.thinking != "none":
        variables["enable_thinking"] = traits.thinking != "off" and not is_off
    if isinstance(given := values.get("chat_template_kwargs"), dict):
        if is_too_deep(given):
            raise refused_by_engine("chat_template_kwargs is nested too deeply.")
        variables |= _with_enable_thinking(given, traits)
    if traits.thinking in ("always", "in_text"):
        variables["enable_thinking"] = True
    return variables | ({"reasoning_effort": effort} if effort in _EFFORTS else {})


def _with_enable_thinking(given: dict[str, Any], traits: Traits) -> dict[str, Any]:
    """Returns the variables with the model's own switch as `enable_thinking`.

    The local weights are not those of the service, and `enable_thinking` is the usual name in chat
    templates.
    """
    if traits.thinking_key == "enable_thinking":
        return given
    others = {key: value for key, value in given.items() if key != "enable_thinking"}
    is_given = traits.thinking_key in given
    return others | ({"enable_thinking": given[traits.thinking_key]} if is_given else {})


def _published_effort(effort: Any, spec: ModelSpec) -> Any:
    """Returns the effort of the model that has the effect of `effort`, according to its card."""
    aliases = spec.reasoning_controls.get("normalizes_to", {})
    return aliases.get(effort, effort) if isinstance(effort, str) else effort


def _check_effort(effort: Any, spec: ModelSpec) -> None:
    """Raises WireError if the model does not accept this value of the key `reasoning_effort`.

    A model accepts SGLang's efforts and those in its card [inferred]. The text contains the
    representation of a Python dictionary [recorded from kimi-k2.7-code, 2026-07-17, whose card has
    no efforts; the spaces at the beginning of lines from another server with SGLang, 2026-02].
    """
    controls = spec.reasoning_controls
    published = (*controls.get("supported_efforts", ()), *controls.get("normalizes_to", ()))
    accepted = [name for name in _ALL_EFFORTS if name in (*_SGLANG_EFFORTS, *published)]
    if effort is None or effort in accepted:
        return
    *names, last = (f"'{name}'" for name in accepted)
    expected = f"{', '.join(names)} or {last}"
    mistake = {
        "type": "literal_error",
        "loc": ("body", "reasoning_effort"),
        "msg": f"Input should be {expected}",
        "input": effort,
        "ctx": {"expected": expected},
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
