"""Makes the bytes of small valid and invalid GGUF files."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"

UINT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 2, 4, 5, 6, 7, 8, 9, 10
F32, F16, Q8_0 = 0, 1, 8
ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value that is already encoded, with the number of its GGUF type."""

    type_number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a GGUF file.

    `offset`: the position of the data, as the header states it; None for the real position.
    """

    name: str
    shape: Sequence[int]
    type_number: int = F32
    data: bytes = b""
    offset: int | None = None


def gguf(
    metadata: Mapping[str, Any],
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    num_tensors: int | None = None,
    num_keys: int | None = None,
    alignment: int = ALIGNMENT,
) -> bytes:
    """Returns the bytes of a GGUF file.

    Metadata values are encoded as uint32 (integers), int32 (integers in lists) or float32 (floats).
    The numbers of tensors and keys in the header are right unless `num_tensors` or `num_keys` is
    given.
    """
    keys = b"".join(string(key) + value(of_key) for key, of_key in metadata.items())
    counts = (
        len(tensors) if num_tensors is None else num_tensors,
        len(metadata) if num_keys is None else num_keys,
    )
    header = b"GGUF" + struct.pack("<IQQ", version, *counts) + keys
    return with_tensors(header, tensors, alignment)


def with_tensors(header: bytes, tensors: Sequence[Tensor], alignment: int = ALIGNMENT) -> bytes:
    """Returns a GGUF file: the header up to its metadata, then the tensors' entries and data."""
    infos, data = b"", b""
    for tensor in tensors:
        offset = len(data) if tensor.offset is None else tensor.offset
        infos += string(tensor.name) + struct.pack("<I", len(tensor.shape))
        infos += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type_number, offset)
        data += padded(tensor.data, alignment)
    return padded(header + infos, alignment) + data


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(of_key: Any) -> bytes:
    """Returns the bytes of a metadata value, which begin with the number of its GGUF type."""
    match of_key:
        case Typed():
            return struct.pack("<I", of_key.type_number) + of_key.data
        case bool():
            return struct.pack("<I?", BOOL, of_key)
        case int():
            return struct.pack("<II", UINT32, of_key)
        case float():
            return struct.pack("<If", FLOAT32, of_key)
        case str() | bytes():
            return struct.pack("<I", STRING) + string(of_key)
        case [str() | bytes(), *_]:
            return _array(STRING, len(of_key), b"".join(map(string, of_key)))
        case [float(), *_]:
            return _array(FLOAT32, len(of_key), struct.pack(f"<{len(of_key)}f", *of_key))
        case _:
            return _array(INT32, len(of_key), struct.pack(f"<{len(of_key)}i", *of_key))


def padded(data: bytes, alignment: int = ALIGNMENT) -> bytes:
    return data + bytes(-len(data) % alignment)


def llama2_model(*, num_layers: int = 2, seed: int = 0) -> bytes:
    """Returns a file that llama.cpp can load: Llama 2's vocabulary with small random weights."""
    source = (DATA / "llama2-vocab.gguf").read_bytes()
    (num_keys,) = struct.unpack_from("<Q", source, 16)
    keys = source[24:]
    for key, number in {
        "llama.block_count": num_layers,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 16,
        "general.file_type": F32,
    }.items():
        keys = _with_uint32(keys, key, number)
    more = {
        "general.alignment": ALIGNMENT,
        "llama.rope.freq_base": 10000.0,
        "llama.rope.scaling.type": "linear",
        "llama.expert_count": 0,
        "llama.expert_used_count": 0,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    keys += b"".join(string(key) + value(of_key) for key, of_key in more.items())
    tensors = _llama_tensors(num_layers, np.random.default_rng(seed))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), num_keys + len(more)) + keys
    return with_tensors(header, tensors)


