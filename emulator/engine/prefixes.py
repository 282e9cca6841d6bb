"""Which slots and snapshots hold which beginnings of prompts.

Cells are shared in whole prefill chunks only: a chunk cut at the same place of the same prompt is
computed by the same operations in the same order, so a completion's bytes do not depend on whether
its prefix was reused. Cells that decode steps made round differently and are never shared.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A prefix kept outside the slots."""

    id: int


Holder = int | Snapshot  # an int is a slot


class PrefixIndex:
    """Finds the holder of the longest prefix of a prompt. Lengths are multiples of a chunk."""

    def __init__(self, chunk_length: int) -> None:
        self._chunk_length = chunk_length
        self._chains: dict[Holder, list[bytes]] = {}
        self._holders: dict[bytes, dict[Holder, None]] = {}  # in order of arrival

    def hold(self, holder: Holder, tokens: Sequence[int]) -> None:
        """`holder` has the cells of all whole chunks of `tokens`, and of nothing else to share."""
        self.drop(holder)
        if chain := self._chain(tokens):
            self._chains[holder] = chain
            for digest in chain:
                self._holders.setdefault(digest, {})[holder] = None

    def share(self, holder: Holder, other: Holder) -> None:
        """`other` has got what `holder` has."""
        chain = self._chains[holder]
        self._chains[other] = chain
        for digest in chain:
            self._holders[digest][other] = None

    def drop(self, holder: Holder) -> None:
        """`holder` has nothing any more."""
        for digest in self._chains.pop(holder, ()):
            holders = self._holders[digest]
            del holders[holder]
            if not holders:
                del self._holders[digest]

    def length(self, holder: Holder) -> int:
        """How many tokens `holder` has."""
        return len(self._chains.get(holder, ())) * self._chunk_length

    def is_spare(self, holder: Holder) -> bool:
        """Whether all that `holder` has is held by another one too."""
        chain = self._chains.get(holder)
        return not chain or len(self._holders[chain[-1]]) > 1

    def find(self, prompt_tokens: Sequence[int]) -> dict[Holder, int]:
        """Every holder of a part of the prompt, with the length of that part.

        At least the prompt's last token is left to evaluate: its logits are needed.
        """
        lengths: dict[Holder, int] = {}
        for i, digest in enumerate(self._chain(prompt_tokens[:-1]), start=1):
            if digest not in self._holders:
                break
            lengths |= dict.fromkeys(self._holders[digest], i * self._chunk_length)
        return lengths

    def _chain(self, tokens: Sequence[int]) -> list[bytes]:
        """For each whole chunk a digest of all tokens up to its end."""
        chain: list[bytes] = []
        digest = b""
        for end in range(self._chunk_length, len(tokens) + 1, self._chunk_length):
            chunk = array("i", tokens[end - self._chunk_length : end]).tobytes()
            digest = blake2b(digest + chunk, digest_size=16).digest()
            chain.append(digest)
        return chain
