"""The parsed header of a GGUF file: metadata, and the type and position of every tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workers_ai_emulator.engine.errors import GgufInvalid

_KV_ELEMENT_SIZE = 2  # bytes; the KV cache contains 16-bit floats

# The types of weights in GGUF files, by number. A file contains the number of its type as
# `general.file_type` in its metadata.
FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array in the metadata of a GGUF file.

    `offset`: the position of the first element in the file, in bytes. `numbers`: the elements, if
    the array consists of at most 512 numbers; otherwise empty.
    """

    element_type: str
    length: int
    offset: int
    numbers: tuple[int | float, ...] = ()


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """The description of one tensor in the header of a GGUF file.

    `size`: the size of the tensor's data in bytes. `offset`: the number of bytes between the start
    of the data section and the tensor's data. The data section follows the header.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file.

    `metadata`: values of type bool, int, float, str or GgufArray. `data_offset`: the position of
    the tensors' data in the file.
    """

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_size: int

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def name(self) -> str | None:
        name = self.metadata.get("general.name")
        return name if isinstance(name, str) else None

    @property
    def has_k_quants(self) -> bool:
        """Whether some tensors have a type such as Q4_K, as in files named `Q4_K_M`."""
        return any(re.fullmatch(r"Q\d_K", tensor.type_name) for tensor in self.tensors)

    @property
    def context_length(self) -> int | None:
        """The longest context, in tokens, on which the model was trained; None if unknown."""
        return self._integer("context_length")

    @property
    def embedding_length(self) -> int | None:
        return self._integer("embedding_length")

    @property
    def num_layers(self) -> int | None:
        return self._integer("block_count")

    @property
    def vocabulary_size(self) -> int | None:
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        return tokens.length if isinstance(tokens, GgufArray) else None

    @property
    def rms_epsilon(self) -> float | None:
        epsilon = self.metadata.get(f"{self.architecture}.attention.layer_norm_rms_epsilon")
        return epsilon if isinstance(epsilon, float) else None

    @property
    def weights_type(self) -> str:
        """The name of the type that most weights have, such as `Q8_0`, `F16` or `Q4_K_M`."""
        file_type = self.metadata.get("general.file_type")
        if isinstance(file_type, int) and file_type in FILE_TYPES:
            return FILE_TYPES[file_type]
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type_name] += tensor.size
        return sizes.most_common(1)[0][0]

    @property
    def kv_cell_size(self) -> int:
        """The number of bytes that one token takes in the KV cache, in all layers together.

        The KV cache contains 16-bit floats. The number is 0 for a model without attention heads.
        """
        num_heads = self.per_layer("attention.head_count")
        num_kv_heads = self.per_layer("attention.head_count_kv") or num_heads
        head_length = (self.embedding_length or 0) // max([1, *num_heads])
        key_length = self._integer("attention.key_length") or head_length
        value_length = self._integer("attention.value_length") or head_length
        return sum(num_kv_heads) * (key_length + value_length) * _KV_ELEMENT_SIZE

    def per_layer(self, name: str) -> list[int]:
        """Returns the value of an integer metadata key for each layer; [] if the key is missing.

        In the file, the value is one integer for all layers, or an array with one integer for each
        layer. Raises GgufInvalid if the value has another form. `name`: the key without the
        architecture, such as `attention.head_count`.
        """
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key)
        num_layers = self.num_layers or 0
        if value is None:
            return []
        if isinstance(value, int) and not isinstance(value, bool):
            return [value] * num_layers
        if not isinstance(value, GgufArray):
            raise GgufInvalid(f"it is damaged: {key!r} is not an integer")
        if "int" not in value.element_type or value.length != num_layers:
            raise GgufInvalid(f"it is damaged: {key!r} is not an array of {num_layers} integers")
        return [int(number) for number in value.numbers]

    def _integer(self, name: str) -> int | None:
        value = self.metadata.get(f"{self.architecture}.{name}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None
