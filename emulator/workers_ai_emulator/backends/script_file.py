"""Reads the rules of the backend `scripted` from a YAML or JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from workers_ai_emulator.backends.rules import Rule, parse_rules
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import TextUnreadable, one_line, read_small_text
from workers_ai_emulator.wire.validation import bounded, shown

# PyYAML's loader in C is ten times as fast as its loader in Python.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE_TAG = "tag:yaml.org,2002:merge"
_MAX_FILE_BYTES = 4 * 2**20
_MAX_DEPTH = 100  # the maximum depth of nested lists and mappings in a YAML file
# The maximum number of events that PyYAML's parser returns for a YAML file. Each value is one
# event. The start and the end of a list or mapping are one event each.
_MAX_EVENTS = 400_000


def read_rules(path: Path) -> list[Rule]:
    """Reads rules from a YAML or JSON file.

    Raises SettingInvalid if the file cannot be read or contains mistakes. The text of the error has
    one line per mistake.
    """
    name = one_line(str(path))
    try:
        value = _load(read_small_text(path, max_bytes=_MAX_FILE_BYTES))
        # A text is an answer in a request, but a whole file that is one text is no script.
        return parse_rules(None if isinstance(value, str) else value)
    except TextUnreadable as error:
        raise SettingInvalid(f"--script: cannot read {error}") from error
    except yaml.YAMLError as error:
        raise SettingInvalid(f"--script: cannot read {name}: {bounded(str(error))}") from error
    except RecursionError as error:
        raise SettingInvalid(f"--script: cannot read {name}: it is nested too deep") from error
    except ValueError as error:
        lines = [f"--script: {name}: {bounded(line)}" for line in str(error).splitlines()]
        raise SettingInvalid("\n".join(lines)) from error


class _Loader(_SafeLoader):  # type: ignore[misc] # the base class is chosen at run time
    """PyYAML's safe loader, which also limits merged mappings, and refuses further mistakes.

    YAML's merge key `<<` copies the keys of other mappings. With aliases, a small file could copy
    the same keys millions of times. So this loader keeps each key of a merged mapping only once.

    Raises ConstructorError for a key that a mapping has twice, and for a value that its tag, such
    as `!!int`, does not allow.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        # PyYAML raises these errors for example for `!!int x`, `!!bool x` and `!!timestamp x`.
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            kind = str(node.tag).rpartition(":")[2]
            value = shown(node.value) if isinstance(node, yaml.ScalarNode) else "this value"
            raise ConstructorError(None, None, f"no {kind}: {value}", node.start_mark) from error

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        _check_keys(node)
        super().flatten_mapping(node)
        node.value = list({_name(key): (key, value) for key, value in node.value}.values())


def _check_keys(node: yaml.MappingNode) -> None:
    """Raises ConstructorError if a mapping has a key twice. The merge key `<<` may occur twice."""
    names: set[Any] = set()
    for key, _ in node.value:
        if (name := _name(key)) in names and key.tag != _MERGE_TAG:
            raise ConstructorError(
                None, None, f"the key {shown(key.value)} occurs twice", key.start_mark
            )
        names.add(name)


def _name(key: yaml.Node) -> Any:
    """Returns a value that is equal for equal keys, if they are scalars."""
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key


def _load(text: str) -> Any:
    """Returns the value of a YAML text.

    Raises YAMLError if the text is not valid YAML, RecursionError if it is nested too deep, and
    ValueError if it has too many values.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise RecursionError
        if number > _MAX_EVENTS:
            raise ValueError("it has too many values")
    return yaml.load(text, Loader=_Loader)
