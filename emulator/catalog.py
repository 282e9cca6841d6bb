"""The models we serve, by their Workers AI names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from emulator.engine.types import WeightsType
from emulator.validator import Validator


@dataclass(frozen=True)
class ModelSpec:
    """One model: its name, the file of its weights, and what stands in until that is there.

    `stand_in` is the type that the embedded default is converted to: the name promises int8 or
    fp16, so that is what computes.
    """

    name: str
    weights_file: str
    stand_in: WeightsType

    @cached_property
    def card(self) -> dict[str, Any]:
        """What Cloudflare published about the model, as `ai/models/search` shows it."""
        return {key: value for key, value in self._published.items() if key != "schema"}

    @property
    def schema(self) -> dict[str, Any]:
        """The published `input` and `output` schemas."""
        schema: dict[str, Any] = self._published["schema"]
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
        path = files("emulator") / "cards" / f"{self.name.rsplit('/', 1)[-1]}.json"
        published: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return published


CATALOG = {
    spec.name: spec
    for spec in (
        ModelSpec("@cf/meta/llama-2-7b-chat-int8", "llama-2-7b-chat.Q8_0.gguf", "Q8_0"),
        ModelSpec("@cf/meta/llama-2-7b-chat-fp16", "Llama-2-7b-chat-hf-f16.gguf", "F16"),
    )
}
