"""The tokens of a call of llama.cpp, in the form that llama.cpp reads."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama

from workers_ai_emulator.engine.types import Span


class Batch:
    """The arrays with the tokens of a decode call, in the form that llama.cpp reads.

    All decode calls of a runner use the same arrays. `length`: the maximum number of tokens.
    `outputs`: the index in the batch of each token that outputs logits.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.outputs: list[int] = []
        self._tokens = (llama.llama_token * length)()
        self._positions = (llama.llama_pos * length)()
        self._slots = (llama.llama_seq_id * length)()
        self._needs_logits = (ctypes.c_int8 * length)()
        self._num_slots = (ctypes.c_int32 * length)(*[1] * length)  # every token is in one slot
        self._slot_pointers = (ctypes.POINTER(llama.llama_seq_id) * length)(
            *(_pointer(self._slots, llama.llama_seq_id, index) for index in range(length))
        )
        self._batch = llama.llama_batch(
            token=_pointer(self._tokens, llama.llama_token),
            pos=_pointer(self._positions, llama.llama_pos),
            n_seq_id=_pointer(self._num_slots, ctypes.c_int32),
            seq_id=_pointer(self._slot_pointers, ctypes.POINTER(llama.llama_seq_id)),
            logits=_pointer(self._needs_logits, ctypes.c_int8),
        )

    def fill(self, spans: Sequence[Span], *, min_outputs: int = 1) -> llama.llama_batch:
        """Writes the tokens of the spans into the arrays and returns the batch.

        `min_outputs` (1 or 2): if any token outputs logits, at least this many tokens do. Some
        types of weights need 2, because llama.cpp rounds differently if only one token outputs
        logits.
        """
        end = 0
        outputs: list[int] = []
        for span in spans:
            start, end = end, end + len(span.tokens)
            self._tokens[start:end] = list(span.tokens)
            self._positions[start:end] = list(range(span.start, span.start + end - start))
            self._slots[start:end] = [span.slot] * (end - start)
            self._needs_logits[start:end] = [0] * (end - start)
            outputs += range(end - span.num_outputs, end)
        for index in outputs:
            self._needs_logits[index] = 1
        if 0 < len(outputs) < min_outputs:
            self._needs_logits[max(outputs[0] - 1, 0)] = 1
        self.outputs = outputs
        self._batch.n_tokens = end
        return self._batch


def _pointer(array: Any, c_type: Any, index: int = 0) -> Any:
    """Returns a pointer to an item of a ctypes array. The caller must keep the array in memory."""
    return ctypes.cast(ctypes.byref(array, index * ctypes.sizeof(c_type)), ctypes.POINTER(c_type))
