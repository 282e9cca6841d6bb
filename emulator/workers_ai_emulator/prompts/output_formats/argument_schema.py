"""Reads from a tool's JSON schema which arguments a call may have."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from workers_ai_emulator.prompts.output_formats.grammar import lists_all_keys

_MAX_REFERENCES = 8  # that are followed one after the other


@dataclass(frozen=True, slots=True)
class ArgumentSchema:
    """The arguments of a tool.

    `properties`: the schema of each argument that the tool's schema lists. `required`: the names of
    the arguments that a call must have. `others`: the schema of all other arguments; True if they
    may be anything, False if there may be none.
    """

    properties: Mapping[str, Any]
    required: Collection[str]
    others: Mapping[str, Any] | bool

    @staticmethod
    def of(parameters: Mapping[str, Any]) -> ArgumentSchema:
        """Returns the arguments that a tool's schema describes."""
        schema = _resolved(parameters)
        properties, required = schema.get("properties"), schema.get("required")
        return ArgumentSchema(
            properties if isinstance(properties, Mapping) else {},
            required if isinstance(required, list) else (),
            _others(schema),
        )

    def schema_of(self, name: str) -> Any:
        """Returns the schema of the argument `name`. True and False are schemas, too."""
        return self.properties.get(name, self.others)


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the schema to which `schema` refers as a whole; `schema` itself if it does not.

    Some libraries write the schema of a tool as a reference to one of its definitions. A reference
    to another document, or to itself, is not followed.
    """
    found = schema
    for _ in range(_MAX_REFERENCES):
        if "$ref" not in found or "properties" in found:
            return found
        target = _target(schema, found["$ref"])
        if not isinstance(target, Mapping):
            return found
        found = target
    return found


def _target(root: Mapping[str, Any], reference: Any) -> Any:
    """Returns the part of `root` that a reference such as `#/$defs/x` names; None if none."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    found: Any = root
    for key in unquote(reference[2:]).split("/"):
        if not isinstance(found, Mapping):
            return None
        found = found.get(key.replace("~1", "/").replace("~0", "~"))
    return found


def _others(schema: Mapping[str, Any]) -> Mapping[str, Any] | bool:
    others = schema.get("additionalProperties")
    if isinstance(others, (Mapping, bool)) and "patternProperties" not in schema:
        return others
    return not lists_all_keys(schema)
