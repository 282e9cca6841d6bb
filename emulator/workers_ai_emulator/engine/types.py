"""What crosses the engine's borders: parameters in, chunks out, and what computes between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

WeightsType = Literal["Q8_0", "F16"]  # those that the embedded model is converted to


class FinishReason(Enum):
    """Why a completion ended."""

    STOP = "stop"  # the model ended it
    LENGTH = "length"  # `max_tokens` reached
    CANCELLED = "cancelled"  # the client left, or the server is closing


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, and how many there may be.

    `temperature` 0 takes the most likely token. `top_k`, `top_p` and `seed` are off when None, a
    `repetition_penalty` of 1 (or 0) and the other penalties at 0 change nothing.
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
    """Token counts of one request. The token that ends a completion is counted."""

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0

    @property
    def num_total_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_completion_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """The text of one completion token; empty where the token completes no character."""

    text: str
    finish_reason: FinishReason | None = None


class Generation(Protocol):
    """A request's handle on its completion: iterate it once for chunks, cancel it at any time.

    Ends with a chunk that has a finish reason, or raises EngineError.
    """

    @property
    def usage(self) -> Usage:
        """Token counts so far."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """None until it has ended."""

    @property
    def fingerprint(self) -> str:
        """Equal for equal requests."""

    def __aiter__(self) -> AsyncIterator[Chunk]: ...

    def cancel(self) -> None:
        """Stop generating. Does nothing once it has ended."""

    def cancel_after(self, limit_s: float) -> None:
        """Cancel it in `limit_s` seconds, unless it has ended; its reader gets DeadlineExceeded."""


@dataclass(frozen=True, slots=True)
class StartedGeneration:
    """A generation, with the name of the model that computes it.

    `model_name` names the weights, or the source of a completion that no model computes. `prompt`
    returns the text that the model sees; it may be slow, and raises EngineError if the model has
    been unloaded.
    """

    generation: Generation
    model_name: str
    prompt: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one slot that one decode call evaluates."""

    slot: int
    start: int
    tokens: Sequence[int]
    wants_logits: bool  # of the last token


State = bytes | memoryview  # of all cells of a slot


class Sampler(Protocol):
    """Picks a sequence's next token from the logits of the last decode call."""

    def sample(self, row: int) -> int:
        """The token chosen from output `row`, counted over the spans that want logits."""

    def close(self) -> None:
        """Give the memory back. May be called again."""


class Vocabulary(Protocol):
    """Text to tokens and back. Any thread may use it."""

    size: int
    bos: int | None
    eos: int | None
    adds_bos: bool  # the model wants a BOS token before every prompt
    is_sentencepiece: bool

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Those that only a template may write."""

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """The tokens of `text`, nothing added; special tokens stay text unless parsed."""

    def piece(self, token: int) -> bytes:
        """The bytes a token stands for; none for a special token."""

    def is_eog(self, token: int) -> bool:
        """Whether the token ends a completion."""


class ModelRunner(Protocol):
    """What computes: llama.cpp, or the fake of the tests. One thread uses it.

    A slot holds the cells of tokens 0, 1, 2 ... of one sequence, at most `context_length`.
    """

    num_slots: int
    context_length: int

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's."""

    def decode(self, spans: Sequence[Span]) -> None:
        """Evaluate all rows in one call. Raises EngineError; Interrupted if it was."""

    def interrupt(self, *, is_wanted: bool) -> None:
        """Break off calls from now on, or no more. Any thread may call it; a GPU goes on."""

    def sampler(self, params: SamplingParams, prompt_tokens: Sequence[int]) -> Sampler:
        """A new sampler for a sequence with this prompt."""

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Forget all cells of the slot but the first `num_tokens`."""

    def save(self, slot: int) -> State:
        """The state of all cells of the slot."""

    def load(self, slot: int, state: State) -> None:
        """Replace the slot's cells by a saved state. Raises EngineError."""

    def close(self) -> None:
        """Free model and context."""
