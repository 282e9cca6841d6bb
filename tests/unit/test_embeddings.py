"""Tests how requests for embeddings and rankings are validated, and how results are written."""

from __future__ import annotations

import base64
import json
import struct
from random import Random
from typing import Any

import pytest
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.models.catalog import CATALOG, ModelSpec
from workers_ai_emulator.tasks.embeddings import EmbeddingRequest, Embeddings, Scores, parse
from workers_ai_emulator.tasks.response_formats.embeddings import (
    embeddings_result,
    openai_embeddings,
    scores_result,
)
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import BAD_INPUT, REQUEST_TOO_LARGE, WireError

from tests.conformance.test_validator_differential import INHERITED_KEYS, KEYS, BodyWriter

BGE = CATALOG["@cf/baai/bge-base-en-v1.5"]
BGE_M3 = CATALOG["@cf/baai/bge-m3"]
GEMMA = CATALOG["@cf/google/embeddinggemma-300m"]
QWEN_3 = CATALOG["@cf/qwen/qwen3-embedding-0.6b"]
RERANKER = CATALOG["@cf/baai/bge-reranker-base"]
EMBEDDING_MODELS = [spec for spec in CATALOG.values() if spec.embedding and not spec.decides]
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
VECTORS = Embeddings([[1.0, 0.0], [0.6, 0.8]], 20)

each_model = pytest.mark.parametrize("spec", EMBEDDING_MODELS, ids=lambda spec: spec.name)


def refusal(body: Any, spec: ModelSpec) -> str:
    """Returns the text of the error for an invalid body."""
    with pytest.raises(WireError) as failure:
        parse(body, spec)
    assert failure.value.type is BAD_INPUT
    return str(failure.value)


# ── the input ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", ["a", ["a"]])
@pytest.mark.parametrize("spec", [BGE, BGE_M3, GEMMA, QWEN_3], ids=lambda spec: spec.name)
def test_the_text_may_be_one_text_or_a_list(text: Any, spec: ModelSpec) -> None:
    assert parse({"text": text}, spec).texts == ("a",)


@pytest.mark.parametrize("num_texts", [0, 101, 3000])
@pytest.mark.parametrize("spec", [BGE, BGE_M3, GEMMA, QWEN_3], ids=lambda spec: spec.name)
def test_a_list_may_have_more_texts_than_the_schema_says(num_texts: int, spec: ModelSpec) -> None:
    if num_texts or spec is not QWEN_3:
        assert len(parse({"text": ["a"] * num_texts}, spec).texts) == num_texts


@pytest.mark.parametrize(
    ("spec", "key", "most"),
    [(BGE_M3, "text", 3906), (BGE, "text", 5208), (BGE_M3, "contexts", 3906)],
)
def test_the_embeddings_of_a_request_are_limited(spec: ModelSpec, key: str, most: int) -> None:
    item: Any = "0" if key == "text" else {"text": "0"}
    assert len(parse({key: [item] * most}, spec).texts) == most
    with pytest.raises(WireError) as refusal:
        parse({key: [item] * (most + 1)}, spec)
    assert refusal.value.type is REQUEST_TOO_LARGE
    assert refusal.value.hint == f"a request of {spec.name} has at most {most} texts"


def test_a_ranking_is_limited_too() -> None:
    body = {"query": "a", "contexts": [{"text": "b"}] * 4000}
    with pytest.raises(WireError) as refusal:
        parse(body, RERANKER)
    assert refusal.value.type is REQUEST_TOO_LARGE


def test_an_empty_text_is_refused_outside_of_a_list_except_by_qwen_3() -> None:
    assert "Length of '/text' must be >= 1" in refusal({"text": ""}, BGE)
    assert "Length of '/contexts/0/text'" in refusal({"contexts": [{"text": ""}]}, BGE_M3)
    assert "Length of '/query'" in refusal({"query": "", "contexts": []}, RERANKER)
    assert parse({"text": ""}, QWEN_3).texts == ("",)
    assert all(parse({"text": [""]}, spec).texts == ("",) for spec in (BGE, BGE_M3, GEMMA, QWEN_3))


def test_only_the_english_bge_models_let_the_request_choose_the_pooling() -> None:
    assert parse({"text": "a"}, BGE).pooling is Pooling.MEAN
    assert parse({"text": "a", "pooling": "cls"}, BGE).pooling is Pooling.CLS
    assert "enum last not in mean,cls" in refusal({"text": "a", "pooling": "last"}, BGE)
    assert parse({"text": "a", "pooling": "mean"}, BGE_M3).pooling is Pooling.CLS
    assert parse({"text": "a", "pooling": "rank"}, QWEN_3).pooling is Pooling.LAST


