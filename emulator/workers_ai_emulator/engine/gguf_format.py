"""The format GGUF: a header of keys and tensors, read without believing any length in it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, BinaryIO

from workers_ai_emulator.engine.errors import GgufInvalid

_VERSIONS = (2, 3)
_MAX_HEADER = 256 * 2**20  # the longest known, with 262,144 tokens and their merges, has 16 MiB
_MAX_KEYS, _MAX_TENSORS = 2**16, 2**18  # ten times what is known, or more
_MAX_KEY = 65_535
_MAX_TENSOR_NAME = 63
_MAX_DIMENSIONS = 4
_MAX_SIZE = 2**63 - 1
_MAX_SHOWN = 80
_CHUNK = 2**20
_DEFAULT_ALIGNMENT = 32

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


def parse(reader: Reader) -> GgufHeader:
    """The header at the start of a file. Raises GgufInvalid if it is none, or damaged."""
    _check_magic(reader)
    version = reader.number(_U32, "the version")
    _check_version(version)
    num_tensors = _read_count(reader, "tensors", _MAX_TENSORS)
    num_keys = _read_count(reader, "keys", _MAX_KEYS)
    metadata = _read_metadata(reader, num_keys)
    alignment = _alignment(metadata)
    tensors = _read_tensors(reader, num_tensors, alignment)
    data_offset = _padded(reader.position, alignment)
    return GgufHeader(version, metadata, tensors, data_offset, reader.size)


class Reader:
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


def _check_magic(reader: Reader) -> None:
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


def _read_count(reader: Reader, what: str, most: int) -> int:
    count: int = reader.number(_COUNT, f"the number of {what}")
    if count > most:
        raise GgufInvalid(f"it is damaged: it says that it has {count:,} {what}")
    return count


def _read_metadata(reader: Reader, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(num_keys):
        name = f"key {index + 1} of {num_keys:,}"
        key = _utf8(reader.string(name, _MAX_KEY), name)
        if key in metadata:
            raise GgufInvalid(f"it is damaged: it has key {shown(key)} twice")
        metadata[key] = _read_value(reader, f"the value of {shown(key)}")
    return metadata


def shown(value: object) -> str:
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


def _read_value(reader: Reader, what: str) -> Any:
    value_type = reader.number(_U32, what)
    if value_type == _ARRAY:
        return _read_array(reader, what)
    if value_type == _STRING:
        return reader.string(what).decode("utf-8", "replace")
    if value_type in _SCALARS:
        return reader.number(_SCALARS[value_type][1], what)
    raise GgufInvalid(f"it is damaged: {what} has the unknown type {value_type}")


def _read_array(reader: Reader, what: str) -> GgufArray:
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
        raise GgufInvalid(f"it is damaged: its alignment is {shown(alignment)}, not a power of two")
    return alignment


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _read_tensors(reader: Reader, num_tensors: int, alignment: int) -> tuple[GgufTensor, ...]:
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


def _read_tensor(reader: Reader, place: str) -> GgufTensor:
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
