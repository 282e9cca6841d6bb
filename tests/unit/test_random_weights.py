"""Tests files with random weights: the contents of small files, and the sizes of large ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.types import WeightsType

from benchmarks.random_weights import LLAMA_2_7B, Shape, ensure

TINY = Shape(num_layers=2, embedding_length=64, feed_forward_length=96, num_heads=4, num_kv_heads=2)
# The sizes of the file in TheBloke/Llama-2-7B-Chat-GGUF and of a conversion of Meta's weights.
REAL_SIZES: dict[WeightsType, int] = {"Q8_0": 7_161_089_728, "F16": 13_478_104_576}


@pytest.fixture(scope="module", params=get_args(WeightsType))
def weights_type(request: pytest.FixtureRequest) -> WeightsType:
    found: WeightsType = request.param
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, weights_type: WeightsType) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.gguf"
    ensure(path, weights_type, shape=TINY)
    return path


def matrices(path: Path) -> dict[str, Any]:
    """Returns the values of all matrices in the file, by the name of the matrix."""
    header, found = read_header(path), {}
    for tensor in header.tensors:
        if len(tensor.shape) == 2:
            start = header.data_offset + tensor.offset
            data = np.fromfile(path, np.uint8, tensor.size, offset=start)
            rows = data.reshape(tensor.shape[1], -1)
            found[tensor.name] = dequantize(rows, GGMLQuantizationType[tensor.type_name])
    return found


def test_the_header_describes_the_requested_shape(path: Path, weights_type: WeightsType) -> None:
    header = read_header(path)
    assert (header.architecture, header.weights_type) == ("llama", weights_type)
    assert (header.num_layers, header.embedding_length, header.context_length) == (2, 64, 4096)
    assert header.vocabulary_size == 32_000
    assert header.metadata["tokenizer.chat_template"]
    assert header.rms_epsilon == pytest.approx(1e-5)
    shapes = {tensor.name: tensor.shape for tensor in header.tensors}
    assert len(shapes) == 3 + 9 * 2
    assert shapes["blk.1.attn_k.weight"] == (64, 32)
    assert shapes["blk.1.ffn_down.weight"] == (96, 64)
    types = {tensor.name: tensor.type_name for tensor in header.tensors}
    assert {types[name] for name in types if "norm" in name} == {"F32"}
    assert {types[name] for name in types if "norm" not in name} == {weights_type}


def test_llama_cpp_computes_with_the_file(path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "workers_ai_emulator.engine.probe", str(path), "text"],
        check=True,
    )


def test_values_are_random_and_do_not_grow_from_layer_to_layer(path: Path) -> None:
    for name, values in matrices(path).items():
        gain = 1.0 if name == "token_embd.weight" else np.sqrt(values.shape[1])
        assert values.std() * gain == pytest.approx(1.0, abs=0.05), name
    embeddings = matrices(path)["token_embd.weight"]
    assert len(np.unique(embeddings, axis=0)) == len(embeddings)


def test_equal_seeds_give_equal_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ensure(tmp_path / name, "Q8_0", shape=TINY, seed=seed)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second
    assert first != other


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.gguf"
    path.write_bytes(b"whole")
    ensure(path, "Q8_0", shape=TINY)
    assert path.read_bytes() == b"whole"


def test_no_file_is_written_without_enough_space(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"needs .* GiB and .* are free"):
        ensure(tmp_path / "weights.gguf", "F16", shape=Shape(num_layers=10**4))
    assert list(tmp_path.iterdir()) == []


def test_the_computed_size_is_that_of_the_file(path: Path, weights_type: WeightsType) -> None:
    assert TINY.size(weights_type) == pytest.approx(path.stat().st_size, abs=10_000)


def test_llama_2_7b_has_the_size_of_the_real_files(weights_type: WeightsType) -> None:
    assert LLAMA_2_7B.size(weights_type) == pytest.approx(REAL_SIZES[weights_type], rel=1e-4)
