"""A sequence: the tokens and the state of one request inside the engine."""

from __future__ import annotations

from enum import Enum, auto

from workers_ai_emulator.engine.detokenizer import Detokenizer
from workers_ai_emulator.engine.types import FinishReason, Sampler, SamplingParams, Usage


class SequenceStatus(Enum):
    """The stages of a sequence."""

    WAITING = auto()  # it has no slot
    PREFILL = auto()  # its prompt is being evaluated
    RUNNING = auto()  # it gets one token in each step
    FINISHED = auto()


class Sequence:
    """One request's prompt and completion.

    Only the worker thread changes it, except for `is_cancelled`. `sampler` is set before the first
    token is sampled, `finish_reason` when the sequence ends.
    """

    def __init__(
        self, prompt_tokens: list[int], params: SamplingParams, *, strip_leading_space: bool = False
    ) -> None:
        if not prompt_tokens:
            raise ValueError("a sequence needs at least one prompt token")
        self.params = params
        self.prompt_tokens = prompt_tokens
        self.completion_tokens: list[int] = []
        self.num_cached_tokens = 0  # prompt tokens whose cells were reused
        self.num_computed_tokens = 0  # tokens whose cells the slot holds
        self.status = SequenceStatus.WAITING
        self.finish_reason: FinishReason | None = None
        self.is_cancelled = False  # set by the event loop, when no client waits any more
        self.slot: int | None = None
        self.sampler: Sampler | None = None
        self.detokenizer = Detokenizer(strip_leading_space=strip_leading_space)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_tokens)

    @property
    def num_reserved_tokens(self) -> int:
        """The most cells that the sequence can need."""
        return self.num_prompt_tokens + self.params.max_tokens

    @property
    def is_finished(self) -> bool:
        return self.status is SequenceStatus.FINISHED

    @property
    def evaluated_tokens(self) -> list[int]:
        """The tokens whose cells the slot holds."""
        return [*self.prompt_tokens, *self.completion_tokens][: self.num_computed_tokens]

    @property
    def usage(self) -> Usage:
        return Usage(self.num_prompt_tokens, len(self.completion_tokens), self.num_cached_tokens)

    def append(self, token: int, *, is_eog: bool) -> None:
        """Adds a sampled token to the completion; sets `finish_reason` if it is the last one."""
        self.completion_tokens.append(token)
        if is_eog:
            self.finish_reason = FinishReason.STOP
        elif len(self.completion_tokens) >= self.params.max_tokens:
            self.finish_reason = FinishReason.LENGTH
