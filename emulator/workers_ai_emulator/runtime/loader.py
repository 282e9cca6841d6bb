"""Loads a model from its GGUF file: checks the file and creates a runner with a KV cache."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass

from workers_ai_emulator import machine
from workers_ai_emulator.engine.devices import gpus
from workers_ai_emulator.engine.errors import EngineError, GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_header import GgufHeader
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner, LlamaVocabulary
from workers_ai_emulator.engine.probe import probe
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.tokenizer_process import IsolatedTokenizer, is_safe
from workers_ai_emulator.engine.types import Vocabulary
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models.catalog import (
    DEFAULT_CONTEXT_LENGTH,
    ModelSpec,
    default_context_length,
)
from workers_ai_emulator.models.store import Store, Weights
from workers_ai_emulator.prompts.chat import (
    ChatTemplate,
    DirectTokenizer,
    JinjaTemplate,
    Llama2Template,
    Tokenizer,
)
from workers_ai_emulator.prompts.template import JinjaRenderer
from workers_ai_emulator.prompts.template_process import IsolatedRenderer
from workers_ai_emulator.runtime.offload import Offload, offload
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)

TILING = Tiling()
SNAPSHOT_BYTES = 256 * 2**20
_LLAMA_2_VOCABULARY_SIZE = 32_000
# Llama 2 7B: architecture, vocabulary size, embedding length, number of layers, context length.
_LLAMA_2_7B = ("llama", 32_000, 4096, 32, 4096)
_KV_CACHE_SHARE = 0.5  # the share of the free memory that one model's KV cache may take


@dataclass(frozen=True, slots=True)
class OpenModel:
    """A model with checked, memory-mapped weights and a chat template, but without a KV cache.

    `cell_size`: the number of bytes that one token takes in the KV cache.
    """

    spec: ModelSpec
    weights: Weights
    model: LlamaModel
    template: ChatTemplate
    context_length: int
    cell_size: int
    offload: Offload

    @property
    def weights_size(self) -> int:
        """The bytes of the weights in main memory, without the layers on a GPU."""
        return int(self.model.size * (1 - self.offload.weights_share))

    @property
    def slot_size(self) -> int:
        """The bytes of one sequence's KV cells in main memory, without the cells on a GPU."""
        cells = self.context_length * self.cell_size
        return int(cells * (1 - self.offload.cells_share))

    @property
    def snapshot_tokens(self) -> int:
        """The maximum number of tokens in all snapshots, which are saved copies of KV cells.

        It is the number of tokens whose KV cells fit into SNAPSHOT_BYTES. It is 0 if the model has
        sliding windows, because llama.cpp then saves only the cells that the next token needs. A
        prompt that shares only a part of the snapshot needs other cells.
        """
        if self.model.has_windows or not self.cell_size:
            return 0
        return SNAPSHOT_BYTES // self.cell_size

    def memory(self, num_slots: int) -> int:
        """Returns the maximum bytes of main memory that the model takes with `num_slots` slots."""
        return self.weights_size + num_slots * self.slot_size + SNAPSHOT_BYTES

    def close(self) -> None:
        self.template.close()
        self.model.close()