def test_only_bge_m3_refuses_long_texts_and_only_unless_it_may_cut_them() -> None:
    assert not parse({"text": "a"}, BGE_M3).truncates
    assert parse({"text": "a", "truncate_inputs": True}, BGE_M3).truncates
    assert not parse({"text": "a", "truncate_inputs": False}, BGE_M3).truncates
    assert parse({"text": "a", "truncate_inputs": False}, BGE).truncates


def test_queries_get_the_instruction_and_come_before_the_documents() -> None:
    body = {"documents": ["c", "d"], "queries": "q"}
    assert parse(body, QWEN_3).texts == (f"Instruct: {INSTRUCTION}\nQuery:q", "c", "d")
    body = {"queries": ["q"], "instruction": "Be kind"}
    assert parse(body, QWEN_3).texts == ("Instruct: Be kind\nQuery:q",)
    assert parse({"text": "t", "queries": "q"}, QWEN_3).texts == ("t",)


def test_bge_m3_embeds_contexts_or_scores_them_for_a_query() -> None:
    contexts = [{"text": "a"}, {}, {"text": "b"}]
    request = parse({"contexts": contexts}, BGE_M3)
    assert (request.texts, request.query, request.result) == (("a", "", "b"), None, "contexts")
    request = parse({"contexts": contexts, "query": "q", "top_k": 1}, BGE_M3)
    assert (request.query, request.result, request.top_k) == ("q", "scores", None)


def test_contexts_are_ignored_beside_a_text_if_they_are_null_or_the_model_has_no_contexts() -> None:
    assert parse({"text": "a", "contexts": None}, BGE_M3).texts == ("a",)
    for spec in (BGE, GEMMA, QWEN_3):
        assert parse({"text": "a", "contexts": [{"text": "b"}]}, spec).texts == ("a",)


@pytest.mark.parametrize(
    ("top_k", "expected"), [(None, None), (1, 1), (2.0, 2), (3, 2), (1e308, 2)], ids=str
)
def test_the_reranker_returns_at_most_the_requested_scores(top_k: Any, expected: Any) -> None:
    body = {"query": "q", "contexts": [{"text": "a"}, {"text": "b"}]}
    body |= {} if top_k is None else {"top_k": top_k}
    top_k = parse(body, RERANKER).top_k
    assert top_k == expected and isinstance(top_k, int | None)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "2", None])
def test_the_reranker_refuses_other_values_of_top_k(top_k: Any) -> None:
    refusal({"query": "q", "contexts": [], "top_k": top_k}, RERANKER)


@pytest.mark.parametrize(
    ("spec", "body", "text"),
    [
        (BGE, {"text": [1, 2]}, "Type mismatch of '/text/0', 'string' not in 'number','integer'"),
        (BGE, {"text": ["a", None]}, "Type mismatch of '/text/1', 'string' not in 'null'"),
        (BGE, {"text": 5, "requests": []}, "'/text', 'string,array' not in 'number','integer'"),
        (BGE, {"text": "a", "pooling": 1, "requests": []}, "'/pooling' must be 'mean' or 'cls'"),
        (
            BGE_M3,
            {"contexts": [{"text": 5}], "requests": []},
            "'/contexts/0/text', 'string' not in",
        ),
        (BGE_M3, {"contexts": [None]}, "'/contexts/0', 'object' not in 'null'"),
        (BGE_M3, {"contexts": [], "query": 5, "requests": []}, "'/query', 'string' not in"),
        (QWEN_3, {}, "required properties at '/' are 'text'"),
        (QWEN_3, {"text": None}, "required properties at '/' are 'text'"),
        (QWEN_3, {"text": []}, "required properties at '/' are 'text'"),
        (QWEN_3, {"queries": {}}, "'/queries', 'string,array' not in 'object'"),
        (QWEN_3, [], "Type mismatch of '/', 'object' not in 'array'"),
        (RERANKER, {"query": "q", "contexts": ["a"]}, "'/contexts/0', 'object' not in 'string'"),
    ],
    ids=str,
)
def test_values_that_only_the_validator_accepts_are_refused(
    spec: ModelSpec, body: Any, text: str
) -> None:
    assert text in refusal(body, spec)


def test_a_chat_sent_to_an_embedding_model_gets_the_recorded_error() -> None:
    assert refusal({"messages": [{"role": "user", "content": "Hi"}]}, BGE) == (
        "Error: oneOf at '/' not met, 0 matches: required properties at '/' are 'text', "
        "required properties at '/' are 'requests'"
    )


