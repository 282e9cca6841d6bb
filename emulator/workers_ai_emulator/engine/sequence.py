"""Defines a sequence: the tokens and the state of one request in the engine."""

from __future__ import annotations

from enum import Enum, auto

from workers_ai_emulator.engine.detokenizer import Detokenizer
from workers_ai_emulator.engine.stop_strings import StopMatcher
from workers_ai_emulator.engine.types import (
    FinishReason,
    Grammar,
    GrammarState,
    Sampler,
    SamplingParams,
    Usage,
)


class SequenceStatus(Enum):
    """The stages of a request in the engine."""

    WAITING = auto()  # the sequence has no slot yet
    PREFILL = auto()  # the prompt of the sequence is being evaluated
    RUNNING = auto()  # the sequence generates one token per step, or several with a draft
    FINISHED = auto()


class Sequence:
    """The prompt, the completion and the state of one request in the engine.

    The event loop changes only `is_cancelled`; the worker thread changes all other attributes.
    `sampler` is None until the first token is sampled. `finish_reason` is None until the sequence
    ends. `max_tokens`: the maximum number of completion tokens, which replaces that of `params`.
    """

    def __init__(
        self,
        prompt_tokens: list[int],
        params: SamplingParams,
        *,
        max_tokens: int | None = None,
        grammar: Grammar | None = None,
        strip_leading_space: bool = False,
        shows_special_tokens: bool = False,
    ) -> None:
        if not prompt_tokens:
            raise ValueError("a sequence needs at least one prompt token")
        limit = params.max_tokens if max_tokens is None else max_tokens
        if limit is None:
            raise ValueError("a sequence needs a maximum number of completion tokens")
        self.max_tokens = limit
        self.params = params
        self.shows_special_tokens = shows_special_tokens  # whether the text contains their names
        self.prompt_tokens = prompt_tokens
        self.completion_tokens: list[int] = []
        self.num_cached_tokens = 0  # how many prompt tokens have KV cells that were reused
        # For how many tokens of the prompt and the completion the slot has KV cells. The cells of
        # draft tokens are counted only once these tokens are accepted.
        self.num_computed_tokens = 0
        # The guessed next tokens that the current decode call evaluates, without those that the
        # sampler has already accepted.
        self.draft: list[int] = []
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.is_cancelled = False  # the event loop sets it to True to end the sequence
        self.slot: int | None = None
        self.sampler: Sampler | None = None
        self.grammar = grammar
        self.grammar_state: GrammarState | None = None  # None until `sampler` is set
        self._detokenizer = Detokenizer(strip_leading_space=strip_leading_space)
        self._stop_matcher = StopMatcher(params.stop)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_tokens)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_tokens) + len(self.completion_tokens)

    @property
    def num_tokens_left(self) -> int:
        """The maximum number of tokens that can still be generated."""
        return self.max_tokens - len(self.completion_tokens)

    @property
    def num_reserved_tokens(self) -> int:
        """The maximum number of KV cells that the sequence needs: prompt tokens + `max_tokens`."""
        return self.num_prompt_tokens + self.max_tokens

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def has_logits(self) -> bool:
        """Whether the next token can be sampled without another decode call.

        This is so if the last sampled token equals the next token of the draft: the last decode
        call has then already evaluated this token. False if the sequence is finished.
        """
        return self.num_computed_tokens == self.num_tokens and not self.is_finished

    @property
    def evaluated_tokens(self) -> list[int]:
        """The prompt and completion tokens for which the slot has KV cells."""
        return self.tokens_from(0)[: self.num_computed_tokens]

    @property
    def usage(self) -> Usage:
        return Usage(self.num_prompt_tokens, len(self.completion_tokens), self.num_cached_tokens)

    def tokens_from(self, start: int) -> list[int]:
        """Returns the tokens of prompt and completion, without the first `start` tokens."""
        if start >= self.num_prompt_tokens:
            return self.completion_tokens[start - self.num_prompt_tokens :]
        return [*self.prompt_tokens[start:], *self.completion_tokens]

    def add_piece(self, piece: bytes) -> str:
        """Adds the bytes of the last token to the text, and returns the new part of the text.

        The new part ends before incomplete characters, and before text that may be the beginning of
        a stop string. If `finish_reason` is set, the new part is the whole rest of the text. Sets
        `finish_reason` if the text reaches a stop string.
        """
        text = self._detokenizer.feed(piece)
        if self.finish_reason is not None:
            text += self._detokenizer.flush()
        text = self._stop_matcher.feed(text)
        if self._stop_matcher.has_matched:
            self.finish_reason = FinishReason.STOP
        elif self.finish_reason is not None:
            text += self._stop_matcher.flush()
        return text

    def append(self, token: int, *, is_last: bool) -> None:
        """Appends a sampled token to the completion.

        If the token equals the first token of `draft`, it is accepted: it is removed from `draft`,
        and `num_computed_tokens` grows by 1, because its KV cell has already been computed. Sets
        `finish_reason` if the completion ends with the token (`is_last`), or if it then has
        `max_tokens` tokens.
        """
        self.completion_tokens.append(token)
        if self.draft[:1] == [token]:
            del self.draft[0]
            self.num_computed_tokens += 1
        if is_last:
            self.finish_reason = FinishReason.STOP
        elif len(self.completion_tokens) >= self.max_tokens:
            self.finish_reason = FinishReason.LENGTH
