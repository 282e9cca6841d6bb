"""Tests the built-in models: their cards, schemas, defaults, prices and weights."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.engine.types import Usage
from workers_ai_emulator.errors import PullFailed
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.models.family import Family, request_branches
from workers_ai_emulator.models.importing import remove_weights
from workers_ai_emulator.models.models_file import read_catalog
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.pull import file_to_pull
from workers_ai_emulator.models.spec import is_model_name
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.tasks.response_formats.usage import UsageDetails
from workers_ai_emulator.tasks.text_generation import parse

LLAMA_2 = ("@cf/meta/llama-2-7b-chat-int8", "@cf/meta/llama-2-7b-chat-fp16")
CARDS = Path(str(files("workers_ai_emulator") / "models" / "cards"))
MESSAGE = {"role": "user", "content": "Hi"}
CALLED = {"name": "get_temperature", "arguments": "{}"}
REFUSED = {"messages": [{"role": 5}]}

TEXT_MODELS = {name: spec for name, spec in CATALOG.items() if spec.embedding is None}

each_model = pytest.mark.parametrize("spec", CATALOG.values(), ids=CATALOG.keys())
each_text_model = pytest.mark.parametrize("spec", TEXT_MODELS.values(), ids=TEXT_MODELS.keys())


def properties_of(spec: ModelSpec) -> dict[str, Any]:
    return {row["property_id"]: row["value"] for row in spec.card["properties"]}


def test_every_card_file_belongs_to_a_model() -> None:
    used = {spec.card_file for spec in CATALOG.values()}
    assert {path.name for path in CARDS.glob("*.json")} == used
    assert len(CATALOG) == len(used) == 53
    assert len(TEXT_MODELS) == 43


@each_model
def test_a_card_has_the_keys_of_the_service(spec: ModelSpec) -> None:
    keys = ["id", "source", "name", "description", "task", "created_at", "tags", "properties"]
    assert [*spec.card] == [key for key in keys if key in spec.card]
    assert set(keys) - spec.card.keys() <= {"created_at"}
    assert spec.card["name"] == spec.name and is_model_name(spec.name)


def test_cards_have_different_ids() -> None:
    assert len({spec.card["id"] for spec in CATALOG.values()}) == len(CATALOG)


@each_model
def test_the_traits_agree_with_the_card(spec: ModelSpec) -> None:
    properties = properties_of(spec)
    if "function_calling" in properties:
        assert spec.traits.has_tools
    reasons = properties.get("reasoning") == "true"
    if spec.traits.form == "choices":
        assert reasons == (spec.traits.thinking != "none")
    if "mandatory" in (controls := spec.reasoning_controls):
        assert controls["mandatory"] == (spec.traits.thinking == "always")
    if "planned_deprecation_date" in properties:
        assert str(spec.retired_on) == properties["planned_deprecation_date"]


def test_the_retired_models_are_llama_2_and_those_of_the_same_day_and_glm_5_2() -> None:
    retired = {name: spec.retired_on for name, spec in CATALOG.items() if spec.retired_on}
    assert retired.pop("@cf/zai-org/glm-5.2") == date(2026, 11, 20)
    assert len(retired) == 9 and set(LLAMA_2) <= set(retired)
    assert set(retired.values()) == {date(2026, 5, 30)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("@cf/meta/llama-3-8b-instruct", False),  # retired in May
        ("@cf/zai-org/glm-5.2", True),  # retired in November; its neurons are recorded
        ("@cf/zai-org/glm-5.3", True),
    ],
)
def test_models_that_the_service_still_had_in_august_have_neurons(
    name: str, expected: bool
) -> None:
    details = UsageDetails.of(CATALOG[name])
    assert ("neurons" in details.write(Usage(1, 1))) is expected


@each_model
def test_the_price_agrees_with_the_card(spec: ModelSpec) -> None:
    rows = properties_of(spec).get("price")
    if isinstance(rows, list):
        usd = {row["unit"]: row["price"] for row in rows}
        # The cards of embedding models have no price of output tokens.
        price = Price.in_usd(usd["per M input tokens"], usd.get("per M output tokens", 0))
        # The cards contain rounded prices.
        assert spec.price.prompt == pytest.approx(price.prompt, rel=0.025)
        assert spec.price.completion == pytest.approx(price.completion, rel=0.025)


@each_text_model
def test_the_validator_accepts_messages_and_refuses_a_role_that_is_a_number(
    spec: ModelSpec,
) -> None:
    spec.validator.validate({"messages": [MESSAGE]})
    with pytest.raises(SchemaMismatch):
        spec.validator.validate(REFUSED)


@each_text_model
def test_some_schemas_refuse_a_turn_without_content(spec: ModelSpec) -> None:
    """docs/parity.md names the models whose schema accepts such a turn."""
    accepting = (
        "gemma-[34]|glm|kimi|nemotron|deepseek-v4|mistral-small|llama-4-scout|3.2-11b|qwq|qwen3.8"
    )
    calls = [{"id": "call_123456789", "type": "function", "function": CALLED}]
    for content in ({}, {"content": None}):
        turn = {"role": "assistant", "tool_calls": calls, **content}
        body = {"messages": [MESSAGE, turn]}
        if re.search(accepting, spec.name):
            spec.validator.validate(body)
        else:
            with pytest.raises(SchemaMismatch):
                spec.validator.validate(body)


@each_model
def test_the_schema_has_an_input_and_an_output(spec: ModelSpec) -> None:
    assert [*spec.schema] == ["input", "output"]
    describes_text = bool([*request_branches(spec.schema["input"])])
    assert describes_text == (spec.name in TEXT_MODELS)


@pytest.mark.parametrize(
    ("name", "max_tokens", "temperature"),
    [
        ("@cf/meta/llama-2-7b-chat-int8", 256, 0.6),
        ("@cf/meta/llama-2-7b-chat-fp16", 256, 0.6),
        ("@cf/meta/llama-3.3-70b-instruct-fp8-fast", 256, 0.6),
        ("@cf/meta/llama-3.1-8b-instruct-fast", 256, 0.6),
        ("@cf/meta/llama-4-scout-17b-16e-instruct", 256, 0.15),
        ("@cf/mistralai/mistral-small-3.1-24b-instruct", 256, 0.15),
        ("@cf/google/gemma-3-12b-it", 256, 0.6),
        ("@cf/qwen/qwen3-30b-a3b-fp8", 2000, 0.6),
        ("@cf/aisingapore/gemma-sea-lion-v4-27b-it", 2000, 0.6),
        ("@cf/meta/llama-3.2-11b-vision-instruct", 256, 0.6),
        ("@cf/mistral/mistral-7b-instruct-v0.2-lora", 256, 0.6),
        ("@cf/openai/gpt-oss-20b", 256, 0.6),
        ("@cf/google/gemma-4-26b-a4b-it", None, 1),
        ("@cf/zai-org/glm-4.7-flash", None, 1),
        ("@cf/moonshotai/kimi-k2.6", None, 1),
        ("@cf/moonshotai/kimi-k2.7-code", None, 1),
        ("@cf/nvidia/nemotron-3-120b-a12b", None, 1),
        ("@cf/deepseek-ai/deepseek-v4-pro-0813", None, 1),
        ("@cf/qwen/qwen3.8-27b", None, 1),
    ],
)
def test_defaults_come_from_the_schema(
    name: str, max_tokens: int | None, temperature: float
) -> None:
    defaults = CATALOG[name].defaults
    assert defaults.get("max_tokens") == max_tokens
    assert defaults["temperature"] == temperature
    assert defaults["stream"] is False


@pytest.mark.parametrize(
    ("name", "efforts", "default"),
    [
        ("@cf/moonshotai/kimi-k2.7-code", None, None),
        ("@cf/zai-org/glm-5.2", ["low", "medium", "high"], None),
        ("@cf/zai-org/glm-5.3", ["max", "high", "low"], "max"),
        ("@cf/zai-org/glm-5.3-flash", ["max", "high", "low"], "max"),
        ("@cf/qwen/qwen3.8-27b", ["low", "medium", "xhigh"], "xhigh"),
        ("@cf/moonshotai/kimi-k2.6", ["high", "none"], "high"),
        ("@cf/google/gemma-4-26b-a4b-it", None, None),
        ("@cf/nvidia/nemotron-3-120b-a12b", None, None),
        ("@cf/deepseek-ai/deepseek-v4-flash-0731", ["max", "high", "low", "none"], "high"),
        ("@cf/deepseek-ai/deepseek-v4-pro-0813", ["max", "high", "low", "none"], "high"),
    ],
)
def test_the_schema_has_the_reasoning_efforts_of_the_model(
    name: str, efforts: list[str] | None, default: str | None
) -> None:
    spec = CATALOG[name]
    schema: dict[str, Any] = {"anyOf": [{"type": "string", "enum": efforts}, {"type": "null"}]}
    schema |= {"default": default} if default else {}
    for branch in request_branches(spec.schema["input"]):
        assert branch["properties"].get("reasoning_effort") == (schema if efforts else None)
    card = properties_of(spec).get("reasoning_effort", {})
    assert card.get("supported_efforts", efforts) == efforts
    assert card.get("default_effort") == default


@pytest.mark.parametrize(
    "name",
    ["@cf/moonshotai/kimi-k2.7-code", "@cf/zai-org/glm-5.3", "@cf/zai-org/glm-5.3-flash"],
)
def test_a_model_that_always_reasons_refuses_a_request_without_reasoning(name: str) -> None:
    spec = CATALOG[name]
    assert spec.traits.thinking == "always" and properties_of(spec)["reasoning_effort"]["mandatory"]
    body = {"messages": [MESSAGE], "chat_template_kwargs": {"enable_thinking": True}}
    spec.validator.validate(body)
    with pytest.raises(SchemaMismatch, match="enum false not in true at '/chat_template_kwargs/"):
        spec.validator.validate(body | {"chat_template_kwargs": {"enable_thinking": False}})


@pytest.mark.parametrize("name", ["deepseek-ai/deepseek-v4-flash-0731", "zai-org/glm-5.2"])
def test_the_effort_none_switches_the_reasoning_of_a_model_on_sglang_off(name: str) -> None:
    body = {"messages": [MESSAGE], "reasoning_effort": "none"}
    assert parse(body, CATALOG[f"@cf/{name}"]).template_variables == {"enable_thinking": False}


def test_the_default_effort_of_a_schema_is_not_sent_to_the_weights() -> None:
    spec = CATALOG["@cf/deepseek-ai/deepseek-v4-flash-0731"]
    given = replace(spec, own_defaults={"reasoning_effort": "low"})
    bodies = [(spec, {}), (given, {}), (given, {"reasoning_effort": "high"})]
    requests = [parse({"messages": [MESSAGE]} | body, model) for model, body in bodies]
    efforts = [request.template_variables.get("reasoning_effort") for request in requests]
    assert efforts == [None, "low", "high"]


def test_the_schema_of_nemotron_has_its_own_variables_of_the_chat_template() -> None:
    spec = CATALOG["@cf/nvidia/nemotron-3-120b-a12b"]
    for branch in request_branches(spec.schema["input"]):
        given = branch["properties"]["chat_template_kwargs"]["properties"]
        assert [*given] == ["enable_thinking", "low_effort", "force_nonempty_content"]


def test_a_default_outside_of_any_of_takes_precedence() -> None:
    family = Family("test.json")
    schema = {"properties": {"messages": {}, "n": {"anyOf": [{"default": 1}], "default": 2}}}
    family.__dict__["schema"] = {"input": {"anyOf": [schema, {"properties": {"requests": {}}}]}}
    assert family.defaults == {"n": 2}


def test_models_of_one_family_share_the_schema_and_the_validator() -> None:
    one, two = (CATALOG[f"@cf/openai/gpt-oss-{size}"] for size in ("20b", "120b"))
    assert one.schema is two.schema and one.validator is two.validator


@each_model
def test_pull_has_a_file_for_every_model_of_ordinary_size(spec: ModelSpec) -> None:
    assert spec.stand_in
    if spec.hub_file is None:
        large, recurrent = "glm-5|kimi|deepseek-v4|nemotron", "granite|qwen3.8-27b"
        unsupported = "llama-3.2-11b-vision-instruct|plamo-embedding-1b|clef"
        no_common_file = "gemma-2b-it-lora|gemma-7b-it-lora|apertus|bge-reranker-base"
        assert re.search(f"{large}|{recurrent}|{unsupported}|{no_common_file}", spec.name)
        return
    assert spec.license and spec.license.url.startswith("https://")
    assert spec.hub_file.size and spec.hub_file.size < 70e9
    assert spec.weights_file.name == spec.hub_file.path.rpartition("/")[2]


def test_only_one_file_has_several_parts() -> None:
    split = [name for name, spec in CATALOG.items() if spec.hub_file and spec.hub_file.is_split]
    assert split == ["@cf/meta/llama-4-scout-17b-16e-instruct"]


def test_a_model_with_several_files_or_none_cannot_be_pulled() -> None:
    with pytest.raises(PullFailed, match=r"is one of several files.*--merge.*models import FILE"):
        file_to_pull(CATALOG["@cf/meta/llama-4-scout-17b-16e-instruct"])
    with pytest.raises(PullFailed, match="has no repository on a hub"):
        file_to_pull(CATALOG["@cf/zai-org/glm-5.3"])


def test_removing_weights_that_built_in_models_share_deletes_them(tmp_path: Path) -> None:
    spec = CATALOG["@cf/meta/llama-3.1-8b-instruct"]
    store, models_file = Store(tmp_path, num_threads=1), tmp_path / "models.toml"
    path = store.path(spec)
    path.touch()
    models_file.write_text(f'["@cf/a/b"]\nfile = "{path.name}"\n')
    assert [*remove_weights(spec, read_catalog(tmp_path), store, models_file)] == [
        f"{path} stays: @cf/a/b uses it"
    ]
    assert [*remove_weights(spec, CATALOG, store, tmp_path / "none.toml")] == [f"deleted {path}"]
    assert not path.exists()


def test_importing_the_catalogue_reads_no_card() -> None:
    program = (
        "import builtins, io, sys\n"
        "sys.addaudithook(lambda event, args: print(args[0]) if event == 'open' else None)\n"
        "from workers_ai_emulator.models.catalog import CATALOG\n"
    )
    opened = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "catalog" in opened
    assert "cards" not in opened
