"""The catalogue: the built-in models, by name.

`models_file.py` adds the user's own models, which it reads from `models.toml`. The classes of a
model spec are in `spec.py`; this module also exports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from workers_ai_emulator.errors import ModelUnknown
from workers_ai_emulator.models.built_in_models import BUILT_IN_MODELS
from workers_ai_emulator.models.decision_models import DECISION_MODELS
from workers_ai_emulator.models.embedding_models import EMBEDDING_MODELS
from workers_ai_emulator.models.spec import (
    DEFAULT_CONTEXT_LENGTH,
    IMPORTED_FOLDER,
    STAND_IN_FOLDER,
    HubFile,
    License,
    ModelSpec,
    default_context_length,
)

__all__ = [
    "CATALOG",
    "DEFAULT_CONTEXT_LENGTH",
    "IMPORTED_FOLDER",
    "STAND_IN_FOLDER",
    "HubFile",
    "License",
    "ModelSpec",
    "default_context_length",
    "find_spec",
    "suggestion",
]

_MAX_SUGGESTIONS = 3

CATALOG = {spec.name: spec for spec in (*BUILT_IN_MODELS, *EMBEDDING_MODELS, *DECISION_MODELS)}


def find_spec(catalog: Mapping[str, ModelSpec], name: str) -> ModelSpec:
    """Returns the model `name` of a catalogue. Raises ModelUnknown if there is none."""
    if name not in catalog:
        raise ModelUnknown(
            f"no model is called {name}: {suggestion(catalog, name)}"
            "`workers-ai-emulator models list` shows the names"
        )
    return catalog[name]


def suggestion(catalog: Mapping[str, ModelSpec], name: str) -> str:
    """Returns a question that names similar models; empty if there are none.

    Compares the last part of the names, because users often leave out `@cf/author/`.
    """
    by_last_part = {full.rpartition("/")[2]: full for full in catalog}
    last_part = name.rpartition("/")[2].lower()
    near = [part for part in by_last_part if last_part and part.startswith(last_part)]
    near = near or get_close_matches(last_part, by_last_part, n=_MAX_SUGGESTIONS)
    names = " or ".join(by_last_part[part] for part in near[:_MAX_SUGGESTIONS])
    return f"did you mean {names}? " if names else ""
