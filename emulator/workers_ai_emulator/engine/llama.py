"""Runs a GGUF model with llama.cpp, through the low-level bindings of llama-cpp-python."""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from workers_ai_emulator.engine import llama_log
from workers_ai_emulator.engine.batch import Batch
from workers_ai_emulator.engine.errors import EngineError, Interrupted
from workers_ai_emulator.engine.llama_log import collected_errors, reason
from workers_ai_emulator.engine.sampler import GreedySampler, LlamaSampler
from workers_ai_emulator.engine.types import Sampler, SamplingParams, Span, State

_SPECIAL = llama.LLAMA_TOKEN_ATTR_CONTROL | llama.LLAMA_TOKEN_ATTR_UNKNOWN
_MAX_PIECE_BYTES = 256
# llama.cpp splits the attention of a token among the threads if the token is alone in a decode call
# and its position in the sequence is at least this number.
_SPLIT_LENGTH = 256
_MAX_OUTPUTS = 16  # how many tokens of a sequence can output logits in one decode call
_ABORTED = 2  # the status that llama_decode returns if the abort callback stops the call
# If this environment variable is 0, llama.cpp multiplies K-quants (such as Q4_K) row by row.
# Otherwise, it does so in tiles if a call has 8 or more rows, which rounds differently. llama.cpp
# reads the variable when it multiplies for the first time.
_TILES_VARIABLE = "GGML_CPU_TILED_MM"
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


# llama.cpp calls the abort callback about a thousand times in a decode call, and stops the call if
# the result is not 0. A Python function would acquire the GIL each time. So the callback is C's
# `strlen` on a two-byte buffer: it returns 0 until the first byte is set, and then 1.
_C_LIBRARY = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
IS_NOT_EMPTY = ctypes.cast(_C_LIBRARY.strlen, llama.ggml_abort_callback)


class LlamaModel:
    """The weights and the vocabulary of a GGUF file, without a KV cache.

    `gpu_layers`: the number of layers on the GPU. `rms_epsilon`: if not None, the epsilon that
    replaces the epsilon of the file's RMS norms. `batch_invariant`: if True, llama.cpp uses no
    routines that round differently for different numbers of rows in a call (see `_TILES_VARIABLE`
    and `_rounds_differently`). `has_k_quants`: whether the file has tensors of types such as Q4_K.
    The constructor raises EngineError with llama.cpp's reason if the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = 0,
        vocabulary_only: bool = False,
        rms_epsilon: float | None = None,
        batch_invariant: bool = True,
        has_k_quants: bool = False,
    ) -> None:
        llama_log.attach()
        if batch_invariant:
            os.environ.setdefault(_TILES_VARIABLE, "0")
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        params.vocab_only = vocabulary_only
        # Whether llama.cpp may repack weights.
        params.use_extra_bufts = not _has_amx() and not (
            batch_invariant and _rounds_differently(has_k_quants=has_k_quants)
        )
        overrides = _overrides(rms_epsilon)  # must stay in memory until the model is loaded
        params.kv_overrides = overrides
        self.may_use_gpu = gpu_layers != 0 and bool(llama.llama_supports_gpu_offload())
        with collected_errors() as errors:
            pointer = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not pointer:
            raise EngineError(reason(errors, "llama.cpp cannot load it"))
        self.pointer: Any = pointer
        self._num_users = 0
        self._users_change = threading.Condition()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the model in memory during a `with` block: `close` waits until the block ends.

        Raises EngineError if the model has already been unloaded.
        """
        with self._users_change:
            if self.pointer is None:
                raise EngineError("the model has been unloaded")
            self._num_users += 1
        try:
            yield
        finally:
            with self._users_change:
                self._num_users -= 1
                self._users_change.notify_all()

    @cached_property
    def vocabulary(self) -> LlamaVocabulary:
        return LlamaVocabulary(self)

    @property
    def is_recurrent(self) -> bool:
        """Whether some layers keep a state instead of a KV cell for each token.

        The engine removes the KV cells of single tokens. The state cannot be reset to an earlier
        token.
        """
        is_recurrent = llama.llama_model_is_recurrent(self.pointer)
        return bool(is_recurrent or llama.llama_model_is_hybrid(self.pointer))

    @property
    def has_windows(self) -> bool:
        """Whether some layers have sliding windows: a token sees only the last tokens before it."""
        return bool(llama.llama_model_n_swa(self.pointer) > 0)

    @property
    def size(self) -> int:
        """The size of all weights in bytes."""
        return int(llama.llama_model_size(self.pointer))

    def metadata(self, key: str) -> str | None:
        """Returns a metadata value of the GGUF file as text; None if the file lacks the key."""
        length = llama.llama_model_meta_val_str(self.pointer, key.encode(), None, 0)
        if length < 0:
            return None
        buffer = ctypes.create_string_buffer(length + 1)
        llama.llama_model_meta_val_str(self.pointer, key.encode(), buffer, length + 1)
        return buffer.value.decode("utf-8", "replace")

    def close(self) -> None:
        """Waits until all `with model.in_use():` blocks have ended, then frees the model's memory.

        May be called more than once.
        """
        with self._users_change:
            pointer, self.pointer = self.pointer, None
            self._users_change.wait_for(lambda: self._num_users == 0)
        if pointer is not None:
            llama.llama_model_free(pointer)


