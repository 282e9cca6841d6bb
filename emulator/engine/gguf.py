"""The header of a GGUF file, read and checked before llama.cpp sees it.

llama.cpp ends the whole process over much that a header may say wrongly. What it would not survive
is refused here, and what is easily told better; the rest of what is wrong it refuses by itself.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any, BinaryIO

from emulator.errors import EmulatorError

_VERSIONS = (2, 3)
_MAX_HEADER = 256 * 2**20  # the longest known, with 262,144 tokens and their merges, has 16 MiB
_MAX_KEY = 65_535
_MAX_TENSOR_NAME = 63
_MAX_DIMENSIONS = 4
_MAX_LAYERS = 512
_MAX_EXPERTS = 1024
_MAX_SIZE = 2**63 - 1
_MAX_SHOWN = 80
_CHUNK = 2**20
_DEFAULT_ALIGNMENT = 32
_MAPPED_ALIGNMENT = 32  # of what llama.cpp computes with where it is mapped

_COUNT = Struct("<Q")
_U32 = Struct("<I")
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: ("uint8", Struct("<B")),
    1: ("int8", Struct("<b")),
    2: ("uint16", Struct("<H")),
    3: ("int16", Struct("<h")),
    4: ("uint32", _U32),
    5: ("int32", Struct("<i")),
    6: ("float32", Struct("<f")),
    7: ("bool", Struct("<?")),
    10: ("uint64", _COUNT),
    11: ("int64", Struct("<q")),
    12: ("float64", Struct("<d")),
}

# Type: name, elements in a block, bytes of a block. Numbers that are missing are of types that
# llama.cpp has given up.
_TENSOR_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}

# llama.cpp holds intermediate results in these, and multiplies no weights that are stored so.
_NO_WEIGHTS = frozenset(("I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"))
_ROUTING_TABLE = "tid2eid"  # whole numbers, but no weights

# What `general.file_type` says of the weights as a whole.
_FILE_TYPES = {
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

# How other files begin, and what to do about them. A download that failed is the usual reason.
_OTHER_FORMATS = {
    b"version https://git-lfs": "a pointer of git-lfs: fetch the file itself with `git lfs pull`",
    b"lmgg": "a GGML file from before GGUF: have it converted",
    b"fmgg": "a GGML file from before GGUF: have it converted",
    b"tjgg": "a GGML file from before GGUF: have it converted",
    b"algg": "an adapter from before GGUF",
    b"PK\x03\x04": "a zip archive (or PyTorch's weights)",
    b"\x1f\x8b": "compressed with gzip",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
    b"{": "JSON",
    b"\0\0\0\0": "zeros where it begins: its download has not ended",
}

# Those that encode, diffuse, speak or assist: none gives a text token by token.
_NOT_GENERATING = re.compile(
    ".*bert.*|gemma-embedding|llama-embed|t5|t5encoder|clip|wavtokenizer-dec|qwen3tts|pockettts"
    "|dream|llada|llada-moe|rnd1|eagle3|dflash|gemma4-assistant"
)
_SPECIAL_FILES = {
    "adapter": "an adapter (LoRA) for a model",
    "mmproj": "the image part of a model",
    "imatrix": "measurements for quantizing a model",
}
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")
_NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


class GgufInvalid(EmulatorError):
    """A file is no GGUF file that can be run. The message is one line about "it", the file."""


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array in the metadata, which stays in the file."""

    element_type: str
    length: int
    offset: int  # of its first element in the file


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's place and form; `offset` counts from the start of all data."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself."""

    version: int
    metadata: Mapping[str, Any]  # bool, int, float, str or GgufArray
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
    def context_length(self) -> int | None:
        """The most tokens that it was trained on at once."""
        return self._whole("context_length")

    @property
    def embedding_length(self) -> int | None:
        return self._whole("embedding_length")

    @property
    def num_layers(self) -> int | None:
        return self._whole("block_count")

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
        """How the weights are stored: `Q8_0`, `F16`, `Q4_K_M` and so on."""
        file_type = self.metadata.get("general.file_type")
        if isinstance(file_type, int) and file_type in _FILE_TYPES:
            return _FILE_TYPES[file_type]
        sizes: Counter[str] = Counter()
        for tensor in self.tensors:
            sizes[tensor.type_name] += tensor.size
        return sizes.most_common(1)[0][0]

    @property
    def has_chat_template(self) -> bool:
        return bool(self.metadata.get("tokenizer.chat_template"))

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def _whole(self, key: str) -> int | None:
        value = self.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_header(path: Path) -> GgufHeader:
    """The header of a whole model that generates text, which is checked.

    It takes some 40 ms for each 100,000 tokens and merges of the vocabulary. Raises GgufInvalid for
    any other file, and for one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            return _read(_Reader(file, os.fstat(file.fileno()).st_size))
    except OSError as error:
        raise GgufInvalid(f"it cannot be read: {error.strerror}") from error


class _Reader:
    """A file's bytes from its start, fetched as they are needed; lengths are never believed.

    It is not mapped: a mapped file that somebody shortens ends the process.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.data = bytearray()
        self.position = 0

    def take(self, length: int, what: str) -> int:
        """Step over bytes, which `data` then has; returns where they start."""
        start = self.position
        self.fetch(start + length, what)
        self.position = start + length
        return start

    def number(self, form: Struct, what: str) -> Any:
        start = self.take(form.size, what)  # before `data` is looked at
        return form.unpack_from(self.data, start)[0]

    def string(self, what: str, max_length: int = _MAX_HEADER) -> bytes:
        length = self.number(_COUNT, what)
        if length > max_length:
            raise GgufInvalid(f"it is damaged: {what} is {length:,} bytes long")
        start = self.take(length, what)
        return bytes(self.data[start : start + length])

    def step_over_strings(self, count: int, what: str) -> None:
        position, length_at = self.position, _COUNT.unpack_from
        for _ in range(count):
            if position + 8 > len(self.data):
                self.fetch(position + 8, what)
            position += 8 + length_at(self.data, position)[0]
        self.fetch(position, what)
        self.position = position

    def strings(self, array: GgufArray) -> list[bytes]:
        """The elements of an array that has been stepped over."""
        found, position, view = [], array.offset, memoryview(self.data)
        for _ in range(array.length):
            end = position + 8 + _COUNT.unpack_from(view, position)[0]
            found.append(bytes(view[position + 8 : end]))
            position = end
        return found

    def numbers(self, array: GgufArray) -> list[Any]:
        form = next(form for name, form in _SCALARS.values() if name == array.element_type)
        end = array.offset + array.length * form.size
        return [value for (value,) in form.iter_unpack(self.data[array.offset : end])]

    def fetch(self, end: int, what: str) -> None:
        """Have all bytes before `end` in `data`."""
        if end > self.size:
            raise GgufInvalid(
                f"it is truncated or damaged: {what} ends at byte {end:,} of {self.size:,}"
            )
        if end > _MAX_HEADER:
            raise GgufInvalid(f"it is damaged: {what} ends {end:,} bytes into the header")
        while len(self.data) < end:
            chunk = self._file.read(max(end - len(self.data), _CHUNK))
            if not chunk:
                raise GgufInvalid("it was shortened while it was read")
            self.data += chunk