def mamba_model() -> bytes:
    """Returns a file with a small recurrent model: Mamba with Llama 2's vocabulary."""
    source = (DATA / "llama2-vocab.gguf").read_bytes()
    (num_keys,) = struct.unpack_from("<Q", source, 16)
    keys = source[24:].replace(
        string("general.architecture") + struct.pack("<I", STRING) + string("llama"),
        string("general.architecture") + struct.pack("<I", STRING) + string("mamba"),
    )
    more = {
        "mamba.context_length": 4096,
        "mamba.embedding_length": 64,
        "mamba.block_count": 1,
        "mamba.feed_forward_length": 0,
        "mamba.attention.head_count": 0,
        "mamba.attention.layer_norm_rms_epsilon": 1e-5,
        "mamba.ssm.conv_kernel": 4,
        "mamba.ssm.inner_size": 128,
        "mamba.ssm.state_size": 16,
        "mamba.ssm.time_step_rank": 4,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    keys += b"".join(string(key) + value(of_key) for key, of_key in more.items())
    shapes = {
        "token_embd.weight": (64, 32_000),
        "output_norm.weight": (64,),
        "blk.0.attn_norm.weight": (64,),
        "blk.0.ssm_in.weight": (64, 256),
        "blk.0.ssm_conv1d.weight": (4, 128),
        "blk.0.ssm_conv1d.bias": (128,),
        "blk.0.ssm_x.weight": (128, 36),
        "blk.0.ssm_dt.weight": (4, 128),
        "blk.0.ssm_dt.bias": (128,),
        "blk.0.ssm_a": (16, 128),
        "blk.0.ssm_d": (128,),
        "blk.0.ssm_out.weight": (128, 64),
    }
    tensors = _random_tensors(shapes, np.random.default_rng(0))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), num_keys + len(more)) + keys
    return with_tensors(header, tensors)


def sliding_window_model(window: int) -> bytes:
    """Returns a file with a small model of Gemma 3's kind, with Llama 2's vocabulary.

    In five of its six layers, a token sees only the last `window` tokens.
    """
    source = (DATA / "llama2-vocab.gguf").read_bytes()
    (num_keys,) = struct.unpack_from("<Q", source, 16)
    keys = source[24:].replace(
        string("general.architecture") + struct.pack("<I", STRING) + string("llama"),
        string("general.architecture") + struct.pack("<I", STRING) + string("gemma3"),
    )
    more = {
        "gemma3.context_length": 4096,
        "gemma3.embedding_length": 64,
        "gemma3.block_count": 6,
        "gemma3.feed_forward_length": 128,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 2,
        "gemma3.attention.key_length": 16,
        "gemma3.attention.value_length": 16,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": window,
        "tokenizer.chat_template": "{{ messages[0].content }}",
    }
    keys += b"".join(string(key) + value(of_key) for key, of_key in more.items())
    tensors = _random_tensors(_gemma_shapes(6), np.random.default_rng(0))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), num_keys + len(more)) + keys
    return with_tensors(header, tensors)


def _gemma_shapes(num_layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (64, 32_000),
        "output_norm.weight": (64,),
    }
    for layer in range(num_layers):
        norms = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
        shapes |= {f"blk.{layer}.{name}.weight": (64,) for name in norms}
        shapes |= {f"blk.{layer}.attn_{name}_norm.weight": (16,) for name in "qk"}
        shapes |= _projections(layer)
    return shapes


def _projections(layer: int) -> dict[str, tuple[int, ...]]:
    return {
        f"blk.{layer}.attn_q.weight": (64, 64),
        f"blk.{layer}.attn_k.weight": (64, 32),
        f"blk.{layer}.attn_v.weight": (64, 32),
        f"blk.{layer}.attn_output.weight": (64, 64),
        f"blk.{layer}.ffn_gate.weight": (64, 128),
        f"blk.{layer}.ffn_up.weight": (64, 128),
        f"blk.{layer}.ffn_down.weight": (128, 64),
    }


def _array(element_type: int, length: int, data: bytes) -> bytes:
    return struct.pack("<IIQ", ARRAY, element_type, length) + data


def _with_uint32(keys: bytes, key: str, number: int) -> bytes:
    """Returns the metadata after replacing the uint32 value of one key."""
    at = keys.index(string(key)) + len(string(key)) + 4
    return keys[:at] + struct.pack("<I", number) + keys[at + 4 :]


def _llama_tensors(num_layers: int, random: np.random.Generator) -> list[Tensor]:
    shapes = {"token_embd.weight": (64, 32_000), "output_norm.weight": (64,)}
    for layer in range(num_layers):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (64,),
            f"blk.{layer}.attn_q.weight": (64, 64),
            f"blk.{layer}.attn_k.weight": (64, 32),
            f"blk.{layer}.attn_v.weight": (64, 32),
            f"blk.{layer}.attn_output.weight": (64, 64),
            f"blk.{layer}.ffn_norm.weight": (64,),
            f"blk.{layer}.ffn_gate.weight": (64, 128),
            f"blk.{layer}.ffn_up.weight": (64, 128),
            f"blk.{layer}.ffn_down.weight": (128, 64),
        }
    return _random_tensors(shapes, random)


