"""From a model's file to something that computes: checked first, then sized for the memory."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from dataclasses import dataclass

from workers_ai_emulator import machine
from workers_ai_emulator.engine.devices import gpus
from workers_ai_emulator.engine.errors import EngineError, GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_format import GgufHeader
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.probe import probe
from workers_ai_emulator.engine.tiling import Tiling
from workers_ai_emulator.engine.types import Vocabulary
from workers_ai_emulator.errors import WeightsUnusable
from workers_ai_emulator.models.catalog import (
    DEFAULT_CONTEXT_LENGTH,
    ModelSpec,
    default_context_length,
)
from workers_ai_emulator.models.store import Store, Weights
from workers_ai_emulator.prompts.chat import ChatTemplate, JinjaTemplate, Llama2Template
from workers_ai_emulator.prompts.template import JinjaRenderer
from workers_ai_emulator.prompts.template_process import IsolatedRenderer
from workers_ai_emulator.runtime.offload import Offload, offload
from workers_ai_emulator.settings import Settings

log = logging.getLogger(__name__)

TILING = Tiling()
SNAPSHOT_BYTES = 256 * 2**20
_LLAMA_2_VOCABULARY_SIZE = 32_000
_LLAMA_2_7B = ("llama", 32_000, 4096, 32, 4096)  # architecture, vocabulary, width, layers, context
_SHARE_OF_MEMORY = 0.5  # of what is free, for the KV cache of one model


@dataclass(frozen=True, slots=True)
class OpenModel:
    """Weights and vocabulary in memory, and the template that makes prompts."""

    spec: ModelSpec
    weights: Weights
    model: LlamaModel
    template: ChatTemplate
    context_length: int
    offload: Offload

    @property
    def weights_size(self) -> int:
        """Bytes of the weights that are not on a GPU."""
        return int(self.model.size * (1 - self.offload.weights_share))

    @property
    def slot_size(self) -> int:
        """Bytes of one sequence's cells that are not on a GPU."""
        cells = self.context_length * self.model.cell_size
        return int(cells * (1 - self.offload.cells_share))

    def memory(self, num_slots: int) -> int:
        """Bytes of the machine's memory that it takes with so many slots, at most."""
        return self.weights_size + num_slots * self.slot_size + SNAPSHOT_BYTES

    def close(self) -> None:
        self.template.close()
        self.model.close()


class Loader:
    """Opens models as the settings say. Its methods are slow and may be called from any thread.

    All raise WeightsUnusable, with the file, the reason and figures where there are some.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store = Store(settings.models_dir, num_threads=settings.threads)

    def open(self, spec: ModelSpec) -> OpenModel:
        """Check the file and map its weights, which takes no memory yet."""
        weights = self._store.weights(spec)
        try:
            with ExitStack() as on_failure:
                header = self._check(weights)
                context_length = self._context_length(spec, header)
                offload = self._offload(header, context_length)
                model = LlamaModel(
                    weights.path,
                    gpu_layers=offload.num_layers,
                    rms_epsilon=right_epsilon(header, weights),
                )
                on_failure.callback(model.close)
                template = _template(spec, weights, model)
                on_failure.pop_all()
        except (EngineError, GgufInvalid, ValueError) as error:
            raise WeightsUnusable(f"{weights.path} cannot be loaded: {error}") from error
        return OpenModel(spec, weights, model, template, context_length, offload)

    def num_slots(self, opened: OpenModel, free: int) -> int:
        """How many sequences run at once in `free` bytes; 0 where it does not fit."""
        left = free - opened.memory(0)
        fitting = int(left * _SHARE_OF_MEMORY) // max(opened.slot_size, 1)
        wanted = self._settings.parallel or max(1, min(fitting, opened.offload.max_slots))
        return wanted if opened.memory(wanted) <= free else 0

    def error_response(self, opened: OpenModel, free: int) -> WeightsUnusable:
        """What to say where it does not fit."""
        num_slots = self._settings.parallel or 1
        return WeightsUnusable(
            f"{opened.weights.name} with {num_slots} sequences of {opened.context_length} tokens "
            f"needs {machine.in_units(opened.memory(num_slots))} of memory (weights "
            f"{machine.in_units(opened.weights_size)}, a sequence "
            f"{machine.in_units(opened.slot_size)}, prefixes {machine.in_units(SNAPSHOT_BYTES)}) "
            f"and {machine.in_units(max(free, 0))} are free: lower --parallel or --context-length"
        )

    def runner(self, opened: OpenModel, num_slots: int) -> LlamaRunner:
        """What computes; it owns the model from here on."""
        log.info(
            "%s: weights %s, KV cache %s for %d sequences of %d tokens, up to %s for prefixes",
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
        """Our own look at the file; then, once for each file, llama.cpp's in another process."""
        header = read_header(weights.path)
        if not (weights.is_trusted or self._store.is_verified(weights.path)):
            log.info("trying out %s", weights.path)
            probe(weights.path)
            self._store.mark_verified(weights.path)
        return header

    def _context_length(self, spec: ModelSpec, header: GgufHeader) -> int:
        """Raises ValueError for one that is asked for and that the model does not know."""
        known = header.context_length or DEFAULT_CONTEXT_LENGTH
        wanted = spec.context_length or self._settings.context_length
        if wanted is None:
            return default_context_length(known)
        if wanted > known:
            where = "its context_length" if spec.context_length else "--context-length"
            raise ValueError(f"it knows contexts of up to {known} tokens: lower {where}")
        return wanted

    def _offload(self, header: GgufHeader, context_length: int) -> Offload:
        """What goes to a GPU, where there is one; said in the log."""
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
    """The one that the user chose, our own for Llama 2, else the one in the file.

    A stranger's runs in a process of its own. Raises ValueError.
    """
    vocabulary = model.vocabulary
    source = model.metadata("tokenizer.chat_template")
    if spec.chat_template is None and is_llama_2(vocabulary, source):
        return Llama2Template(vocabulary)
    source = spec.chat_template or source
    if source is None:
        raise ValueError("it has no chat template: name one as chat_template in models.toml")
    is_trusted = weights.is_trusted and spec.chat_template is None
    return JinjaTemplate(source, vocabulary, JinjaRenderer if is_trusted else IsolatedRenderer)


def is_llama_2(vocabulary: Vocabulary, template: str | None) -> bool:
    """Llama 2 and its like: its vocabulary, and a template of its form or, in old files, none."""
    has_vocabulary = vocabulary.is_sentencepiece and vocabulary.size == _LLAMA_2_VOCABULARY_SIZE
    return has_vocabulary and (template is None or "<<SYS>>" in template)


def right_epsilon(header: GgufHeader, weights: Weights) -> float | None:
    """What replaces the epsilon of RMS norms in files made before Meta corrected its own.

    The well-known Q8_0 file is one of them [facebookresearch/llama#771]. Llama 1, where the other
    is right, has the same shape but for its context.
    """
    shape = (header.vocabulary_size, header.embedding_length, header.num_layers)
    is_llama_2_7b = (header.architecture, *shape, header.context_length) == _LLAMA_2_7B
    if not is_llama_2_7b or not math.isclose(header.rms_epsilon or 0, 1e-6, rel_tol=1e-3):
        return None
    log.warning("%s says 1e-6 for the epsilon of its norms; 1e-5 is right", weights.name)
    return 1e-5
