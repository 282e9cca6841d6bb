"""Tests that completions of the stand-in model conform to the JSON schemas of their grammars."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema_rs
import pytest
from workers_ai_emulator.engine.engine import Engine
from workers_ai_emulator.engine.grammar import CompiledGrammar
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import FinishReason, SamplingParams
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.settings import Settings

MAX_TOKENS = 100
PROMPT = (
    "<|im_start|>user\nDescribe a person, a trip or a product as JSON.<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def record(properties: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Returns the schema of an object with only these properties, which it must have."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **others,
    }


WORD: dict[str, Any] = {"type": "string", "minLength": 1, "maxLength": 12}
PERSON = record({"name": WORD, "age": {"type": "integer", "minimum": 0, "maximum": 120}})
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": PERSON,
    "nested": record({"person": PERSON, "home": record({"city": WORD, "zip": WORD})}),
    "enum": record({"size": {"enum": ["small", "medium", "large", 4, None]}}),
    "const": record({"version": {"const": 2}, "kind": {"const": 'a "quoted" é'}, "name": WORD}),
    "items": {"type": "array", "items": WORD, "minItems": 2, "maxItems": 4},
    "no items": {"type": "array", "maxItems": 0},
    "tuple": {"prefixItems": [WORD, {"type": "boolean"}], "items": False, "minItems": 2}
    | {"type": "array"},
    "range": {"type": "integer", "minimum": -7, "maximum": 1999},
    "exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 90},
    "optional": PERSON | {"required": ["age"]},
    "pattern": record({"id": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"}}),
    "date": record({"day": {"type": "string", "format": "date"}}),
    "formats": record(
        {
            "at": {"type": "string", "format": "date-time"},
            "id": {"type": "string", "format": "uuid"},
            "ip": {"type": "string", "format": "ipv4"},
        }
    ),
    "anyOf": {"anyOf": [PERSON, {"type": "array", "items": PERSON, "maxItems": 2}]},
    "types": record({"value": {"type": ["integer", "null", "boolean"]}}),
    "reference": {"$ref": "#/$defs/pair", "$defs": {"pair": record({"a": WORD, "b": WORD})}},
    "recursion": record({"value": WORD, "next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}}),
    "other properties": {"type": "object", "additionalProperties": {"type": "integer"}},
    "allOf": {
        "allOf": [
            {"type": "object", "properties": {"a": WORD}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
    },
    "anything": {"type": "object"},
}
PARAMS = {
    "temperature 0": SamplingParams(max_tokens=MAX_TOKENS, temperature=0.0),
    "seed 1": SamplingParams(max_tokens=MAX_TOKENS, temperature=1.0, seed=1),
    "seed 2": SamplingParams(
        max_tokens=MAX_TOKENS, temperature=1.0, top_k=40, seed=2, repetition_penalty=1.2
    ),
}
CASES = [(schema, params) for schema in SCHEMAS for params in PARAMS]
Results = dict[tuple[str, str], tuple[str, FinishReason | None]]


def new_engine(*, drafts: bool) -> Engine:
    settings = Settings()
    store = Store(settings.models_dir, num_threads=settings.threads)
    weights = store.weights(CATALOG["@cf/meta/llama-2-7b-chat-int8"])
    runner = LlamaRunner(
        LlamaModel(weights.path),
        num_slots=16,
        context_length=256,
        batch_length=256,
        num_threads=settings.threads,
    )
    return Engine(runner, queue_size=len(CASES), tiling=Tiling(), drafts=drafts)


def compile_schema(engine: Engine, schema: dict[str, Any]) -> CompiledGrammar:
    compact = schema | {"x-guidance": {"whitespace_flexible": False}}
    return engine.compile(f"start: %json {json.dumps(compact)}")


async def complete(engine: Engine, case: tuple[str, str]) -> tuple[str, FinishReason | None]:
    schema, params = case
    grammar = await asyncio.to_thread(compile_schema, engine, SCHEMAS[schema])
    prompt = engine.vocabulary.tokenize(PROMPT, parse_special=True)
    generation = engine.submit(prompt, PARAMS[params], grammar=grammar)
    text = "".join([chunk.text async for chunk in generation])
    return text, generation.finish_reason


async def complete_together() -> Results:
    """Completes all cases, 16 at a time."""
    engine = new_engine(drafts=True)
    try:
        completions = await asyncio.gather(*(complete(engine, case) for case in CASES))
    finally:
        await engine.close()
    return dict(zip(CASES, completions, strict=True))


async def complete_alone(cases: list[tuple[str, str]], *, drafts: bool) -> Results:
    """Completes the cases one after the other."""
    engine = new_engine(drafts=drafts)
    try:
        return {case: await complete(engine, case) for case in cases}
    finally:
        await engine.close()


@pytest.fixture(scope="module")
def completions() -> Results:
    return asyncio.run(complete_together())


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_completion_conforms_to_its_schema(
    schema: str, params: str, completions: Results
) -> None:
    text, finish_reason = completions[schema, params]
    if finish_reason is FinishReason.LENGTH:
        assert schema in ("recursion", "other properties", "anything", "allOf", "exclusive"), text
        return
    assert finish_reason is FinishReason.STOP
    value = json.loads(text)
    validator = jsonschema_rs.validator_for(SCHEMAS[schema], validate_formats=True)
    assert validator.is_valid(value), text


@pytest.mark.parametrize("drafts", [True, False])
def test_a_completion_is_the_same_alone_and_with_15_others(
    drafts: bool, completions: Results
) -> None:
    cases = [(schema, p) for schema in ("nested", "recursion") for p in PARAMS]
    alone = asyncio.run(complete_alone(cases, drafts=drafts))
    assert alone == {case: completions[case] for case in cases}


def test_seeds_give_different_completions(completions: Results) -> None:
    assert len({completions["nested", params][0] for params in PARAMS}) == len(PARAMS)
