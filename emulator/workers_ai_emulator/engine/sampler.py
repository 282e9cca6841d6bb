"""Turns sampling parameters into a chain of llama.cpp samplers.

The samplers run in this order: penalties, temperature, top-k, top-p. It is the order of vLLM, which
Workers AI is known to have used. The repetition penalty counts the tokens of the prompt and of the
completion. The frequency and presence penalties count only the tokens of the completion.
"""

from __future__ import annotations

import ctypes
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import llama_cpp.llama_cpp as llama
import numpy as np

from workers_ai_emulator.engine.types import SamplingParams

Logits = Callable[[int], np.ndarray[Any, np.dtype[np.float32]]]

# The number of valid seeds, which are 0 to 2**32 - 2. The seed 2**32 - 1 is not used, because
# llama.cpp replaces it by a random seed.
_NUM_SEEDS = 0xFFFFFFFF


class GreedySampler:
    """Always samples the most likely token; the lowest token id if several are equally likely.

    llama.cpp's greedy sampler returns the same token but is slower, because it copies all logits.
    """

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    @staticmethod
    def suits(params: SamplingParams) -> bool:
        """Returns whether sampling with these parameters always selects the most likely token."""
        is_neutral = _repetition_penalty(params) == 1.0
        return params.temperature <= 0 and is_neutral and _completion_penalties(params) is None

    def sample(self, row: int) -> int:
        return int(self._logits(row).argmax())

    def close(self) -> None:
        pass


class LlamaSampler:
    """A chain of llama.cpp samplers for one sequence.

    `history_length`: how many of the last tokens the penalties count. `batch_index`: a function
    that returns a token's index in the last decode call. Its argument is the token's index in the
    list of all tokens for which this call computed logits.
    """

    def __init__(
        self,
        context: llama.llama_context_p,
        params: SamplingParams,
        prompt_tokens: Sequence[int],
        *,
        vocabulary_size: int,
        history_length: int,
        batch_index: Callable[[int], int],
    ) -> None:
        self._context = context
        self._batch_index = batch_index
        chain_params = llama.llama_sampler_chain_default_params()
        chain_params.no_perf = True
        self._chain: llama.llama_sampler_p | None = llama.llama_sampler_chain_init(chain_params)
        history = (vocabulary_size, history_length)
        if (repetition := _repetition_penalty(params)) != 1.0:
            penalty = llama.llama_sampler_init_penalties(*history, repetition, 0.0, 0.0)
            for token in prompt_tokens:
                llama.llama_sampler_accept(penalty, token)
            self._add(penalty)
        if penalties := _completion_penalties(params):
            self._add(llama.llama_sampler_init_penalties(*history, 1.0, *penalties))
        self._add_choice(params)

    def sample(self, row: int) -> int:
        index = self._batch_index(row)
        return int(llama.llama_sampler_sample(self._chain, self._context, index))

    def close(self) -> None:
        if self._chain is not None:
            llama.llama_sampler_free(self._chain)
            self._chain = None

    def _add_choice(self, params: SamplingParams) -> None:
        if params.temperature <= 0:
            self._add(llama.llama_sampler_init_greedy())
            return
        self._add(llama.llama_sampler_init_temp(params.temperature))
        if params.top_k is not None:
            self._add(llama.llama_sampler_init_top_k(params.top_k))
        if params.top_p is not None:
            self._add(llama.llama_sampler_init_top_p(params.top_p, 1))
        seed = secrets.randbelow(_NUM_SEEDS) if params.seed is None else params.seed % _NUM_SEEDS
        self._add(llama.llama_sampler_init_dist(seed))

    def _add(self, sampler: ctypes.c_void_p) -> None:
        llama.llama_sampler_chain_add(self._chain, sampler)


def _repetition_penalty(params: SamplingParams) -> float:
    """Returns the repetition penalty of a request; 1 (no effect) if the request contains 0.

    llama.cpp divides by the penalty, so 0 must be replaced.
    """
    return params.repetition_penalty or 1.0


def _completion_penalties(params: SamplingParams) -> tuple[float, float] | None:
    """Returns the frequency penalty and the presence penalty; None if both are 0."""
    penalties = (params.frequency_penalty, params.presence_penalty)
    return penalties if any(penalties) else None
