"""Routes under /_emulator/ for tests: faults, the scripted backend, neurons, and the reset."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import Request, Response

from workers_ai_emulator.backends.rules import parse_rules
from workers_ai_emulator.middleware.faults.rules import parse_fault_rules
from workers_ai_emulator.middleware.journal import views
from workers_ai_emulator.middleware.recordings.recordings import parse_folder
from workers_ai_emulator.routes.generation import body_of
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.accounts import ACCOUNT_MISTAKE, is_account_id
from workers_ai_emulator.wire.context import context_of
from workers_ai_emulator.wire.errors import control_invalid
from workers_ai_emulator.wire.responses import json_response

_T = TypeVar("_T")

router = EndpointRouter()


@router.handles(endpoints.SHOW_FAULTS)
async def show_faults(request: Request) -> Response:
    """Returns the active fault rules.

    In a rule, `times` is the number of further calls that get the fault.
    """
    return _faults(request)


@router.handles(endpoints.ADD_FAULTS)
async def add_faults(request: Request) -> Response:
    """Adds the body's fault rules to the active fault rules. Returns all active fault rules."""
    rules = await asyncio.to_thread(_checked, parse_fault_rules, await body_of(request))
    _checked(services_of(request).faults.add, rules, account_of(request))
    return _faults(request)


@router.handles(endpoints.REPLACE_FAULTS)
async def replace_faults(request: Request) -> Response:
    """Replaces the active fault rules by the body's fault rules. Returns the active fault rules."""
    rules = await asyncio.to_thread(_checked, parse_fault_rules, await body_of(request))
    _checked(services_of(request).faults.replace, rules, account_of(request))
    return _faults(request)


@router.handles(endpoints.DELETE_FAULTS)
async def delete_faults(request: Request) -> Response:
    """Removes the active fault rules, and ends the delays of responses that a fault delays."""
    services_of(request).faults.reset(account_of(request))
    return _faults(request)


@router.handles(endpoints.SHOW_SCRIPT)
async def show_script(request: Request) -> Response:
    """Returns the rules of the script, and how many requests have used each rule."""
    rules = services_of(request).backends.scripted.rules(account_of(request))
    return json_response({"rules": [rule.to_json() for rule in rules]})


@router.handles(endpoints.REPLACE_SCRIPT)
@router.handles(endpoints.PUT_SCRIPT)
async def replace_script(request: Request) -> Response:
    """Replaces the rules of the script by the rules in the body.

    A request to `/_emulator/reset` restores the rules in the file that `--script` names.
    """
    rules = await asyncio.to_thread(_checked, parse_rules, await body_of(request))
    _checked(services_of(request).backends.scripted.replace, rules, account_of(request))
    return json_response({"rules": len(rules)})


@router.handles(endpoints.DELETE_SCRIPT)
async def delete_script(request: Request) -> Response:
    """Restores the rules in the file that `--script` names.

    With an account, removes the rules of the account, which then uses the shared rules.
    """
    scripted, account = services_of(request).backends.scripted, account_of(request)
    scripted.reset(account)
    return json_response({"rules": len(scripted.rules(account))})


@router.handles(endpoints.UNMATCHED)
async def show_unmatched(request: Request) -> Response:
    """Returns the calls that no rule of the script and no recording answered, oldest first.

    Also returns their number, which includes calls that the journal has dropped.
    """
    journal, account = services_of(request).journal, account_of(request)
    rows = [views.row(entry) for entry in journal.unmatched(account)]
    return json_response({"num_unmatched": journal.num_unmatched(account), "requests": rows})


@router.handles(endpoints.UNUSED)
async def show_unused(request: Request) -> Response:
    """Returns the rules of the script that no request has used, and recordings likewise."""
    services, account = services_of(request), account_of(request)
    rules = services.backends.scripted.rules(account)
    return json_response(
        {
            "rules": [rule.to_json() for rule in rules if rule.num_uses == 0],
            "recordings": await services.recordings.unused(account),
        }
    )


@router.handles(endpoints.SHOW_RECORDINGS)
async def show_recordings(request: Request) -> Response:
    """Returns the folder of recordings, and how many calls used each recording in it."""
    recordings = services_of(request).recordings
    return json_response(await recordings.describe(account_of(request)))


@router.handles(endpoints.USE_RECORDINGS)
async def use_recordings(request: Request) -> Response:
    """Sets the folder of recordings to a subfolder of `--cassettes`, or to `--cassettes` itself."""
    recordings = services_of(request).recordings
    name = _checked(parse_folder, await body_of(request))
    folder = await asyncio.to_thread(_checked, recordings.folder_named, name)
    recordings.use_folder(folder, account_of(request))
    return await show_recordings(request)


@router.handles(endpoints.SHOW_NEURONS)
async def show_neurons(request: Request) -> Response:
    """Returns the neurons that each account has used today, and the daily limit."""
    budget = services_of(request).neurons
    return json_response({"daily_neurons": budget.limit, "spent": budget.used})


@router.handles(endpoints.RESET)
async def reset(request: Request) -> Response:
    """Restores the server's state at start-up, except that loaded models stay loaded."""
    services_of(request).reset(account_of(request))
    return json_response({"status": "reset"})


def account_of(request: Request) -> str | None:
    """Returns the account in the query parameter `account`, in a header or in the path's prefix.

    Returns None if the request names no account: it then concerns all accounts. Raises WireError if
    the parameter is not an account id.
    """
    account = request.query_params.get("account")
    if account is None:
        return context_of(request.scope).account
    if not is_account_id(account):
        raise control_invalid([ACCOUNT_MISTAKE.format(account)])
    return account


def _faults(request: Request) -> Response:
    return json_response({"faults": services_of(request).faults.active(account_of(request))})


def _checked(function: Callable[..., _T], *values: Any) -> _T:
    """Calls `function` with `values`, and returns its result.

    If `function` raises ValueError, raises WireError with one entry for each line of the
    ValueError's text.
    """
    try:
        return function(*values)
    except ValueError as error:
        raise control_invalid(str(error).splitlines()) from error
