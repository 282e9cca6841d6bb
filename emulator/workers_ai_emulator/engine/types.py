"""The data types and protocols of the engine, such as chunks and sampling parameters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, Protocol

WeightsType = Literal["Q8_0", "F16"]  # the types of weights that the stand-in model can have


class FinishReason(Enum):
    """Why a completion ended."""

    # The model generated an EOG (end-of-generation) token, the text reached a stop string, or the
    # completion is complete according to its grammar.
    STOP = "stop"
    TOOL_CALLS = "tool_calls"  # as STOP, but the completion contains tool calls
    LENGTH = "length"  # the completion has `max_tokens` tokens
    CANCELLED = "cancelled"  # the generation was cancelled, for example after a disconnect


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """The sampling parameters of a request, and the maximum number of completion tokens.

    If `max_tokens` is None, the completion may fill the rest of the context. `may_shorten`: whether
    `max_tokens` is reduced if it exceeds the rest of the context; otherwise, such a request is
    rejected. If `temperature` is 0, the most likely token is always selected. If `seed` is None, a
    random seed is used. These values switch a parameter off: None for `top_k` and `top_p`, 1 or 0
    for `repetition_penalty`, and 0 for the frequency and presence penalties. `stop`: the completion
    ends before the first of these strings.
    """

    max_tokens: int | None = 256
    temperature: float = 0.6
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    may_shorten: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """The token counts of one request.

    `num_completion_tokens` includes the EOG (end-of-generation) token. `num_cached_tokens`: the
    number of prompt tokens that were not evaluated, because their KV cells were reused.
    """

    num_prompt_tokens: int
    num_completion_tokens: int
    num_cached_tokens: int = 0

    @property
    def num_total_tokens(self) -> int:
        return self.num_prompt_tokens + self.num_completion_tokens


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A part of a tool call. The arguments of all parts together are a JSON text.

    `index`: the number of the tool call in its completion, from 0 on. `name`: the tool's name, in
    the first part of each call; None in the other parts. `id`: the call's id in the first part, if
    the model or the server that generates the completion chose one.
    """

    index: int
    arguments: str = ""
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one generated token, or several, add to a completion.

    It adds `text` to the answer, `reasoning` to the model's reasoning, and `tool_call` to a tool
    call. All of them can be empty, for example if the token completes no character. The engine
    itself generates only text. `num_tokens`: how many tokens were generated for this chunk.
    `finish_reason`: why the completion ended, in its last chunk; None in all other chunks.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    reasoning: str = ""
    tool_call: ToolCallDelta | None = None
    num_tokens: int = 1


