"""Splits prompts into decode calls such that equal prompts get bit-identical KV cells.

On a CPU, llama.cpp computes attention in one of two ways. If a decode call contains 64 or more rows
(tokens) of a sequence, llama.cpp computes these rows in tiles, that is, many rows together. If the
call contains fewer rows of the sequence, llama.cpp computes them row by row. The two ways round
differently. So each token of a prompt must always be computed in the same way, even if part of the
prompt is cached or other sequences run. Therefore the position of a token in its prompt decides how
the token is computed:

    0 .......... start .......... end .. prompt's last token .. completion
     row by row        in tiles       row by row               row by row

This example uses the default values: start 252, tile length 64. In a prompt of 1,000 tokens, `end`
is 999:

    tokens   0 ... 251   row by row, in 4 calls of 63 rows, the largest calls that are not tiled
    tokens 252 ... 998   in tiles, in 5 calls of 128 rows and a last one of 107 rows
    token  999           row by row, in a call with one row

The last token is not tiled, because a repeated prompt then evaluates only this token: tiles would
need 63 other tokens. If a prompt has fewer than 64 tokens between `start` and its last token, none
of its tokens are tiled, and `end` is `start`.

If the first 300 tokens are cached, because another prompt begins with the same 300 tokens, then
the tokens 300 ... 998 are evaluated in 4 calls of 128 rows and a last one of 187: after five calls
of 128 rows, the 59 remaining rows would be too few for a tiled call. The positions at which the
tiled tokens are split into calls do not change the results if every call has 64 rows or more. The
example applies while other sequences generate tokens. Otherwise, tiled calls have 512 rows instead
of 128 (unless that would take too long): fewer calls are faster, because each call reads all
weights.

For two reasons, a prompt cannot reuse all cached KV cells of its tokens (see `num_shareable`).
First, a completion is computed row by row. The next prompt of the conversation contains the
completion, but cannot reuse its KV cells at positions that the new prompt computes in tiles.
Second, the tiled tokens after a reused prefix must fill a call of at least 64 rows. So up to 63
cached tokens are evaluated again.

The first 252 tokens are never tiled, because tiles save little time while the context is short.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tiling:
    """Decides how each prompt is split into decode calls. All numbers are numbers of tokens.

    `length`: if a decode call has at least this many tokens of a sequence, llama.cpp computes their
    attention in tiles (many tokens together). `start`: the position of the first prompt token that
    is computed in tiles. To avoid tiles before `start`, the tokens there are evaluated in calls of
    `length - 1` tokens, so `start` is a multiple of `length - 1`. `chunk_length`: the number of
    tokens in each tiled call of a prompt while other sequences run; `long_chunk_length`: the number
    while no other sequence runs. The last tiled call of a prompt may be longer or shorter.
    """

    start: int = 4 * 63
    length: int = 64
    chunk_length: int = 128
    long_chunk_length: int = 512

    @property
    def batch_length(self) -> int:
        """The maximum number of rows (tokens) in one decode call."""
        return max(self.chunk_length, self.long_chunk_length) + self.length - 1

    def end(self, num_prompt_tokens: int) -> int:
        """Returns the position in a prompt after the last token that is computed in tiles.

        In tiles, llama.cpp computes `length` or more tokens together. Returns `start` if no token
        of the prompt is computed in tiles.
        """
        end = num_prompt_tokens - 1
        return end if end - self.start >= self.length else self.start

    def next_length(
        self, position: int, num_prompt_tokens: int, *, may_be_long: bool = False
    ) -> int:
        """Returns how many tokens of a prompt the next decode call evaluates.

        `position`: the number of prompt tokens that have been evaluated already. `may_be_long`:
        whether the call may have `long_chunk_length` tokens instead of `chunk_length`.
        """
        end = self.end(num_prompt_tokens)
        if self.start <= position < end:
            remaining = end - position
            length = self.long_chunk_length if may_be_long else self.chunk_length
            return remaining if remaining < length + self.length else length
        limit = self.start if position < self.start < end else num_prompt_tokens
        return min(self.length - 1, limit - position)

    def fits_untiled_call(self, length: int, num_prompt_tokens: int) -> bool:
        """Returns whether one decode call can evaluate the last `length` tokens without tiles.

        In tiles, llama.cpp computes many tokens together. Returns True if the tokens are too few
        for tiles (fewer than `self.length`), and if none of the tokens is at a position that must
        be computed in tiles.
        """
        end = self.end(num_prompt_tokens)
        position = num_prompt_tokens - length
        return length < self.length and position >= (end if end > self.start else 0)

    def num_shareable(self, num_equal: int, end: int, other_end: int) -> int:
        """Returns how many KV cells a new prompt can reuse from an older prompt, bit for bit.

        `num_equal`: the number of equal tokens at the start of the two prompts. `end`: the position
        after the last token that the new prompt computes in tiles (many tokens together).
        `other_end`: the position after the last token that the older prompt computes in tiles. The
        result can be less than `num_equal`, because the tiled tokens after the reused cells must
        fill a decode call of `length` or more tokens.
        """
        if num_equal <= self.start:
            return num_equal
        common = num_equal if end == other_end else min(num_equal, end, other_end)
        return common if common >= end else min(common, end - self.length)