def _read(reader: _Reader) -> GgufHeader:
    _check_magic(reader)
    version = reader.number(_U32, "the version")
    _check_version(version)
    num_tensors = reader.number(_COUNT, "the number of tensors")
    num_keys = reader.number(_COUNT, "the number of keys")
    metadata = _read_metadata(reader, num_keys)
    alignment = _alignment(metadata)
    tensors = _read_tensors(reader, num_tensors, alignment)
    data_offset = _padded(reader.position, alignment)
    header = GgufHeader(version, metadata, tensors, data_offset, reader.size)
    _check_kind(header)
    _check_tokenizer(header, reader)
    if not tensors:
        raise GgufInvalid("it has a vocabulary but no weights")
    _check_hyperparameters(header, reader)
    _check_types(header)
    _check_data(header)
    return header


def _check_magic(reader: _Reader) -> None:
    if reader.size == 0:
        raise GgufInvalid("it is empty")
    reader.fetch(min(reader.size, 64), "its start")
    start = bytes(reader.data[:64])
    if not start.startswith(b"GGUF"):
        raise GgufInvalid(f"it is not a GGUF file but {_look_of(start, reader.size)}")
    reader.take(4, "its start")


def _look_of(start: bytes, size: int) -> str:
    """What a file that begins so, and is no GGUF file, may be."""
    if len(start) > 8 and start[8:9] == b"{" and _COUNT.unpack_from(start)[0] < size:
        return "safetensors: have it converted, with llama.cpp's convert_hf_to_gguf.py"
    lowered = start.lstrip().lower()
    for magic, look in _OTHER_FORMATS.items():
        if start.startswith(magic) or lowered.startswith(magic):
            return look
    return f"something that begins with the bytes {start[:4].hex(' ')}"


