"""Tests that the emulator's numbers of the GGUF format equal those of the package `gguf`."""

from __future__ import annotations

import pytest
from gguf import GGMLQuantizationType, GGUFValueType, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from workers_ai_emulator.engine.gguf_format import ARRAY, SCALAR_TYPES, STRING, TENSOR_TYPES
from workers_ai_emulator.engine.gguf_header import FILE_TYPES

# For Q8_1, the package counts two 32-bit floats per block, but llama.cpp has two 16-bit floats.
DIFFERENT_IN_LLAMA_CPP = {"Q8_1"}
# The package may be older or newer than llama.cpp, so only types that both have are compared.
TENSOR_NUMBERS = sorted({int(t) for t in GGMLQuantizationType} & TENSOR_TYPES.keys())
FILE_NUMBERS = sorted({int(t) for t in LlamaFileType} & FILE_TYPES.keys())


def test_every_value_type_is_read() -> None:
    assert {int(t) for t in GGUFValueType} == {*SCALAR_TYPES, STRING, ARRAY}
    assert (STRING, ARRAY) == (GGUFValueType.STRING, GGUFValueType.ARRAY)


@pytest.mark.parametrize("number", SCALAR_TYPES)
def test_a_number_in_the_metadata_has_the_name_and_size_of_its_type(number: int) -> None:
    name, form = SCALAR_TYPES[number]
    assert GGUFValueType(number).name.lower() == name
    num_bits = int("".join(filter(str.isdigit, name)) or 8)  # `bool` has no number: 8 bits
    assert form.size * 8 == num_bits


@pytest.mark.parametrize("number", TENSOR_NUMBERS)
def test_a_tensor_type_has_its_name_and_block_size(number: int) -> None:
    name, *sizes = TENSOR_TYPES[number]
    assert GGMLQuantizationType(number).name == name
    if name not in DIFFERENT_IN_LLAMA_CPP:
        assert tuple(sizes) == GGML_QUANT_SIZES[GGMLQuantizationType(number)]


@pytest.mark.parametrize("number", FILE_NUMBERS)
def test_a_file_type_has_its_name(number: int) -> None:
    assert LlamaFileType(number).name.removeprefix("ALL_").removeprefix("MOSTLY_") in (
        FILE_TYPES[number],
        f"{FILE_TYPES[number]}_MOE",
    )


def test_nearly_all_numbers_are_compared() -> None:
    assert len(TENSOR_NUMBERS) > 30
    assert len(FILE_NUMBERS) > 30