class Loader:
    """Opens GGUF files and creates model runners with a KV cache, according to the settings.

    The methods that raise WeightsUnusable can take minutes; any thread may call them. The error
    contains the file's path and the reason.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.models_dir, num_threads=settings.threads)

    def weights(self, spec: ModelSpec) -> Weights:
        """Returns a model's weights, which may be the stand-in model. Does not load them.

        Converts the stand-in model on first use. Raises WeightsUnusable if the model has no
        weights, and no stand-in model may replace them.
        """
        return self._store.weights(spec)

    def open(self, spec: ModelSpec, weights: Weights) -> OpenModel:
        """Checks a model's file, memory-maps its weights, and compiles its chat template.

        Memory-mapped weights take no memory until they are read. Raises WeightsUnusable if the
        model cannot be loaded.
        """
        try:
            with ExitStack() as on_failure:
                header = self._check(weights)
                context_length = self._context_length(spec, header)
                offload = self._offload(header, context_length)
                model = LlamaModel(
                    weights.path,
                    gpu_layers=offload.num_layers,
                    rms_epsilon=corrected_epsilon(header, weights),
                    batch_invariant=self._settings.deterministic,
                    has_k_quants=header.has_k_quants,
                )
                on_failure.callback(model.close)
                template = _template(spec, weights, model)
                on_failure.pop_all()
        except (EngineError, GgufInvalid, ValueError) as error:
            raise WeightsUnusable(f"{weights.path} cannot be loaded: {error}") from error
        return OpenModel(
            spec, weights, model, template, context_length, header.kv_cell_size, offload
        )

    def template(self, spec: ModelSpec, opened: OpenModel) -> ChatTemplate:
        """Compiles the chat template of another model that has the same weights.

        Raises WeightsUnusable if the template does not compile.
        """
        try:
            return _template(spec, opened.weights, opened.model)
        except (EngineError, ValueError) as error:
            raise WeightsUnusable(
                f"{opened.weights.path} cannot be loaded for {spec.name}: {error}"
            ) from error

    def num_slots(self, opened: OpenModel, free: int) -> int:
        """Returns how many slots the model gets in `free` bytes of memory; 0 if it does not fit."""
        left = free - opened.memory(0)
        fitting = int(left * _KV_CACHE_SHARE) // max(opened.slot_size, 1)
        wanted = self._settings.parallel or max(1, min(fitting, opened.offload.max_slots))
        return wanted if opened.memory(wanted) <= free else 0

    def memory_error(self, opened: OpenModel, free: int) -> WeightsUnusable:
        """Returns the error for a model that needs more memory than `free` bytes."""
        num_slots = self._settings.parallel or 1
        parts = {
            "weights": opened.weights_size,
            "a sequence": opened.slot_size,
            "prefix snapshots": SNAPSHOT_BYTES,
        }
        shares = ", ".join(f"{name} {machine.in_units(size)}" for name, size in parts.items())
        is_limited = self._settings.memory_limit is not None
        steps = "raise --memory, or " if is_limited else ""
        steps += "lower --parallel or --context-length"
        return WeightsUnusable(
            f"{opened.weights.name} with {num_slots} sequences of {opened.context_length} tokens "
            f"needs {machine.in_units(opened.memory(num_slots))} of memory ({shares}) and "
            f"{machine.in_units(max(free, 0))} are free: {steps}"
        )

    def runner(self, opened: OpenModel, num_slots: int) -> LlamaRunner:
        """Creates the KV cache of an open model and returns the model's runner.

        Closing the runner also closes the model. Raises WeightsUnusable if llama.cpp cannot create
        the KV cache.
        """
        log.info(
            "%s: weights %s, KV cache %s for %d sequences of %d tokens, prefix snapshots up to %s",
            opened.weights.name,
            machine.in_units(opened.model.size),
            machine.in_units(num_slots * opened.slot_size),
            num_slots,
            opened.context_length,
            machine.in_units(SNAPSHOT_BYTES),
        )
        try:
            return LlamaRunner(
                opened.model,
                num_slots=num_slots,
                context_length=opened.context_length,
                batch_length=TILING.batch_length,
                num_threads=self._settings.threads,
                batch_invariant=self._settings.deterministic,
            )
        except EngineError as error:
            raise WeightsUnusable(f"{opened.weights.path} cannot be loaded: {error}") from error

    def _check(self, weights: Weights) -> GgufHeader:
        """Checks the header of a GGUF file and returns it.

        Also test-loads the file in a subprocess, unless the file has passed this test before or is
        the file of the stand-in model.
        """
        header = read_header(weights.path)
        if not (weights.is_trusted or self._store.is_verified(weights.path)):
            log.info("test-loading %s in a subprocess", weights.path)
            probe(weights.path)
            self._store.mark_verified(weights.path)
        return header

    def _context_length(self, spec: ModelSpec, header: GgufHeader) -> int:
        """Returns the maximum number of tokens of a sequence: the configured number or a default.

        Raises ValueError if the configured length exceeds the longest context of the model.
        """
        longest = header.context_length or DEFAULT_CONTEXT_LENGTH
        wanted = spec.context_length or self._settings.context_length
        if wanted is None:
            return default_context_length(longest)
        if wanted > longest:
            where = "its context_length" if spec.context_length else "--context-length"
            raise ValueError(f"it supports contexts of up to {longest} tokens: lower {where}")
        return wanted

    def _offload(self, header: GgufHeader, context_length: int) -> Offload:
        """Decides which part of the model goes to the GPUs (none without a GPU), and logs it."""
        settings = self._settings
        devices = gpus() if settings.gpu_layers != 0 else []
        if not devices:
            log.info("computing on the CPU with %d threads", settings.threads)
            return Offload()
        result = offload(
            header,
            context_length=context_length,
            free=sum(device.free for device in devices),
            parallel=settings.parallel,
            num_layers=settings.gpu_layers,
        )
        log.info(
            "computing on %s with %d layers and on the CPU with %d threads",
            ", ".join(device.name for device in devices),
            result.num_layers,
            settings.threads,
        )
        return result


def _template(spec: ModelSpec, weights: Weights, model: LlamaModel) -> ChatTemplate:
    """Returns the model's chat template.

    If `models.toml` contains a template for the model, returns that template. Otherwise, returns
    `Llama2Template` for a Llama 2 model, and the template in the GGUF file for any other model.
    A template that a user has installed, in `models.toml` or in a GGUF file, runs in a subprocess.
    The stand-in model's own template and `Llama2Template` run in this process. Raises ValueError if
    the model has no template or its template does not compile.
    """
    vocabulary = model.vocabulary
    source = model.metadata("tokenizer.chat_template")
    if spec.chat_template is None and is_llama_2(vocabulary, source):
        return Llama2Template(vocabulary, tokenizer_of(weights, vocabulary))
    source = spec.chat_template or source
    if source is None:
        raise ValueError("it has no chat template: set chat_template in models.toml")
    is_trusted = weights.is_trusted and spec.chat_template is None
    make_renderer = JinjaRenderer if is_trusted else IsolatedRenderer
    tokenizer = tokenizer_of(weights, vocabulary)
    try:
        return JinjaTemplate(source, vocabulary, make_renderer, tokenizer)
    except ValueError:
        tokenizer.close()
        raise


def tokenizer_of(weights: Weights, vocabulary: LlamaVocabulary) -> Tokenizer:
    """Returns the model's tokenizer.

    If some texts could crash the tokenizer or take minutes, the tokenizer runs in a subprocess.
    The stand-in model's tokenizer always runs in this process.
    """
    if weights.is_trusted or is_safe(vocabulary):
        return DirectTokenizer(vocabulary)
    return IsolatedTokenizer(weights.path, vocabulary.size)


def is_llama_2(vocabulary: Vocabulary, template: str | None) -> bool:
    """Returns whether a model expects prompts in Llama 2's format.

    The model must have Llama 2's vocabulary. Its chat template must contain Llama 2's tag `<<SYS>>`
    or be missing, as in old GGUF files. `template`: the template in the file; None if missing.
    """
    has_vocabulary = vocabulary.is_sentencepiece and vocabulary.size == _LLAMA_2_VOCABULARY_SIZE
    return has_vocabulary and (template is None or "<<SYS>>" in template)


def corrected_epsilon(header: GgufHeader, weights: Weights) -> float | None:
    """Returns the right RMS norm epsilon if the file contains a wrong one, otherwise None.

    Llama 2 7B needs 1e-5. Meta first published 1e-6 by mistake [facebookresearch/llama#771], and
    old GGUF files, such as the widely used Q8_0 file, still contain 1e-6. Llama 1 7B needs 1e-6;
    its files are not corrected, because their context length is not 4096.
    """
    shape = (header.vocabulary_size, header.embedding_length, header.num_layers)
    is_llama_2_7b = (header.architecture, *shape, header.context_length) == _LLAMA_2_7B
    if not is_llama_2_7b or not math.isclose(header.rms_epsilon or 0, 1e-6, rel_tol=1e-3):
        return None
    log.warning("%s contains 1e-6 as RMS norm epsilon; 1e-5 is right and used", weights.name)
    return 1e-5
