"""The index of cached prefixes: which tokens have KV cells in which slot or snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers_ai_emulator.engine.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The number of a saved copy of a slot's cells."""

    id: int


Owner = int | Snapshot  # the owner of cached cells: a slot, by its number, or a snapshot


@dataclass(frozen=True, slots=True)
class _Cached:
    """Tokens whose cells are cached, and the position where the tiles of their prompt end."""

    tokens: np.ndarray[Any, Any]
    tiled_end: int


class PrefixIndex:
    """Finds cached prefixes of a prompt whose cells are equal, bit for bit, to the prompt's own."""

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._cached: dict[Owner, _Cached] = {}

    def set(self, owner: Owner, tokens: Sequence[int], num_prompt_tokens: int) -> None:
        """Records that the owner holds the cells of exactly these tokens.

        The tokens are a prompt of `num_prompt_tokens` tokens, perhaps incomplete, or a prompt with
        a completion.
        """
        self.remove(owner)
        if tokens:
            tiled_end = self._tiling.end(num_prompt_tokens)
            self._cached[owner] = _Cached(np.array(tokens, np.int32), tiled_end)

    def copy(self, source: Owner, target: Owner) -> None:
        """Records that `target` holds the same cells as `source`."""
        self._cached[target] = self._cached[source]

    def remove(self, owner: Owner) -> None:
        """Records that the owner holds no cells."""
        self._cached.pop(owner, None)

    def length(self, owner: Owner) -> int:
        """Returns the number of tokens whose cells the owner holds."""
        return len(self._cached[owner].tokens) if owner in self._cached else 0

    def match(self, prompt_tokens: Sequence[int]) -> dict[Owner, int]:
        """Returns the owners of a prefix of the prompt, each with the prefix's length.

        The prompt's last token is never part of the prefix, because its logits are needed.
        """
        tokens = np.array(prompt_tokens, np.int32)
        prompt = _Cached(tokens[:-1], self._tiling.end(len(tokens)))
        lengths = {owner: self._num_common(prompt, held) for owner, held in self._cached.items()}
        return {owner: length for owner, length in lengths.items() if length}

    def num_unique(self, owner: Owner) -> int:
        """Returns how many of the owner's last tokens have cells in no other slot or snapshot."""
        if owner not in self._cached:
            return 0
        own = self._cached[owner]
        others = (self._num_common(own, held) for o, held in self._cached.items() if o != owner)
        return len(own.tokens) - max(others, default=0)

    def _num_common(self, prompt: _Cached, cached: _Cached) -> int:
        length = min(len(prompt.tokens), len(cached.tokens))
        differs = prompt.tokens[:length] != cached.tokens[:length]
        num_equal = int(differs.argmax()) if differs.any() else length
        return self._tiling.num_shareable(num_equal, prompt.tiled_end, cached.tiled_end)
