"""Computes embeddings with llama.cpp. Several short texts share a call of llama.cpp.

A call reads all weights, which takes a large part of the time of a short text. So short texts are
faster if they share a call. With most types of weights, an embedding is the same, bit for bit,
whatever other texts share its call, for three reasons:

* In a call with fewer than 64 tokens, llama.cpp computes flash attention on a CPU token by token,
  and skips the tokens of other texts. In larger calls, and without flash attention, the sums over
  the tokens of a text would also contain zeros for the tokens of other texts, which changes the
  order of the additions.
* All other operations compute each token on its own. They round differently only for a single
  token, so a text with one token has a call of its own.
* llama.cpp's pooling rounds differently for several texts. So in shared calls, llama.cpp returns
  the vectors of all tokens, and numpy computes the pooling.

`shared_calls.py` checks for each model whether this holds. It does not hold, for example, for
weights with K-quants that are repacked.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from workers_ai_emulator import machine
from workers_ai_emulator.engine.batch import Batch
from workers_ai_emulator.engine.errors import EngineError, Interrupted
from workers_ai_emulator.engine.gguf import NOT_GENERATING
from workers_ai_emulator.engine.llama import IS_NOT_EMPTY, LlamaModel
from workers_ai_emulator.engine.llama_log import collected_errors, reason
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.types import Span
from workers_ai_emulator.engine.vector_cache import Vector

log = logging.getLogger(__name__)

# The sizes of contexts, in tokens. A text is computed in the smallest context that it fits into,
# because a larger context needs more memory.
_LENGTHS = (64, 128, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
# From 64 tokens on, llama.cpp computes flash attention in tiles, that is, many tokens together. For
# fewer tokens, flash attention is slower than without [measured].
_MAX_LENGTH_WITHOUT_FLASH_ATTENTION = 64
# Larger contexts, in tokens or in bytes of logits, are freed after their text.
_KEPT_LENGTH = 2048
_KEPT_BYTES = 192 * 2**20
# The maximum number of tokens in a call, if the pooling allows several calls for a text.
_CHUNK_LENGTH = 128
# The maximum number of tokens in a shared call, and the minimum number of each text in it.
SHARED_LENGTH = 63
_MIN_SHARED_LENGTH = 2
_ABORTED = 2  # the status that llama.cpp returns if the abort callback stops the call

_POOLING_TYPES = {
    Pooling.MEAN: llama.LLAMA_POOLING_TYPE_MEAN,
    Pooling.CLS: llama.LLAMA_POOLING_TYPE_CLS,
    Pooling.LAST: llama.LLAMA_POOLING_TYPE_LAST,
    Pooling.RANK: llama.LLAMA_POOLING_TYPE_RANK,
    None: llama.LLAMA_POOLING_TYPE_NONE,  # llama.cpp returns the vectors of all tokens
}


class EmbeddingRunner:
    """Computes embeddings with one model. Only one thread may use it.

    `context_length`: the maximum number of tokens of a text. `shares_calls`: whether short texts
    may share a call. llama.cpp contexts are created when a text first needs them. The model must
    stay open until `close` has been called.
    """

    def __init__(
        self, model: LlamaModel, context_length: int, *, shares_calls: bool = False
    ) -> None:
        self._model = model
        self._is_causal = _is_causal(model)
        self._context_length = context_length
        self._shares_calls = shares_calls
        self._batch = Batch(SHARED_LENGTH)
        self._contexts: dict[tuple[Pooling | None, int], Any] = {}
        # The abort callback's buffer: llama.cpp stops a call if its first byte is not 0.
        self._interrupt = ctypes.create_string_buffer(2)

    def can_share_call(self, lengths: Sequence[int], pooling: Pooling) -> bool:
        """Returns whether texts with these numbers of tokens are computed in one call."""
        are_short = min(lengths) >= _MIN_SHARED_LENGTH and sum(lengths) <= SHARED_LENGTH
        return self._shares_calls and are_short and pooling is not Pooling.RANK

    def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling, num_threads: int
    ) -> list[Vector]:
        """Returns the embeddings of texts, which are not normalised.

        If `can_share_call`, one call computes all texts, otherwise each has calls of its own. With
        `Pooling.RANK`, returns the scores of the model's classification head instead. Raises
        Interrupted if `interrupt` was called meanwhile, and EngineError if llama.cpp fails, or if
        a text is empty or too long.
        """
        if not all(0 < len(tokens) <= self._context_length for tokens in texts):
            raise EngineError(f"a text must have 1 to {self._context_length} tokens")
        if self.can_share_call([len(tokens) for tokens in texts], pooling):
            vectors = self.token_vectors(texts, num_threads)
            return [_pooled(rows, pooling) for rows in vectors]
        return [self._embed_alone(tokens, pooling, num_threads) for tokens in texts]

    def token_vectors(self, texts: Sequence[Sequence[int]], num_threads: int) -> list[Vector]:
        """Returns an array for each text, whose rows are the vectors of the text's tokens.

        The texts are computed in one call, which must be possible (see `can_share_call`). The next
        call overwrites the arrays. Raises Interrupted and EngineError as `embed` does.
        """
        context = self._context(None, SHARED_LENGTH + 1)
        compute = self._prepare(context, num_threads)
        lengths = [len(tokens) for tokens in texts]
        # llama.cpp returns the vectors of all tokens, also if fewer are asked for.
        spans = [Span(n, 0, tokens, len(tokens)) for n, tokens in enumerate(texts)]
        self._call(compute, context, self._batch.fill(spans))
        pointer = llama.llama_get_embeddings(context)
        if not pointer:
            raise EngineError("the model computes no embeddings")
        size = int(llama.llama_model_n_embd_out(self._model.pointer))
        rows = np.ctypeslib.as_array(pointer, (sum(lengths), size))
        ends = accumulate(lengths)
        return [rows[end - length : end] for length, end in zip(lengths, ends, strict=True)]

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

    def _embed_alone(self, tokens: Sequence[int], pooling: Pooling, num_threads: int) -> Vector:
        length = self._length(len(tokens))
        self._check_memory(len(tokens), pooling)
        context = self._context(pooling, length)
        try:
            return self._embed_in(context, tokens, pooling, num_threads)
        finally:
            num_bytes = self._logits_size(len(tokens), pooling)
            if length > _KEPT_LENGTH or num_bytes > _KEPT_BYTES:
                llama.llama_free(self._contexts.pop((pooling, length)))

    def _embed_in(
        self, context: Any, tokens: Sequence[int], pooling: Pooling, num_threads: int
    ) -> Vector:
        compute = self._prepare(context, num_threads)
        for chunk in self._chunks(tokens, pooling):
            array = (llama.llama_token * len(chunk))(*chunk)
            self._call(compute, context, llama.llama_batch_get_one(array, len(chunk)))
        pointer = llama.llama_get_embeddings_seq(context, 0)
        if not pointer:
            raise EngineError("the model computes no embeddings")
        return np.ctypeslib.as_array(pointer, (self._size(pooling),)).copy()

    def _prepare(self, context: Any, num_threads: int) -> Any:
        """Empties a context, and returns the function of llama.cpp that computes with it."""
        llama.llama_set_n_threads(context, num_threads, num_threads)
        memory = llama.llama_get_memory(context)
        if memory:
            llama.llama_memory_clear(memory, False)
        return llama.llama_decode if memory else llama.llama_encode

    def _call(self, compute: Any, context: Any, batch: Any) -> None:
        with collected_errors() as errors:
            status = compute(context, batch)
        if status == _ABORTED:
            raise Interrupted("interrupted")
        if status != 0:
            raise EngineError(reason(errors, f"llama.cpp returned {status}"))

    def _chunks(self, tokens: Sequence[int], pooling: Pooling) -> list[Sequence[int]]:
        """Splits a text into the tokens of each call, in parts of almost equal length.

        A call with a single token could round differently on several threads.
        """
        if not self._is_split(pooling):
            return [tokens]
        count = math.ceil(len(tokens) / _CHUNK_LENGTH)
        bounds = [len(tokens) * index // count for index in range(count + 1)]
        return [tokens[start:end] for start, end in pairwise(bounds)]

    def _is_split(self, pooling: Pooling) -> bool:
        """Returns whether a text may be computed in several calls.

        That needs a causal model, in which a token does not depend on later tokens, and a pooling
        that uses only the last token.
        """
        return self._is_causal and pooling is Pooling.LAST

    def _check_memory(self, num_tokens: int, pooling: Pooling) -> None:
        """Raises EngineError if the machine has too little memory for the logits of a text."""
        needed = self._logits_size(num_tokens, pooling)
        if needed > _KEPT_BYTES and needed > (free := machine.available_memory()):
            log.warning(
                "a text of %d tokens needs %s of memory, and %s are free",
                num_tokens,
                machine.in_units(needed),
                machine.in_units(free),
            )
            raise EngineError("there is too little memory for so long a text")

    def _logits_size(self, num_tokens: int, pooling: Pooling) -> int:
        num_rows = min(num_tokens, _CHUNK_LENGTH) if self._is_split(pooling) else num_tokens
        return num_rows * bytes_per_token(self._model)

    def _size(self, pooling: Pooling) -> int:
        if pooling is Pooling.RANK:
            return int(llama.llama_model_n_cls_out(self._model.pointer))
        return int(llama.llama_model_n_embd_out(self._model.pointer))

    def _length(self, num_tokens: int) -> int:
        """Returns the length of the context for a text."""
        fitting = (length for length in _LENGTHS if num_tokens <= length)
        return min(next(fitting, self._context_length), self._context_length)

    def _context(self, pooling: Pooling | None, length: int) -> Any:
        """Returns a context for a text of `length` tokens. `pooling`: None for shared calls."""
        key = pooling, length
        if key not in self._contexts:
            self._contexts[key] = self._create_context(pooling, length)
        return self._contexts[key]

    def _create_context(self, pooling: Pooling | None, length: int) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = length
        params.n_seq_max = 1
        params.embeddings = True
        params.pooling_type = _POOLING_TYPES[pooling]
        if pooling is None:
            params.n_seq_max = length // _MIN_SHARED_LENGTH
            params.kv_unified = True
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        elif length <= _MAX_LENGTH_WITHOUT_FLASH_ATTENTION:
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        else:
            # Without flash attention, long texts take twice the time [measured], and much memory.
            params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO
        if pooling is not None and self._is_split(pooling):
            params.n_batch = params.n_ubatch = min(length, _CHUNK_LENGTH)
        params.no_perf = True
        with collected_errors() as errors:
            context = llama.llama_init_from_model(self._model.pointer, params)
        if not context:
            raise EngineError(reason(errors, "llama.cpp cannot create a context"))
        llama.llama_set_abort_callback(context, IS_NOT_EMPTY, self._interrupt)
        return context


def bytes_per_token(model: LlamaModel) -> int:
    """Returns how many bytes llama.cpp allocates for the logits of each token of a call.

    llama.cpp allocates them although embeddings have no logits. For bge-m3, whose vocabulary is
    large, they are 1 MB per token.
    """
    return 4 * int(model.vocabulary.size)


def _pooled(vectors: Vector, pooling: Pooling) -> Vector:
    """Returns the embedding of a text. `vectors`: the vectors of its tokens, one in each row."""
    if pooling is Pooling.MEAN:
        mean: Vector = vectors.mean(axis=0)
        return mean
    token: Vector = vectors[0] if pooling is Pooling.CLS else vectors[-1]
    return token.copy()


def _is_causal(model: LlamaModel) -> bool:
    """Returns whether a token does not depend on later tokens in the model, as in text models."""
    architecture = model.metadata("general.architecture") or ""
    is_encoder = NOT_GENERATING.fullmatch(architecture) is not None
    return not is_encoder and model.metadata(f"{architecture}.attention.causal") != "false"
