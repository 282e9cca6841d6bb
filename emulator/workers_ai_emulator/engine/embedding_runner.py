"""Computes the embedding of one text with llama.cpp."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np
from numpy.typing import NDArray

from workers_ai_emulator.engine.errors import EngineError, Interrupted
from workers_ai_emulator.engine.llama import IS_NOT_EMPTY, LlamaModel
from workers_ai_emulator.engine.llama_log import collected_errors, reason
from workers_ai_emulator.engine.pooling import Pooling

Vector = NDArray[np.float32]

# The sizes of contexts, in tokens. A text is computed in the smallest context that it fits into,
# because a larger context needs more memory.
_LENGTHS = (512, 2048, 8192, 32_768)
_ABORTED = 2  # the status that llama.cpp returns if the abort callback stops the call

_POOLING_TYPES = {
    Pooling.MEAN: llama.LLAMA_POOLING_TYPE_MEAN,
    Pooling.CLS: llama.LLAMA_POOLING_TYPE_CLS,
    Pooling.LAST: llama.LLAMA_POOLING_TYPE_LAST,
    Pooling.RANK: llama.LLAMA_POOLING_TYPE_RANK,
}


class EmbeddingRunner:
    """Computes embeddings with one model, one text at a time. Only one thread may use it.

    `context_length`: the maximum number of tokens of a text. llama.cpp contexts are created when a
    text first needs them.
    """

    def __init__(self, model: LlamaModel, context_length: int) -> None:
        self._model = model
        self._context_length = context_length
        self._contexts: dict[tuple[Pooling, int], Any] = {}
        # The abort callback's buffer: llama.cpp stops a call if its first byte is not 0.
        self._interrupt = ctypes.create_string_buffer(2)

    def embed(self, tokens: Sequence[int], pooling: Pooling, num_threads: int) -> Vector:
        """Returns the embedding of a text, which is not normalised.

        With `Pooling.RANK`, returns the scores of the model's classification head instead. Raises
        Interrupted if `interrupt` was called meanwhile, and EngineError if llama.cpp fails.
        """
        context = self._context(pooling, len(tokens))
        llama.llama_set_n_threads(context, num_threads, num_threads)
        memory = llama.llama_get_memory(context)
        compute = llama.llama_decode if memory else llama.llama_encode
        if memory:
            llama.llama_memory_clear(memory, False)
        array = (llama.llama_token * len(tokens))(*tokens)
        with collected_errors() as errors:
            status = compute(context, llama.llama_batch_get_one(array, len(tokens)))
        if status == _ABORTED:
            raise Interrupted("interrupted")
        if status != 0:
            raise EngineError(reason(errors, f"llama.cpp returned {status}"))
        pointer = llama.llama_get_embeddings_seq(context, 0)
        if not pointer:
            raise EngineError("the model computes no embeddings")
        return np.ctypeslib.as_array(pointer, (self._size(pooling),)).copy()

    def interrupt(self, *, is_requested: bool) -> None:
        """Stops the running call of `embed`, and later ones until the request is withdrawn.

        Any thread may call this method.
        """
        self._interrupt[0] = b"\x01" if is_requested else b"\x00"

    def close(self) -> None:
        """Frees the contexts. The model stays open."""
        for context in self._contexts.values():
            llama.llama_free(context)
        self._contexts.clear()

    def _size(self, pooling: Pooling) -> int:
        if pooling is Pooling.RANK:
            return int(llama.llama_model_n_cls_out(self._model.pointer))
        return int(llama.llama_model_n_embd_out(self._model.pointer))

    def _context(self, pooling: Pooling, num_tokens: int) -> Any:
        fitting = (length for length in _LENGTHS if num_tokens <= length)
        length = min(next(fitting, num_tokens), self._context_length)
        key = pooling, length
        if key not in self._contexts:
            self._contexts[key] = self._create_context(pooling, length)
        return self._contexts[key]

    def _create_context(self, pooling: Pooling, length: int) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.n_seq_max = 1
        params.embeddings = True
        params.pooling_type = _POOLING_TYPES[pooling]
        # Without flash attention, the attention of long texts takes gigabytes of memory.
        params.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            if length <= _LENGTHS[0]
            else llama.LLAMA_FLASH_ATTN_TYPE_AUTO
        )
        params.no_perf = True
        with collected_errors() as errors:
            context = llama.llama_init_from_model(self._model.pointer, params)
        if not context:
            raise EngineError(reason(errors, "llama.cpp cannot create a context"))
        llama.llama_set_abort_callback(context, IS_NOT_EMPTY, self._interrupt)
        return context
