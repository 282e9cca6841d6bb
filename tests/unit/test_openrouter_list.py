"""Tests the list of models in OpenRouter's form."""

from __future__ import annotations

import pytest
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.routes.openrouter_list import entry_of

TOOLS = ["structured_outputs", "json_mode", "tools"]


# The prices and features of gpt-oss-120b, llama-guard and kimi (there version 2.7) are those of the
# service [github.com/can1357/oh-my-pi/pull/12509].
@pytest.mark.parametrize(
    ("model", "prompt", "completion", "features"),
    [
        ("@cf/openai/gpt-oss-120b", "0.0000003500", "0.0000007500", [*TOOLS, "reasoning"]),
        ("@cf/meta/llama-guard-3-8b", "0.0000004840", "0.0000000300", []),
        ("@cf/moonshotai/kimi-k2.6", "0.0000009500", "0.0000040000", [*TOOLS, "reasoning"]),
        ("@cf/ibm-granite/granite-4.0-h-micro", "0.0000000170", "0.0000001117", ["tools"]),
    ],
)
def test_prices_are_usd_per_token_and_features_come_from_the_traits(
    model: str, prompt: str, completion: str, features: list[str]
) -> None:
    entry = entry_of(CATALOG[model])
    pricing = entry["pricing"]
    assert (pricing["prompt"], pricing["completion"]) == (prompt, completion)
    assert entry["supported_features"] == features


def test_the_entry_contains_the_facts_of_the_card() -> None:
    entry = entry_of(CATALOG["@cf/moonshotai/kimi-k2.6"])
    assert entry["name"] == "MoonshotAI: Kimi K2.6"
    assert entry["created"] == 1776649235
    assert entry["input_modalities"] == ["text", "image"]
    assert entry["context_length"] == entry["max_output_length"] == 262144
    assert entry["pricing"]["input_cache_read"] == "0.0000001600"


@pytest.mark.recorded
def test_the_reasoning_controls_are_those_of_the_card() -> None:
    controls = {"mandatory": False, "default_enabled": True}
    assert entry_of(CATALOG["@cf/zai-org/glm-4.7-flash"])["reasoning"] == controls


@pytest.mark.parametrize(
    ("model", "efforts"),
    [
        ("@cf/zai-org/glm-5.3-flash", ["max", "high", "low"]),
        ("@cf/moonshotai/kimi-k2.6", ["high", "none"]),
        ("@cf/moonshotai/kimi-k2.7-code", None),
    ],
)
def test_the_reasoning_controls_list_no_efforts_that_stand_for_others(
    model: str, efforts: list[str] | None
) -> None:
    controls = entry_of(CATALOG[model])["reasoning"]
    assert controls.get("supported_efforts") == efforts
    assert "normalizes_to" not in controls


def test_a_card_without_reasoning_controls_has_none_in_the_list() -> None:
    assert "reasoning" not in entry_of(CATALOG["@cf/nvidia/nemotron-3-120b-a12b"])


def test_a_card_without_a_date_has_the_date_0() -> None:
    assert entry_of(CATALOG["@cf/meta/llama-3.2-1b-instruct"])["created"] == 0
