"""Loads an embedding model from its GGUF file: checks the file, and starts its threads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice

from workers_ai_emulator.engine.embedder import CACHE_BYTES, Embedder
from workers_ai_emulator.engine.embedding_runner import (
    SHARED_LENGTH,
    EmbeddingRunner,
    bytes_per_token,
)
from workers_ai_emulator.engine.errors import EngineError, GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_header import GgufHeader
from workers_ai_emulator.engine.llama import LlamaModel
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.probe import probe
from workers_ai_emulator.engine.shared_calls import can_share_calls
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models.spec import ModelSpec
from workers_ai_emulator.models.store import Store, Weights
from workers_ai_emulator.models.weights_header import check_embedding_task
from workers_ai_emulator.prompts.chat import Tokenizer
from workers_ai_emulator.runtime.loader import tokenizer_of
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)

# The estimated memory of a runner, besides the weights and the logits.
_BYTES_PER_RUNNER = 96 * 2**20
_DEFAULT_LENGTH = 8192  # the tokens of a text if the file does not say; no model supports more
_TYPICAL_LENGTH = 512  # the tokens of a long text for which every runner has memory
# A text with more characters than this for each token is cut or split before it is tokenised.
_MAX_CHARACTERS_PER_TOKEN = 32


@dataclass(frozen=True, slots=True)
class OpenEmbedder:
    """An embedding model with checked, memory-mapped weights.

    `context_length`: the maximum number of tokens of a text that the weights support. A requested
    model may support fewer, and models with different limits may share the weights. `runner_size`:
    the estimated bytes of memory that a runner takes. `num_threads`: the maximum number of runners.
    `shares_calls`: whether short texts may be computed in one call of llama.cpp.
    """

    header: GgufHeader
    weights: Weights
    model: LlamaModel
    tokenizer: Tokenizer
    context_length: int
    runner_size: int
    num_threads: int
    shares_calls: bool

    def memory(self, num_runners: int) -> int:
        """Returns the estimated bytes of memory that the model with its runners takes."""
        return self.model.size + CACHE_BYTES + num_runners * self.runner_size

    def num_runners(self, free: int) -> int:
        """Returns how many runners `free` bytes of memory suffice for; 0 if not even for one."""
        return max(min((free - self.memory(0)) // self.runner_size, self.num_threads), 0)

    @property
    def num_separators(self) -> int:
        """How many special tokens a reranker expects between a query and a text.

        BERT, which has a WordPiece vocabulary, expects one; XLM-RoBERTa expects two.
        """
        return 1 if self.model.vocabulary.is_wordpiece else 2

    def check_task(self, spec: ModelSpec) -> None:
        """Raises WeightsUnusable if the weights do not compute what the model `spec` computes."""
        if self.weights.is_trusted:
            return
        try:
            check_embedding_task(self.header, spec)
        except GgufInvalid as error:
            raise WeightsUnusable(f"{self.weights.path} cannot be used: {error}") from error

    def tokenize(
        self, texts: Sequence[str], limit: int, *, are_whole: bool = False
    ) -> list[list[int]]:
        """Returns the tokens of each text, as LoadedEmbedder's method of this name."""
        vocabulary = self.model.vocabulary
        max_length = limit * _MAX_CHARACTERS_PER_TOKEN
        if are_whole:
            lists = self._tokenize_split(texts, max_length)
        else:
            lists = self.tokenizer.tokenize([text[:max_length] for text in texts])
        lists = [[*vocabulary.text_start, *tokens, *vocabulary.text_end] for tokens in lists]
        # Some vocabularies have no special tokens, but llama.cpp needs at least one token.
        return [tokens or [vocabulary.eos or 0] for tokens in lists]

    def _tokenize_split(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Returns the tokens of each text, in the order of the texts.

        Splits long texts, because some tokenizers take long for a long text.
        """
        pieces = [[*_split(text, max_length)] for text in texts]
        lists = iter(self.tokenizer.tokenize([*chain.from_iterable(pieces)]))
        return [[*chain.from_iterable(islice(lists, len(own)))] for own in pieces]

    def close(self) -> None:
        self.tokenizer.close()
        self.model.close()


def _split(text: str, max_length: int) -> Iterator[str]:
    """Splits a text into pieces of at most `max_length` characters, before spaces if possible."""
    start = 0
    while len(text) - start > max_length:
        end = start + max_length
        space = text.rfind(" ", start + 1, end + 1)
        end = end if space < 0 else space
        yield text[start:end]
        start = end
    yield text[start:]


class EmbedderLoader:
    """Opens GGUF files of embedding models. Any thread may call its methods.

    The methods that raise WeightsUnusable can take minutes. The error contains the file's path and
    the reason.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.models_dir, num_threads=settings.threads)

    def weights(self, spec: ModelSpec) -> Weights:
        """Returns a model's weights, which may be the stand-in model. Does not load them.

        Converts the stand-in model on first use. Raises WeightsUnusable if that fails.
        """
        return self._store.weights(spec)

    def open(self, spec: ModelSpec, weights: Weights) -> OpenEmbedder:
        """Checks a model's file, and memory-maps its weights.

        Raises WeightsUnusable if the model cannot be loaded.
        """
        assert spec.embedding is not None
        try:
            header = read_header(weights.path, generates_text=False)
            if not weights.is_trusted:
                check_embedding_task(header, spec)
                self._check(weights, spec.embedding.pooling)
            model = LlamaModel(
                weights.path,
                batch_invariant=self._settings.deterministic,
                has_k_quants=header.has_k_quants,
            )
        except (EngineError, GgufInvalid) as error:
            raise WeightsUnusable(f"{weights.path} cannot be loaded: {error}") from error
        with ExitStack() as on_failure:
            on_failure.callback(model.close)
            length = header.context_length or _DEFAULT_LENGTH
            shares_calls = can_share_calls(model, self._settings.threads)
            tokenizer = tokenizer_of(weights, model.vocabulary)
            on_failure.pop_all()
        num_rows = min(length, _TYPICAL_LENGTH) + shares_calls * SHARED_LENGTH
        runner_size = _BYTES_PER_RUNNER + num_rows * bytes_per_token(model)
        num_threads = self._settings.threads
        return OpenEmbedder(
            header, weights, model, tokenizer, length, runner_size, num_threads, shares_calls
        )

    def _check(self, weights: Weights, pooling: Pooling) -> None:
        """Raises GgufInvalid if llama.cpp cannot compute embeddings, or rankings, with a file."""
        if not self._store.is_verified(weights.path):
            log.info("test-loading %s in a subprocess", weights.path)
            probe(weights.path, computes="ranking" if pooling is Pooling.RANK else "embedding")
            self._store.mark_verified(weights.path)

    def embedder(
        self, opened: OpenEmbedder, num_runners: int, is_machine_free: Callable[[], bool]
    ) -> Embedder:
        """Starts the threads that compute embeddings with an open model."""
        return Embedder(
            partial(
                EmbeddingRunner,
                opened.model,
                opened.context_length,
                shares_calls=opened.shares_calls,
            ),
            num_runners=num_runners,
            num_threads=self._settings.threads,
            queue_size=self._settings.queue_size,
            is_machine_free=is_machine_free,
        )
