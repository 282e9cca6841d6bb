"""Parses the header of a GGUF file, and checks every length in the header before using it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from struct import Struct
from typing import Any, BinaryIO

from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf_header import GgufArray, GgufHeader, GgufTensor

_VERSIONS = (2, 3)
_MAX_HEADER = 256 * 2**20  # the maximum header size in bytes; known headers have up to 16 MiB
# The maximum numbers of metadata keys and of tensors in a file. Known files have at most a tenth of
# these numbers.
_MAX_KEYS, _MAX_TENSORS = 2**16, 2**18
_MAX_KEY = 65_535
_MAX_TENSOR_NAME = 63
_MAX_DIMENSIONS = 4
_MAX_SIZE = 2**63 - 1
_MAX_SHOWN = 80
MAX_LAYERS = 512
_CHUNK = 2**20
_DEFAULT_ALIGNMENT = 32

_COUNT = Struct("<Q")
_U32 = Struct("<I")
STRING, ARRAY = 8, 9
SCALAR_TYPES = {
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

# GGUF's tensor types by number: the name, the number of elements in a block, and the number of
# bytes of a block. llama.cpp no longer supports the types whose numbers are missing.
TENSOR_TYPES = {
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

# File formats other than GGUF. The keys are the first bytes of a file; the values describe the
# file's format in error messages.
_OTHER_FORMATS = {
    b"version https://git-lfs": "a git-lfs pointer: download the file itself with `git lfs pull`",
    b"lmgg": "a GGML file from before GGUF: convert it",
    b"fmgg": "a GGML file from before GGUF: convert it",
    b"tjgg": "a GGML file from before GGUF: convert it",
    b"algg": "an adapter from before GGUF",
    b"PK\x03\x04": "a zip archive (or PyTorch weights)",
    b"\x1f\x8b": "a gzip archive",
    b"<!doctype": "a web page",
    b"<html": "a web page",
    b"<?xml": "an XML document",
    b"{": "JSON",
    b"\0\0\0\0": "a file that begins with zeros: its download is incomplete",
}


def parse(reader: Reader) -> GgufHeader:
    """Parses the header at the start of a GGUF file and returns it.

    Raises GgufInvalid if the file is not GGUF or its header is damaged.
    """
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
    """Reads the values in the header of a GGUF file one after the other.

    `size`: the file size in bytes. `data`: the bytes that have been read so far. `position`: the
    offset of the next value in the file. The methods raise GgufInvalid if a value ends after the
    end of the file. Their parameter `what` is the name of the value in error messages.

    The file is read into `data` and not memory-mapped: if another process truncated a memory-mapped
    file, the operating system would kill this process.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.data = bytearray()
        self.position = 0

    def take(self, length: int, what: str) -> int:
        """Reads the next `length` bytes into `data` and returns the offset of the first byte."""
        start = self.position
        self.fetch(start + length, what)
        self.position = start + length
        return start

    def number(self, form: Struct, what: str) -> Any:
        """Reads the next value as a number in the binary format `form`, and returns it."""
        start = self.take(form.size, what)
        return form.unpack_from(self.data, start)[0]

    def string(self, what: str, max_length: int = _MAX_HEADER) -> bytes:
        """Reads the next value as a string, and returns the bytes of its text.

        In the file, a number of 8 bytes before the text contains the text's length. Raises
        GgufInvalid if the text is longer than `max_length` bytes.
        """
        length = self.number(_COUNT, what)
        if length > max_length:
            raise GgufInvalid(f"it is damaged: {what} is {length:,} bytes long")
        start = self.take(length, what)
        return bytes(self.data[start : start + length])

    def skip_strings(self, count: int, what: str) -> None:
        """Reads `count` strings into `data` and sets `position` to the end of the last string."""
        position, length_at = self.position, _COUNT.unpack_from
        for _ in range(count):
            if position + 8 > len(self.data):
                self.fetch(position + 8, what)
            position += 8 + length_at(self.data, position)[0]
        self.fetch(position, what)
        self.position = position

    def strings(self, array: GgufArray) -> list[bytes]:
        """Returns the elements of an array of strings. The array must already be in `data`."""
        found, position, view = [], array.offset, memoryview(self.data)
        for _ in range(array.length):
            end = position + 8 + _COUNT.unpack_from(view, position)[0]
            found.append(bytes(view[position + 8 : end]))
            position = end
        return found

    def fetch(self, end: int, what: str) -> None:
        """Reads the file into `data` up to the offset `end`.

        Raises GgufInvalid if `end` is greater than the file size or the maximum header size.
        """
        if end > self.size:
            raise GgufInvalid(
                f"it is truncated or damaged: {what} ends at byte {end:,} of {self.size:,}"
            )
        if end > _MAX_HEADER:
            raise GgufInvalid(f"it is damaged: {what} ends {end:,} bytes into the header")
        while len(self.data) < end:
            chunk = self._file.read(max(end - len(self.data), _CHUNK))
            if not chunk:
                raise GgufInvalid("another process shortened it during the check")
            self.data += chunk


