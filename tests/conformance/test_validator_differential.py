"""Tests with random bodies that the emulator's validator gives the same errors as Cloudflare's.

The emulator's validator is a Python port of the npm package @cloudflare/cabidela. The variables
WORKERS_AI_EMULATOR_TEST_SEED and WORKERS_AI_EMULATOR_TEST_BODIES set the seed and the number of
bodies.
"""

import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from workers_ai_emulator.models.validator import SchemaMismatch, Validator

from tests.npm import REPOSITORY, cache_folder, install, require_node
from tests.unit.test_validator import QUIRKS

pytestmark = pytest.mark.node

SEED = os.environ.get("WORKERS_AI_EMULATOR_TEST_SEED", "20250324")
NUM_BODIES = int(os.environ.get("WORKERS_AI_EMULATOR_TEST_BODIES", "1000"))
CARDS = REPOSITORY / "emulator/workers_ai_emulator/models/cards"
ORACLE = Path(__file__).with_name("cabidela_oracle.mjs")

Schema = Mapping[str, Any]
Case = tuple[int, str]  # index of a schema, and the JSON text of a body


@pytest.fixture(scope="module")
def node_modules() -> Path:
    require_node()
    return install(["@cloudflare/cabidela@0.2.4"], cache_folder())


@pytest.mark.parametrize("model", ["llama-2-7b-chat-int8", "llama-2-7b-chat-fp16"])
def test_port_and_package_agree_on_published_schemas(node_modules: Path, model: str) -> None:
    schema = json.loads((CARDS / f"{model}.json").read_text(encoding="utf-8"))["schema"]["input"]
    assert_same_results_for_random_bodies(node_modules, model, schema)


@pytest.mark.parametrize("family", sorted(path.stem for path in (CARDS / "families").iterdir()))
def test_port_and_package_agree_on_the_schemas_of_families(node_modules: Path, family: str) -> None:
    path = CARDS / "families" / f"{family}.json"
    schema = json.loads(path.read_text(encoding="utf-8"))["input"]
    assert_same_results_for_random_bodies(node_modules, family, schema)


def test_port_and_package_agree_on_random_schemas(node_modules: Path) -> None:
    random = Random(SEED)
    schemas = [write_schema(random, depth=3) for _ in range(NUM_BODIES)]
    cases = [
        (index, BodyWriter(random, KEYS).write(schema))
        for index, schema in enumerate(schemas)
        for _ in range(10)
    ]
    assert_same_results(node_modules, schemas, cases)


def test_the_package_has_the_quirks_of_the_unit_test(node_modules: Path) -> None:
    schemas = [schema for schema, _, _ in QUIRKS.values()]
    cases = [(index, body) for index, (_, body, _) in enumerate(QUIRKS.values())]
    expected = [text for _, _, text in QUIRKS.values()]
    assert results_of_package(node_modules, schemas, cases) == expected


def assert_same_results_for_random_bodies(node_modules: Path, name: str, schema: Schema) -> None:
    random = Random(f"{SEED} {name}")
    keys = KEYS + INHERITED_KEYS
    cases = [(0, BodyWriter(random, keys).write(schema)) for _ in range(NUM_BODIES)]
    assert_same_results(node_modules, [schema], cases)


def assert_same_results(
    node_modules: Path, schemas: Sequence[Schema], cases: Sequence[Case]
) -> None:
    package = results_of_package(node_modules, schemas, cases)
    validators = [Validator(schema) for schema in schemas]
    port = [result_of_port(validators[index], body) for index, body in cases]
    print(f"seed {SEED}: {len(cases)} bodies, {port.count(None)} valid, {len(set(port))} results")
    differences = [
        f"schema {schemas[index]!r:.2000}\nbody {body:.2000}\npackage {expected}\nport    {result}"
        for (index, body), expected, result in zip(cases, package, port, strict=True)
        if result != expected
    ]
    assert not differences, f"seed {SEED}: {len(differences)}\n" + "\n\n".join(differences[:3])


def result_of_port(validator: Validator, body: str) -> str | None:
    try:
        validator.validate(json.loads(body))
    except SchemaMismatch as error:
        return str(error)
    return None


def results_of_package(
    node_modules: Path, schemas: Sequence[Schema], cases: Sequence[Case]
) -> list[str | None]:
    messages = [schemas, *({"schema": index, "body": body} for index, body in cases)]
    response = subprocess.run(
        ["node", str(ORACLE), str(node_modules)],
        input="".join(json.dumps(message) + "\n" for message in messages),
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=600,
    )
    return [json.loads(line) for line in response.stdout.split("\n")[:-1]]


