"""Tests values that are computed from a GGUF header, such as the size of a KV cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_header import GgufArray, GgufHeader

from tests.gguf_files import llama2_model

LLAMA_2_7B = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
}


def header(metadata: dict[str, Any]) -> GgufHeader:
    return GgufHeader(3, LLAMA_2_7B | metadata, (), 0, 0)


def integers(*values: int) -> GgufArray:
    return GgufArray("int32", len(values), 0, values)


def test_a_cell_has_the_key_and_the_value_of_every_head_and_layer() -> None:
    assert header({}).kv_cell_size == 32 * 32 * (128 + 128) * 2  # 512 KiB


def test_grouped_query_attention_stores_fewer_heads() -> None:
    assert header({"llama.attention.head_count_kv": 8}).kv_cell_size == 32 * 8 * (128 + 128) * 2


def test_layers_may_store_different_numbers_of_heads() -> None:
    metadata = {"llama.block_count": 3, "llama.attention.head_count_kv": integers(8, 0, 4)}
    assert header(metadata).kv_cell_size == (8 + 0 + 4) * (128 + 128) * 2


def test_heads_without_grouping_may_differ_between_layers() -> None:
    metadata = {"llama.block_count": 2, "llama.attention.head_count": integers(16, 32)}
    assert header(metadata).kv_cell_size == (16 + 32) * (128 + 128) * 2


def test_keys_and_values_may_have_different_lengths() -> None:
    lengths = {"llama.attention.key_length": 192, "llama.attention.value_length": 64}
    assert header(lengths).kv_cell_size == 32 * 32 * (192 + 64) * 2


@pytest.mark.parametrize("name", ["key_length", "value_length"])
def test_a_missing_length_is_the_embedding_length_divided_by_the_heads(name: str) -> None:
    assert header({f"llama.attention.{name}": 256}).kv_cell_size == 32 * 32 * (256 + 128) * 2


def test_a_model_without_attention_has_no_cells() -> None:
    metadata = {key: v for key, v in LLAMA_2_7B.items() if "head_count" not in key}
    assert GgufHeader(3, metadata, (), 0, 0).kv_cell_size == 0


def test_the_cell_size_of_a_file_counts_its_kv_heads(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(llama2_model(num_layers=2))
    assert read_header(path).kv_cell_size == 2 * 2 * (16 + 16) * 2


def test_one_number_counts_for_every_layer_and_a_missing_key_for_none() -> None:
    assert header({"llama.block_count": 3}).per_layer("attention.head_count") == [32] * 3
    assert header({}).per_layer("attention.head_count_kv") == []


@pytest.mark.parametrize("value", [integers(1, 2), GgufArray("float32", 32, 0), "8", True])
def test_a_value_that_is_not_an_integer_for_each_layer_is_rejected(value: object) -> None:
    with pytest.raises(GgufInvalid, match="head_count_kv"):
        header({"llama.attention.head_count_kv": value}).per_layer("attention.head_count_kv")
