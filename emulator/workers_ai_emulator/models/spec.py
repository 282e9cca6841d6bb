"""Defines the class `ModelSpec`, which describes a model, and the parts of a model spec."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.files import one_line
from workers_ai_emulator.models.embedding_traits import EmbeddingTraits
from workers_ai_emulator.models.family import Family, read_card_file, request_branches
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.task import TEXT_GENERATION, Task
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.models.validator import Validator

Json = dict[str, Any]

DEFAULT_CONTEXT_LENGTH = 4096  # tokens: the context length of Llama 2

# Two subfolders of the models folder: one for the GGUF files that the user imports, and one for the
# GGUF files of the stand-in model.
IMPORTED_FOLDER = "imported"
STAND_IN_FOLDER = "stand-in"

# Models that the user adds have the JSON schemas of `@cf/meta/llama-2-7b-chat-int8` and the price
# of `@cf/meta/llama-2-7b-chat-fp16`. They have tools and JSON mode, so that every client can use
# them.
ADDED_FAMILY = Family("llama-2-7b-chat-int8.json")
ADDED_PRICE = Price(50_505, 606_061)
ADDED_TRAITS = Traits(has_tools=True, json_mode="object")

_NAME = re.compile(r"@(cf|hf)/[^/\s]+/[^/\s]+")
# Leaves out `v1/completions` and `chat/completions`, which are parts of paths of OpenAI's API.
_OTHER_PROVIDERS_NAME = re.compile(r"(?!(?:v1|chat)/)[^@/\s][^/\s]*/[^/\s]+")
_MAX_NAME = 200  # characters


def is_model_name(name: str) -> bool:
    """Returns whether `name` has the form of a model's name, such as `@cf/author/model`."""
    return _is_printable(name) and bool(_NAME.fullmatch(name))


def is_other_providers_name(name: str) -> bool:
    """Returns whether `name` has the form `author/model`, such as `openai/gpt-4.1`.

    The service's models of other providers have such names.
    [developers.cloudflare.com/ai-gateway/usage/rest-api]
    """
    return _is_printable(name) and bool(_OTHER_PROVIDERS_NAME.fullmatch(name))


def _is_printable(name: str) -> bool:
    return len(name) <= _MAX_NAME and one_line(name) == name


def default_context_length(trained: int | None) -> int:
    """Returns the context length, in tokens, of a model for which the user has set none.

    The result is 4096, or `trained` if `trained` is smaller. `trained`: the context length with
    which the model was trained; None if the model's GGUF file does not contain this number.
    """
    return min(DEFAULT_CONTEXT_LENGTH, trained or DEFAULT_CONTEXT_LENGTH)


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file in a repository on a Hugging Face hub.

    `path` is the file's path in the repository. `revision` is a branch, a tag or a commit. `size`:
    the approximate size in bytes; None if it is unknown.
    """

    repo: str
    path: str
    revision: str = "main"
    size: int | None = None

    @property
    def is_split(self) -> bool:
        """Whether the file is one of several files that together contain the model's weights."""
        return bool(re.search(r"-\d{5}-of-\d{5}\.gguf$", self.path))


@dataclass(frozen=True, slots=True)
class License:
    """The licence of a model's weights.

    `notice`: the copyright notice that `pull` prints; may be empty. `needs_acceptance`: whether the
    user must accept the licence before `pull` downloads the weights.
    """

    name: str
    url: str
    notice: str = ""
    needs_acceptance: bool = True


def weights_file(name: str, hub_file: HubFile | None) -> Path:
    """Returns the path of a model's weights in the models folder.

    It is the file's name on the hub. If `hub_file` is None, it is derived from the model's name.
    """
    short_name = name.rpartition("/")[2]
    return Path(PurePosixPath(hub_file.path).name if hub_file else f"{short_name}.gguf")


@dataclass(frozen=True)
class ModelSpec:
    """A model that the server offers: its name, its weights file, and settings for this model.

    `weights_file`: an absolute path, or a path relative to the models folder. `hub_file`: the file
    that `pull` downloads; None if `pull` cannot download the model. `stand_in`: the type of the
    stand-in model's weights, such as `Q8_0`; None if no stand-in model may replace missing weights.
    `context_length` (tokens) overrides the flag `--context-length`. `chat_template`, the text of a
    Jinja template, overrides the template in the weights file. `own_defaults` maps names of request
    parameters to default values, which replace the default values in the JSON schema.
    `traits`: how the service treats the model. `family`: the JSON schemas of input and output.
    `price`: the neurons that a call costs. `card_file`: the file with the model's published entry
    in `ai/models/search`, in the folder `models/cards/`; None if the service does not have the
    model. `retired_on`: the day on which the service retired the model; None if it still serves
    the model. `task`: the task in the model's card. `embedding`: how the service treats a model
    that computes embeddings, ranks texts or decides; None for a model that generates text.
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
    family: Family = ADDED_FAMILY
    price: Price = ADDED_PRICE
    card_file: str | None = None
    retired_on: date | None = None
    task: Task = TEXT_GENERATION
    embedding: EmbeddingTraits | None = None

    @cached_property
    def card(self) -> Json:
        """The model's entry in the response of `ai/models/search`."""
        facts = read_card_file(self.card_file) if self.card_file else self._own_facts
        created = {"created_at": facts["created_at"]} if "created_at" in facts else {}
        return {
            "id": facts.get("id") or str(uuid.uuid5(uuid.NAMESPACE_URL, self.name)),
            "source": 1,
            "name": self.name,
            "description": facts["description"],
            "task": asdict(self.task),
            **created,
            "tags": [],
            "properties": facts["properties"],
        }

    @cached_property
    def reasoning_controls(self) -> Json:
        """The value of `reasoning_effort` in the model's card; empty if the card has none."""
        properties = self.card["properties"]
        rows = (row for row in properties if row["property_id"] == "reasoning_effort")
        controls: Json = next(rows, {"value": {}})["value"]
        return controls

    @cached_property
    def schema(self) -> Json:
        """The JSON schemas of the model's input and output, with the defaults in `own_defaults`.

        Other models may share this object, so it must not be changed.
        """
        if not self.own_defaults:
            return self.family.schema
        schema = deepcopy(self.family.schema)
        for branch in request_branches(schema["input"]):
            for key in self.own_defaults.keys() & branch["properties"].keys():
                branch["properties"][key]["default"] = self.own_defaults[key]
        return schema

    @property
    def decides(self) -> bool:
        """Whether the model answers typed questions with probabilities."""
        return self.embedding is not None and self.embedding.form == "decisions"

    @property
    def author(self) -> str:
        """The part `author` of the model's name `@cf/author/model`."""
        return self.name.split("/")[1]

    @property
    def validator(self) -> Validator:
        return self.family.validator

    @cached_property
    def defaults(self) -> Json:
        """The default values of request parameters, by the parameters' names.

        A parameter without a default value is missing, such as `max_tokens` of the models whose
        input is that of OpenAI's chat completions.
        """
        return self.family.defaults | dict(self.own_defaults)

    @property
    def _own_facts(self) -> Json:
        length = self.context_length or DEFAULT_CONTEXT_LENGTH
        if self.embedding is not None:
            length = self.embedding.max_tokens
        return {
            "description": self.description or f"{self.weights_file.name}, served locally",
            "properties": [{"property_id": "context_window", "value": str(length)}],
        }