def _random_tensors(
    shapes: Mapping[str, tuple[int, ...]], random: np.random.Generator
) -> list[Tensor]:
    return [
        Tensor(name, shape, F32, random.standard_normal(shape[::-1], np.float32).tobytes())
        for name, shape in shapes.items()
    ]


def embedding_model(
    architecture: str,
    *,
    context_length: int = 2048,
    has_classifier: bool = False,
    has_dense_layers: bool = False,
) -> bytes:
    """Returns a file with a small model for embeddings, with Llama 2's vocabulary.

    `architecture`: `bert`, `qwen3` or `gemma-embedding`. `has_classifier`: whether the model has
    the classification head of a reranker (only `bert`). `has_dense_layers`: whether layers follow
    the pooling (only `gemma-embedding`).
    """
    source = (DATA / "llama2-vocab.gguf").read_bytes()
    (num_keys,) = struct.unpack_from("<Q", source, 16)
    keys = source[24:].replace(
        string("general.architecture") + struct.pack("<I", STRING) + string("llama"),
        string("general.architecture") + struct.pack("<I", STRING) + string(architecture),
    )
    shapes, more = _EMBEDDING_MODELS[architecture](context_length)
    if has_classifier:
        shapes |= {
            "cls.weight": (64, 64),
            "cls.bias": (64,),
            "cls.output.weight": (64, 1),
            "cls.output.bias": (1,),
        }
    if has_dense_layers:
        shapes |= {"dense_2.weight": (64, 96), "dense_3.weight": (96, 64)}
        more |= {"dense_2_feat_in": 64, "dense_2_feat_out": 96}
        more |= {"dense_3_feat_in": 96, "dense_3_feat_out": 64}
    values = {
        "context_length": context_length,
        "embedding_length": 64,
        "block_count": sum(name.endswith(".attn_q.weight") for name in shapes),
        "feed_forward_length": 128,
        "attention.head_count": 4,
    }
    more = {f"{architecture}.{key}": of_key for key, of_key in (values | more).items()}
    more["tokenizer.ggml.token_type_count"] = 2
    adds_eos = string("tokenizer.ggml.add_eos_token")
    keys = keys.replace(adds_eos + value(False), adds_eos + value(True))
    keys += b"".join(string(key) + value(of_key) for key, of_key in more.items())
    tensors = _random_tensors(shapes, np.random.default_rng(0))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), num_keys + len(more)) + keys
    return with_tensors(header, tensors)


_Shapes = dict[str, tuple[int, ...]]


def _bert(context_length: int) -> tuple[_Shapes, dict[str, Any]]:
    shapes: _Shapes = {
        "token_embd.weight": (64, 32_000),
        "position_embd.weight": (64, context_length),
        "token_types.weight": (64, 2),
        "token_embd_norm.weight": (64,),
        "token_embd_norm.bias": (64,),
    }
    for layer in range(2):
        sizes = {"attn_q": 64, "attn_k": 64, "attn_v": 64, "attn_output": 64, "ffn_up": 128}
        for name, size in sizes.items():
            shapes |= {
                f"blk.{layer}.{name}.weight": (64, size),
                f"blk.{layer}.{name}.bias": (size,),
            }
        shapes |= {
            f"blk.{layer}.ffn_down.weight": (128, 64),
            f"blk.{layer}.ffn_down.bias": (64,),
        }
        for name in ("attn_output_norm", "layer_output_norm"):
            shapes |= {f"blk.{layer}.{name}.{kind}": (64,) for kind in ("weight", "bias")}
    more = {
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "pooling_type": 1,
    }
    return shapes, more


def _qwen3(context_length: int) -> tuple[_Shapes, dict[str, Any]]:
    shapes: _Shapes = {"token_embd.weight": (64, 32_000), "output_norm.weight": (64,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}_norm.weight": (64,) for name in ("attn", "ffn")}
        shapes |= {f"blk.{layer}.attn_{name}_norm.weight": (16,) for name in "qk"}
        shapes |= _projections(layer)
    more = {
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": 1e6,
        "pooling_type": 3,
    }
    return shapes, more


def _gemma_embedding(context_length: int) -> tuple[_Shapes, dict[str, Any]]:
    more = {
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "attention.sliding_window": 128,
        "pooling_type": 1,
    }
    return _gemma_shapes(6), more


_EMBEDDING_MODELS = {"bert": _bert, "qwen3": _qwen3, "gemma-embedding": _gemma_embedding}
