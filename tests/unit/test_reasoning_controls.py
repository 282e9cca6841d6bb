"""Tests which reasoning efforts, switches and sampling limits each model of the service has."""

from __future__ import annotations

from typing import Any

import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.tasks.text_generation import parse
from workers_ai_emulator.wire.errors import REFUSED_BY_ENGINE, WireError

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
DEEPSEEK = "@cf/deepseek-ai/deepseek-v4-flash-0731"
GLM = "@cf/zai-org/glm-5.3"
KIMI = "@cf/moonshotai/kimi-k2.6"


def variables(model: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}]
    return dict(parse({"messages": messages} | body, CATALOG[model]).template_variables)


def refusal(model: str, **body: Any) -> str:
    with pytest.raises(WireError) as raised:
        variables(model, **body)
    assert raised.value.type is REFUSED_BY_ENGINE
    return raised.value.message


# In the order of EFFORTS: what the weights get, "off" for no reasoning, or None for an error.
@pytest.mark.documented
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (DEEPSEEK, ("off", "low", "low", "high", "high", "high", "high")),
        (
            "@cf/deepseek-ai/deepseek-v4-pro-0813",
            ("off", "low", "low", "high", "high", "high", "high"),
        ),
        (GLM, ("high", "high", "low", "high", "high", "high", "high")),
        ("@cf/zai-org/glm-5.3-flash", ("high", "high", "low", "high", "high", "high", "high")),
        ("@cf/qwen/qwen3.8-27b", ("off", None, "low", "medium", "high", "high", "high")),
        (KIMI, ("off", None, "high", "high", "high", None, "high")),
        ("@cf/google/gemma-4-26b-a4b-it", ("off", None, "low", "medium", "high", None, "high")),
    ],
)
def test_a_model_has_the_efforts_of_its_card(model: str, expected: tuple[str | None, ...]) -> None:
    for effort, result in zip(EFFORTS, expected, strict=True):
        if result is None:
            assert f"'input': '{effort}'" in refusal(model, reasoning_effort=effort)
        elif result == "off":
            assert variables(model, reasoning_effort=effort) == {"enable_thinking": False}
        else:
            given = variables(model, reasoning_effort=effort)
            assert given == {"enable_thinking": True, "reasoning_effort": result}


@pytest.mark.documented
@pytest.mark.parametrize("model", [DEEPSEEK, GLM, KIMI])
def test_the_effort_null_is_the_default_effort(model: str) -> None:
    assert variables(model, reasoning_effort=None) == {"enable_thinking": True}


def test_the_error_for_an_unknown_effort_lists_the_efforts_of_the_model() -> None:
    every = "'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or 'max'"
    assert f"Input should be {every}" in refusal(DEEPSEEK, reasoning_effort="null")
    assert "'none', 'low', 'medium', 'high' or 'max'" in refusal(KIMI, reasoning_effort="xhigh")


@pytest.mark.documented
@pytest.mark.parametrize(
    ("given", "is_on"),
    [
        ({"thinking": False}, False),
        ({"enable_thinking": False}, True),
        ({"enable_thinking": False, "thinking": True}, True),
        ({"enable_thinking": True, "thinking": False}, False),
    ],
)
def test_thinking_and_not_enable_thinking_switches_kimi_k2_6(
    given: dict[str, bool], is_on: bool
) -> None:
    assert variables(KIMI, chat_template_kwargs=given)["enable_thinking"] is is_on
    other = variables("@cf/google/gemma-4-26b-a4b-it", chat_template_kwargs=given)
    assert other["enable_thinking"] is given.get("enable_thinking", True)


def test_thinking_contradicts_the_effort_none() -> None:
    body: dict[str, Any] = {"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "none"}
    assert variables(KIMI, **body)["enable_thinking"] is True


@pytest.mark.parametrize(
    ("model", "refused", "accepted"),
    [
        ("@cf/meta/llama-3.3-70b-instruct-fp8-fast", 2.5, 2),
        ("@cf/openai/gpt-oss-120b", 5, 2.0),
        ("@cf/openai/gpt-oss-20b", 2.001, 0),
    ],
)
def test_some_models_refuse_a_temperature_above_2(
    model: str, refused: float, accepted: float
) -> None:
    variables(model, temperature=accepted)
    expected = f"temperature must be in [0, 2], got {float(refused)}."
    assert expected in refusal(model, temperature=refused)
    variables("@cf/meta/llama-3.1-8b-instruct-fp8", temperature=refused)


@pytest.mark.parametrize("top_p", [0, 0.0, -0.1, 1.5])
@pytest.mark.parametrize(
    "model",
    [
        "@cf/qwen/qwen3.8-27b",
        "@cf/nvidia/nemotron-3-120b-a12b",
        "@cf/deepseek-ai/deepseek-v4-pro-0813",
    ],
)
def test_some_models_refuse_a_top_p_that_is_not_above_0_and_at_most_1(
    model: str, top_p: float
) -> None:
    for accepted in (0.001, 1):
        variables(model, top_p=accepted)
    assert f"top_p must be in (0, 1], got {float(top_p)}." in refusal(model, top_p=top_p)
    variables(DEEPSEEK, top_p=top_p)
