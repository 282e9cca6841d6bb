"""Writes a GGUF file with the tensors of Llama 2 7B chat, filled with random values.

The tensors have Llama 2's names, shapes and types, so the file needs the same memory and time as
the real weights. The completions are random text. To write a file, run
`python -m benchmarks.random_weights PATH --type Q8_0`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from workers_ai_emulator.engine.types import WeightsType
from workers_ai_emulator.machine import in_units

from benchmarks.peers import CACHE

Array = np.ndarray[Any, np.dtype[Any]]

_DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
_VOCABULARY = _DATA / "llama2-vocab.gguf"
_CHAT_TEMPLATES = _DATA / "templates" / "llama2-reference-golden.json"
_VOCABULARY_SIZE = 32_000

_BLOCK_LENGTH = 32
# One block of the tensor type Q8_0.
_BLOCK = np.dtype([("scale", "<f2"), ("values", "i1", _BLOCK_LENGTH)])
_MAX_VALUE = 127
# The standard deviation of uniformly distributed integers from -_MAX_VALUE to _MAX_VALUE.
_DEVIATION = math.sqrt(_MAX_VALUE * (_MAX_VALUE + 1) / 3)
# All matrices repeat one sequence of this many random blocks. The number has no common factor with
# the number of blocks in a matrix row, so no two rows are equal.
_NUM_BLOCKS = 2**18 + 1
_FILE_TYPES = {"Q8_0": LlamaFileType.MOSTLY_Q8_0, "F16": LlamaFileType.MOSTLY_F16}
_QUANTIZATION_VERSION = 2


@dataclass(frozen=True, slots=True)
class Tensor:
    """The name and the shape (rows, columns) of a tensor to write.

    `deviation`: the standard deviation of the values of a matrix. The values of a vector are all 1,
    because all vectors of Llama 2 are weights of norms.
    """

    name: str
    shape: tuple[int, ...]
    deviation: float = 1.0

    @property
    def is_matrix(self) -> bool:
        return len(self.shape) > 1

    def type(self, weights_type: WeightsType) -> GGMLQuantizationType:
        return GGMLQuantizationType[weights_type if self.is_matrix else "F32"]

    def size(self, weights_type: WeightsType) -> int:
        """Returns the size of the tensor's data in bytes."""
        length = math.prod(self.shape)
        if not self.is_matrix:
            return 4 * length
        return length // _BLOCK_LENGTH * _BLOCK.itemsize if weights_type == "Q8_0" else 2 * length


@dataclass(frozen=True, slots=True)
class Shape:
    """The hyperparameters of a Llama model; by default, Llama 2 7B.

    The embedding and feed-forward lengths must be multiples of 32, the length of a Q8_0 block.
    """

    num_layers: int = 32
    embedding_length: int = 4096
    feed_forward_length: int = 11008
    num_heads: int = 32
    num_kv_heads: int = 32
    context_length: int = 4096

    @property
    def head_length(self) -> int:
        return self.embedding_length // self.num_heads

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the model, in the order in which the file contains them."""
        width = self.embedding_length
        layers = [tensor for layer in range(self.num_layers) for tensor in self._layer(layer)]
        return [
            Tensor("token_embd.weight", (_VOCABULARY_SIZE, width)),
            *layers,
            Tensor("output_norm.weight", (width,)),
            _matrix("output.weight", _VOCABULARY_SIZE, width),
        ]

    def size(self, weights_type: WeightsType) -> int:
        """Returns the size of the GGUF file in bytes, without some hundred bytes of metadata."""
        data = sum(tensor.size(weights_type) for tensor in self.tensors)
        return data + _VOCABULARY.stat().st_size

    def _layer(self, number: int) -> Iterator[Tensor]:
        width, inner = self.embedding_length, self.feed_forward_length
        kv_width = self.num_kv_heads * self.head_length
        name = f"blk.{number}.{{}}.weight".format
        yield Tensor(name("attn_norm"), (width,))
        yield _matrix(name("attn_q"), width, width)
        yield _matrix(name("attn_k"), kv_width, width)
        yield _matrix(name("attn_v"), kv_width, width)
        yield _matrix(name("attn_output"), width, width)
        yield Tensor(name("ffn_norm"), (width,))
        yield _matrix(name("ffn_gate"), inner, width)
        yield _matrix(name("ffn_up"), inner, width)
        yield _matrix(name("ffn_down"), width, inner)


LLAMA_2_7B = Shape()


def default_path(weights_type: WeightsType) -> Path:
    """Returns the path in `.cache/` at which the benchmarks expect weights of this type."""
    return CACHE / f"random-llama-2-7b.{weights_type}.gguf"


def ensure(
    path: Path, weights_type: WeightsType, *, shape: Shape = LLAMA_2_7B, seed: int = 0
) -> None:
    """Writes the GGUF file to `path`, unless the file exists.

    Writes to a temporary path first, so that `path` is always a complete file. Raises SystemExit if
    the disk has too little free space.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    size, free = shape.size(weights_type), shutil.disk_usage(path.parent).free
    if size > free:
        raise SystemExit(
            f"{path} needs {in_units(size)} and {in_units(free)} are free: "
            "free some space or choose another path"
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _write(partial, weights_type, shape, np.random.default_rng(seed))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _matrix(name: str, num_rows: int, num_columns: int) -> Tensor:
    """Returns a matrix to write, whose values have the standard deviation 1 / sqrt(num_columns).

    The product of such a matrix and a vector has the same standard deviation as the vector. The
    values therefore neither vanish nor explode from layer to layer.
    """
    return Tensor(name, (num_rows, num_columns), 1 / math.sqrt(num_columns))


def _write(path: Path, weights_type: WeightsType, shape: Shape, rng: np.random.Generator) -> None:
    values = rng.integers(
        -_MAX_VALUE, _MAX_VALUE, (_NUM_BLOCKS, _BLOCK_LENGTH), np.int8, endpoint=True
    )
    writer = GGUFWriter(path, "llama")
    _add_metadata(writer, weights_type, shape)
    _add_vocabulary(writer)
    for tensor in shape.tensors:
        dtype, size = np.dtype(np.float32), tensor.size(weights_type)
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, size, tensor.type(weights_type))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in shape.tensors:
            start = int(rng.integers(_NUM_BLOCKS))
            writer.write_tensor_data(_data(tensor, weights_type, np.roll(values, start, axis=0)))
    finally:
        writer.close()


