"""The types at the engine's borders: parameters, chunks, and the protocols of its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

WeightsType = Literal["Q8_0", "F16"]  # the types that the stand-in model is converted to


class FinishReason(Enum):
    """Why a completion ended."""

    STOP = "stop"  # the model generated an end-of-generation token
    LENGTH = "length"  # the completion has `max_tokens` tokens
    CANCELLED = "cancelled"  # the client disconnected, or the server shuts down


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of sampling, and the largest number of completion tokens.

    `temperature` 0 selects the most likely token. `top_k`, `top_p` and `seed` have no effect if
    they are None, `repetition_penalty` if it is 1 or 0, the other penalties if they are 0.
    """

    max_tokens: int = 256
    temperature: float = 0.6
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request. Completion tokens include the end-of-generation token."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0

    @property
    def num_total_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_completion_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """The text that one completion token adds; empty if the token completes no character."""

    text: str
    finish_reason: FinishReason | None = None


class Generation(Protocol):
    """The handle of one completion: an async iterator of chunks that can be cancelled.

    It can be iterated once. The iteration ends with a chunk that has a finish reason, or raises
    EngineError.
    """

    @property
    def usage(self) -> Usage:
        """Token counts so far."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while the generation runs."""

    @property
    def fingerprint(self) -> str:
        """A text that is equal for equal requests."""

    def __aiter__(self) -> AsyncIterator[Chunk]: ...

    def cancel(self) -> None:
        """Cancels the generation. Does nothing if it has ended."""

    def cancel_after(self, limit_s: float) -> None:
        """Cancels the generation after `limit_s` seconds; its iterator raises DeadlineExceeded.

        Does nothing if the generation ends before that.
        """


@dataclass(frozen=True, slots=True)
class StartedGeneration:
    """A generation, with the name of the model that computes it.

    `model_name` names the weights, or the source of a completion that no model computes. `prompt`
    returns the rendered prompt; it may be slow, and raises EngineError if the model has been
    unloaded.
    """

    generation: Generation
    model_name: str
    prompt: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one slot that one decode call evaluates.

    `start` is the position of the first token in its sequence. `needs_logits`: the decode call
    must output the logits of the last token.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    needs_logits: bool


State = bytes | memoryview  # a copy of all KV cells of a slot


class Sampler(Protocol):
    """Samples the next tokens of one sequence from the logits of the last decode call."""

    def sample(self, row: int) -> int:
        """Returns the token sampled from output `row`.

        Rows are numbered over the spans of the decode call that need logits.
        """

    def close(self) -> None:
        """Frees the sampler. May be called more than once."""


class Vocabulary(Protocol):
    """The tokenizer of a model. Any thread may use it.

    `adds_bos`: the model needs a BOS token before every prompt.
    """

    size: int
    bos: int | None
    eos: int | None
    adds_bos: bool
    is_sentencepiece: bool

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Ids of the control tokens by their text. Only a chat template may write them."""

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Returns the tokens of `text`, without a BOS token.

        The text of a special token becomes that token only with `parse_special`.
        """

    def piece(self, token: int) -> bytes:
        """Returns the bytes that a token stands for; empty for a special token."""

    def is_eog(self, token: int) -> bool:
        """Returns whether the token ends a completion."""


class ModelRunner(Protocol):
    """A model with its KV cache: llama.cpp, or the fake of the tests. One thread uses it.

    Each slot holds the KV cells of one sequence: of its tokens 0, 1, 2 and so on, at most
    `context_length` of them.
    """

    num_slots: int
    context_length: int

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokenizer."""

    def decode(self, spans: Sequence[Span]) -> None:
        """Evaluates all spans in one call.

        Raises Interrupted if `interrupt` stopped the call, and EngineError if it failed.
        """

    def interrupt(self, *, is_requested: bool) -> None:
        """Makes current and later decode calls raise Interrupted, until it is called with False.

        Any thread may call it. A GPU does not stop.
        """

    def sampler(self, params: SamplingParams, prompt_tokens: Sequence[int]) -> Sampler:
        """Returns a new sampler for a sequence with this prompt."""

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Removes all cells of the slot except the first `num_tokens`."""

    def save(self, slot: int) -> State:
        """Returns a copy of all cells of the slot."""

    def load(self, slot: int, state: State) -> None:
        """Replaces the cells of the slot with a saved state. Raises EngineError."""

    def close(self) -> None:
        """Frees the KV cache and the model."""
