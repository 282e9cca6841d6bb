"""Tests with 16 clients that JSON mode and required tool calls give valid JSON, in every form.

The variable WORKERS_AI_EMULATOR_TEST_RESPONSES sets the number of responses in JSON mode. A fifth
of this number of tool calls is tested, too.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.e2e.test_grammars import SCHEMAS
from tests.server import ServerProcess

NUM_RESPONSES = int(os.environ.get("WORKERS_AI_EMULATOR_TEST_RESPONSES", "60"))
NUM_CLIENTS = 16
MODELS = (
    "@cf/meta/llama-3.3-70b-instruct-fp8-fast",  # both forms, with a JSON value
    "@cf/mistralai/mistral-small-3.1-24b-instruct",  # the form `response`, with a JSON text
    "@cf/qwen/qwen3-30b-a3b-fp8",  # the form `choices`, as vLLM writes it
    "@cf/google/gemma-4-26b-a4b-it",  # the form `choices`, as SGLang writes it
)
PROMPT = "Describe a person, a trip or a product as JSON."


@dataclass(frozen=True)
class Case:
    """A request for a completion that must conform to a schema of `SCHEMAS`."""

    number: int

    @property
    def model(self) -> str:
        return MODELS[self.number % len(MODELS)]

    @property
    def schema(self) -> dict[str, Any]:
        return list(SCHEMAS.values())[self.number % len(SCHEMAS)]

    @property
    def body(self) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 200,
            "seed": self.number + 1,
            "temperature": (0, 0.6, 1)[self.number % 3],
        }

    @property
    def json_body(self) -> dict[str, Any]:
        is_mistral = "mistral" in self.model
        mode = {"type": "json_schema", "json_schema": {"name": "answer", "schema": self.schema}}
        own = {"guided_json": self.schema} if is_mistral else {"response_format": mode}
        return self.body | own

    @property
    def tool_body(self) -> dict[str, Any]:
        function = {"name": "note", "description": "Notes a record.", "parameters": self.parameters}
        tools = [{"type": "function", "function": function}]
        return self.body | {"tools": tools, "tool_choice": "required"}

    @property
    def parameters(self) -> dict[str, Any]:
        """The schema as a property. Schemas with `$ref` are left out: they refer to the root."""
        schemas = [schema for schema in SCHEMAS.values() if "$ref" not in json.dumps(schema)]
        return {
            "type": "object",
            "properties": {"record": schemas[self.number % len(schemas)]},
            "required": ["record"],
            "additionalProperties": False,
        }


def results(server: ServerProcess, cases: list[Case], *, tools: bool) -> list[dict[str, Any]]:
    """Sends the requests from 16 clients. Returns the body of each response."""

    def send(case: Case) -> dict[str, Any]:
        body = case.tool_body if tools else case.json_body
        response = httpx.post(server.run_url(case.model), json=body, headers=AUTH, timeout=300)
        content: dict[str, Any] = response.json()
        return {"status": response.status_code} | content

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        return list(pool.map(send, cases))


AUTH = {"authorization": "Bearer test"}


def value_of(result: dict[str, Any]) -> Any:
    """Returns the JSON value in the result of a request in JSON mode."""
    if "choices" in result:
        return json.loads(result["choices"][0]["message"]["content"])
    response = result["response"]
    return json.loads(response) if isinstance(response, str) else response


def is_cut(body: dict[str, Any]) -> bool:
    """Returns whether `max_tokens` has ended the completion, as the model's form says it."""
    if body["status"] == 403:
        return bool(body["errors"][0]["code"] == 5024)
    result = body["result"]
    if "choices" in result:
        return bool(result["choices"][0]["finish_reason"] == "length")
    return bool(result["usage"]["completion_tokens"] == 200)


@pytest.mark.inferred
def test_json_mode_gives_json_of_the_schema_with_16_clients(server: ServerProcess) -> None:
    cases = [Case(number) for number in range(NUM_RESPONSES)]
    num_cut = 0
    for case, body in zip(cases, results(server, cases, tools=False), strict=True):
        if is_cut(body):
            num_cut += 1
            continue
        assert body["status"] == 200, body
        value = value_of(body["result"])
        jsonschema_rs.validator_for(case.schema, validate_formats=True).validate(value)
    assert num_cut < NUM_RESPONSES / 5


@pytest.mark.inferred
def test_required_tool_calls_are_valid_with_16_clients(server: ServerProcess) -> None:
    cases = [Case(number) for number in range(NUM_RESPONSES // 5)]
    num_cut = 0
    for case, body in zip(cases, results(server, cases, tools=True), strict=True):
        assert body["status"] == 200, body
        if is_cut(body):
            num_cut += 1
            continue
        (arguments,) = arguments_of(body["result"])
        validator = jsonschema_rs.validator_for(case.parameters, validate_formats=True)
        validator.validate(arguments)
    assert num_cut < NUM_RESPONSES / 25


def arguments_of(result: dict[str, Any]) -> list[Any]:
    """Returns the arguments of all tool calls in a result."""
    if "choices" in result:
        calls = result["choices"][0]["message"]["tool_calls"]
        return [json.loads(call["function"]["arguments"]) for call in calls]
    return [call["arguments"] for call in result["tool_calls"]]
