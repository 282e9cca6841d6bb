"""From a model's name to its running engine: loaded once, on the first request that needs it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from emulator import machine
from emulator.catalog import ModelSpec
from emulator.chat import ChatTemplate, JinjaTemplate, Llama2Template
from emulator.engine.llama import LlamaBackend, LlamaModel
from emulator.engine.tiling import Tiling
from emulator.engine.types import FinishReason, SamplingParams
from emulator.engine.worker import Engine
from emulator.errors import EngineError, NoSuchModel, WeightsUnusable
from emulator.settings import Settings
from emulator.store import Store, Weights

log = logging.getLogger(__name__)

TILING = Tiling()
SNAPSHOT_BYTES = 256 * 2**20
_LLAMA_2_VOCABULARY_SIZE = 32_000
_ALL_LAYERS = -1
_MAX_AUTOMATIC_SLOTS = 8
_SHARE_OF_MEMORY = 0.5  # of what is free, for the KV cache of one model


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers: its engine, and the template that makes its prompts."""

    spec: ModelSpec
    weights: Weights
    engine: Engine
    template: ChatTemplate


class Engines:
    """All models of the catalogue; methods belong to the event loop.

    `phase` says in a word what the start is doing; it ends as `ready`.
    """

    def __init__(self, settings: Settings, catalog: Mapping[str, ModelSpec]) -> None:
        self._settings = settings
        self.catalog = catalog
        self.request_timeout_s = settings.request_timeout
        self.seed = settings.seed
        self._store = Store(settings.models_dir, num_threads=settings.threads)
        self._loading: dict[str, asyncio.Task[LoadedModel]] = {}
        self.phase = "starting"

    @property
    def loaded(self) -> list[LoadedModel]:
        """The models that are in memory."""
        done = [task for task in self._loading.values() if task.done() and not task.cancelled()]
        return [task.result() for task in done if task.exception() is None]

    @property
    def failure(self) -> str | None:
        """Why a model that is in memory cannot compute, if so."""
        return next((m.engine.failure for m in self.loaded if m.engine.failure), None)

    def spec(self, name: str) -> ModelSpec:
        """The model's row of the catalogue. Raises NoSuchModel."""
        if name not in self.catalog:
            raise NoSuchModel(name)
        return self.catalog[name]

    async def start(self) -> None:
        """Load the first model and let it generate a token. Raises WeightsUnusable."""
        await self.get(next(iter(self.catalog.values())))
        self.phase = "ready"

    async def get(self, spec: ModelSpec) -> LoadedModel:
        """The running model; loads it if need be, once for all who ask. Raises WeightsUnusable."""
        task = self._loading.get(spec.name)
        if task is None:
            task = self._loading[spec.name] = asyncio.create_task(self._load(spec))
        try:
            return await asyncio.shield(task)
        except Exception:
            self._loading.pop(spec.name, None)  # the next request tries again
            raise

    def cancel_all(self) -> None:
        """Cancel every request that has not ended."""
        for model in self.loaded:
            model.engine.cancel_all()

    async def close(self) -> None:
        """Stop all engines and free their memory."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*(model.engine.close() for model in self.loaded))

    async def _load(self, spec: ModelSpec) -> LoadedModel:
        start = time.monotonic()
        self._enter(f"preparing {spec.name}")
        weights = await asyncio.to_thread(self._store.weights, spec)
        self._enter(f"loading {spec.name}")
        backend, template = await asyncio.to_thread(self._open, weights)
        self._enter(f"warming up {spec.name}")
        engine = Engine(
            backend,
            queue_size=self._settings.queue_size,
            tiling=TILING,
            snapshot_bytes=SNAPSHOT_BYTES,
            name=spec.name,
        )
        try:
            await _generate_token(engine)
        except EngineError as error:
            await engine.close()
            raise WeightsUnusable(f"{weights.path} loads but does not compute: {error}") from error
        engine.watch(self._settings.stall_timeout)
        log.info("%s runs on %s after %.1f s", spec.name, weights.name, time.monotonic() - start)
        return LoadedModel(spec, weights, engine, template)

    def _enter(self, phase: str) -> None:
        if self.phase != "ready":
            self.phase = phase

    def _open(self, weights: Weights) -> tuple[LlamaBackend, ChatTemplate]:
        settings = self._settings
        gpu_layers = _ALL_LAYERS if settings.gpu_layers is None else settings.gpu_layers
        try:
            with ExitStack() as on_failure:
                model = LlamaModel(weights.path, gpu_layers=gpu_layers)
                on_failure.callback(model.close)
                template = _template(model)
                backend = LlamaBackend(
                    model,
                    num_slots=self._num_slots(model, weights),
                    context_length=settings.context_length,
                    batch_length=TILING.batch_length,
                    num_threads=settings.threads,
                    rounds_alike=settings.deterministic,
                )
                on_failure.pop_all()  # the backend closes it from here on
        except (EngineError, ValueError) as error:
            raise WeightsUnusable(f"{weights.path} cannot be loaded: {error}") from error
        return backend, template

    def _num_slots(self, model: LlamaModel, weights: Weights) -> int:
        """How many sequences to run at once. Raises WeightsUnusable where that cannot fit."""
        context_length = self._settings.context_length
        if context_length > model.training_context_length:
            raise WeightsUnusable(
                f"{weights.name} knows contexts of up to {model.training_context_length} tokens: "
                "lower --context-length"
            )
        # Mapped weights count as available until they are used.
        left = max(machine.available_memory() - model.size, 0)
        slot_size = context_length * model.cell_size
        fitting = int(left * _SHARE_OF_MEMORY) // slot_size
        num_slots = self._settings.parallel or max(1, min(fitting, _MAX_AUTOMATIC_SLOTS))
        needed = machine.in_units(num_slots * slot_size)
        if num_slots * slot_size > left:
            raise WeightsUnusable(
                f"{num_slots} sequences of {context_length} tokens need {needed} of memory and "
                f"{machine.in_units(left)} are left beside weights of "
                f"{machine.in_units(model.size)}: lower --parallel or --context-length"
            )
        log.info(
            "%s: weights %s, KV cache %s for %d sequences of %d tokens, up to %s for prefixes",
            weights.name,
            machine.in_units(model.size),
            needed,
            num_slots,
            context_length,
            machine.in_units(SNAPSHOT_BYTES),
        )
        return num_slots


def _template(model: LlamaModel) -> ChatTemplate:
    """Our own template for Llama 2's vocabulary, else the one in the file."""
    vocabulary = model.vocabulary
    if vocabulary.is_sentencepiece and vocabulary.size == _LLAMA_2_VOCABULARY_SIZE:
        return Llama2Template(vocabulary)
    source = model.metadata("tokenizer.chat_template")
    if source is None:
        raise ValueError("it has no chat template")
    return JinjaTemplate(source, vocabulary)


async def _generate_token(engine: Engine) -> None:
    """A model is ready when it has really generated."""
    prompt_tokens = engine.vocabulary.tokenize("Hello")
    async for chunk in engine.submit(prompt_tokens, SamplingParams(max_tokens=2, temperature=0.0)):
        assert chunk.finish_reason is not FinishReason.CANCELLED
