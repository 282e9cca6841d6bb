"""Splits prompts into decode calls such that equal prompts get bit-identical KV cells.

On a CPU, llama.cpp computes attention in one of two ways. If a sequence has 64 rows (tokens) or
more in a decode call, its rows are computed in tiles. If it has fewer rows, they are computed row
by row. The two ways round differently. So a prompt gets the same KV cells every time only if each
of its tokens is always computed in the same way, even if part of the prompt is cached, and
whatever other sequences run. Therefore the position of a token in its prompt decides how the token
is computed:

    0 .......... start .......... end .......... prompt's end .......... completion
     row by row        in tiles       row by row              row by row

This example uses the default values: start 252, tile length 64. A prompt of 1,000 tokens has
(1,000 - 252) // 64 = 11 complete tiles, so `end` is 252 + 11 * 64 = 956:

    tokens   0 ... 251   row by row, in 4 calls of 63 rows, the largest calls that are not tiled
    tokens 252 ... 955   in tiles, in 5 calls of 128 rows and a last one of 64 rows
    tokens 956 ... 999   row by row, in one call of 44 rows

If the first 300 tokens are cached, because another prompt begins with the same 300 tokens, then
the tokens 300 ... 955 are evaluated in 4 calls of 128 rows and a last one of 144. The positions at
which the tiled tokens are split into calls do not change the results, as long as every call has 64
rows or more.

This limits which cached KV cells a prompt can reuse (`num_shareable`). First, a completion is
computed row by row. The prompt of the next turn of a conversation contains this completion, but
cannot reuse its cells at the positions that the new prompt computes in tiles. Second, the tiled
tokens after a reused prefix must fill a call of at least 64 rows. So up to 63 cached tokens are
evaluated again.

The first 252 tokens are never tiled, because tiles save little time while the context is short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """Decides how each prompt is split into decode calls. All numbers are numbers of tokens.

    `length`: llama.cpp computes the tokens of a sequence in tiles if a call has at least this many
    of them. `start`: the position in a prompt where computing in tiles begins. The tokens before
    `start` are evaluated in calls of `length - 1` tokens, which are too short for tiles. So
    `start` is a multiple of `length - 1`. `chunk_length`: the number of tokens in each call that is
    computed in tiles, except the last one, which may be longer or shorter.
    """

    start: int = 4 * 63
    length: int = 64
    chunk_length: int = 128

    @property
    def batch_length(self) -> int:
        """The maximum number of rows (tokens) in one decode call."""
        return self.chunk_length + self.length - 1

    def end(self, num_prompt_tokens: int) -> int:
        """Returns the position in a prompt after the last token that is computed in tiles.

        Returns `start` if no token of the prompt is computed in tiles.
        """
        num_beyond = max(num_prompt_tokens - self.start, 0)
        return self.start + num_beyond // self.length * self.length

    def next_length(self, position: int, num_prompt_tokens: int) -> int:
        """Returns how many tokens of a prompt the next decode call evaluates.

        `position`: the number of prompt tokens that have been evaluated already.
        """
        end = self.end(num_prompt_tokens)
        if self.start <= position < end:
            remaining = end - position
            return remaining if remaining <= self.batch_length else self.chunk_length
        limit = self.start if position < self.start < end else num_prompt_tokens
        return min(self.length - 1, limit - position)

    def fits_untiled_call(self, length: int, num_prompt_tokens: int) -> bool:
        """Returns whether one decode call can evaluate the last `length` tokens of a prompt.

        It can if these tokens are too few for tiles and none of them must be computed in tiles.
        """
        end = self.end(num_prompt_tokens)
        position = num_prompt_tokens - length
        return length < self.length and position >= (end if end > self.start else 0)

    def num_shareable(self, num_equal: int, end: int, other_end: int) -> int:
        """Returns how many KV cells a prompt can reuse from another prompt, bit for bit.

        Both prompts begin with the same `num_equal` tokens. `end`: the position in the reusing
        prompt after its last tiled token. `other_end`: the position in the other prompt after its
        last tiled token. The tiled tokens that remain after the reused cells must fill a decode
        call of at least 64 tokens (by default). So the result can be smaller than the number of
        equal cells.
        """
        if num_equal <= self.start:
            return num_equal
        common = num_equal if end == other_end else min(num_equal, end, other_end)
        return common if common >= end else min(common, end - self.length)
