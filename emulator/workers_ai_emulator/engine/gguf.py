"""Checks that a GGUF file is a complete text-generation model, before llama.cpp loads it.

llama.cpp aborts the whole process if a file has certain invalid headers. This module rejects these
files before llama.cpp reads them. It also rejects some files for which llama.cpp has no clear error
text. It does not find all invalid files: some are found only when llama.cpp loads them.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf_format import MAX_LAYERS, Reader, parse, shown
from workers_ai_emulator.engine.gguf_header import GgufArray, GgufHeader
from workers_ai_emulator.files import IrregularFile, open_regular

_MAX_EXPERTS = 1024
_MAPPED_ALIGNMENT = 32  # bytes; llama.cpp requires this alignment of memory-mapped weights
_MAX_TOKENS = 2**22  # the maximum vocabulary size; known vocabularies are at most a tenth as large
# llama.cpp uses these tensor types only for intermediate results. It cannot multiply with weights
# of these types.
_UNSUPPORTED_WEIGHTS = frozenset(("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"))
_ROUTING_TABLE = "tid2eid"  # tensors with this text in their name contain integers, not weights
# Architectures that cannot generate text token by token on their own: encoders, diffusion models,
# speech models and draft models.
NOT_GENERATING = re.compile(
    ".*bert.*|gemma-embedding|llama-embed|t5|t5encoder|clip|wavtokenizer-dec|qwen3tts|pockettts"
    "|dream|llada|llada-moe|rnd1|eagle3|dflash|gemma4-assistant"
)
_SPECIAL_FILES = {
    "adapter": "an adapter (LoRA) for a model",
    "mmproj": "the image part of a model",
    "imatrix": "statistics for quantizing a model",
}
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


def read_header(path: Path, *, generates_text: bool = True) -> GgufHeader:
    """Reads and checks the header of a GGUF file, and returns it.

    `generates_text`: whether models that do not generate text are refused. Raises GgufInvalid if
    the file cannot be read, is not GGUF, is damaged, or is not a complete model. Takes about 40 ms
    for each 100,000 entries of the vocabulary (tokens and BPE merges).
    """
    try:
        with open_regular(path) as file:
            reader = Reader(file, os.fstat(file.fileno()).st_size)
            return _checked(reader, generates_text=generates_text)
    except IrregularFile as error:
        raise GgufInvalid(f"it {error.strerror}") from error
    except OSError as error:
        raise GgufInvalid(f"it cannot be read: {error.strerror}") from error


def _checked(reader: Reader, *, generates_text: bool) -> GgufHeader:
    header = parse(reader)
    _check_kind(header)
    if generates_text and NOT_GENERATING.fullmatch(header.architecture):
        raise GgufInvalid(
            f"its architecture, {header.architecture}, does not generate text. If it is an "
            "embedding model, its entry in models.toml needs the key `like`"
        )
    _check_tokenizer(header, reader)
    if not header.tensors:
        raise GgufInvalid("it has a vocabulary but no weights")
    _check_hyperparameters(header)
    _check_types(header)
    _check_data(header)
    return header


def _check_kind(header: GgufHeader) -> None:
    """Raises GgufInvalid if the file is not a complete model that generates text.

    For example, rejects adapters, parts of a split model, and encoders.
    """
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if architecture is None:
        raise GgufInvalid("its metadata has no general.architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[\w.-]{1,40}", architecture):
        raise GgufInvalid(f"it is damaged: its architecture is {shown(architecture)}")
    kind = metadata.get("general.type")
    if isinstance(kind, str) and kind in _SPECIAL_FILES:
        raise GgufInvalid(f"it is not a model but {_SPECIAL_FILES[kind]}")
    num_parts, part = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if not isinstance(num_parts, int) or not isinstance(part, int):
        raise GgufInvalid("it is damaged: 'split.count' or 'split.no' is not an integer")
    if num_parts > 1:
        raise GgufInvalid(
            f"it is part {part + 1} of {num_parts} of a model, and split models are not supported: "
            "join the parts with `llama-gguf-split --merge`"
        )


def _check_tokenizer(header: GgufHeader, reader: Reader) -> None:
    metadata = header.metadata
    model, tokens = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or model in ("none", "no_vocab") or tokens is None:
        raise GgufInvalid("it has no tokenizer, so it is not a text model")
    _check_array(metadata, "tokens", ("string",), 1)
    if tokens.length > _MAX_TOKENS:
        raise GgufInvalid(f"it is damaged: it declares {tokens.length:,} tokens")
    _check_array(metadata, "scores", ("float32", "int32"), tokens.length)
    _check_array(metadata, "token_type", ("int32",), tokens.length)
    for key in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        if not 0 <= _integer(metadata, key, default=0) < tokens.length:
            raise GgufInvalid(
                f"it is damaged: {key!r} is {metadata[key]:,} and it has {tokens.length:,} tokens"
            )
    texts = _distinct_texts(reader.strings(tokens))
    if model in ("llama", "plamo2"):
        _check_bytes(texts)


def _check_array(
    metadata: Mapping[str, Any], name: str, element_types: tuple[str, ...], min_length: int
) -> None:
    """Raises GgufInvalid if the array `tokenizer.ggml.NAME` has a wrong type or is too short.

    Does nothing if the file has no such array. `element_types`: the allowed types of elements.
    `min_length`: the minimum number of elements.
    """
    key = f"tokenizer.ggml.{name}"
    array = metadata.get(key)
    if array is None:
        return
    if not isinstance(array, GgufArray) or array.element_type not in element_types:
        raise GgufInvalid(f"it is damaged: {key!r} is not an array of {' or '.join(element_types)}")
    if array.length < min_length:
        raise GgufInvalid(
            f"it is damaged: {key!r} has {array.length:,} elements, {min_length:,} are needed"
        )


def _distinct_texts(tokens: list[bytes]) -> set[bytes]:
    """Returns the texts of all vocabulary tokens as llama.cpp reads them.

    llama.cpp ignores a zero byte in a text and all bytes after the zero byte. Raises GgufInvalid if
    two tokens have the same text, because llama.cpp would abort the process.
    """
    texts = [token.split(b"\0", 1)[0] or b"[EMPTY_%d]" % i for i, token in enumerate(tokens)]
    distinct = set(texts)
    if len(distinct) < len(texts):
        text, count = Counter(texts).most_common(1)[0]
        raise GgufInvalid(
            f"it is damaged: {count} tokens of its vocabulary have the text "
            f"{shown(text.decode('utf-8', 'replace'))}"
        )
    return distinct


def _check_bytes(texts: set[bytes]) -> None:
    """Raises GgufInvalid if the vocabulary has no token for a byte that can occur in UTF-8.

    With such a vocabulary, llama.cpp would abort the process. `texts`: the texts of all tokens.
    """
    for byte in range(256):
        single = bytes([byte]) if byte else b"<0x00>"
        if byte not in _NEVER_IN_UTF8 and not {b"<0x%02X>" % byte, single} & texts:
            raise GgufInvalid(f"it is damaged: its vocabulary has no token for byte 0x{byte:02X}")


def _check_hyperparameters(header: GgufHeader) -> None:
    metadata, prefix = header.metadata, header.architecture
    for key, most in (("context_length", 2**31 - 1), ("embedding_length", 2**31 - 1)):
        _check_range(metadata, f"{prefix}.{key}", 1, most)
    _check_range(metadata, f"{prefix}.block_count", 1, MAX_LAYERS)
    num_layers = _integer(metadata, f"{prefix}.block_count")
    if f"{prefix}.nextn_predict_layers" in metadata:
        _check_range(metadata, f"{prefix}.nextn_predict_layers", 0, num_layers - 1)
    _check_heads(header)
    _check_experts(header)
    _check_numerics(header)


def _check_heads(header: GgufHeader) -> None:
    heads = header.per_layer("attention.head_count")
    kv_heads = header.per_layer("attention.head_count_kv") or heads
    for num_heads, num_kv_heads in zip(heads, kv_heads, strict=False):
        if num_kv_heads and num_heads % num_kv_heads:
            raise GgufInvalid(
                f"it is damaged: {num_heads:,} attention heads cannot share {num_kv_heads:,} "
                "KV heads"
            )


def _check_experts(header: GgufHeader) -> None:
    metadata, prefix = header.metadata, header.architecture
    count = _integer(metadata, f"{prefix}.expert_count", default=0)
    if count <= 1 and prefix in ("hunyuan-dense", "hunyuan_vl"):
        return  # llama.cpp loads these Hunyuan models as models without experts
    used = header.per_layer("expert_used_count") or [0]
    is_possible = min(used) >= 0 and max(used) <= count <= _MAX_EXPERTS
    if not is_possible or (count > 0) != any(used):
        raise GgufInvalid(f"it is damaged: it uses {max(used):,} of {count:,} experts")
    groups = _integer(metadata, f"{prefix}.expert_group_count", default=0)
    used_groups = _integer(metadata, f"{prefix}.expert_group_used_count", default=0)
    is_odd = groups > 1 and (count % groups or not 0 < used_groups < groups)
    if (groups and groups >= count) or is_odd:
        raise GgufInvalid(
            f"it is damaged: it uses {used_groups:,} of {groups:,} groups of {count:,} experts"
        )


def _check_numerics(header: GgufHeader) -> None:
    metadata, prefix = header.metadata, header.architecture
    scaling = metadata.get(f"{prefix}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise GgufInvalid(f"it is damaged: its rope scaling is {shown(scaling)}")
    for name in _EPSILONS:
        key = f"{prefix}.attention.{name}"
        epsilon = metadata.get(key, 0.0)
        if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
            raise GgufInvalid(f"it is damaged: {key!r} is {shown(epsilon)}")


def _check_types(header: GgufHeader) -> None:
    """Raises GgufInvalid if llama.cpp would abort the process because of a tensor's data type."""
    for tensor in header.tensors:
        is_vector = len(tensor.shape) == 1 or tensor.name.endswith("_norm.weight")
        is_odd = tensor.type_name in _UNSUPPORTED_WEIGHTS and _ROUTING_TABLE not in tensor.name
        if is_odd or (is_vector and tensor.type_name != "F32"):
            raise GgufInvalid(
                f"it is damaged: tensor {tensor.name!r} has type {tensor.type_name}, "
                "which llama.cpp does not support for it"
            )