def shown(value: object) -> str:
    """Formats a value from the file for an error message; shortens texts of over 80 characters."""
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}…"


def _check_magic(reader: Reader) -> None:
    if reader.size == 0:
        raise GgufInvalid("it is empty")
    reader.fetch(min(reader.size, 64), "its start")
    start = bytes(reader.data[:64])
    if not start.startswith(b"GGUF"):
        raise GgufInvalid(f"it is not a GGUF file but {_describe(start, reader.size)}")
    reader.take(4, "its start")


def _describe(start: bytes, size: int) -> str:
    """Describes, for an error message, the format of a file that is not GGUF.

    `start`: the first 64 bytes of the file. `size`: the file size in bytes.
    """
    if len(start) > 8 and start[8:9] == b"{" and _COUNT.unpack_from(start)[0] < size:
        return "safetensors: convert it with llama.cpp's convert_hf_to_gguf.py"
    lowered = start.lstrip().lower()
    for magic, description in _OTHER_FORMATS.items():
        if start.startswith(magic) or lowered.startswith(magic):
            return description
    return f"an unknown format: it begins with the bytes {start[:4].hex(' ')}"


def _check_version(version: int) -> None:
    if version & 0xFFFF == 0 and version:
        raise GgufInvalid("it is a GGUF file for big-endian machines")
    if version < min(_VERSIONS):
        raise GgufInvalid(f"it has GGUF version {version}, which is too old: convert it again")
    if version > max(_VERSIONS):
        raise GgufInvalid(
            f"it has GGUF version {version}, and the newest supported version is {max(_VERSIONS)}"
        )


def _read_count(reader: Reader, what: str, most: int) -> int:
    count: int = reader.number(_COUNT, f"the number of {what}")
    if count > most:
        raise GgufInvalid(f"it is damaged: it declares {count:,} {what}")
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
    if value_type == ARRAY:
        return _read_array(reader, what)
    if value_type == STRING:
        return reader.string(what).decode("utf-8", "replace")
    if value_type in SCALAR_TYPES:
        return reader.number(SCALAR_TYPES[value_type][1], what)
    raise GgufInvalid(f"it is damaged: {what} has the unknown type {value_type}")


def _read_array(reader: Reader, what: str) -> GgufArray:
    element_type = reader.number(_U32, what)
    length = reader.number(_COUNT, what)
    start = reader.position
    if element_type == STRING:
        if length > reader.size // _COUNT.size:
            raise GgufInvalid(f"it is truncated or damaged: {what} has {length:,} strings")
        reader.skip_strings(length, what)
        return GgufArray("string", length, start)
    if element_type not in SCALAR_TYPES:
        raise GgufInvalid(f"it is damaged: {what} has elements of the unknown type {element_type}")
    name, form = SCALAR_TYPES[element_type]
    reader.take(length * form.size, what)
    if length > MAX_LAYERS:
        return GgufArray(name, length, start)
    elements = form.iter_unpack(reader.data[start : reader.position])
    return GgufArray(name, length, start, tuple(number for (number,) in elements))


def _alignment(metadata: Mapping[str, Any]) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise GgufInvalid(f"it is damaged: its alignment is {shown(alignment)}, not a power of two")
    return alignment


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _read_tensors(reader: Reader, num_tensors: int, alignment: int) -> tuple[GgufTensor, ...]:
    """Reads the descriptions of all tensors: name, shape, type, offset and size.

    The data of each tensor must begin where the data and padding of the previous tensor end.
    Otherwise raises GgufInvalid, because llama.cpp would reject the file.
    """
    tensors: dict[str, GgufTensor] = {}
    end = 0
    for index in range(num_tensors):
        tensor = _read_tensor(reader, f"the name of tensor {index + 1} of {num_tensors:,}")
        if tensor.name in tensors:
            raise GgufInvalid(f"it is damaged: it has tensor {tensor.name!r} twice")
        if tensor.offset != end:
            raise GgufInvalid(
                f"it is damaged: the data of tensor {tensor.name!r} begin at {tensor.offset:,}, "
                f"but the data of the tensor before it end at {end:,}"
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
    type_name, size = _type_and_size(shape, reader.number(_U32, what), what)
    return GgufTensor(name, shape, type_name, offset=reader.number(_COUNT, what), size=size)


def _type_and_size(shape: tuple[int, ...], type_number: int, what: str) -> tuple[str, int]:
    """Returns the name of a tensor's type, and the tensor's size in bytes.

    `shape`: the number of elements in each dimension. `type_number`: a key of `TENSOR_TYPES`.
    Raises GgufInvalid if llama.cpp does not support the type, or if the type does not allow the
    shape.
    """
    if type_number not in TENSOR_TYPES:
        raise GgufInvalid(f"{what} has type {type_number}, which llama.cpp does not support")
    name, block_length, block_size = TENSOR_TYPES[type_number]
    size = math.prod(shape) // block_length * block_size
    if shape[0] % block_length or not 0 < size <= _MAX_SIZE:
        sides = " x ".join(f"{side:,}" for side in shape)
        raise GgufInvalid(f"it is damaged: {what} has {sides} elements of type {name}")
    return name, size