@each_model
def test_every_body_that_the_validator_accepts_is_converted_or_refused(spec: ModelSpec) -> None:
    random = Random(spec.name)
    num_valid = 0
    for _ in range(1500):
        writer = BodyWriter(random, KEYS + INHERITED_KEYS)
        try:
            request = parse(json.loads(writer.write(spec.schema["input"])), spec)
        except WireError:
            continue
        num_valid += 1
        assert all(isinstance(text, str) for text in request.texts)
        assert isinstance(request.query, str | None) and isinstance(request.top_k, int | None)
    assert num_valid > 300


# ── the result ────────────────────────────────────────────────────────────────────────────────


def result_of(spec: ModelSpec, body: Any) -> dict[str, Any]:
    return written(embeddings_result(spec, parse(body, spec), VECTORS))


def written(result: dict[str, Any]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(to_json(result))
    return value


def test_the_result_of_bge_m3_has_the_keys_and_the_neurons_that_were_recorded() -> None:
    assert json.dumps(result_of(BGE_M3, {"text": ["a", "b"]})) == json.dumps(
        {
            "data": VECTORS.vectors,
            "shape": [2, 2],
            "pooling": "cls",
            "response": None,
            "meta": {
                "cost_metric_name_1": "input_tokens",
                "cost_metric_value_1": 20,
                "neurons": 0.02149175737498028,
            },
        }
    )


def test_each_other_form_has_its_own_keys() -> None:
    result = result_of(BGE, {"text": ["a", "b"], "pooling": "cls"})
    assert [*result] == ["shape", "data", "pooling", "usage"] and result["pooling"] == "cls"
    assert result["usage"]["prompt_tokens"] == result["usage"]["total_tokens"] == 20
    assert result_of(GEMMA, {"text": ["a", "b"]}) == {"data": VECTORS.vectors, "shape": [2, 2]}
    result = result_of(QWEN_3, {"text": ["a", "b"]})
    assert [*result] == ["data", "shape", "usage"] and result["usage"]["neurons"] > 0
    contexts = [{"text": "a"}, {"text": "b"}]
    expected = {"response": VECTORS.vectors, "shape": [2, 2], "pooling": "cls"}
    assert result_of(BGE_M3, {"contexts": contexts}) == expected


def test_the_neurons_of_qwen_3_have_64_bits() -> None:
    result = embeddings_result(QWEN_3, parse({"text": "a"}, QWEN_3), Embeddings([[1.0]], 3))
    assert result["usage"]["neurons"] == 0.0032237636062470423  # recorded 2026-08-16


def test_no_text_has_an_empty_result_with_the_dimensions_of_the_model() -> None:
    result = embeddings_result(BGE_M3, parse({"text": []}, BGE_M3), Embeddings([], 0))
    assert result["shape"] == [0, 1024] and result["data"] == []


def test_scores_are_sorted_and_equal_scores_keep_the_order_of_the_texts() -> None:
    request = EmbeddingRequest(("a", "b", "c"), Pooling.RANK, True, "q", "scores", top_k=2)
    result = scores_result(BGE_M3, request, Scores([0.25, 0.5, 0.5], 9))
    assert result == {"response": [{"id": 1, "score": 0.5}, {"id": 2, "score": 0.5}]}


def test_only_the_result_of_the_reranker_has_usage() -> None:
    request = EmbeddingRequest(("a",), Pooling.RANK, True, "q", "scores")
    assert [*scores_result(BGE_M3, request, Scores([0.5], 34))] == ["response"]
    result = scores_result(RERANKER, request, Scores([0.5], 34))
    assert [*result] == ["response", "usage"]
    assert result["usage"] == {
        "prompt_tokens": 34,
        "completion_tokens": 0,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 0},
        "neurons": 0.009609379270889618,  # recorded 2026-08-16
    }


def test_the_form_of_openai_has_numbers_or_base64() -> None:
    item = {"object": "embedding", "embedding": [0.6, 0.8], "index": 1}
    body = written(openai_embeddings(BGE, VECTORS, is_base64=False))
    assert json.dumps(body["data"][1]) == json.dumps(item)
    assert [*body] == ["object", "data", "model"]
    assert (body["object"], body["model"]) == ("list", BGE.name)
    encoded = written(openai_embeddings(BGE, VECTORS, is_base64=True))["data"][1]["embedding"]
    numbers = struct.unpack("<2f", base64.b64decode(encoded, validate=True))
    assert numbers == pytest.approx([0.6, 0.8])