def _add_metadata(writer: GGUFWriter, weights_type: WeightsType, shape: Shape) -> None:
    writer.add_name("Llama 2 chat, random")
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.embedding_length)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.feed_forward_length)
    writer.add_rope_dimension_count(shape.head_length)
    writer.add_rope_freq_base(10_000.0)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY_SIZE)
    writer.add_file_type(_FILE_TYPES[weights_type])
    writer.add_quantization_version(_QUANTIZATION_VERSION)


def _add_vocabulary(writer: GGUFWriter) -> None:
    """Adds Llama 2's vocabulary and chat template to the file."""
    for entry in _vocabulary():
        writer.add_key_value(*entry)
    templates = json.loads(_CHAT_TEMPLATES.read_text("utf-8"))
    writer.add_chat_template(templates["hf_chat_template"])


@cache  # reading the vocabulary file takes seconds
def _vocabulary() -> list[tuple[str, Any, GGUFValueType, GGUFValueType | None]]:
    """Returns the metadata of Llama 2's vocabulary: a tuple for each GGUF key.

    The tuple contains the key, its value, its type, and the type of the elements if it is an array.
    """
    return [
        (field.name, field.contents(), field.types[0], [None, *field.types[1:]][-1])
        for field in GGUFReader(_VOCABULARY).fields.values()
        if field.name.startswith("tokenizer.")
    ]


def _data(tensor: Tensor, weights_type: WeightsType, values: Array) -> Array:
    """Returns the data of a tensor.

    A matrix repeats the random `values`, scaled to the matrix's standard deviation.
    """
    if not tensor.is_matrix:
        return np.ones(tensor.shape, np.float32)
    scale = tensor.deviation / _DEVIATION
    num_blocks = math.prod(tensor.shape) // _BLOCK_LENGTH
    if weights_type == "F16":
        return np.resize((values * np.float32(scale)).astype("<f2"), (num_blocks, _BLOCK_LENGTH))
    blocks = np.empty(len(values), _BLOCK)
    blocks["scale"], blocks["values"] = scale, values
    return np.resize(blocks, num_blocks)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.random_weights")
    parser.add_argument("path", nargs="?", type=Path, help="path of the file (default: in .cache/)")
    parser.add_argument(
        "--type",
        choices=get_args(WeightsType),
        default="Q8_0",
        help="type of the weights (default: Q8_0)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random values (default: 0)"
    )
    arguments = parser.parse_args()
    path = arguments.path or default_path(arguments.type)
    ensure(path, arguments.type, seed=arguments.seed)
    print(f"{path}: {in_units(path.stat().st_size)}")


if __name__ == "__main__":
    main()