STRINGS = [
    *["", "a", "hi", "user", "text", "json_object", "json_schema", "true", "5", "null", "x" * 9000],
    *["function", "auto", "call_1", "a1B2c3D4e5", "data:image/png;base64,AA", "developer", "tool"],
    *["é", "\U0001f600", "\ud83d", "\ude00\ud83d", "a\u2028b", "\x00", "a\nb", "',/\"\\"],
]
NUMBERS = [
    *["0", "-0", "-0.0", "1", "-1", "1.0", "5.0", "1e2", "1.5", "0.1e1", "1E400", "-1e400"],
    *["5e-324", "9007199254740993", "123456789012345678901", "1e21", "1e-7", "0.000001"],
    *["-2.5E-9", "9" * 309, "-" + "8" * 400, "1.7976931348623159e308", "5.00000000000000000001"],
]
KEYS = [
    *["role", "content", "type", "name", "prompt", "messages", "tools", "Prompt", "prompt/", "a"],
    *["tool_calls", "function", "requests", "input", "text", "response_format"],
    *["", "0", "1", "10", "9", "01", "-1", "1.5", "4294967294", "4294967295", "99999999999"],
    *["length", "__proto__", "constructor", "toString", "valueOf", "hasOwnProperty", "é", "\ud83d"],
    *["/", "a/b", "x/type", "x/a", "a//", "b", "~1", "a b", "/a"],
]
# Keys that name members of every JavaScript object; Python's objects do not have them. The
# published schemas never look inside such members, but random schemas may.
INHERITED_KEYS = ["x/constructor", "x/toString", "x/__proto__"]


class BodyWriter:
    """Writes random JSON texts that match a schema, except for a random share of wrong values.

    Some writers write wrong values only below a random depth of the schema, because a body with
    many wrong values seldom has the deepest properties of the schema.
    """

    def __init__(self, random: Random, keys: Sequence[str]) -> None:
        self._random = random
        self._keys = keys
        self._wrong_rate = random.choice([0, 0.01, 0.03, 0.1, 0.3])
        self._wrong_depth = random.choice([0, 0, 0, 4, 8, 11])
        self._presence_rate = random.choice([0.05, 0.2, 0.5, 0.9])
        self._depth = 0

    def write(self, schema: object) -> str:
        """Returns a random JSON text for a schema, which usually matches the schema."""
        self._depth += 1
        text = self._write_value(schema)
        self._depth -= 1
        return text

    def _write_value(self, schema: object) -> str:
        if not isinstance(schema, Mapping) or self._goes_wrong():
            return self._write_anything(depth=self._random.randrange(4))
        if "oneOf" in schema or "anyOf" in schema:
            return self._write_branch(schema.get("oneOf", schema.get("anyOf")))
        if "const" in schema or "enum" in schema:
            return json.dumps(self._random.choice(schema.get("enum", [schema.get("const")])))
        match schema.get("type", "object" if "properties" in schema else "any"):
            case "object":
                return self._write_object(schema)
            case "array":
                return self._write_items(schema.get("items"))
            case "string":
                return self._write_string()
            case "number" | "integer":
                return self._write_number(schema)
            case "boolean":
                return self._random.choice(["true", "false"])
        return self._write_anything(depth=2)

    def _goes_wrong(self) -> bool:
        return self._depth > self._wrong_depth and self._random.random() < self._wrong_rate

    def _write_branch(self, branches: Sequence[object]) -> str:
        schemas = [branch for branch in branches if isinstance(branch, Mapping)]
        if schemas and self._goes_wrong():  # the properties of all branches together
            parts = [schema.get("properties", {}) for schema in schemas]
            return self._write_object({"properties": dict(kv for p in parts for kv in p.items())})
        return self.write(self._random.choice(branches or [None]))

    def _write_object(self, schema: Schema) -> str:
        members = [
            (key, self.write(subschema))
            for key, subschema in schema.get("properties", {}).items()
            if key in schema.get("required", ()) or self._random.random() < self._presence_rate
        ]
        members = [member for member in members if not self._goes_wrong()]
        while self._random.random() < (0.6 if "additionalProperties" in schema else 0.3):
            other = self.write(schema.get("additionalProperties"))
            members.append((self._random.choice(self._keys), other))
        self._random.shuffle(members)
        if self._goes_wrong():  # a list instead of an object
            return f"[{','.join(text for _, text in members)}]"
        return self._write_members(members)

    def _write_members(self, members: Sequence[tuple[str, str]]) -> str:
        return "{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in members) + "}"

    def _write_items(self, items: object) -> str:
        texts = [self.write(items) for _ in range(self._random.choice([0, 1, 1, 1, 2, 3]))]
        if self._goes_wrong():  # an object instead of a list
            return self._write_members([(self._random.choice(self._keys), text) for text in texts])
        return f"[{','.join(texts)}]"

    def _write_string(self) -> str:
        return json.dumps(self._random.choice(STRINGS), ensure_ascii=self._random.random() < 0.5)

    def _write_number(self, schema: Schema) -> str:
        low, high = schema.get("minimum", -100), schema.get("maximum", 100)
        if self._goes_wrong():
            return self._random.choice(NUMBERS)
        if self._goes_wrong():
            limit = float(self._random.choice([low, high]))
            around = [math.nextafter(limit, -math.inf), math.nextafter(limit, math.inf)]
            return repr(self._random.choice([limit, limit - 1, limit + 1, *around]))
        if schema["type"] == "integer":
            return str(self._random.randint(math.ceil(low), max(math.ceil(low), math.floor(high))))
        return repr(self._random.uniform(low, high))

    def _write_anything(self, depth: int) -> str:
        items = [self._write_anything(depth - 1) for _ in range(self._random.randrange(4) * depth)]
        members = [(self._random.choice(self._keys), item) for item in items]
        return self._random.choice(
            [
                *["null", "true", "false", self._write_string(), self._random.choice(NUMBERS)],
                *["[" * 300 + "null" + "]" * 300, "{}", "[[],[]]"],
                *[f"[{','.join(items)}]", self._write_members(members)] * 2,
            ]
        )


