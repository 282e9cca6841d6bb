"""How a prompt is cut into calls, so that equal prompts have equal cells, bit for bit.

On a CPU, llama.cpp computes the attention of a sequence that brings 64 rows or more to a call in
tiles, else row by row; the two round differently. How a token is computed must follow from its
place in its prompt, not from what else runs or what was known already:

    0 .......... start .......... end .......... prompt's end .......... completion
     row by row        in tiles       row by row              row by row

Both may be cut anywhere, tiles into calls of 64 rows or more, and what a completion leaves behind
is as good as a prompt. The longer the context, the more tiles save: up to `start` that is not worth
their limits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """All numbers are tokens. Calls of `length` and more, about `chunk_length` at most, are tiled.

    Tiles begin at `start`, a multiple of `length - 1`.
    """

    start: int = 4 * 63
    length: int = 64
    chunk_length: int = 128

    @property
    def batch_length(self) -> int:
        """The most tokens of one call."""
        return self.chunk_length + self.length - 1

    def end(self, num_prompt_tokens: int) -> int:
        """Where the tiles of a prompt end; `start` where it has none."""
        num_beyond = max(num_prompt_tokens - self.start, 0)
        return self.start + num_beyond // self.length * self.length

    def next_length(self, position: int, num_prompt_tokens: int) -> int:
        """How many prompt tokens from `position` on the next call evaluates."""
        end = self.end(num_prompt_tokens)
        if self.start <= position < end:
            left = end - position
            return left if left <= self.batch_length else self.chunk_length
        limit = self.start if position < self.start < end else num_prompt_tokens
        return min(self.length - 1, limit - position)

    def is_rest_by_row(self, length: int, num_prompt_tokens: int) -> bool:
        """Whether the last `length` tokens of a prompt are evaluated in one call, and by row."""
        end = self.end(num_prompt_tokens)
        position = num_prompt_tokens - length
        return length < self.length and position >= (end if end > self.start else 0)

    def num_shareable(self, num_equal: int, end: int, other_end: int) -> int:
        """How many of the first `num_equal` tokens, equal in two prompts, have equal cells.

        `end`, `other_end`: where the tiles of the two prompts end. What is left must fill a tile.
        """
        if num_equal <= self.start:
            return num_equal
        common = num_equal if end == other_end else min(num_equal, end, other_end)
        return common if common >= end else min(common, end - self.length)
