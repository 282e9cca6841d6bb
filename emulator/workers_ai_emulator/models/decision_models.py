"""The decision models of the service: how it treats them, and the stand-in for their weights.

The models' published entries and JSON schemas are in the folder `models/cards/`. llama.cpp does not
support their decision heads, so an embedding model takes their place.
"""

from __future__ import annotations

from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.embedding_traits import EmbeddingTraits
from workers_ai_emulator.models.family import Family
from workers_ai_emulator.models.licenses import APACHE
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ModelSpec, weights_file

_FAMILY = Family("families/decisions-clef.json")
_TRAITS = EmbeddingTraits("decisions", 0, Pooling.MEAN, max_tokens=65_536)


def _model(short_name: str, usd: float) -> ModelSpec:
    """Returns the spec of a model. `usd`: its price per million input tokens [documented]."""
    name = f"@cf/cloudflare/{short_name}"
    return ModelSpec(
        name,
        weights_file(name, None),
        license=APACHE,
        stand_in="F16",
        family=_FAMILY,
        price=Price.in_usd(usd, 0),
        card_file=f"{short_name}.json",
        embedding=_TRAITS,
    )


DECISION_MODELS = (_model("clef", 0.24), _model("clef-flash", 0.09))
