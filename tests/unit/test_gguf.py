"""Tests reading the header of a GGUF file, and every reason to reject a file."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_header import GgufArray, GgufHeader, GgufTensor

from tests.gguf_files import (
    ARRAY,
    DATA,
    F16,
    F32,
    INT32,
    Q8_0,
    STRING,
    UINT16,
    UINT64,
    Tensor,
    Typed,
    gguf,
)

INT32_TENSOR = 26
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b"]
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 7,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.block_count": 2,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 2.0**-17,
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.scores": [0.0] * len(TOKENS),
    "tokenizer.ggml.token_type": [1] * len(TOKENS),
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.chat_template": "{{ messages }}",
}
TENSORS = [
    Tensor("token_embd.weight", (64, 3), Q8_0, bytes(204)),
    Tensor("output_norm.weight", (64,), F32, bytes(256)),
]
SAFETENSORS = struct.pack("<Q", 40) + b'{"weight": {"dtype": "F16", "shape": []}}'
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7161089728\n"


def model(changes: Mapping[str, Any], tensors: Sequence[Tensor] = TENSORS) -> bytes:
    """Returns a valid file whose metadata has these changes. The value None removes a key."""
    metadata = {key: value for key, value in {**METADATA, **changes}.items() if value is not None}
    return gguf(metadata, tensors)


def read(tmp_path: Path, content: bytes) -> GgufHeader:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return read_header(path)


def rejection(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(GgufInvalid) as raised:
        read(tmp_path, content)
    message = str(raised.value)
    assert 0 < len(message) < 300
    assert message.isprintable(), "it is one line"
    return message


def test_a_header_describes_the_model(tmp_path: Path) -> None:
    header = read(tmp_path, model({}))
    assert (header.version, header.architecture, header.name) == (3, "llama", "Tiny")
    assert (header.context_length, header.embedding_length, header.num_layers) == (512, 64, 2)
    assert (header.vocabulary_size, header.rms_epsilon) == (261, 2.0**-17)
    assert header.weights_type == "Q8_0"
    assert header.tensors[1] == GgufTensor("output_norm.weight", (64,), "F32", 224, 256)
    assert header.data_offset % 32 == 0
    assert header.file_size == header.data_offset + 480


def test_the_elements_of_long_arrays_stay_in_the_file(tmp_path: Path) -> None:
    tokens = read(tmp_path, model({})).metadata["tokenizer.ggml.tokens"]
    assert tokens == GgufArray("string", 261, tokens.offset)
    content = (tmp_path / "model.gguf").read_bytes()
    assert content[tokens.offset :].startswith(struct.pack("<Q", 5) + b"<unk>")


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    assert read(tmp_path, gguf(METADATA, TENSORS, version=2)).version == 2


def test_missing_values_are_none(tmp_path: Path) -> None:
    missing = {"general.name": None, "llama.attention.layer_norm_rms_epsilon": None}
    header = read(tmp_path, model(missing))
    assert (header.name, header.rms_epsilon) == (None, None)


def test_without_a_file_type_the_type_of_most_weights_counts(tmp_path: Path) -> None:
    assert read(tmp_path, model({"general.file_type": None})).weights_type == "F32"
    assert read(tmp_path, model({"general.file_type": 15})).weights_type == "Q4_K_M"


def test_padding_behind_the_last_tensor_may_be_missing(tmp_path: Path) -> None:
    tensors = [Tensor("a", (3,), F32, bytes(12))]
    assert read(tmp_path, model({}, tensors)[:-20]).tensors[0].size == 12


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (SAFETENSORS, "safetensors"),
        (b"tjgg" + bytes(60), "GGML file from before GGUF"),
        (b"fmgg" + bytes(60), "GGML file from before GGUF"),
        (b"lmgg" + bytes(60), "GGML file from before GGUF"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<html><body>Not found", "a web page"),
        (b'{"error": "Not found"}', "JSON"),
        (b"PK\x03\x04" + bytes(60), "zip"),
        (LFS_POINTER, "git lfs pull"),
        (bytes(100), "its download is incomplete"),
        (b"\x01\x02\x03\x04\x05", "01 02 03 04"),
        (b"GGU", "47 47 55"),
        (b"GGUF", "the version ends at byte 8 of 4"),
        (gguf(METADATA, TENSORS, version=1), "version 1"),
        (gguf(METADATA, TENSORS, version=4), "version 4, and the newest supported version is 3"),
        (gguf(METADATA, TENSORS, version=3 << 24), "big-endian"),
    ],
)
def test_files_of_other_formats_and_versions_are_rejected(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    assert reason in rejection(tmp_path, content)


def test_a_file_that_cannot_be_read_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(GgufInvalid, match="No such file"):
        read_header(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": None}, "has no general.architecture"),
        ({"general.architecture": 7}, "its architecture is 7"),
        ({"general.architecture": "ll\nama"}, "its architecture is 'll\\nama'"),
        ({"general.architecture": "bert"}, "bert, does not generate text"),
        ({"general.type": "adapter"}, "an adapter"),
        ({"general.type": "mmproj"}, "the image part"),
        (
            {"split.count": Typed(UINT16, b"\3\0"), "split.no": Typed(UINT16, b"\1\0")},
            "part 2 of 3",
        ),
        ({"split.count": "two"}, "is not an integer"),
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.model": "none"}, "no tokenizer"),
        ({"tokenizer.ggml.tokens": None}, "no tokenizer"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "is not an array of string"),
        ({"tokenizer.ggml.tokens": "a"}, "is not an array of string"),
        (
            {"tokenizer.ggml.tokens": [*TOKENS[:-1], "a"]},
            "2 tokens of its vocabulary have the text 'a'",
        ),
        ({"tokenizer.ggml.tokens": [*TOKENS[:-1], "a\0b"]}, "have the text 'a'"),
        ({"tokenizer.ggml.tokens": [*TOKENS[:68], "c", *TOKENS[69:]]}, "no token for byte 0x41"),
        (
            {"tokenizer.ggml.scores": [0.0]},
            "'tokenizer.ggml.scores' has 1 elements, 261 are needed",
        ),
        ({"tokenizer.ggml.scores": ["a"]}, "is not an array of float32 or int32"),
        ({"tokenizer.ggml.token_type": [1] * 260}, "has 260 elements"),
        ({"tokenizer.ggml.token_type": [1.0] * 261}, "is not an array of int32"),
        ({"tokenizer.ggml.bos_token_id": 261}, "is 261 and it has 261 tokens"),
        ({"tokenizer.ggml.eos_token_id": 2**31}, "is 2,147,483,648 and it has 261 tokens"),
        ({"tokenizer.ggml.eos_token_id": 2.0}, "is not an integer"),
        ({"llama.context_length": None}, "'llama.context_length' is missing"),
        ({"llama.context_length": 0}, "'llama.context_length' is 0"),
        ({"llama.context_length": 2**31}, "is 2,147,483,648"),
        ({"llama.embedding_length": 0}, "'llama.embedding_length' is 0"),
        ({"llama.embedding_length": [64]}, "is not an integer"),
        ({"llama.block_count": 0}, "'llama.block_count' is 0"),
        ({"llama.block_count": 513}, "not 1 to 512"),
        ({"llama.nextn_predict_layers": 2}, "not 0 to 1"),
        ({"llama.attention.head_count_kv": 3}, "4 attention heads cannot share 3 KV heads"),
        ({"llama.attention.head_count_kv": [2, 3]}, "4 attention heads cannot share 3 KV heads"),
        ({"llama.attention.head_count_kv": [2, 2, 2]}, "is not an array of 2 integers"),
        ({"llama.attention.head_count": [4.0, 4.0]}, "is not an array of 2 integers"),
        ({"llama.attention.layer_norm_rms_epsilon": -1e-5}, "layer_norm_rms_epsilon' is -"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "is nan"),
        ({"llama.attention.layer_norm_epsilon": 3}, "layer_norm_epsilon' is 3"),
        ({"llama.expert_count": 8}, "uses 0 of 8 experts"),
        ({"llama.expert_used_count": 2}, "uses 2 of 0 experts"),
        ({"llama.expert_count": 8, "llama.expert_used_count": [2, -1]}, "uses 2 of 8 experts"),
        ({"llama.expert_count": 2000, "llama.expert_used_count": 2}, "2 of 2,000 experts"),
        ({"llama.expert_group_count": 2}, "0 of 2 groups of 0 experts"),
        ({"llama.rope.scaling.type": "jarn"}, "its rope scaling is 'jarn'"),
        ({"general.alignment": 0}, "alignment is 0"),
        ({"general.alignment": 48}, "alignment is 48"),
        ({"general.alignment": "32"}, "alignment is '32'"),
        ({"general.description": Typed(13, b"")}, "unknown type 13"),
        (
            {"general.tags": Typed(ARRAY, struct.pack("<IQ", 9, 1))},
            "elements of the unknown type 9",
        ),
        ({"": 1}, "is empty"),
        ({"x" * 60_000: Typed(13, b"")}, "x…"),
    ],
)
def test_invalid_metadata_is_rejected(
    tmp_path: Path, changes: Mapping[str, Any], reason: str
) -> None:
    assert reason in rejection(tmp_path, model(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"general.type": "model", "split.count": 1},
        {"tokenizer.ggml.padding_token_id": 2**32 - 1},
        {"llama.attention.head_count_kv": [0, 2], "llama.attention.head_count": [0, 4]},
        {"llama.expert_count": 8, "llama.expert_used_count": 2},
        {"llama.rope.scaling.type": "yarn"},
        {"general.description": b"\xff"},
        {"general.parameters": Typed(UINT64, bytes(8))},
        {"general.languages": Typed(ARRAY, struct.pack("<IQ", STRING, 0))},
    ],
)
def test_unusual_but_harmless_metadata_is_accepted(
    tmp_path: Path, changes: Mapping[str, Any]
) -> None:
    assert read(tmp_path, model(changes))


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ([], "a vocabulary but no weights"),
        ([Tensor("a", ())], "has 0 dimensions"),
        ([Tensor("a", (1, 1, 1, 1, 1))], "has 5 dimensions"),
        ([Tensor("a", (64, 0))], "has 64 x 0 elements"),
        ([Tensor("a", (2**40, 2**40))], "elements of type F32"),
        ([Tensor("a", (33, 2), Q8_0)], "33 x 2 elements of type Q8_0"),
        ([Tensor("a", (64,), F16)], "'a' has type F16, which llama.cpp does not support for it"),
        ([Tensor("blk.0.attn_norm.weight", (64, 1), F16)], "has type F16"),
        (
            [Tensor("a", (64, 2), INT32_TENSOR)],
            "'a' has type I32, which llama.cpp does not support for it",
        ),
        ([Tensor("a", (64,), 4)], "type 4, which llama.cpp does not support"),
        ([Tensor("a", (64,), 43)], "type 43, which llama.cpp does not support"),
        ([Tensor("a" * 64, (1,))], "is 64 bytes long"),
        ([Tensor("", (1,))], "is empty"),
        ([TENSORS[0], TENSORS[0]], "tensor 'token_embd.weight' twice"),
        (
            [Tensor("a", (64,), offset=4)],
            "begin at 4, but the data of the tensor before it end at 0",
        ),
        (
            [*TENSORS[:1], Tensor("a", (64,), offset=192)],
            "begin at 192, but the data of the tensor before it end at 224",
        ),
        (
            [*TENSORS[:1], Tensor("a", (64,), offset=256)],
            "begin at 256, but the data of the tensor before it end at 224",
        ),
        ([Tensor("a", (2**21, 2**10), F16, bytes(64))], "it has 0.0 MiB of 4.0 GiB"),
        ([Tensor("a", (64,), F32, bytes(224))], "it has 6,720 of 6,752 bytes"),
    ],
)
def test_invalid_tensors_are_rejected(
    tmp_path: Path, tensors: Sequence[Tensor], reason: str
) -> None:
    assert reason in rejection(tmp_path, model({}, tensors))


def test_a_duplicate_key_is_rejected(tmp_path: Path) -> None:
    content = model({"general.aaaa": 1, "general.bbbb": 1}).replace(b"bbbb", b"aaaa")
    assert "key 'general.aaaa' twice" in rejection(tmp_path, content)


def test_a_key_that_is_not_utf8_is_rejected(tmp_path: Path) -> None:
    content = model({"general.aaaa": 1}).replace(b"aaaa", b"aa\xff\xff")
    assert "not UTF-8" in rejection(tmp_path, content)


def test_data_that_are_not_aligned_for_llama_cpp_are_rejected(tmp_path: Path) -> None:
    for length in range(32):
        metadata = METADATA | {"general.alignment": 16, "general.description": "x" * length}
        content = gguf(metadata, TENSORS, alignment=16)
        data_offset = len(content) - 208 - 256
        if data_offset % 32 == 0:
            assert read(tmp_path, content).data_offset == data_offset
        else:
            assert "llama.cpp needs a multiple of 32" in rejection(tmp_path, content)


@pytest.mark.parametrize("claim", [2**20, 2**32, 2**62, 2**64 - 1])
def test_lengths_beyond_the_file_are_rejected(tmp_path: Path, claim: int) -> None:
    claims = [
        gguf(METADATA, TENSORS, num_keys=claim),
        gguf(METADATA, TENSORS, num_tensors=claim),
        model({"general.name": Typed(STRING, struct.pack("<Q", claim))}),
        model({"general.tags": Typed(ARRAY, struct.pack("<IQ", STRING, claim))}),
        model({"general.tags": Typed(ARRAY, struct.pack("<IQ", INT32, claim))}),
        model({"general.tags": Typed(ARRAY, struct.pack("<IQQ", STRING, 1, claim))}),
    ]
    for content in claims:
        assert "damaged" in rejection(tmp_path, content)


def test_a_huge_length_in_a_sparse_file_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(model({"general.name": Typed(STRING, struct.pack("<Q", 2**40))}))
    with path.open("r+b") as file:
        file.truncate(2**42)
    with pytest.raises(GgufInvalid, match="is 1,099,511,627,776 bytes long"):
        read_header(path)


def test_a_file_that_is_truncated_anywhere_is_rejected(tmp_path: Path) -> None:
    content = model({})
    for length in [*range(0, len(content) - 480, 97), *range(len(content) - 480, len(content), 20)]:
        assert rejection(tmp_path, content[:length])


def test_a_vocabulary_without_weights_is_rejected() -> None:
    with pytest.raises(GgufInvalid, match=r"^it has a vocabulary but no weights$"):
        read_header(DATA / "llama2-vocab.gguf")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_path_that_is_no_regular_file_is_rejected_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(
            GgufInvalid, match=r"^it is a (directory|device or a pipe), not a file$"
        ):
            read_header(path)