class LlamaVocabulary:
    """The tokenizer of a GGUF file. Several threads may use it at the same time.

    After the model has been unloaded, `tokenize` raises EngineError, and `piece`, `is_eog` and
    `special_tokens` raise EngineError if their result is not cached.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        vocab: Any = llama.llama_model_get_vocab(model.pointer)
        self._vocab = vocab
        self.size = llama.llama_vocab_n_tokens(vocab)
        self.bos = _token_or_none(llama.llama_vocab_bos(vocab))
        self.eos = _token_or_none(llama.llama_vocab_eos(vocab))
        self.adds_bos = llama.llama_vocab_get_add_bos(vocab)
        self.is_wordpiece = llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_WPM
        self.text_start, self.text_end = _text_bounds(vocab, is_wordpiece=self.is_wordpiece)
        self.is_sentencepiece = llama.llama_vocab_type(vocab) == llama.LLAMA_VOCAB_TYPE_SPM
        self.piece = lru_cache(maxsize=None)(self._piece)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        vocab = self._vocab
        with self._model.in_use():
            return {
                llama.llama_vocab_get_text(vocab, token).decode("utf-8", "replace"): token
                for token in range(self.size)
                if llama.llama_vocab_get_attr(vocab, token) & _SPECIAL
            }

    @cached_property
    def num_searched_tokens(self) -> int:
        """The number of special and user-defined tokens: llama.cpp searches each text for them."""
        kinds = _SPECIAL | llama.LLAMA_TOKEN_ATTR_USER_DEFINED
        with self._model.in_use():
            attributes = (llama.llama_vocab_get_attr(self._vocab, t) for t in range(self.size))
            return sum(bool(attribute & kinds) for attribute in attributes)

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        # The JSON of a request can contain a lone surrogate, which UTF-8 cannot encode.
        data = _LONE_SURROGATE.sub("\ufffd", text).encode()
        capacity = len(data) + 8  # at most one token per byte, and a reserve of 8
        tokens = (llama.llama_token * capacity)()
        with self._model.in_use():
            count = llama.llama_tokenize(
                self._vocab, data, len(data), tokens, capacity, False, parse_special
            )
        if count < 0:
            raise EngineError(f"cannot tokenize {len(data)} bytes")
        return tokens[:count]

    def is_eog(self, token: int) -> bool:
        return token in self._eog_tokens

    @cached_property
    def _eog_tokens(self) -> frozenset[int]:
        with self._model.in_use():
            is_eog = partial(llama.llama_vocab_is_eog, self._vocab)
            return frozenset(filter(is_eog, range(self.size)))

    def _piece(self, token: int) -> bytes:
        size = _MAX_PIECE_BYTES
        buffer = ctypes.create_string_buffer(size)
        with self._model.in_use():
            length = llama.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if length < 0:  # the buffer is too small; the needed size is -length
                buffer = ctypes.create_string_buffer(-length)
                length = llama.llama_token_to_piece(self._vocab, token, buffer, -length, 0, False)
        return buffer.raw[:length]


def _has_amx() -> bool:
    """Returns whether llama.cpp would store the weights for AMX, on x86 processors that have it.

    Its code for AMX crashes if it was compiled with some versions of GCC, such as 12 [measured;
    llama.cpp's pull request 26954].
    """
    return b"AMX_INT8 = 1" in llama.llama_print_system_info()


def _rounds_differently(*, has_k_quants: bool) -> bool:
    """Returns whether the logits of a token depend on other tokens if llama.cpp repacks weights.

    Repacked weights are stored in another order. llama.cpp then computes four tokens of a call
    together, and the remaining ones singly. The two routines round differently for Q4_K with AVX2
    [measured], and for Q8_0 on ARM processors with dot products (DOTPROD) but without i8mm
    (MATMUL_INT8) [measured in an emulated processor]. They round alike for Q4_0, IQ4_NL and MXFP4
    with AVX2 [measured].
    """
    features = llama.llama_print_system_info()
    has_only_dot_products = b"DOTPROD = 1" in features and b"MATMUL_INT8 = 1" not in features
    return has_k_quants or has_only_dot_products


def _overrides(rms_epsilon: float | None) -> Any:
    """Returns the value of llama.cpp's parameter `kv_overrides`; None if `rms_epsilon` is None.

    The value is an array of metadata keys and values, and ends with an empty key. It replaces the
    epsilon of the file's RMS norms.
    """
    if rms_epsilon is None:
        return None
    overrides: Any = (llama.llama_model_kv_override * 2)()
    overrides[0].tag = llama.LLAMA_KV_OVERRIDE_TYPE_FLOAT
    overrides[0].key = b"llama.attention.layer_norm_rms_epsilon"
    overrides[0].value.val_f64 = rms_epsilon
    return overrides


def _token_or_none(token: int) -> int | None:
    return None if token < 0 else token


def _text_bounds(vocab: Any, *, is_wordpiece: bool) -> tuple[list[int], list[int]]:
    """Returns the special tokens before and after a text whose embedding is computed."""
    has_start = is_wordpiece or llama.llama_vocab_get_add_bos(vocab)
    end = llama.llama_vocab_sep(vocab) if is_wordpiece else llama.llama_vocab_eos(vocab)
    has_end = is_wordpiece or llama.llama_vocab_get_add_eos(vocab)
    start = llama.llama_vocab_bos(vocab)
    return [start] if has_start and start >= 0 else [], [end] if has_end and end >= 0 else []


class LlamaRunner:
    """Runs a model with llama.cpp: owns its KV cache and makes the decode calls.

    `batch_length`: the maximum number of rows (tokens) of a decode call. `num_threads`: the number
    of threads that compute. `batch_invariant`: if True, a token gets the same logits, bit for bit,
    whether or not the decode call contains other tokens. On a GPU, this is not possible; True then
    only sets `can_draft` to False. Closing the runner also closes the model.

    By default, llama.cpp rounds differently if a decode call has only one row: it splits the
    attention of the row among the threads, and uses another multiplication routine for some types
    of weights. With `batch_invariant`, the runner therefore evaluates a single row on one thread,
    or adds a copy of the row to the decode call.
    """

    def __init__(
        self,
        model: LlamaModel,
        *,
        num_slots: int,
        context_length: int,
        batch_length: int,
        num_threads: int,
        batch_invariant: bool = True,
    ) -> None:
        if model.is_recurrent:
            raise EngineError("recurrent models, such as Mamba, are not supported")
        self._model = model
        self.vocabulary = model.vocabulary
        self.num_slots = num_slots
        self.context_length = context_length
        self.max_outputs = min(_MAX_OUTPUTS, context_length // 4)
        self._num_threads = num_threads
        self._batch = Batch(max(batch_length, num_slots, _MAX_OUTPUTS))
        # Views of llama.cpp's buffer for logits, by the address of their first number.
        self._logits: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        # The abort callback's buffer: llama.cpp stops a decode call if its first byte is not 0.
        self._interrupt = ctypes.create_string_buffer(2)
        self._context: Any = self._create_context()
        self._memory: Any = llama.llama_get_memory(self._context)
        llama.llama_set_abort_callback(self._context, IS_NOT_EMPTY, self._interrupt)
        self._batch_invariant = batch_invariant and not model.may_use_gpu
        # On a GPU, the logits depend on the number of tokens in the decode call. So with
        # `batch_invariant`, decode calls must not contain drafts.
        self.can_draft = not (batch_invariant and model.may_use_gpu)
        try:
            self._needs_second_row = self._batch_invariant and self._differs_for_two_rows()
        except EngineError:
            llama.llama_free(self._context)  # the model stays open: the caller closes it
            raise

    def decode(self, spans: Sequence[Span]) -> None:
        is_lone = self._batch_invariant and len(spans) == 1 and len(spans[0].tokens) == 1
        is_split = is_lone and spans[0].start >= _SPLIT_LENGTH
        if is_lone and (self._needs_second_row or (is_split and self._num_threads > 2)):
            self._decode_twice(spans[0])
        elif is_split:
            self._decode_on_one_thread(spans)
        else:
            self._decode(self._batch.fill(spans, min_outputs=1 + self._needs_second_row))

    def interrupt(self, *, is_requested: bool) -> None:
        self._interrupt[0] = b"\x01" if is_requested else b"\x00"

    def sampler(self, params: SamplingParams, prompt_tokens: Sequence[int]) -> Sampler:
        if GreedySampler.suits(params):
            return GreedySampler(self.logits)
        return LlamaSampler(
            self._context,
            params,
            prompt_tokens,
            vocabulary_size=self.vocabulary.size,
            history_length=self.context_length,
            batch_index=lambda row: self._batch.outputs[row],
        )

    def logits(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Returns one token's logits from the last decode call: one number per vocabulary token.

        `row`: the index of the token in the list of all tokens for which the decode call computed
        logits. The next decode call overwrites the returned array.
        """
        pointer = llama.llama_get_logits_ith(self._context, self._batch.outputs[row])
        address = ctypes.addressof(pointer.contents)
        if address not in self._logits:  # making an array takes longer than finding the top token
            self._logits[address] = np.ctypeslib.as_array(pointer, (self.vocabulary.size,))
        return self._logits[address]

    def restrict(self, row: int, allowed: bytes) -> None:
        logits = self.logits(row)
        bits = np.unpackbits(np.frombuffer(allowed, np.uint8), count=len(logits), bitorder="little")
        np.copyto(logits, -np.inf, where=bits == 0)  # llama.cpp's samplers read this array

    def truncate(self, slot: int, num_tokens: int) -> None:
        if not llama.llama_memory_seq_rm(self._memory, slot, num_tokens, -1):
            raise EngineError(f"llama.cpp cannot remove KV cells of slot {slot}")

    def copy(self, source: int, target: int) -> None:
        if self._model.has_windows:  # `save` leaves out the cells outside of the windows
            llama.llama_memory_seq_cp(self._memory, source, target, -1, -1)
        else:
            self.load(target, self.save(source))

    def save(self, slot: int) -> State:
        size = llama.llama_state_seq_get_size(self._context, slot)
        # A slot's state is several megabytes large, so the array is not filled with zeros first.
        state = np.empty(size, np.uint8)
        with collected_errors() as errors:
            written = llama.llama_state_seq_get_data(self._context, _bytes(state), size, slot)
        if not written:
            raise EngineError(reason(errors, "llama.cpp does not return the state of a slot"))
        return state[:written].data

    def load(self, slot: int, state: State) -> None:
        data = np.frombuffer(state, np.uint8)
        with collected_errors() as errors:
            read = llama.llama_state_seq_set_data(self._context, _bytes(data), len(data), slot)
        if not read:
            raise EngineError(reason(errors, "llama.cpp does not accept a saved state"))

    def close(self) -> None:
        if self._context is not None:
            llama.llama_free(self._context)
            self._context = None
            self._model.close()

    def _decode(self, batch: llama.llama_batch) -> None:
        with collected_errors() as errors:
            status = llama.llama_decode(self._context, batch)
        if status == _ABORTED:
            raise Interrupted("interrupted")
        if status != 0:
            raise EngineError(reason(errors, f"llama_decode returned {status}"))

    def _decode_twice(self, span: Span) -> None:
        """Evaluates a single token and a copy of the token in one decode call.

        The copy is needed because llama.cpp rounds differently if a token is alone in a decode
        call. The copy's KV cell is removed afterwards.
        """
        pair = Span(span.slot, span.start, [*span.tokens, *span.tokens], num_outputs=1)
        self._decode(self._batch.fill([pair], min_outputs=2))
        self._batch.outputs = [0]
        self.truncate(span.slot, span.start + 1)

    def _decode_on_one_thread(self, spans: Sequence[Span]) -> None:
        """Evaluates a single token on one thread.

        On several threads, llama.cpp would split the token's attention among the threads, which
        changes the rounding. The runner calls this method only if it has at most two threads; with
        more threads, `_decode_twice` is faster.
        """
        llama.llama_set_n_threads(self._context, 1, 1)
        try:
            self._decode(self._batch.fill(spans))
        finally:
            llama.llama_set_n_threads(self._context, self._num_threads, self._num_threads)

    def _differs_for_two_rows(self) -> bool:
        """Returns whether a token's logits change if the decode call has a second token.

        With 16-bit weights, they change [measured]. The method evaluates tokens in slot 0 and
        empties the slot at the end.
        """
        row = Span(0, 0, [self.vocabulary.bos or 0], num_outputs=1)
        self._decode(self._batch.fill([row]))
        alone = self.logits(0).copy()
        self.truncate(0, 0)
        self._decode_twice(row)
        with_second_row = self.logits(0).copy()
        self.truncate(0, 0)
        return not np.array_equal(alone, with_second_row)

    def _create_context(self) -> Any:
        params = llama.llama_context_default_params()
        params.n_ctx = self.context_length * self.num_slots
        params.n_batch = params.n_ubatch = self._batch.length
        params.n_seq_max = self.num_slots
        params.n_outputs_max = max(self.num_slots, _MAX_OUTPUTS)
        params.n_threads = params.n_threads_batch = self._num_threads
        params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = False
        params.no_perf = True
        with collected_errors() as errors:
            context = llama.llama_init_from_model(self._model.pointer, params)
        if not context:
            raise EngineError(reason(errors, "llama.cpp cannot create a context"))
        return context


def _bytes(array: np.ndarray[Any, np.dtype[np.uint8]]) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_uint8))