def _check_version(version: int) -> None:
    if version & 0xFFFF == 0 and version:
        raise GgufInvalid("it is a GGUF file for big-endian machines")
    if version < min(_VERSIONS):
        raise GgufInvalid(f"it is of GGUF version {version}: have it converted again")
    if version > max(_VERSIONS):
        raise GgufInvalid(f"it is of GGUF version {version}, and 3 is the newest that is known")


def _read_metadata(reader: _Reader, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(num_keys):
        name = f"key {index + 1} of {num_keys:,}"
        key = _utf8(reader.string(name, _MAX_KEY), name)
        if key in metadata:
            raise GgufInvalid(f"it is damaged: it has key {_shown(key)} twice")
        metadata[key] = _read_value(reader, f"the value of {_shown(key)}")
    return metadata


def _shown(value: object) -> str:
    """A value of the file for a message: on one line, and not all of a long one."""
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"


def _utf8(text: bytes, what: str) -> str:
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise GgufInvalid(f"it is damaged: {what} is not UTF-8") from error
    if not decoded:
        raise GgufInvalid(f"it is damaged: {what} is empty")
    return decoded


def _read_value(reader: _Reader, what: str) -> Any:
    value_type = reader.number(_U32, what)
    if value_type == _ARRAY:
        return _read_array(reader, what)
    if value_type == _STRING:
        return reader.string(what).decode("utf-8", "replace")
    if value_type in _SCALARS:
        return reader.number(_SCALARS[value_type][1], what)
    raise GgufInvalid(f"it is damaged: {what} has the unknown type {value_type}")


def _read_array(reader: _Reader, what: str) -> GgufArray:
    element_type = reader.number(_U32, what)
    length = reader.number(_COUNT, what)
    start = reader.position
    if element_type == _STRING:
        if length > reader.size // _COUNT.size:
            raise GgufInvalid(f"it is truncated or damaged: {what} has {length:,} strings")
        reader.step_over_strings(length, what)
        return GgufArray("string", length, start)
    if element_type not in _SCALARS:
        raise GgufInvalid(f"it is damaged: {what} has elements of the unknown type {element_type}")
    name, form = _SCALARS[element_type]
    reader.take(length * form.size, what)
    return GgufArray(name, length, start)


def _alignment(metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise GgufInvalid(
            f"it is damaged: its alignment is {_shown(alignment)}, not a power of two"
        )
    return alignment


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _read_tensors(reader: _Reader, num_tensors: int, alignment: int) -> tuple[GgufTensor, ...]:
    """All tensors. As llama.cpp wants it, each one's data follows that of the one before it."""
    tensors: dict[str, GgufTensor] = {}
    end = 0
    for index in range(num_tensors):
        tensor = _read_tensor(reader, f"the name of tensor {index + 1} of {num_tensors:,}")
        if tensor.name in tensors:
            raise GgufInvalid(f"it is damaged: it has tensor {tensor.name!r} twice")
        if tensor.offset != end:
            raise GgufInvalid(
                f"it is damaged: the data of tensor {tensor.name!r} begin at {tensor.offset:,}, "
                f"and those before it end at {end:,}"
            )
        tensors[tensor.name] = tensor
        end = _padded(tensor.offset + tensor.size, alignment)
    return tuple(tensors.values())


def _read_tensor(reader: _Reader, place: str) -> GgufTensor:
    name = _utf8(reader.string(place, _MAX_TENSOR_NAME), place)
    what = f"tensor {name!r}"
    num_dimensions = reader.number(_U32, what)
    if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
        raise GgufInvalid(f"it is damaged: {what} has {num_dimensions:,} dimensions")
    shape = tuple(reader.number(_COUNT, what) for _ in range(num_dimensions))
    type_name, size = _size(shape, reader.number(_U32, what), what)
    return GgufTensor(name, shape, type_name, reader.number(_COUNT, what), size)


def _size(shape: tuple[int, ...], type_number: int, what: str) -> tuple[str, int]:
    """The name of a tensor's type and its bytes."""
    if type_number not in _TENSOR_TYPES:
        raise GgufInvalid(f"{what} has type {type_number}, which llama.cpp does not know")
    name, block_length, block_size = _TENSOR_TYPES[type_number]
    size = math.prod(shape) // block_length * block_size
    if shape[0] % block_length or not 0 < size <= _MAX_SIZE:
        sides = " x ".join(f"{side:,}" for side in shape)
        raise GgufInvalid(f"it is damaged: {what} has {sides} elements of type {name}")
    return name, size


def _check_kind(header: GgufHeader) -> None:
    """Whether it is a whole model that generates text."""
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if architecture is None:
        raise GgufInvalid("it does not say its architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[\w.-]{1,40}", architecture):
        raise GgufInvalid(f"it is damaged: its architecture is {_shown(architecture)}")
    kind = metadata.get("general.type")
    if isinstance(kind, str) and kind in _SPECIAL_FILES:
        raise GgufInvalid(f"it is no model but {_SPECIAL_FILES[kind]}")
    num_parts, part = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if not isinstance(num_parts, int) or not isinstance(part, int):
        raise GgufInvalid("it is damaged: 'split.count' or 'split.no' is no whole number")
    if num_parts > 1:
        raise GgufInvalid(
            f"it is part {part + 1} of {num_parts} of a model, and only whole files can be used: "
            "join them with `llama-gguf-split --merge`"
        )
    if _NOT_GENERATING.fullmatch(header.architecture):
        raise GgufInvalid(f"its architecture, {header.architecture}, does not generate text")


def _check_tokenizer(header: GgufHeader, reader: _Reader) -> None:
    metadata = header.metadata
    model, tokens = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.tokens")
    if not isinstance(model, str) or model in ("none", "no_vocab") or tokens is None:
        raise GgufInvalid("it has no tokenizer, so it is no text model")
    _check_array(metadata, "tokens", ("string",), 1)
    _check_array(metadata, "scores", ("float32", "int32"), tokens.length)
    _check_array(metadata, "token_type", ("int32",), tokens.length)
    for key in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"):
        if not 0 <= _whole(metadata, key, default=0) < tokens.length:
            raise GgufInvalid(
                f"it is damaged: {key!r} is {metadata[key]:,} and it has {tokens.length:,} tokens"
            )
    texts = _distinct_texts(reader.strings(tokens))
    if model in ("llama", "plamo2"):
        _check_bytes(texts)


def _check_array(
    metadata: Mapping[str, Any], name: str, element_types: tuple[str, ...], min_length: int
) -> None:
    """Whether an array of the tokenizer, if it is there, is of a right type and long enough."""
    key = f"tokenizer.ggml.{name}"
    array = metadata.get(key)
    if array is None:
        return
    if not isinstance(array, GgufArray) or array.element_type not in element_types:
        raise GgufInvalid(f"it is damaged: {key!r} is no array of {' or '.join(element_types)}")
    if array.length < min_length:
        raise GgufInvalid(
            f"it is damaged: {key!r} has {array.length:,} elements, {min_length:,} are needed"
        )


def _distinct_texts(tokens: list[bytes]) -> set[bytes]:
    """The texts of all tokens as llama.cpp reads them, which aborts if two are equal."""
    texts = [token.split(b"\0", 1)[0] or b"[EMPTY_%d]" % i for i, token in enumerate(tokens)]
    distinct = set(texts)
    if len(distinct) < len(texts):
        text, count = Counter(texts).most_common(1)[0]
        raise GgufInvalid(
            f"it is damaged: {count} tokens of its vocabulary have the text "
            f"{_shown(text.decode('utf-8', 'replace'))}"
        )
    return distinct


def _check_bytes(texts: set[bytes]) -> None:
    """Whether any text can be tokenized, byte by byte if need be; llama.cpp aborts if not."""
    for byte in range(256):
        single = bytes([byte]) if byte else b"<0x00>"
        if byte not in _NEVER_IN_UTF8 and not {b"<0x%02X>" % byte, single} & texts:
            raise GgufInvalid(f"it is damaged: its vocabulary has no token for byte 0x{byte:02X}")


def _check_hyperparameters(header: GgufHeader, reader: _Reader) -> None:
    metadata, prefix = header.metadata, header.architecture
    for key, most in (("context_length", 2**31 - 1), ("embedding_length", 2**31 - 1)):
        _check_range(metadata, f"{prefix}.{key}", 1, most)
    _check_range(metadata, f"{prefix}.block_count", 1, _MAX_LAYERS)
    num_layers = _whole(metadata, f"{prefix}.block_count")
    if f"{prefix}.nextn_predict_layers" in metadata:
        _check_range(metadata, f"{prefix}.nextn_predict_layers", 0, num_layers - 1)
    _check_heads(header, reader)
    _check_experts(header, reader)
    _check_numerics(header)


def _check_heads(header: GgufHeader, reader: _Reader) -> None:
    heads = _layers(header, reader, "attention.head_count")
    kv_heads = _layers(header, reader, "attention.head_count_kv") or heads
    for num_heads, num_kv_heads in zip(heads, kv_heads, strict=False):
        if num_kv_heads and num_heads % num_kv_heads:
            raise GgufInvalid(
                f"it is damaged: {num_heads:,} attention heads cannot share {num_kv_heads:,} keys"
            )


def _check_experts(header: GgufHeader, reader: _Reader) -> None:
    metadata, prefix = header.metadata, header.architecture
    count = _whole(metadata, f"{prefix}.expert_count", default=0)
    if count <= 1 and prefix in ("hunyuan-dense", "hunyuan_vl"):
        return  # llama.cpp takes these for models without experts
    used = _layers(header, reader, "expert_used_count") or [0]
    is_possible = min(used) >= 0 and max(used) <= count <= _MAX_EXPERTS
    if not is_possible or (count > 0) != any(used):
        raise GgufInvalid(f"it is damaged: it uses {max(used):,} of {count:,} experts")
    groups = _whole(metadata, f"{prefix}.expert_group_count", default=0)
    used_groups = _whole(metadata, f"{prefix}.expert_group_used_count", default=0)
    is_odd = groups > 1 and (count % groups or not 0 < used_groups < groups)
    if (groups and groups >= count) or is_odd:
        raise GgufInvalid(
            f"it is damaged: it uses {used_groups:,} of {groups:,} groups of {count:,} experts"
        )


def _check_numerics(header: GgufHeader) -> None:
    metadata, prefix = header.metadata, header.architecture
    scaling = metadata.get(f"{prefix}.rope.scaling.type", "none")
    if scaling not in _ROPE_SCALINGS:
        raise GgufInvalid(f"it is damaged: its rope scaling is {_shown(scaling)}")
    for name in _EPSILONS:
        key = f"{prefix}.attention.{name}"
        epsilon = metadata.get(key, 0.0)
        if not isinstance(epsilon, float) or not 0 <= epsilon < 1:
            raise GgufInvalid(f"it is damaged: {key!r} is {_shown(epsilon)}")


def _check_types(header: GgufHeader) -> None:
    """Whether llama.cpp can compute with what is stored so; it aborts if not."""
    for tensor in header.tensors:
        is_vector = len(tensor.shape) == 1 or tensor.name.endswith("_norm.weight")
        is_odd = tensor.type_name in _NO_WEIGHTS and _ROUTING_TABLE not in tensor.name
        if is_odd or (is_vector and tensor.type_name != "F32"):
            raise GgufInvalid(
                f"it is damaged: tensor {tensor.name!r} is of type {tensor.type_name}, "
                "which it cannot be"
            )


def _check_data(header: GgufHeader) -> None:
    if header.data_offset % _MAPPED_ALIGNMENT:
        raise GgufInvalid(
            f"its data begin at byte {header.data_offset:,}, and llama.cpp needs a multiple of "
            f"{_MAPPED_ALIGNMENT}: have it written again"
        )
    needed = header.data_offset + max(tensor.offset + tensor.size for tensor in header.tensors)
    if needed > header.file_size:
        has, all_of = _in_units(header.file_size), _in_units(needed)
        if has == all_of:
            has, all_of = f"{header.file_size:,}", f"{needed:,} bytes"
        raise GgufInvalid(f"it is truncated: it has {has} of {all_of}; fetch it again")


def _in_units(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _check_range(metadata: Mapping[str, Any], key: str, least: int, most: int) -> None:
    value = _whole(metadata, key)
    if not least <= value <= most:
        raise GgufInvalid(f"it is damaged: {key!r} is {value:,}, not {least:,} to {most:,}")


def _whole(metadata: Mapping[str, Any], key: str, *, default: int | None = None) -> int:
    if key not in metadata and default is None:
        raise GgufInvalid(f"it is damaged: {key!r} is missing")
    value = metadata.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool):
        raise GgufInvalid(f"it is damaged: {key!r} is no whole number")
    return value


def _layers(header: GgufHeader, reader: _Reader, name: str) -> list[int]:
    """A number for each layer, which the file may give once for all. Empty if it is not there."""
    key = f"{header.architecture}.{name}"
    value = header.metadata.get(key)
    if value is None:
        return []
    num_layers = header.num_layers or 0
    if not isinstance(value, GgufArray):
        return [_whole(header.metadata, key)] * num_layers
    if "int" not in value.element_type or value.length != num_layers:
        raise GgufInvalid(f"it is damaged: {key!r} is no array of {num_layers} whole numbers")
    return reader.numbers(value)
