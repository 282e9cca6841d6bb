"""A fake model for tests of the engine, which replaces llama.cpp and the real KV cache.

Tokens 0-255 are bytes. A cell of the fake KV cache is the token from which it was computed. A wrong
position, a missing or an additional cell, a wrong copy and old logits therefore fail an assertion;
llama.cpp would silently compute wrong results. The next token depends on all cells, so a single
wrong cell changes the completion. If a `Tiling` is given, a cell that was computed in a tile
differs from a cell that was computed row by row.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from array import array
from collections.abc import Collection, Mapping, Sequence

from workers_ai_emulator.engine.errors import EngineError, Interrupted
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Sampler, SamplingParams, Span, State, Vocabulary

END = 256
IM_START = 257
IM_END = 258

_SPECIAL_TOKENS = {"<|im_start|>": IM_START, "<|im_end|>": IM_END}
_SPECIAL = re.compile("(" + "|".join(map(re.escape, _SPECIAL_TOKENS)) + ")")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_GARBAGE = -1  # a cell that a failed decode call has written
_TILED = 1000  # is added to the cells that a decode call computes in a tile
_STATE_TYPE = "i"
_TIMEOUT_S = 10


class FakeVocabulary:
    """A vocabulary with one token per byte, an end-of-generation token and two special tokens."""

    def __init__(self, *, bos: int | None = None, is_sentencepiece: bool = False) -> None:
        self.size = 259
        self.bos = bos
        self.eos: int | None = END
        self.adds_bos = bos is not None
        self.is_sentencepiece = is_sentencepiece

    @property
    def special_tokens(self) -> Mapping[str, int]:
        return _SPECIAL_TOKENS

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        parts = _SPECIAL.split(text) if parse_special else [text]
        return [token for part in parts for token in _tokenize_part(part, parse_special)]

    def piece(self, token: int) -> bytes:
        return bytes([token]) if token < END else b""

    def is_eog(self, token: int) -> bool:
        return token == END


def _tokenize_part(part: str, parse_special: bool) -> list[int]:
    if parse_special and part in _SPECIAL_TOKENS:
        return [_SPECIAL_TOKENS[part]]
    return list(_LONE_SURROGATE.sub("\ufffd", part).encode())


class FakeRunner:
    """A fake of `LlamaRunner` that simulates the KV cells of every slot.

    A completion has `completion_length` letters, then the token END. Decode calls are numbered from
    1. The calls in `fail_at` raise `error` and leave garbage cells in their slots. The call
    `block_at` sets `is_blocked` and waits for `gate`.
    """

    def __init__(
        self,
        *,
        num_slots: int = 4,
        context_length: int = 512,
        max_outputs: int = 16,
        batch_length: int | None = None,
        completion_length: int | None = None,
        vocabulary: FakeVocabulary | None = None,
        tiling: Tiling | None = None,
        fail_at: Collection[int] = (),
        error: Exception | None = None,
        block_at: int | None = None,
        can_be_interrupted: bool = True,
    ) -> None:
        self.num_slots = num_slots
        self.context_length = context_length
        self.max_outputs = max_outputs
        self.can_draft = False  # so that the tests know the number of each decode call
        self.cells: list[list[int]] = [[] for _ in range(num_slots)]
        self.num_decodes = 0
        self.num_open_samplers = 0
        self.is_closed = False
        self.is_blocked = threading.Event()
        self.gate = threading.Event()
        self._vocabulary = vocabulary or FakeVocabulary()
        self._tiling = tiling or Tiling(length=context_length + 1)
        self._batch_length = batch_length
        self._completion_length = completion_length
        self._fail_at = fail_at
        self._error = error or EngineError("decode failed")
        self._block_at = block_at
        self._can_be_interrupted = can_be_interrupted  # False, as on a GPU
        self._is_interrupted = threading.Event()
        self._outputs: list[list[int] | None] = []  # the cells of each row of logits
        self._allowed: dict[int, bytes] = {}  # the allowed tokens of each restricted row

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def decode(self, spans: Sequence[Span]) -> None:
        self._check(spans)
        self._outputs = []
        self._allowed = {}
        self.num_decodes += 1
        if self.num_decodes == self._block_at:
            self.is_blocked.set()
            assert self._wait_for_gate(), "the test did not open the gate"
        if self.num_decodes in self._fail_at:
            for span in spans:
                self.cells[span.slot].append(_GARBAGE)
            raise self._error
        if self._is_interrupted.is_set():
            for span in spans:
                self.spoil(span.slot)
            raise Interrupted("interrupted")
        for span in spans:
            is_tiled = len(span.tokens) >= self._tiling.length
            self.cells[span.slot] += [token + _TILED * is_tiled for token in span.tokens]
            cells = self.cells[span.slot]
            ends = range(len(cells) - span.num_outputs + 1, len(cells) + 1)
            self._outputs += [cells[:end] for end in ends]

    def _wait_for_gate(self) -> bool:
        deadline = time.monotonic() + _TIMEOUT_S
        while not (self.gate.is_set() or self._is_interrupted.wait(0.001)):
            if time.monotonic() > deadline:
                return False
        return True

    def interrupt(self, *, is_requested: bool) -> None:
        if is_requested and self._can_be_interrupted:
            self._is_interrupted.set()
        else:
            self._is_interrupted.clear()

    def sampler(self, params: SamplingParams, prompt_tokens: Sequence[int]) -> Sampler:
        return FakeSampler(self, params, prompt_tokens)

    def restrict(self, row: int, allowed: bytes) -> None:
        assert self._outputs[row] is not None, f"output {row} is restricted after it was sampled"
        self._allowed[row] = allowed

    def truncate(self, slot: int, num_tokens: int) -> None:
        held = len(self.cells[slot])
        assert num_tokens <= held, f"slot {slot} has {held} cells, not {num_tokens}"
        del self.cells[slot][num_tokens:]

    def copy(self, source: int, target: int) -> None:
        self.load(target, self.save(source))

    def save(self, slot: int) -> bytes:
        assert _GARBAGE not in self.cells[slot], f"slot {slot} holds garbage"
        return array(_STATE_TYPE, self.cells[slot]).tobytes()

    def load(self, slot: int, state: State) -> None:
        if len(state) % array(_STATE_TYPE).itemsize:
            self.cells[slot] = [_GARBAGE]
            raise EngineError("the state is incomplete")
        self.cells[slot] = array(_STATE_TYPE, bytes(state)).tolist()

    def close(self) -> None:
        self.is_closed = True

    def spoil(self, slot: int) -> None:
        """Writes a garbage cell into the slot, as a failed decode call may do."""
        self.cells[slot].append(_GARBAGE)

    def take_output(self, row: int) -> list[int]:
        """Returns the cells from which the logits of this row were computed.

        Fails if the row was sampled before.
        """
        assert 0 <= row < len(self._outputs), f"the last call has no output {row}"
        cells, self._outputs[row] = self._outputs[row], None
        assert cells is not None, f"output {row} is sampled twice"
        return cells

    def nearest_allowed(self, token: int, row: int) -> int:
        """Returns the first token from `token` on that may be sampled from this row of logits."""
        bits = int.from_bytes(self._allowed.get(row, b""), "little")
        size = self._vocabulary.size
        allowed = [t for t in range(token, token + size) if not bits or bits >> (t % size) & 1]
        return allowed[0] % size

    def next_token(self, cells: list[int], num_prompt_tokens: int, params: SamplingParams) -> int:
        """Returns the next token of a completion, for a slot with these cells.

        The token is a letter that depends on all cells and on the sampling parameters, or END after
        `completion_length` letters.
        """
        if len(cells) - num_prompt_tokens == self._completion_length:
            return END
        data = array("i", cells).tobytes() + repr(_changes(params)).encode()
        return ord("a") + zlib.crc32(data) % 26

    def completion(self, prompt_tokens: Sequence[int], params: SamplingParams) -> list[int]:
        """Returns the tokens that the engine must generate for this prompt."""
        cells = self.prompt_cells(prompt_tokens)
        max_tokens = params.max_tokens or max(1, self.context_length - len(prompt_tokens))
        while len(cells) - len(prompt_tokens) < max_tokens and cells[-1] != END:
            cells.append(self.next_token(cells, len(prompt_tokens), params))
        return cells[len(prompt_tokens) :]

    def prompt_cells(self, prompt_tokens: Sequence[int]) -> list[int]:
        """Returns the cells that must be in the prompt's slot after its prefill."""
        start, end = self._tiling.start, self._tiling.end(len(prompt_tokens))
        return [t + _TILED * (start <= i < end) for i, t in enumerate(prompt_tokens)]

    def text(self, prompt_tokens: Sequence[int], params: SamplingParams) -> str:
        """Returns the text that the engine must generate for this prompt."""
        tokens = self.completion(prompt_tokens, params)
        return b"".join(map(self._vocabulary.piece, tokens)).decode("utf-8", "replace")

    def _check(self, spans: Sequence[Span]) -> None:
        slots = [span.slot for span in spans]
        assert spans and len(slots) == len(set(slots)), f"slots of a call: {slots}"
        num_rows = sum(len(span.tokens) for span in spans)
        assert self._batch_length is None or num_rows <= self._batch_length, f"{num_rows} rows"
        for span in spans:
            cells = self.cells[span.slot]
            assert span.num_outputs <= min(self.max_outputs, len(span.tokens)), f"outputs of {span}"
            assert span.tokens, f"slot {span.slot} evaluates nothing"
            assert _GARBAGE not in cells, f"slot {span.slot} holds garbage"
            assert span.start == len(cells), f"{span} does not follow {len(cells)} cells"
            assert span.start + len(span.tokens) <= self.context_length, f"{span} is beyond the end"


