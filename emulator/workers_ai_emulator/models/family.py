"""The JSON schemas and the validator that the models of one family share."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from workers_ai_emulator.models.validator import Validator

Json = dict[str, Any]


def read_card_file(name: str) -> Json:
    """Returns the JSON object in the file `name` of the folder `models/cards/`."""
    path = files("workers_ai_emulator").joinpath("models", "cards", *name.split("/"))
    card: Json = json.loads(path.read_text("utf-8"))
    return card


@dataclass(frozen=True)
class Family:
    """Models whose input and output have the same JSON schemas.

    `file`: the JSON file with the schemas, in the folder `models/cards/`. The file of a family with
    only one model also contains the model's card. The file is read when a schema is first needed.
    """

    file: str

    @property
    def name(self) -> str:
        return self.file.rpartition("/")[2].removesuffix(".json")

    @cached_property
    def schema(self) -> Json:
        """The JSON schemas of the input and the output, under the keys `input` and `output`.

        All models of the family share this object, so it must not be changed.
        """
        content = read_card_file(self.file)
        schema: Json = content.get("schema", content)
        return schema

    @cached_property
    def validator(self) -> Validator:
        return Validator(self.schema["input"])

    @cached_property
    def defaults(self) -> Json:
        """The default values in the input schema, by the name of the request parameter."""
        return {
            key: value
            for branch in request_branches(self.schema["input"])
            for key, schema in branch["properties"].items()
            for value in _defaults(schema)
        }


class OpenAIFamily(Family):
    """The family of another provider's models, whose messages are OpenAI's.

    Has the schemas of gpt-oss, but an assistant's message may have the content null or none, as a
    message with tool calls has.
    """

    def __init__(self) -> None:
        super().__init__("families/gpt-oss.json")

    @cached_property
    def schema(self) -> Json:
        schema = read_card_file(self.file)
        for branch in request_branches(schema["input"]):
            if messages := branch["properties"].get("messages"):
                messages["items"] = {"anyOf": [messages["items"], _assistant(messages["items"])]}
        return schema


def _assistant(message: Json) -> Json:
    """Returns the schema of an assistant's message. `message`: the schema of any message."""
    assistant = copy.deepcopy(message)
    assistant["required"] = ["role"]
    assistant["properties"]["role"]["enum"] = ["assistant"]
    assistant["properties"]["content"]["oneOf"].append({"type": "null"})
    return assistant


def request_branches(schema: Json) -> Iterator[Json]:
    """Yields the parts of an input schema that describe one request with a prompt or messages.

    Leaves out the schemas of batches, which contain a list of requests.
    """
    properties = schema.get("properties", {})
    if "prompt" in properties or "messages" in properties:
        yield schema
    for keyword in ("oneOf", "anyOf"):
        for branch in schema.get(keyword, ()):
            yield from request_branches(branch)


def _defaults(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the default values of a property. The last one counts: that outside of `anyOf`."""
    for part in (*schema.get("anyOf", ()), schema):
        if part.get("default") is not None:
            yield part["default"]
