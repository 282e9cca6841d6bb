"""Creates the objects that the routes and the middleware share, such as backends and journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from fastapi import Request

from workers_ai_emulator.backends.choice import Backends
from workers_ai_emulator.middleware.faults.rules import FaultRules
from workers_ai_emulator.middleware.journal.history import History
from workers_ai_emulator.middleware.journal.journal import Journal
from workers_ai_emulator.middleware.neurons import NeuronBudget
from workers_ai_emulator.middleware.recordings.recordings import Recordings
from workers_ai_emulator.models.price import Price
from workers_ai_emulator.models.spec import ADDED_PRICE, ModelSpec
from workers_ai_emulator.routes.gateway_cache import GatewayCache
from workers_ai_emulator.routes.served_models import ServedModels
from workers_ai_emulator.runtime.batches import BatchQueue
from workers_ai_emulator.runtime.heartbeat import Heartbeat
from workers_ai_emulator.runtime.model_manager import ModelManager
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.authorization import Authorization


@dataclass(frozen=True, slots=True)
class Services:
    """The objects that all requests of an application share, such as backends and journal."""

    settings: Settings
    started_at: datetime
    heartbeat: Heartbeat
    served: ServedModels
    models: ModelManager
    backends: Backends
    batches: BatchQueue
    gateway_cache: GatewayCache
    authorization: Authorization
    faults: FaultRules
    neurons: NeuronBudget
    journal: Journal
    history: History
    recordings: Recordings

    @classmethod
    def create(cls, settings: Settings, catalog: Mapping[str, ModelSpec]) -> Services:
        """Creates the services from the settings and the catalogue of models.

        Raises SettingInvalid if a setting cannot be used, such as a file or a URL, and
        ModelPartMissing if responses of models are to be recorded, but no model can run.
        """
        served = ServedModels(settings, catalog)
        models, journal = ModelManager(settings, served.catalog), Journal()
        backends, recordings = Backends(settings, models), Recordings(settings)
        if recordings.needs_models:
            models.check_installed()
        return cls(
            settings=settings,
            started_at=datetime.now(UTC),
            heartbeat=Heartbeat(),
            served=served,
            models=models,
            backends=backends,
            batches=BatchQueue(
                is_busy=lambda: bool(journal.running), num_parallel=_num_parallel(settings)
            ),
            gateway_cache=GatewayCache(),
            authorization=Authorization(
                settings.api_tokens, trusts_local_bindings=settings.trust_local_bindings
            ),
            faults=FaultRules(),
            neurons=NeuronBudget(settings.daily_neurons),
            journal=journal,
            history=History(models, journal),
            recordings=recordings,
        )

    @property
    def catalog(self) -> Mapping[str, ModelSpec]:
        """The served models, by name."""
        return self.served.catalog

    def price_of(self, name: str | None) -> Price:
        """Returns the price of a served model. All other models have the price of added models."""
        spec = self.catalog.get(name or "")
        return spec.price if spec else ADDED_PRICE

    def has_scripted_faults(self) -> bool:
        """Returns whether a rule of the script has a fault."""
        return self.backends.scripted.has_faults

    def reset(self, account: str | None = None) -> None:
        """Restores the start-up state of scripted rules, faults, neurons, journal and recordings.

        Discards all batches and the responses in the cache of AI Gateway. Loaded models stay
        loaded. `account`: resets only the state of this account; None: resets all.
        """
        self.batches.reset(account)
        self.gateway_cache.reset(account)
        self.backends.scripted.reset(account)
        self.faults.reset(account)
        self.neurons.reset(account)
        self.journal.clear(account)
        self.recordings.reset(account)


def _num_parallel(settings: Settings) -> int:
    """Returns how many requests of batches may run at the same time.

    With several slots, one slot stays free for a call that arrives meanwhile.
    """
    return max(1, (settings.parallel or 2) - 1)


def services_of(request: Request) -> Services:
    """Returns the services of the application that handles this request."""
    services: Services = request.app.state.services
    return services