def _check_data(header: GgufHeader) -> None:
    """Raises GgufInvalid if the weights are incomplete or are not aligned to 32 bytes."""
    if header.data_offset % _MAPPED_ALIGNMENT:
        raise GgufInvalid(
            f"its data begin at byte {header.data_offset:,}, and llama.cpp needs a multiple of "
            f"{_MAPPED_ALIGNMENT}: write it again with this alignment"
        )
    needed = header.data_offset + max(tensor.offset + tensor.size for tensor in header.tensors)
    if needed > header.file_size:
        present, complete = _in_units(header.file_size), _in_units(needed)
        if present == complete:
            present, complete = f"{header.file_size:,}", f"{needed:,} bytes"
        raise GgufInvalid(f"it is truncated: it has {present} of {complete}; download it again")


def _in_units(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _check_range(metadata: Mapping[str, Any], key: str, least: int, most: int) -> None:
    value = _integer(metadata, key)
    if not least <= value <= most:
        raise GgufInvalid(f"it is damaged: {key!r} is {value:,}, not {least:,} to {most:,}")


def _integer(metadata: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    if key not in metadata and default is None:
        raise GgufInvalid(f"it is damaged: {key!r} is missing")
    value = metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise GgufInvalid(f"it is damaged: {key!r} is not an integer")
    return value
