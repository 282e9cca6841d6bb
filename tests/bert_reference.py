"""Computes embeddings of BERT models with numpy, for comparison with the emulator's embeddings.

The code follows the description of BERT (arXiv:1810.04805) and the names of the tensors in
safetensors files of Hugging Face's transformers. It uses the 32-bit weights.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Array = NDArray[np.float32]

_HEAD_SIZE = 32  # of all-MiniLM-L6-v2
_EPSILON = 1e-12
_MAX_WORD_LENGTH = 100  # longer words become the unknown token


class BertReference:
    """A BERT model. `folder`: contains `model.safetensors` and `vocab.txt`."""

    def __init__(self, folder: Path) -> None:
        self._tensors: Mapping[str, Array] = load_file(folder / "model.safetensors")
        lines = (folder / "vocab.txt").read_text("utf-8").splitlines()
        self._numbers = {token: number for number, token in enumerate(lines)}

    def tokens(self, text: str) -> list[int]:
        """Returns the tokens of a text, with the special tokens at its start and end."""
        pieces = [piece for word in _words(text) for piece in self._pieces(word)]
        return [self._numbers[piece] for piece in ("[CLS]", *pieces, "[SEP]")]

    def vectors(self, tokens: Sequence[int]) -> Array:
        """Returns the vector of each token after the last layer."""
        length = len(tokens)
        x = (
            self._tensors["embeddings.word_embeddings.weight"][list(tokens)]
            + self._tensors["embeddings.position_embeddings.weight"][:length]
            + self._tensors["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._normalized("embeddings.LayerNorm", x)
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in self._tensors:
            x = self._layer(f"encoder.layer.{layer}", x)
            layer += 1
        return x

    def _layer(self, name: str, x: Array) -> Array:
        query, key, value = (
            _heads(self._dense(f"{name}.attention.self.{part}", x))
            for part in ("query", "key", "value")
        )
        weights = _softmax(query @ key.transpose(0, 2, 1) / math.sqrt(_HEAD_SIZE))
        attended = (weights @ value).transpose(1, 0, 2).reshape(x.shape)
        x = self._normalized(
            f"{name}.attention.output.LayerNorm",
            x + self._dense(f"{name}.attention.output.dense", attended),
        )
        inner = _gelu(self._dense(f"{name}.intermediate.dense", x))
        outer = self._dense(f"{name}.output.dense", inner)
        return self._normalized(f"{name}.output.LayerNorm", x + outer)

    def _dense(self, name: str, x: Array) -> Array:
        return x @ self._tensors[f"{name}.weight"].T + self._tensors[f"{name}.bias"]

    def _normalized(self, name: str, x: Array) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
        result: Array = centred / scale * self._tensors[f"{name}.weight"]
        return result + self._tensors[f"{name}.bias"]

    def _pieces(self, word: str) -> list[str]:
        """Splits a word into the longest tokens of the vocabulary, from left to right."""
        pieces: list[str] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self._numbers), None)
            if end is None or len(word) > _MAX_WORD_LENGTH:
                return ["[UNK]"]
            pieces.append(mark + word[start:end])
            start = end
        return pieces


def _words(text: str) -> list[str]:
    """Splits a text into lower-case words without accents; punctuation marks are words."""
    plain = unicodedata.normalize("NFD", text.lower())
    characters = (c for c in plain if unicodedata.category(c) != "Mn")
    return "".join(f" {c} " if _is_alone(c) else c for c in characters).split()


def _is_alone(character: str) -> bool:
    is_ascii_mark = character.isascii() and character.isprintable() and not character.isalnum()
    is_mark = unicodedata.category(character).startswith("P") or is_ascii_mark
    return (is_mark and character != " ") or 0x4E00 <= ord(character) <= 0x9FFF


def _heads(x: Array) -> Array:
    return x.reshape(len(x), -1, _HEAD_SIZE).transpose(1, 0, 2)


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _gelu(x: Array) -> Array:
    erf: Any = np.vectorize(math.erf, otypes=[np.float32])
    result: Array = 0.5 * x * (1 + erf(x / math.sqrt(2)))
    return result
