"""Tests which model a name finds: known, unknown and retired names."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.models.catalog import CATALOG
from workers_ai_emulator.models.other_models import ALIASES, NOT_EMULATED
from workers_ai_emulator.models.other_models import RETIRED as OTHER_RETIRED
from workers_ai_emulator.models.validator import SchemaMismatch
from workers_ai_emulator.routes.openapi import document
from workers_ai_emulator.routes.served_models import ServedModels
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.errors import (
    API_NOT_EMULATED,
    MODEL_NOT_FOUND,
    NO_SUCH_MODEL,
    RETIRED,
    WireError,
)

from tests.server import FP16, INT8

SETTINGS = Settings()
OTHER = "@cf/someone/some-model"
LLAMA_3_3 = "@cf/meta/llama-3.3-70b-instruct-fp8-fast"


def error_of(served: ServedModels, name: str) -> WireError:
    with pytest.raises(WireError) as failure:
        served.find(name)
    return failure.value


def test_the_openapi_document_is_built_once() -> None:
    served = ServedModels(SETTINGS, CATALOG)
    assert json.loads(served.openapi_document) == document(CATALOG)
    assert served.openapi_document is served.openapi_document


def test_by_default_every_model_of_the_catalogue_is_served() -> None:
    served = ServedModels(SETTINGS, CATALOG)
    assert served.catalog == CATALOG
    assert all(served.find(name) is spec for name, spec in CATALOG.items())


@pytest.mark.parametrize(
    ("name", "next_step"),
    [
        ("chat/completions", "The base URL of OpenAI clients ends with /ai/v1"),
        ("v1/completions", "The base URL of OpenAI clients ends with /ai/v1"),
        (OTHER, f"models import FILE --as {OTHER}`, or start the server with --any-model."),
        ("gpt-4", "names have the form @cf/author/model"),
        ("@cf/baai/bge-m33", "did you mean @cf/baai/bge-m3? Otherwise, run `workers-ai-"),
        ("gpt-oss-20b", "the full name is @cf/openai/gpt-oss-20b"),
        ("@cf/a/b\x1b[2J", r"the emulator has no model @cf/a/b\x1b[2J: names have the form"),
        ("@cf/a/" + "b" * 10_000, "names have the form"),
    ],
)
def test_an_unknown_name_is_refused_and_the_log_has_the_next_step(
    name: str, next_step: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert error_of(ServedModels(SETTINGS, CATALOG), name).type is NO_SUCH_MODEL
    assert len(caplog.messages) == 1 and next_step in caplog.text
    assert len(caplog.text) < 500


def test_a_model_that_is_not_emulated_is_refused_with_its_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = error_of(ServedModels(SETTINGS, CATALOG), "@cf/openai/whisper")
    assert error.type is API_NOT_EMULATED
    text = "The emulator does not have @cf/openai/whisper, a model that converts speech to text"
    assert str(error) == text and not caplog.messages


@pytest.mark.parametrize(
    ("name", "day"),
    [("@cf/qwen/qwen1.5-14b-chat-awq", "2025-10-01"), ("@cf/microsoft/phi-2", "2026-05-30")],
)
def test_a_retired_model_that_is_not_offered_is_refused_and_the_log_has_the_next_step(
    name: str, day: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = error_of(ServedModels(SETTINGS, CATALOG), name)
    assert error.type is RETIRED and f"{name} was deprecated on {day}" in str(error)
    assert f"models import FILE --as {name}`" in caplog.text
    assert ServedModels(replace(SETTINGS, any_model=True), CATALOG).find(name).name == name


def test_an_old_name_is_served_by_the_model_that_replaced_it() -> None:
    spec = ServedModels(SETTINGS, CATALOG).find("@cf/moonshotai/kimi-k2.5")
    assert spec is CATALOG["@cf/moonshotai/kimi-k2.6"]
    own = replace(spec, name="@cf/moonshotai/kimi-k2.5")
    assert ServedModels(SETTINGS, CATALOG | {own.name: own}).find(own.name) is own


def test_no_name_outside_of_the_catalogue_is_in_the_catalogue() -> None:
    assert {*ALIASES.values()} <= CATALOG.keys()
    assert not CATALOG.keys() & {*ALIASES, *NOT_EMULATED, *OTHER_RETIRED}
    assert not NOT_EMULATED.keys() & OTHER_RETIRED.keys()


def test_a_name_of_another_provider_is_refused_and_the_log_has_the_next_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = error_of(ServedModels(SETTINGS, CATALOG), "openai/gpt-4.1")
    assert (error.type, str(error)) == (MODEL_NOT_FOUND, "Model not found: openai/gpt-4.1")
    assert "With --any-model, the stand-in model serves their names" in caplog.text
    error_of(ServedModels(SETTINGS, CATALOG), INT8.removeprefix("@cf/"))
    assert caplog.messages[-1].endswith(f"the full name is {INT8}")


def test_with_any_model_the_stand_in_model_serves_the_names_of_other_providers() -> None:
    served = ServedModels(replace(SETTINGS, any_model=True), CATALOG)
    spec = served.find("openai/gpt-4.1")
    assert (spec.name, spec.stand_in, spec.traits.form) == ("openai/gpt-4.1", "Q8_0", "choices")
    message = {"role": "assistant", "tool_calls": [{"type": "function"}]}
    for content in ({}, {"content": None}, {"content": ""}):
        spec.validator.validate({"messages": [message | content]})
    with pytest.raises(SchemaMismatch):
        spec.validator.validate({"messages": [{"role": "user"}]})
    for name in (
        "openai/",
        "/gpt",
        "a/b/c",
        "a b/c",
        "@openai/gpt",
        "v1/completions",
        "openai/" + "b" * 200,
    ):
        assert error_of(served, name).type is NO_SUCH_MODEL


def test_with_any_model_the_stand_in_model_serves_every_name_of_the_right_form() -> None:
    served = ServedModels(replace(SETTINGS, any_model=True), CATALOG)
    spec = served.find(OTHER)
    assert (spec.name, spec.stand_in, spec.hub_file) == (OTHER, "Q8_0", None)
    assert spec.traits.has_tools and spec.traits.json_mode == "object"
    assert spec.schema is CATALOG[INT8].schema and spec.card["name"] == OTHER
    assert served.find(LLAMA_3_3) is CATALOG[LLAMA_3_3]
    assert OTHER not in served.catalog
    for name in ("gpt-4", "", "@cf/a", "@cf/a/" + "b" * 200):
        assert error_of(served, name).type is NO_SUCH_MODEL


def test_with_retired_only_the_current_models_are_served() -> None:
    served = ServedModels(replace(SETTINGS, retired=True, any_model=True), CATALOG)
    assert [*served.catalog] == [name for name in CATALOG if not CATALOG[name].retired_on]
    error = error_of(served, FP16)
    assert error.type is RETIRED and str(error).startswith(f"{FP16} was deprecated on 2026-05-30")
    assert "@cf/meta/llama-3-8b-instruct-awq" in str(error_of(served, INT8))
    renamed = "@cf/meta/infire-llama-3.1-8b-instruct was deprecated"
    assert renamed in str(error_of(served, "@cf/meta/llama-3.1-8b-instruct"))
    assert "was deprecated on 2026-11-20" in str(error_of(served, "@cf/zai-org/glm-5.2"))


def test_a_retired_model_cannot_be_preloaded() -> None:
    settings = replace(SETTINGS, retired=True, preload=(LLAMA_3_3, FP16))
    with pytest.raises(SettingInvalid, match=f"--preload: --retired excludes {FP16}"):
        ServedModels(settings, CATALOG)
