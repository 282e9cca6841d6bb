"""Routes under /_emulator/ for tests: faults, the scripted backend, neurons, and the reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request, Response

from workers_ai_emulator.backends.rules import parse_rules
from workers_ai_emulator.middleware.faults.rules import parse_fault_rules
from workers_ai_emulator.routes.generation import body_of
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.errors import control_invalid
from workers_ai_emulator.wire.responses import json_response

_T = TypeVar("_T")

router = EndpointRouter()


@router.handles(endpoints.SHOW_FAULTS)
async def show_faults(request: Request) -> Response:
    """Returns the active fault rules.

    In a rule, `times` is the number of further calls that get the fault.
    """
    return json_response({"faults": services_of(request).faults.active})


@router.handles(endpoints.ADD_FAULTS)
async def add_faults(request: Request) -> Response:
    """Adds the body's fault rules to the active fault rules. Returns all active fault rules."""
    faults = services_of(request).faults
    rules = await asyncio.to_thread(_checked, parse_fault_rules, await body_of(request))
    _checked(faults.add, rules)
    return json_response({"faults": faults.active})


@router.handles(endpoints.REPLACE_SCRIPT)
async def replace_script(request: Request) -> Response:
    """Replaces the scripted backend's rules by the rules in the body.

    A request to `/_emulator/reset` restores the rules in the file that `--script` names.
    """
    rules = await asyncio.to_thread(_checked, parse_rules, await body_of(request))
    services_of(request).backends.scripted.replace(rules)
    return json_response({"rules": len(rules)})


@router.handles(endpoints.SHOW_NEURONS)
async def show_neurons(request: Request) -> Response:
    """Returns the neurons that each account has used today, and the daily limit."""
    budget = services_of(request).neurons
    return json_response({"daily_neurons": budget.limit, "spent": budget.used})


@router.handles(endpoints.RESET)
async def reset(request: Request) -> Response:
    """Restores the server's state at start-up, except that loaded models stay loaded."""
    services_of(request).reset()
    return json_response({"status": "reset"})


def _checked(function: Callable[[Any], _T], value: Any) -> _T:
    """Calls `function` with `value`, and returns its result.

    If `function` raises ValueError, raises WireError with one entry for each line of the
    ValueError's text.
    """
    try:
        return function(value)
    except ValueError as error:
        raise control_invalid(str(error).splitlines()) from error
