"""Converts the sampling parameters of a request's body for the engine.

The schemas of some models accept any value for a parameter that may also be null. So this module
checks the types again, with errors like those of the service's inference engine. [inferred]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workers_ai_emulator.engine.types import SamplingParams
from workers_ai_emulator.models.traits import Traits
from workers_ai_emulator.wire.errors import refused_by_engine

_MAX_TOP_K = 2**31 - 1  # the maximum of llama.cpp; more than the tokens of every vocabulary
# llama.cpp computes with 32-bit floats. With numbers in this range, no logit becomes infinite: the
# largest quotient of a logit and a temperature is about 1e25. Numbers outside the range have
# practically the same effect as the range's ends.
_MIN_POSITIVE, _MAX = 1e-10, 1e10
_MAX_STOPS = 4  # as in OpenAI's API
# Parameters of OpenAI's API that many models do not have. The service ignores unknown keys.
_OPTIONAL = ("stop", "n", "logprobs", "top_logprobs", "max_completion_tokens")


def parse_sampling_params(
    values: Mapping[str, Any], schema: Any, traits: Traits | None = None
) -> SamplingParams:
    """Returns the sampling parameters of a body, to which the model's defaults have been added.

    `schema`: the schema of the model's input. `traits`: those of the model; None if its inference
    server has no limits of its own. Raises WireError for a value that the engine cannot use: a
    wrong type, a number out of range, or a request for more than one completion or for logprobs.
    """
    if any(name in values for name in _OPTIONAL):
        ignored = set(_OPTIONAL) - _parameters(schema)
        values = {name: value for name, value in values.items() if name not in ignored}
    _refuse_unsupported(values)
    if traits is not None:
        _refuse_beyond_limits(values, traits)
    return SamplingParams(
        max_tokens=_max_tokens(values),
        temperature=_at_least_zero(values, "temperature", 1.0),
        top_k=_top_k(values),
        top_p=_number(values, "top_p"),
        seed=_integer(values, "seed"),
        repetition_penalty=_at_least_zero(values, "repetition_penalty", 1.0),
        frequency_penalty=_number(values, "frequency_penalty") or 0.0,
        presence_penalty=_number(values, "presence_penalty") or 0.0,
        stop=_stop(values),
    )


def _parameters(schema: Any) -> set[str]:
    """Returns the names of the properties in all branches of a schema."""
    if not isinstance(schema, dict):
        return set()
    branches = [*schema.get("oneOf", []), *schema.get("anyOf", [])]
    return set(schema.get("properties", {})).union(*map(_parameters, branches))


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    num_completions = _integer(values, "n")
    if num_completions not in (None, 1):
        raise refused_by_engine(f"n must be 1 in the emulator, got {num_completions}.")
    if values.get("logprobs") not in (None, False, 0) or _integer(values, "top_logprobs"):
        raise refused_by_engine("logprobs are not supported by the emulator.")


def _refuse_beyond_limits(values: Mapping[str, Any], traits: Traits) -> None:
    """Raises WireError if a number is beyond the limits of the model's inference server.

    The texts are those of vLLM and SGLang [inferred].
    """
    temperature, limit = _number(values, "temperature"), traits.max_temperature
    if temperature is not None and limit is not None and temperature > limit:
        raise refused_by_engine(f"temperature must be in [0, {limit:g}], got {temperature}.")
    top_p = _number(values, "top_p")
    if traits.refuses_top_p_0 and top_p is not None and not 0 < top_p <= 1:
        raise refused_by_engine(f"top_p must be in (0, 1], got {top_p}.")


def _max_tokens(values: Mapping[str, Any]) -> int | None:
    """Returns `max_completion_tokens`, otherwise `max_tokens`, its older name, otherwise None."""
    name = "max_completion_tokens" if "max_completion_tokens" in values else "max_tokens"
    max_tokens = _integer(values, name)
    if max_tokens is not None and max_tokens < 1:
        raise refused_by_engine(f"{name} must be at least 1, got {max_tokens}.")
    return max_tokens


def _stop(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the stop strings. Raises WireError if one is empty, or if there are over 4."""
    stop = values.get("stop", [])
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise refused_by_engine("stop must be a text or a list of texts that are not empty.")
    if len(stops) > _MAX_STOPS:
        raise refused_by_engine(f"stop may contain at most {_MAX_STOPS} texts, got {len(stops)}.")
    return tuple(stops)


def _top_k(values: Mapping[str, Any]) -> int | None:
    top_k = _integer(values, "top_k")
    return None if top_k is None else min(top_k, _MAX_TOP_K)


def _at_least_zero(values: Mapping[str, Any], name: str, default: float) -> float:
    number = _number(values, name)
    if number is not None and number < 0:
        raise refused_by_engine(f"{name} must not be negative, got {number}.")
    if number is None:
        return default
    return max(number, _MIN_POSITIVE) if number else 0.0


def _integer(values: Mapping[str, Any], name: str) -> int | None:
    """Returns the value as an integer: JSON may write an integer as `5.0`."""
    number = values.get(name)
    if number is None or (isinstance(number, int) and not isinstance(number, bool)):
        return number
    if isinstance(number, float) and number.is_integer():
        return int(number)
    raise refused_by_engine(f"{name} must be an integer.")


def _number(values: Mapping[str, Any], name: str) -> float | None:
    """Returns the value as a number from -1e10 to 1e10; a number outside this range is replaced."""
    number = values.get(name)
    if number is None:
        return None
    try:
        if isinstance(number, (bool, str)) or not math.isfinite(value := float(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise refused_by_engine(f"{name} must be a number.") from None
    return min(max(value, -_MAX), _MAX)
