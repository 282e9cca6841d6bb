"""The list of models in OpenAI's form, which AI Gateway's endpoint `compat/models` returns.

Cloudflare does not document this list. The keys and the units are those that models.dev reads from
the service (anomalyco/models.dev, packages/core/src/sync/providers/cloudflare-ai-gateway.ts).
"""

from __future__ import annotations

from typing import Any

from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.routes.openrouter_list import seconds_of


def entry_of(spec: ModelSpec) -> dict[str, Any]:
    """Returns the entry of a model. The order of keys and the value of `owned_by` are inferred.

    `created_at`: in seconds since 1970; 0 if the model's card has no date. `cost_in` and
    `cost_out`: in USD per token.
    """
    return {
        "id": f"workers-ai/{spec.name}",
        "object": "model",
        "created_at": seconds_of(spec.card.get("created_at")),
        "owned_by": "workers-ai",
        "cost_in": round(spec.price.prompt_usd / 1e6, 10),
        "cost_out": round(spec.price.completion_usd / 1e6, 10),
    }