def write_schema(random: Random, depth: int) -> Any:
    """Returns a random schema, with keywords that the emulator's validator supports.

    Omits keywords whose meaning the npm package changes. `depth`: how many levels of schemas may be
    nested.
    """
    names = ["a", "b", "length", "10", "0", "a/b", ""]
    parts = [write_schema(random, depth - 1) for _ in range(3)] if depth else [{}, True, {}]
    schemas: list[Any] = [
        {},
        random.choice([True, False, {"type": ["string"]}, {"items": {}}]),
        {"const": random.choice([1, 1.5, True, None, "a", "5", [], {}])},
        {"enum": random.choice([[1, "a", None], [True, 1e21, "é"], [[], {}, [1, [None, 2.0]]]])},
        {"type": "string", "minLength": random.randint(0, 3), "maxLength": random.randint(0, 3)},
        {"type": "string", "pattern": random.choice(["^a$", "a", "[$]", "(", "b\\$"])},
        {"type": "number", "minimum": random.choice([-1, 0, 1e-7]), "maximum": 5e22},
        {"type": "integer", "exclusiveMinimum": -5, "exclusiveMaximum": random.choice([5, 7.5])},
        {"type": random.choice(["boolean", "null", "array", "binary"])},
        {"enum": [1, "a", True], "type": random.choice(["integer", "string"])},
    ]
    if not depth:
        return random.choice(schemas)
    closed = {
        keyword: random.choice([False, True, {}, parts[2]])
        for keyword in ["additionalProperties", "unevaluatedProperties"]
        if random.random() < 0.3
    }
    properties = dict(zip(random.sample(names, 2), parts, strict=False))
    limits = {
        keyword: random.randint(0, 2)
        for keyword in ["minProperties", "maxProperties"]
        if random.random() < 0.1
    }
    required = {"required": random.sample(names, 2)} if random.random() < 0.3 else {}
    types = {"type": random.choice(["object", "array", "string"])} if random.random() < 0.5 else {}
    schemas += [
        *[{"type": "array", "items": parts[0]}] * 3,
        *[{**types, "oneOf": random.sample(parts, random.randint(0, 3))}] * 5,
        *[{**types, "anyOf": random.sample(parts, random.randint(0, 3))}] * 5,
        {"oneOf": parts[:2], "anyOf": parts[2:]},
        *[{**types, "properties": properties, **required, **closed, **limits}] * 5,
        {"type": "object", **closed, **required, **limits},
    ]
    return random.choice(schemas)
