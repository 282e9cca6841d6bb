"""Defines the class `ModelSpec`, which describes a model, and the two built-in models.

`models_file.py` reads the user's own models from `models.toml`.
"""

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
from workers_ai_emulator.errors import ModelUnknown
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.models.validator import Validator

DEFAULT_CONTEXT_LENGTH = 4096  # tokens: the context length of Llama 2

# Two subfolders of the models folder: one for the GGUF files that the user imports, and one for the
# GGUF files of the stand-in model.
IMPORTED_FOLDER = "imported"
STAND_IN_FOLDER = "stand-in"

# A model that the user adds in `models.toml` gets the JSON schema of this built-in model. The added
# model's entry in the response of `ai/models/search` is a copy of the built-in model's entry, with
# another id, name, description and context length.
_TEMPLATE_MODEL = "@cf/meta/llama-2-7b-chat-int8"


def default_context_length(trained: int | None) -> int:
    """Returns the context length, in tokens, of a model for which the user has set none.

    The result is 4096, or `trained` if `trained` is smaller. `trained`: the context length with
    which the model was trained; None if the model's GGUF file does not contain this number.
    """
    return min(DEFAULT_CONTEXT_LENGTH, trained or DEFAULT_CONTEXT_LENGTH)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository on a Hugging Face hub.

    `path` is the file's path in the repository. `revision` is a branch, a tag or a commit.
    """

    repo: str
    path: str
    revision: str = "main"


@dataclass(frozen=True, slots=True)
class License:
    """The licence of a model's weights.

    The user must accept the licence before `pull` downloads the weights. `notice` is the copyright
    notice that `pull` prints.
    """

    name: str
    url: str
    notice: str


@dataclass(frozen=True)
class ModelSpec:
    """A model that the server offers: its name, its weights file, and settings for this model.

    `weights_file`: an absolute path, or a path relative to the models folder. `hub_file`: the file
    that `pull` downloads; None if `pull` cannot download the model. `stand_in`: the type of the
    stand-in model's weights, such as `Q8_0`; None if no stand-in model may replace missing weights.
    `context_length` (tokens) overrides the flag `--context-length`. `chat_template`, the text of a
    Jinja template, overrides the template in the weights file. `own_defaults` maps names of request
    parameters to default values, which replace the default values in the JSON schema.
    `traits`: how the service treats the model.
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
    traits: Traits = field(default_factory=Traits)

    @cached_property
    def card(self) -> dict[str, Any]:
        """The model's entry in the response of `ai/models/search`."""
        return {key: value for key, value in self._published.items() if key != "schema"}

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schemas of the model's input and output, with the defaults in `own_defaults`."""
        schema: dict[str, Any] = deepcopy(self._published["schema"])
        for branch in schema["input"]["oneOf"]:
            for key, value in self.own_defaults.items():
                branch["properties"][key]["default"] = value
        return schema

    @property
    def author(self) -> str:
        """The part `author` of the model's name `@cf/author/model`."""
        return self.name.split("/")[1]

    @cached_property
    def validator(self) -> Validator:
        return Validator(self.schema["input"])

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The default values in the model's input schema, by the name of the request parameter."""
        return {
            key: value["default"]
            for branch in self.schema["input"]["oneOf"]
            for key, value in branch["properties"].items()
            if "default" in value
        }

    @cached_property
    def _published(self) -> dict[str, Any]:
        return _published(self.name) or _published(_TEMPLATE_MODEL) | self._own_card

    @property
    def _own_card(self) -> dict[str, Any]:
        length = self.context_length or DEFAULT_CONTEXT_LENGTH
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "name": self.name,
            "description": self.description or f"{self.weights_file.name}, served locally",
            "properties": [{"property_id": "context_window", "value": str(length)}],
        }


def find_spec(catalog: Mapping[str, ModelSpec], name: str) -> ModelSpec:
    """Returns the model `name` of a catalogue. Raises ModelUnknown if there is none."""
    if name not in catalog:
        raise ModelUnknown(
            f"no model is called {name}: `workers-ai-emulator models list` shows the names"
        )
    return catalog[name]


def _published(name: str) -> dict[str, Any]:
    """Returns a built-in model's entry in the response of `ai/models/search`.

    The key `schema` contains the model's JSON schemas. Reads the entry and the schemas from a JSON
    file in `models/cards/`. Returns an empty dict if no built-in model has the name `name`.
    """
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
