"""Guesses the next tokens of a completion, so that one decode call can generate several tokens.

Usually, a decode call evaluates the last token of a sequence, and the sampler then selects the next
token. With a draft, the call also evaluates tokens that are likely to follow. The sampler selects a
token after each of them, until its choice differs from the draft:

    last token, draft     "the"  "quick"  "brown"  "dog"     evaluated in one call
    sampler's choices            "quick"  "brown"  "fox"     three new tokens; "dog" is dropped

So the completion is the same as without a draft, and a wrong draft costs only time. Drafts are
taken from earlier text: if the last tokens have occurred before, in the prompt, in the completion
or in a recent request, the tokens that followed them there are likely to follow again. The method
is known as prompt lookup decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers_ai_emulator.engine.costs import CallCosts
from workers_ai_emulator.engine.sequence import Sequence

_MAX_NGRAM = 4  # the longest n-gram in the index
_MAX_MATCH = 8  # longer matches count as matches of this length
_MAX_INDEXED_TOKENS = 2**15
_RECENT = 1 / 16  # the weight of the latest guess in the moving average of the right guesses
# The initial estimates of the probability that a guessed token is right, by the length of the match
# [measured with greedy chat completions of the stand-in model].
_RIGHT_SHARES = (0.0, 0.1, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8)


@dataclass(frozen=True, slots=True)
class Guess:
    """The tokens that probably come next in a sequence.

    `match`: how many of the sequence's last tokens are equal to the tokens before the place from
    which the guess was taken, at most 8; 0 if there is no guess.
    """

    tokens: list[int]
    match: int


class TextIndex:
    """Finds the tokens that followed earlier occurrences of a sequence's last tokens.

    The index contains the texts (prompt and completion) of recent sequences. The text of the
    sequence that was last passed to `update` is called the present text. If all texts together
    would have more than `max_tokens` tokens, all texts except the present text are removed.
    """

    def __init__(self, max_tokens: int = _MAX_INDEXED_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._tokens: list[int] = []  # the present text is at the end
        self._start = 0  # where the present text starts
        self._sequence: Sequence | None = None
        # The position after the latest occurrence of each n-gram, by a hash of the n-gram.
        self._positions: dict[int, int] = {}

    def update(self, sequence: Sequence) -> None:
        """Adds those tokens of the sequence that the index does not contain yet."""
        is_full = len(self._tokens) > self._max_tokens
        if sequence is not self._sequence or (is_full and self._start > 0):
            if len(self._tokens) + sequence.num_tokens > self._max_tokens:
                self._tokens.clear()
                self._positions.clear()
            self._sequence, self._start = sequence, len(self._tokens)
        for token in sequence.tokens_from(len(self._tokens) - self._start):
            self._add(token)

    def guess(self, max_length: int) -> Guess:
        """Returns up to `max_length` tokens that followed the end of the present text earlier.

        Looks up the last 4 tokens of the present text; if they have not occurred before, the last
        3, and so on. Takes the latest occurrence. Without one, returns an empty guess.
        """
        end = len(self._tokens)
        for length in range(min(_MAX_NGRAM, end - self._start), 0, -1):
            position = self._positions.get(self._ngram(length))
            if position is not None:
                return Guess(self._tokens[position : position + max_length], self._match(position))
        return Guess([], 0)

    def _add(self, token: int) -> None:
        end = len(self._tokens)
        for length in range(1, min(_MAX_NGRAM, end - self._start) + 1):
            self._positions[self._ngram(length)] = end
        self._tokens.append(token)

    def _ngram(self, length: int) -> int:
        return hash(tuple(self._tokens[-length:]))

    def _match(self, position: int) -> int:
        """Returns how many tokens before `position` equal the tokens at the end of the text."""
        end = len(self._tokens)
        length = 0
        while length < min(_MAX_MATCH, position) and (
            self._tokens[position - 1 - length] == self._tokens[end - 1 - length]
        ):
            length += 1
        return length


class Drafter:
    """Makes drafts: lists of guessed tokens that are likely to follow a sequence.

    A draft has the length that gives the highest expected number of tokens per second; it is empty
    if guesses are not expected to save time. `max_rows`: the maximum number of rows in a decode
    call with a draft (the last token and the draft). The attribute `costs` estimates how long
    decode calls take; the scheduler adds its measurements to it.
    """

    def __init__(self, max_rows: int) -> None:
        self.costs = CallCosts(max_rows)
        self._max_length = max_rows - 1
        self._index = TextIndex()
        self._guess = Guess([], 0)
        # How often guesses were right lately, by the length of the match.
        self._right_shares = list(_RIGHT_SHARES)

    def draft(self, sequence: Sequence) -> list[int]:
        """Returns the draft for the sequence's next decode call; empty if none would save time."""
        self._index.update(sequence)
        self._guess = self._index.guess(min(self._max_length, sequence.num_tokens_left - 1))
        return self._guess.tokens[: self._best_length(sequence.num_computed_tokens)]

    def prefers_single_rows(self, sequences: list[Sequence]) -> bool:
        """Returns whether separate decode calls, one per sequence, take less time than one for all.

        The result is an estimate. It is always False if there are `max_rows` sequences or more.
        """
        num_cells = max(sequence.num_computed_tokens for sequence in sequences)
        num_rows = len(sequences)
        if num_rows > self._max_length:
            return False
        alone, together = (self.costs.estimate(n, num_cells) for n in (1, num_rows))
        return num_rows * alone < together

    def learn(self, new_tokens: list[int]) -> None:
        """Compares the last guess with the tokens that the sampler has selected since then.

        Also learns from a guess that was too unlikely to be used as a draft.
        """
        pairs = zip(self._guess.tokens, new_tokens, strict=False)
        for number, (guessed, token) in enumerate(pairs):
            match = min(self._guess.match + number, _MAX_MATCH)
            self._right_shares[match] += _RECENT * ((guessed == token) - self._right_shares[match])
            if guessed != token:
                return

    def _best_length(self, num_cells: int) -> int:
        """Returns how many tokens of the guess give the highest expected number of tokens per s."""
        best_length, best_speed = 0, 1 / self.costs.estimate(1, num_cells)
        num_expected = chance = 1.0
        for length in range(1, len(self._guess.tokens) + 1):
            chance *= self._right_shares[min(self._guess.match + length - 1, _MAX_MATCH)]
            num_expected += chance
            speed = num_expected / self.costs.estimate(length + 1, num_cells)
            if speed > best_speed:
                best_length, best_speed = length, speed
        return best_length
