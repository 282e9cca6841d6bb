"""Routes for operating the server: health, readiness, metrics, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from workers_ai_emulator.routes.openapi import document
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.responses import json_response

router = EndpointRouter()
health_router = EndpointRouter()


@health_router.handles(endpoints.HEALTHZ)
async def healthz(request: Request) -> Response:
    """Returns 200 while the main event loop runs, even if no model is loaded.

    Returns 503 with the reason if the main event loop has been blocked for 30 seconds. Health
    checks are handled in another thread, so the main event loop does not delay them.
    """
    failure = services_of(request).heartbeat.failure
    return json_response({"status": failure or "alive"}, status=503 if failure else 200)


@health_router.handles(endpoints.READYZ)
async def readyz(request: Request) -> Response:
    """Returns 200 if the server can generate text, otherwise 503 with the reason.

    During start-up, returns 503 until a model has generated its first token. Later, returns 503
    while the main event loop is blocked, while an engine hangs or has failed, or while the upstream
    server does not respond. Health checks are handled in another thread, so the main event loop
    does not delay them.
    """
    services = services_of(request)
    status = services.heartbeat.failure or services.backends.status
    return json_response({"status": status}, status=200 if status == "ready" else 503)


@router.handles(endpoints.METRICS)
async def metrics(request: Request) -> Response:
    """Returns the numbers of slots, requests and tokens of each loaded model, for Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_EngineCollector(services_of(request).models))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.handles(endpoints.OPENAPI)
async def openapi(request: Request) -> Response:
    """Returns the OpenAPI document of this server."""
    return json_response(document(services_of(request).catalog))


class _EngineCollector(Collector):
    """Collects the metrics of all loaded models each time that Prometheus requests them."""

    def __init__(self, models: ModelManager) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        prefix = "workers_ai_emulator_"
        slots = GaugeMetricFamily(f"{prefix}slots", "Sequences that fit.", labels=["model"])
        free = GaugeMetricFamily(f"{prefix}free_slots", "Free slots.", labels=["model"])
        running = GaugeMetricFamily(f"{prefix}running", "Requests with a slot.", labels=["model"])
        waiting = GaugeMetricFamily(
            f"{prefix}waiting", "Requests without a slot.", labels=["model"]
        )
        tokens = CounterMetricFamily(
            f"{prefix}tokens", "Tokens; cached ones are part of prompt.", labels=["model", "kind"]
        )
        requests = CounterMetricFamily(
            f"{prefix}requests", "Requests ended.", labels=["model", "reason"]
        )
        for loaded in self._models.loaded:
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
