"""The models we serve, by their Workers AI names. A user's own come from `models_file.py`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.models.validator import Validator

DEFAULT_CONTEXT_LENGTH = 4096  # tokens of a sequence: Llama 2's

# The card and schema that models without published ones take after: the newest we have.
_PATTERN = "@cf/meta/llama-2-7b-chat-int8"


def default_context_length(known: int | None) -> int:
    """Tokens of a sequence where nobody names a number; `known`: what the model was trained on."""
    return min(DEFAULT_CONTEXT_LENGTH, known or DEFAULT_CONTEXT_LENGTH)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file on a Hugging Face hub. A revision that is a commit never changes."""

    repo: str
    path: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class License:
    """Terms that a user must accept before weights are downloaded."""

    name: str
    url: str
    notice: str


@dataclass(frozen=True)
class ModelSpec:
    """One model: its name, the file of its weights, and where that can be had.

    `weights_file` is relative to the folder of models, or absolute. `stand_in` is the type that the
    embedded default is converted to until there are weights: the name promises int8 or fp16, so
    that is what computes. `chat_template` replaces the one in the file; `own_defaults` replace
    those of the schema; None for `context_length` is what the server's setting says.
    """

    name: str
    weights_file: Path
    hub_file: HubFile | None = None
    license: License | None = None
    stand_in: WeightsType | None = None
    context_length: int | None = None
    chat_template: str | None = None
    description: str | None = None
    own_defaults: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def card(self) -> dict[str, Any]:
        """What `ai/models/search` shows: what Cloudflare published about it, or the like of it."""
        return {key: value for key, value in self._published.items() if key != "schema"}

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The published `input` and `output` schemas, with this model's own defaults."""
        schema: dict[str, Any] = deepcopy(self._published["schema"])
        for branch in schema["input"]["oneOf"]:
            for key, value in self.own_defaults.items():
                branch["properties"][key]["default"] = value
        return schema

    @property
    def author(self) -> str:
        """The part of the name that tells who made the model."""
        return self.name.split("/")[1]

    @cached_property
    def validator(self) -> Validator:
        return Validator(self.schema["input"])

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The schema's default of every input property that has one."""
        return {
            key: value["default"]
            for branch in self.schema["input"]["oneOf"]
            for key, value in branch["properties"].items()
            if "default" in value
        }

    @cached_property
    def _published(self) -> dict[str, Any]:
        return _published(self.name) or _published(_PATTERN) | self._own_card

    @property
    def _own_card(self) -> dict[str, Any]:
        length = self.context_length or DEFAULT_CONTEXT_LENGTH
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "name": self.name,
            "description": self.description or f"{self.weights_file.name}, served locally",
            "properties": [{"property_id": "context_window", "value": str(length)}],
        }


def _published(name: str) -> dict[str, Any]:
    """Card and schema that came with this package; empty for a name that has none."""
    path = files("workers_ai_emulator") / "models" / "cards" / f"{name.rsplit('/', 1)[-1]}.json"
    card: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return card if card.get("name") == name else {}


_LLAMA_2_LICENSE = License(
    "Llama 2 Community License",
    "https://ai.meta.com/llama/license/",
    "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. "
    "All Rights Reserved.",
)

CATALOG = {
    spec.name: spec
    for spec in (
        ModelSpec(
            "@cf/meta/llama-2-7b-chat-int8",
            Path("llama-2-7b-chat.Q8_0.gguf"),
            HubFile(
                "TheBloke/Llama-2-7B-Chat-GGUF",
                "llama-2-7b-chat.Q8_0.gguf",
                "191239b3e26b2882fb562ffccdd1cf0f65402adb",
            ),
            _LLAMA_2_LICENSE,
            "Q8_0",
        ),
        ModelSpec(
            "@cf/meta/llama-2-7b-chat-fp16",
            Path("Llama-2-7b-chat-hf-f16.gguf"),
            HubFile(
                "second-state/Llama-2-7B-Chat-GGUF",
                "Llama-2-7b-chat-hf-f16.gguf",
                "064fe43ea8c1e1f93477ef4a170bdc2b244ef02c",
            ),
            _LLAMA_2_LICENSE,
            "F16",
        ),
    )
}
