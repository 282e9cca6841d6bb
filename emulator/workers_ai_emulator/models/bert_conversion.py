"""Converts the weights of a BERT model from safetensors to GGUF."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, TokenType
from safetensors.numpy import load_file

# The names of a tensor in safetensors, without `.weight` and `.bias`, and in GGUF.
_TENSORS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_TENSORS_OF_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
# llama.cpp reads these tensors only as 32-bit floats.
_ONLY_F32 = {"position_embd.weight", "token_types.weight"}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_HEAD_SIZE = 32  # of all-MiniLM-L6-v2: 384 dimensions in 12 heads


def convert_bert(source: Path, target: Path) -> None:
    """Converts all-MiniLM-L6-v2 from safetensors to a GGUF file with 16-bit weights.

    `source`: the file `model.safetensors`; its folder also has the vocabulary in `vocab.txt`.
    Raises OSError if a file cannot be read or written.
    """
    tensors = {
        name: np.ascontiguousarray(tensor, np.float32)
        for old_name, tensor in load_file(source).items()
        if (name := _gguf_name(old_name))
    }
    logging.getLogger("gguf").setLevel(logging.WARNING)  # at INFO, it logs the file's names
    writer = GGUFWriter(target, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    _add_shape(writer, tensors)
    _add_vocabulary(writer, source.with_name("vocab.txt"))
    for name, tensor in tensors.items():
        is_matrix = tensor.ndim == 2 and name not in _ONLY_F32
        writer.add_tensor(name, tensor.astype(np.float16) if is_matrix else tensor)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str | None:
    """Returns the GGUF name of a tensor; None if llama.cpp does not use the tensor."""
    base, _, kind = name.rpartition(".")
    if base in _TENSORS:
        return f"{_TENSORS[base]}.{kind}"
    if not base.startswith("encoder.layer."):
        return None
    layer, _, rest = base.removeprefix("encoder.layer.").partition(".")
    return f"blk.{layer}.{_TENSORS_OF_LAYER[rest]}.{kind}"


def _add_shape(writer: GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    length, dimensions = tensors["position_embd.weight"].shape
    writer.add_context_length(length)
    writer.add_embedding_length(dimensions)
    writer.add_block_count(sum(name.endswith(".attn_q.weight") for name in tensors))
    writer.add_feed_forward_length(len(tensors["blk.0.ffn_up.weight"]))
    writer.add_head_count(dimensions // _HEAD_SIZE)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_token_type_count(len(tensors["token_types.weight"]))


def _add_vocabulary(writer: GGUFWriter, path: Path) -> None:
    """Adds a WordPiece vocabulary. `path`: a text file with one token per line."""
    tokens = path.read_text("utf-8").splitlines()
    numbers = {token: number for number, token in enumerate(tokens)}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_gguf_token(token) for token in tokens])
    types = [TokenType.CONTROL if token in _SPECIAL else TokenType.NORMAL for token in tokens]
    writer.add_token_types(types)
    writer.add_bos_token_id(numbers["[CLS]"])
    writer.add_eos_token_id(numbers["[SEP]"])
    writer.add_unk_token_id(numbers["[UNK]"])
    writer.add_sep_token_id(numbers["[SEP]"])
    writer.add_pad_token_id(numbers["[PAD]"])
    writer.add_mask_token_id(numbers["[MASK]"])
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _gguf_token(token: str) -> bytes:
    """Returns a token in llama.cpp's form, in which `▁` marks the start of a word.

    WordPiece marks the other tokens instead, with `##`.
    """
    if token in _SPECIAL or (token.startswith("[") and token.endswith("]")):
        return token.encode()
    is_inner = token.startswith("##")
    return token[2:].encode() if is_inner else f"▁{token}".encode()
