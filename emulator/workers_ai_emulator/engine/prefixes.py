"""Which slots and snapshots hold which tokens, and how many of them another prompt can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workers_ai_emulator.engine.tiling import Tiling


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Cells kept outside the slots."""

    id: int


Holder = int | Snapshot  # an int is a slot


@dataclass(frozen=True, slots=True)
class _Held:
    tokens: np.ndarray[Any, Any]
    tiled_end: int


class PrefixIndex:
    """Finds who holds the beginning of a prompt, with cells that the prompt would get too."""

    def __init__(self, tiling: Tiling) -> None:
        self._tiling = tiling
        self._held: dict[Holder, _Held] = {}

    def hold(self, holder: Holder, tokens: Sequence[int], num_prompt_tokens: int) -> None:
        """`holder` has the cells of `tokens`: the first ones of a prompt and its completion."""
        self.drop(holder)
        if tokens:
            tiled_end = self._tiling.end(num_prompt_tokens)
            self._held[holder] = _Held(np.array(tokens, np.int32), tiled_end)

    def share(self, holder: Holder, other: Holder) -> None:
        """`other` has got what `holder` has."""
        self._held[other] = self._held[holder]

    def drop(self, holder: Holder) -> None:
        """`holder` has nothing any more."""
        self._held.pop(holder, None)

    def length(self, holder: Holder) -> int:
        """How many tokens `holder` has."""
        return len(self._held[holder].tokens) if holder in self._held else 0

    def find(self, prompt_tokens: Sequence[int]) -> dict[Holder, int]:
        """Every holder of a beginning of the prompt, with its length.

        At least the prompt's last token is left to evaluate: its logits are needed.
        """
        tokens = np.array(prompt_tokens, np.int32)
        wanted = _Held(tokens[:-1], self._tiling.end(len(tokens)))
        lengths = {holder: self._num_common(wanted, held) for holder, held in self._held.items()}
        return {holder: length for holder, length in lengths.items() if length}

    def num_only_in(self, holder: Holder) -> int:
        """How many of the holder's tokens, at its end, no other holder has."""
        if holder not in self._held:
            return 0
        own = self._held[holder]
        others = (self._num_common(own, held) for h, held in self._held.items() if h != holder)
        return len(own.tokens) - max(others, default=0)

    def _num_common(self, wanted: _Held, held: _Held) -> int:
        length = min(len(wanted.tokens), len(held.tokens))
        differs = wanted.tokens[:length] != held.tokens[:length]
        num_equal = int(differs.argmax()) if differs.any() else length
        return self._tiling.num_shareable(num_equal, wanted.tiled_end, held.tiled_end)
