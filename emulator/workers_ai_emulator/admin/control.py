"""Our own endpoints that change what calls get: faults, scripted answers, and the reset."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from workers_ai_emulator.backends.choice import Backends
from workers_ai_emulator.backends.scripted import parse_rules
from workers_ai_emulator.errors import ControlInvalid
from workers_ai_emulator.middleware.faults.rules import FaultRules, parse_fault_rules
from workers_ai_emulator.middleware.neurons import NeuronBudget
from workers_ai_emulator.routes.access import before, check_token
from workers_ai_emulator.routes.generation import read_json
from workers_ai_emulator.wire.envelope import JsonResponse, to_json

_T = TypeVar("_T")


router = APIRouter(prefix="/_emulator", dependencies=[before(check_token)])


@router.get("/faults")
async def show_faults(request: Request) -> Response:
    """The rules that are set, and how often each still applies."""
    faults: FaultRules = request.app.state.faults
    return _answer({"faults": faults.left})


@router.post("/faults")
async def add_faults(request: Request) -> Response:
    """Set a rule, or a list of them, after those that are set. Raises ControlInvalid."""
    faults: FaultRules = request.app.state.faults
    _checked(faults.add, _checked(parse_fault_rules, await read_json(request)))
    return _answer({"faults": faults.left})


@router.post("/script")
async def replace_script(request: Request) -> Response:
    """Have the scripted backend answer by other rules until the reset. Raises ControlInvalid."""
    backends: Backends = request.app.state.backends
    rules = _checked(parse_rules, await read_json(request))
    backends.script.replace(rules)
    return _answer({"rules": len(rules)})


@router.get("/neurons")
async def show_neurons(request: Request) -> Response:
    """What every account has spent today."""
    budget: NeuronBudget = request.app.state.neurons
    return _answer({"daily_neurons": budget.limit, "spent": budget.spent})


@router.post("/reset")
async def reset(request: Request) -> Response:
    """Make everything as it was at the start, but for models that have been loaded."""
    resets: Iterable[Callable[[], None]] = request.app.state.resets
    for each in resets:
        each()
    return _answer({"status": "reset"})


def _checked(function: Callable[[Any], _T], value: Any) -> _T:
    """What the function makes of what came in. Raises ControlInvalid with all that is wrong."""
    try:
        return function(value)
    except ValueError as error:
        raise ControlInvalid(str(error).splitlines()) from error


def _answer(value: Any) -> Response:
    return JsonResponse(to_json(value))
