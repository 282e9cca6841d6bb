"""The list of models in OpenRouter's form, `ai/models/search?format=openrouter`.

Cloudflare's documentation does not contain this form. The keys, the texts of the prices and the
features are those that two clients read from the service: can1357/oh-my-pi (pull request 12509) and
anomalyco/models.dev (packages/core/src/sync/providers/cloudflare-workers-ai.ts).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from workers_ai_emulator.models.catalog import DEFAULT_CONTEXT_LENGTH, ModelSpec
from workers_ai_emulator.models.family import request_branches
from workers_ai_emulator.models.traits import Traits

Json = dict[str, Any]

_AUTHORS = {"deepseek-ai": "DeepSeek", "moonshotai": "MoonshotAI", "openai": "OpenAI"}
_SAMPLING_PARAMETERS = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
)


def entry_of(spec: ModelSpec) -> Json:
    """Returns the entry of a model that generates text.

    The display name, the sampling parameters and the order of keys are inferred. `created` is 0 if
    the model's card has no date. `reasoning` is missing if the card has no `reasoning_effort`.
    """
    properties = {row["property_id"]: row["value"] for row in spec.card["properties"]}
    context_length = int(properties.get("context_window", DEFAULT_CONTEXT_LENGTH))
    reasoning = _reasoning(spec)
    return {
        "id": spec.name,
        "name": _display_name(spec),
        "created": seconds_of(spec.card.get("created_at")),
        "input_modalities": ["text", "image"] if properties.get("vision") == "true" else ["text"],
        "output_modalities": ["text"],
        "context_length": context_length,
        "max_output_length": context_length,
        "pricing": _pricing(spec, properties),
        "supported_sampling_parameters": _sampling_parameters(spec),
        "supported_features": _features(spec.traits),
        **({"reasoning": reasoning} if reasoning else {}),
    }


def _display_name(spec: ModelSpec) -> str:
    author = _AUTHORS.get(spec.author, spec.author.title())
    return f"{author}: {spec.name.rpartition('/')[2].replace('-', ' ').title()}"


def _reasoning(spec: ModelSpec) -> Json:
    """Returns the model's reasoning controls; empty if its card has none.

    They are equal to those of the card [recorded for glm-4.7-flash, 2026-09-19], without the
    efforts that stand for other efforts, for which OpenRouter has no key [inferred].
    """
    controls = spec.reasoning_controls
    return {key: value for key, value in controls.items() if key != "normalizes_to"}


def seconds_of(created_at: str | None) -> int:
    """Converts a card's date, which is in UTC, to seconds since 1970."""
    if created_at is None:
        return 0
    return int(datetime.fromisoformat(created_at).replace(tzinfo=UTC).timestamp())


def _pricing(spec: ModelSpec, properties: Mapping[str, Any]) -> Json:
    """Returns the prices in USD per token, as texts with ten decimal places."""
    pricing = {
        "prompt": _per_token(spec.price.prompt_usd),
        "completion": _per_token(spec.price.completion_usd),
    }
    for row in properties.get("price", ()):
        if row["unit"] == "per M cached input tokens":
            pricing["input_cache_read"] = _per_token(row["price"])
    return pricing


def _per_token(usd_per_million: float) -> str:
    return f"{usd_per_million / 1_000_000:.10f}"


def _sampling_parameters(spec: ModelSpec) -> list[str]:
    names = {
        name
        for branch in request_branches(spec.family.schema["input"])
        for name in branch["properties"]
    }
    return [name for name in _SAMPLING_PARAMETERS if name in names]


def _features(traits: Traits) -> list[str]:
    # The service lists no features for llama-guard-3-8b, which has JSON mode but no tools.
    has_json_mode = traits.json_mode != "none" and traits.has_tools
    return [
        *(("structured_outputs", "json_mode") if has_json_mode else ()),
        *(("tools",) if traits.has_tools else ()),
        *(("reasoning",) if traits.thinking != "none" else ()),
    ]