class Generation(Protocol):
    """A completion in progress: an async iterator of chunks, with a method to cancel it.

    A generation can be iterated only once. The last chunk has a finish reason. If the generation
    fails, the iterator raises EngineError.
    """

    @property
    def usage(self) -> Usage:
        """The numbers of prompt, completion and cached tokens so far."""

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the generation ended; None while it runs."""

    @property
    def fingerprint(self) -> str:
        """A text that is equal for requests with the same prompt and parameters.

        The text seeds the random padding of stream events, so equal requests get equal padding.
        """

    def __aiter__(self) -> AsyncIterator[Chunk]: ...

    def cancel(self) -> None:
        """Cancels the generation. Does nothing if the generation has ended."""

    def cancel_after(self, limit_s: float) -> None:
        """Cancels the generation if it has not ended within `limit_s` seconds from now.

        The iterator of the generation then raises DeadlineExceeded.
        """


@dataclass(frozen=True, slots=True)
class StartedGeneration:
    """A completion in progress, with the name of its model and a function that returns its prompt.

    `model_name`: the file name of the weights without `.gguf`, the name of an upstream server's
    model, or `scripted`. `prompt`: a function that returns the rendered prompt. The function may be
    slow, and raises EngineError if the model has been unloaded.
    """

    generation: Generation
    model_name: str
    prompt: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive tokens of one slot that one decode call evaluates.

    `start`: the position of the first token of the span in its sequence. `num_outputs`: for how
    many tokens at the end of the span the decode call must output logits.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    num_outputs: int


State = bytes | memoryview  # a copy of all KV cells of a slot


class Sampler(Protocol):
    """Samples the completion tokens of one sequence, one or more after each decode call."""

    def sample(self, row: int) -> int:
        """Samples a token from the logits of the last decode call, and returns it.

        `row`: the index of one token in the list of all tokens for which the decode call computed
        logits. The sampled token is the one that follows this token.
        """

    def close(self) -> None:
        """Frees the memory of the sampler. May be called more than once."""


class GrammarState(Protocol):
    """The state of a grammar in one completion: which tokens may come next."""

    @property
    def is_complete(self) -> bool:
        """Whether no text can follow, so the completion must end."""

    def allowed_tokens(self) -> bytes:
        """Returns a bit for each token of the vocabulary: 1 if the token may come next.

        The bit of token 0 is the lowest bit of the first byte. Raises GrammarFailed if the grammar
        exceeds a limit.
        """

    def advance(self, token: int) -> None:
        """Adds a token to the completion.

        Raises GrammarFailed if the token is not allowed, or if the grammar exceeds a limit.
        """


class Grammar(Protocol):
    """A compiled grammar, which constrains the completions of one request.

    `text`: the grammar's text. `CompiledGrammar` in `grammar.py` implements this protocol.
    """

    @property
    def text(self) -> str: ...

    def begin(self) -> GrammarState:
        """Returns the state at the beginning of a completion."""


class Vocabulary(Protocol):
    """The tokenizer of a model. Any thread may use it.

    `adds_bos`: whether the model needs a BOS token before every prompt. `bos` and `eos`: token ids;
    None if the vocabulary has no such token.
    """

    size: int
    bos: int | None
    eos: int | None
    adds_bos: bool
    is_sentencepiece: bool

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The ids of all special tokens, such as `</s>`. The keys are the texts of the tokens."""

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Returns the tokens of `text`, without a BOS token.

        If `parse_special` is True, the text of a special token, such as `</s>`, becomes the special
        token. If it is False, `</s>` is tokenised as plain text.
        """

    def piece(self, token: int) -> bytes:
        """Returns the bytes of a token's text; `b""` for a special token."""

    def is_eog(self, token: int) -> bool:
        """Returns whether the token is an EOG (end-of-generation) token."""


class ModelRunner(Protocol):
    """Evaluates tokens with a model and its KV cache.

    Any thread may call `interrupt`. Only one thread may call the other methods. Each slot holds the
    KV cells of the first tokens of one sequence, without gaps: at most `context_length` cells.
    `max_outputs`: for how many tokens of one sequence a decode call can output logits. `can_draft`:
    whether the engine may use drafts. It is False if equal requests must get equal logits, but the
    number of tokens in a decode call changes the rounding (on a GPU).
    `LlamaRunner` implements this protocol; the tests have a fake runner.
    """

    num_slots: int
    context_length: int
    max_outputs: int
    can_draft: bool

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's tokenizer."""

    def decode(self, spans: Sequence[Span]) -> None:
        """Evaluates all spans in one decode call. A span contains consecutive tokens of one slot.

        Raises Interrupted if `interrupt` stopped the call, and EngineError if the call failed.
        """

    def interrupt(self, *, is_requested: bool) -> None:
        """With `is_requested=True`, stops the current decode call and all later ones.

        Stopped calls raise Interrupted. After `interrupt(is_requested=False)`, later calls run
        again. Any thread may call this method. Decode calls on a GPU cannot be stopped.
        """

    def sampler(self, params: SamplingParams, prompt_tokens: Sequence[int]) -> Sampler:
        """Returns a new sampler for one sequence."""

    def restrict(self, row: int, allowed: bytes) -> None:
        """Prevents samplers from sampling other tokens than the allowed ones from a row of logits.

        `row`: as in `Sampler.sample`. `allowed`: a bit for each token of the vocabulary, as
        `GrammarState.allowed_tokens` returns them.
        """

    def truncate(self, slot: int, num_tokens: int) -> None:
        """Removes all KV cells of the slot except the first `num_tokens`."""

    def copy(self, source: int, target: int) -> None:
        """Replaces the KV cells of the slot `target` with a copy of all cells of `source`."""

    def save(self, slot: int) -> State:
        """Returns a copy of all KV cells of the slot.

        If the model has sliding windows, cells that the next token cannot see may be missing.
        """

    def load(self, slot: int, state: State) -> None:
        """Replaces the KV cells of the slot with a copy that `save` has returned.

        Raises EngineError if llama.cpp does not accept the copy.
        """

    def close(self) -> None:
        """Frees the KV cache and the model."""
