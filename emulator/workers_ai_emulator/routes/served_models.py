"""Finds the model that a request names, according to the settings `retired` and `any_model`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from workers_ai_emulator.errors import SettingInvalid
from workers_ai_emulator.files import one_line
from workers_ai_emulator.models.catalog import suggestion
from workers_ai_emulator.models.family import OpenAIFamily
from workers_ai_emulator.models.other_models import NOT_EMULATED, RETIRED, current_name
from workers_ai_emulator.models.spec import (
    ADDED_TRAITS,
    ModelSpec,
    is_model_name,
    is_other_providers_name,
)
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.settings import Settings
from workers_ai_emulator.wire.envelope import to_json
from workers_ai_emulator.wire.errors import (
    API_NOT_EMULATED,
    MODEL_NOT_FOUND,
    NO_SUCH_MODEL,
    ErrorType,
    WireError,
    retired,
)

log = logging.getLogger(__name__)

_OPENAI_PATH = re.compile("(?:v1/)?(?:chat/completions|completions|embeddings|responses)")
_MAX_SHOWN = 200  # characters of an unknown name in the log

# With `--any-model`, this spec is used for unknown names such as `@cf/author/model`. If the models
# folder contains its weights file, this file is used instead of the stand-in model.
_ANY_MODEL = ModelSpec("", Path("any-model.gguf"), stand_in="Q8_0", traits=ADDED_TRAITS)
# The same for names such as `openai/gpt-4.1`. Input and output have the form of OpenAI's chat
# completions. On the service, some providers have other forms.
_ANY_OTHER_PROVIDERS_MODEL = replace(
    _ANY_MODEL,
    family=OpenAIFamily(),
    traits=Traits("choices", "vllm", has_tools=True, json_mode="text"),
)


class ServedModels:
    """The models that the server serves.

    `catalog`: the served models, by name. With the setting `retired`, it has no retired models.
    Raises SettingInvalid if the setting `preload` contains a model that the setting `retired`
    excludes.
    """

    def __init__(self, settings: Settings, catalog: Mapping[str, ModelSpec]) -> None:
        self._has_any_model = settings.any_model
        self._retired = {
            name: spec.retired_on
            for name, spec in catalog.items()
            if settings.retired and spec.retired_on
        }
        self.catalog = {name: spec for name, spec in catalog.items() if name not in self._retired}
        if excluded := self._retired.keys() & set(settings.preload):
            raise SettingInvalid(f"--preload: --retired excludes {min(excluded)}")

    @cached_property
    def openapi_document(self) -> bytes:
        """The OpenAPI document of a server with these models, as JSON.

        It is built at the first request for it, because this takes a tenth of a second.
        """
        # This import is slow, and most servers get no request for the document.
        from workers_ai_emulator.routes.openapi import document

        return to_json(document(self.catalog))

    def find(self, name: str, unknown: ErrorType = NO_SUCH_MODEL) -> ModelSpec:
        """Returns the model with this name. With `--any-model`, creates a spec for an unknown name.

        Raises WireError if the model is retired or not emulated, or, with the type `unknown`, if
        the service has no model with this name.
        """
        if spec := self.catalog.get(name) or self.catalog.get(current_name(name)):
            return spec
        if day := self._retired.get(name):
            raise retired(name, day)
        if spec := self._created(name):
            return spec
        if task := NOT_EMULATED.get(name):
            raise WireError(API_NOT_EMULATED, f"{name}, {task}")
        shown = one_line(name[:_MAX_SHOWN])
        log.warning("the emulator has no model %s: %s", shown, _next_step(name, self.catalog))
        if day := RETIRED.get(name):
            raise retired(name, day)
        raise WireError(MODEL_NOT_FOUND if is_other_providers_name(name) else unknown, name)

    def serves_other_providers(self, name: str) -> bool:
        """Returns whether `find` returns a model of another provider for this name."""
        return self._has_any_model and is_other_providers_name(name)

    def _created(self, name: str) -> ModelSpec | None:
        """With `--any-model`, returns a spec for an unknown name if it is well-formed."""
        if self.serves_other_providers(name):
            return replace(_ANY_OTHER_PROVIDERS_MODEL, name=name)
        if self._has_any_model and is_model_name(name):
            return replace(_ANY_MODEL, name=name)
        return None


def _next_step(name: str, catalog: Mapping[str, ModelSpec]) -> str:
    if full_name := next((full for full in catalog if full.endswith(f"/{name}")), None):
        return f"the full name is {full_name}"
    if _OPENAI_PATH.fullmatch(name):
        return (
            "this is a path of OpenAI's API. The base URL of OpenAI clients ends with /ai/v1, or "
            "with /workers-ai/v1 for AI Gateway"
        )
    if is_other_providers_name(name):
        return (
            "models of other providers are not emulated. With --any-model, the stand-in model "
            "serves their names"
        )
    if not is_model_name(name):
        return "names have the form @cf/author/model or @hf/author/model"
    near = suggestion(catalog, name)
    return (
        f"{near}{'Otherwise, run' if near else 'run'} "
        f"`workers-ai-emulator models import FILE --as {name}`, or start the server with "
        "--any-model. Only models for text generation, embeddings, ranking and decisions are served"
    )