class FakeSampler:
    """A sampler that asserts that each row of logits belongs to its own sequence."""

    def __init__(
        self, runner: FakeRunner, params: SamplingParams, prompt_tokens: Sequence[int]
    ) -> None:
        self._runner = runner
        self._params = params
        self._num_prompt_tokens = len(prompt_tokens)
        self._cells = runner.prompt_cells(prompt_tokens)
        self._is_open = True
        runner.num_open_samplers += 1

    def sample(self, row: int) -> int:
        assert self._is_open, "the sampler is closed"
        cells = self._runner.take_output(row)
        assert cells == self._cells, f"output {row} belongs to other tokens"
        token = self._runner.next_token(cells, self._num_prompt_tokens, self._params)
        token = self._runner.nearest_allowed(token, row)
        self._cells.append(token)
        return token

    def close(self) -> None:
        self._runner.num_open_samplers -= self._is_open
        self._is_open = False


def _changes(params: SamplingParams) -> list[float]:
    """Returns the values of those sampling parameters that change a greedy completion."""
    return [
        value
        for value in (
            params.seed if params.temperature > 0 and params.top_k != 1 else None,
            params.repetition_penalty if params.repetition_penalty != 1 else None,
            params.frequency_penalty,
            params.presence_penalty,
        )
        if value
    ]
