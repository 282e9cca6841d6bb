"""Finds KV cells that a new prompt can reuse: records the tokens of each slot and snapshot.

A snapshot is a copy of a slot's KV cells outside the KV cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers_ai_emulator.engine.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The id of a snapshot. A snapshot is a copy of a slot's KV cells outside the KV cache."""

    id: int


Owner = int | Snapshot  # where cached KV cells are: a slot (its number) or a snapshot


@dataclass(frozen=True, slots=True)
class _Cached:
    """The tokens whose KV cells one slot or snapshot holds.

    llama.cpp computes the attention of some prompt tokens in tiles, that is, for many tokens
    together. `tiled_end`: the position after the last token that is computed in tiles. All later
    tokens are computed one by one, which rounds differently (tiling.py).
    """

    tokens: np.ndarray[Any, Any]
    tiled_end: int


class PrefixIndex:
    """Finds slots and snapshots (copies of KV cells) whose KV cells a new prompt can reuse.

    Reusable cells are bit-identical to the cells that evaluating the prompt would produce.
    """

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._cached: dict[Owner, _Cached] = {}

    def set(self, owner: Owner, tokens: Sequence[int], num_prompt_tokens: int) -> None:
        """Records that a slot or snapshot (`owner`) holds the KV cells of exactly `tokens`.

        `tokens`: the evaluated part of a prompt and its completion. `num_prompt_tokens`: the
        length of the whole prompt.
        """
        self.remove(owner)
        if tokens:
            tiled_end = self._tiling.end(num_prompt_tokens)
            self._cached[owner] = _Cached(np.array(tokens, np.int32), tiled_end)

    def copy(self, source: Owner, target: Owner) -> None:
        """Records that the slot or snapshot `target` holds the same KV cells as `source`."""
        self._cached[target] = self._cached[source]

    def remove(self, owner: Owner) -> None:
        """Records that a slot or snapshot (`owner`) holds no KV cells."""
        self._cached.pop(owner, None)

    def length(self, owner: Owner) -> int:
        """Returns the number of KV cells that a slot or snapshot (`owner`) holds."""
        return len(self._cached[owner].tokens) if owner in self._cached else 0

    def match(self, prompt_tokens: Sequence[int]) -> dict[Owner, int]:
        """Returns how many KV cells of each slot and snapshot the prompt can reuse.

        Slots and snapshots without reusable cells are left out. The KV cell of the prompt's last
        token is never reused, because this token must be evaluated to get its logits.
        """
        tokens = np.array(prompt_tokens, np.int32)
        prompt = _Cached(tokens[:-1], self._tiling.end(len(tokens)))
        lengths = {owner: self._num_common(prompt, held) for owner, held in self._cached.items()}
        return {owner: length for owner, length in lengths.items() if length}

    def num_unique(self, owner: Owner) -> int:
        """Returns the number of KV cells that only this slot or snapshot (`owner`) holds.

        They are the cells after the longest prefix that another slot or snapshot also holds.
        """
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
