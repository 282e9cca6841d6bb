"""Our own endpoints, all under /_emulator/: is it alive, is it ready, what is it doing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from workers_ai_emulator.backends.choice import Backends
from workers_ai_emulator.routes.openapi import document
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.wire.envelope import JsonResponse, to_json

router = APIRouter(prefix="/_emulator")


@router.get("/healthz")
async def healthz() -> Response:
    """200 as long as the process answers."""
    return _answer({"status": "alive"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 once a model has generated a token; 503 with the phase of the start until then.

    503 with the reason, too, while an engine hangs or is dead, or an upstream does not answer.
    """
    backends: Backends = request.app.state.backends
    status = backends.status
    return _answer({"status": status}, status=200 if status == "ready" else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Slots, queue and tokens of every loaded model, for Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_EngineCollector(request.app.state.engines))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """What this server answers, as an OpenAPI document."""
    return _answer(document(request.app.state.engines.catalog))


class _EngineCollector(Collector):
    """Reads the engines' status at the moment of the scrape."""

    def __init__(self, engines: ModelManager) -> None:
        self._model_manager = engines

    def collect(self) -> Iterator[Metric]:
        prefix = "workers_ai_emulator_"
        slots = GaugeMetricFamily(f"{prefix}slots", "Sequences that fit.", labels=["model"])
        free = GaugeMetricFamily(f"{prefix}free_slots", "Slots nobody has.", labels=["model"])
        running = GaugeMetricFamily(f"{prefix}running", "Requests with a slot.", labels=["model"])
        waiting = GaugeMetricFamily(f"{prefix}waiting", "Requests without one.", labels=["model"])
        tokens = CounterMetricFamily(
            f"{prefix}tokens", "Tokens; cached ones are part of prompt.", labels=["model", "kind"]
        )
        requests = CounterMetricFamily(
            f"{prefix}requests", "Requests ended.", labels=["model", "reason"]
        )
        for loaded in self._model_manager.loaded:
            name, status = loaded.spec.name, loaded.engine.status
            slots.add_metric([name], status.num_slots)
            free.add_metric([name], status.num_free_slots)
            running.add_metric([name], status.num_running)
            waiting.add_metric([name], status.num_waiting)
            tokens.add_metric([name, "prompt"], status.num_prompt_tokens)
            tokens.add_metric([name, "cached"], status.num_cached_tokens)
            tokens.add_metric([name, "completion"], status.num_completion_tokens)
            for reason, count in status.finished.items():
                requests.add_metric([name, reason], count)
        yield from (slots, free, running, waiting, tokens, requests)


def _answer(value: Any, status: int = 200) -> Response:
    return JsonResponse(to_json(value), status)
