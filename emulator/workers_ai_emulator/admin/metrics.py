"""Writes the numbers of the loaded models in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from workers_ai_emulator.runtime.model_manager import ModelManager

__all__ = ["CONTENT_TYPE", "metrics_text"]


def metrics_text(models: ModelManager) -> bytes:
    """Returns the numbers of slots, requests and tokens of all loaded weights.

    If several models share weights, the label `model` is the name of the model for which the
    weights were loaded.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_EngineCollector(models))
    return generate_latest(registry)


class _EngineCollector(Collector):
    """Collects the metrics of all loaded weights each time that Prometheus requests them."""

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
            f"{prefix}tokens",
            "Tokens; cached ones are part of prompt, accepted ones are part of drafted.",
            labels=["model", "kind"],
        )
        requests = CounterMetricFamily(
            f"{prefix}requests", "Requests ended.", labels=["model", "reason"]
        )
        for loaded in self._models.loaded:
            name, status = loaded.name, loaded.engine.status
            slots.add_metric([name], status.num_slots)
            free.add_metric([name], status.num_free_slots)
            running.add_metric([name], status.num_running)
            waiting.add_metric([name], status.num_waiting)
            tokens.add_metric([name, "prompt"], status.num_prompt_tokens)
            tokens.add_metric([name, "cached"], status.num_cached_tokens)
            tokens.add_metric([name, "completion"], status.num_completion_tokens)
            tokens.add_metric([name, "drafted"], status.num_drafted_tokens)
            tokens.add_metric([name, "accepted"], status.num_accepted_tokens)
            for reason, count in status.finished.items():
                requests.add_metric([name, reason], count)
        yield from (slots, free, running, waiting, tokens, requests)
