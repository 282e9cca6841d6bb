"""Decides which tokens of a prompt are evaluated in which call, so that results are reproducible.

On a CPU, llama.cpp computes attention in one of two ways. A sequence with 64 rows or more in a
decode call is computed in tiles, a sequence with fewer rows is computed row by row. The two round
differently. A prompt gets the same KV cells every time, bit for bit, only if each of its tokens
is always computed in the same way: also if part of the prompt is cached, and whatever other
sequences run. So the position of a token in its prompt decides:

    0 .......... start .......... end .......... prompt's end .......... completion
     row by row        in tiles       row by row              row by row

Example, with the default start 252 and tile length 64. A prompt of 1,000 tokens has
(1,000 - 252) // 64 = 11 complete tiles, so `end` is 252 + 11 * 64 = 956:

    tokens   0 ... 251   row by row, in 4 calls of 63 rows, the largest calls that are not tiled
    tokens 252 ... 955   in tiles, in 5 calls of 128 rows and a last one of 64 rows
    tokens 956 ... 999   row by row, in one call of 44 rows

If the first 300 tokens are cached, because another prompt begins with the same 300 tokens, then
the tokens 300 ... 955 are evaluated in 4 calls of 128 rows and a last one of 144. Where a tiled
call ends and the next one begins does not change the results, if every call has 64 rows or more.

Two consequences, which `num_shareable` implements: A completion is computed row by row, so the
next turn of a conversation cannot reuse the completion's cells where its own prompt has tiles. And
after a reused prefix, the remaining tiled tokens must fill a call of 64 rows, so up to 63 cached
tokens are evaluated again.

The first 252 tokens are never tiled, because tiles save little time while the context is short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """The rule with its parameters. All numbers are tokens, which are rows of a call.

    Tiles begin at position `start`, a multiple of `length - 1`. A call with at least `length` rows
    of a sequence is tiled. Tiled calls have `chunk_length` rows, or a few more at the end.
    """

    start: int = 4 * 63
    length: int = 64
    chunk_length: int = 128

    @property
    def batch_length(self) -> int:
        """The most rows of one call."""
        return self.chunk_length + self.length - 1

    def end(self, num_prompt_tokens: int) -> int:
        """Returns the position where a prompt's tiles end; `start` if the prompt has none."""
        num_beyond = max(num_prompt_tokens - self.start, 0)
        return self.start + num_beyond // self.length * self.length

    def next_length(self, position: int, num_prompt_tokens: int) -> int:
        """Returns how many rows the next call evaluates if the first `position` tokens are done."""
        end = self.end(num_prompt_tokens)
        if self.start <= position < end:
            remaining = end - position
            return remaining if remaining <= self.batch_length else self.chunk_length
        limit = self.start if position < self.start < end else num_prompt_tokens
        return min(self.length - 1, limit - position)

    def fits_untiled_call(self, length: int, num_prompt_tokens: int) -> bool:
        """Returns whether the last `length` tokens of a prompt fit one call that is not tiled."""
        end = self.end(num_prompt_tokens)
        position = num_prompt_tokens - length
        return length < self.length and position >= (end if end > self.start else 0)

    def num_shareable(self, num_equal: int, end: int, other_end: int) -> int:
        """Returns how many of the first `num_equal` tokens of two prompts have equal cells.

        Both prompts begin with the same `num_equal` tokens. Their tiles end at `end` and
        `other_end`. The first prompt reuses the cells, so its remaining tiled tokens must fill a
        call.
        """
        if num_equal <= self.start:
            return num_equal
        common = num_equal if end == other_end else min(num_equal, end, other_end)
        return common if common >= end else min(common, end - self.length)
