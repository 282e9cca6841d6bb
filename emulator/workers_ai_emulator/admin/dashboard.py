"""Routes of the dashboard, a web page at /_emulator/, and of the JSON data that it shows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fastapi import Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from workers_ai_emulator.admin.control import account_of
from workers_ai_emulator.middleware.journal import views
from workers_ai_emulator.middleware.journal.history import INTERVAL_S
from workers_ai_emulator.middleware.journal.journal import MAX_ENTRIES
from workers_ai_emulator.routes.router import EndpointRouter
from workers_ai_emulator.routes.services import services_of
from workers_ai_emulator.wire import endpoints
from workers_ai_emulator.wire.authorization import no_route
from workers_ai_emulator.wire.responses import JsonResponse, json_response

_FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_DEFAULT_LIMIT = 100

router = EndpointRouter()


@router.handles(endpoints.DASHBOARD_REDIRECT)
async def redirect(request: Request) -> Response:
    """Redirects `/_emulator` to `/_emulator/`, because the dashboard's links are relative URLs.

    The target is relative, too, so that it keeps a prefix such as `/_emulator/accounts/ID`.
    """
    return RedirectResponse(f"{endpoints.CONTROL_PREFIX.removeprefix('/')}/")


@router.handles(endpoints.DASHBOARD)
async def page(request: Request) -> Response:
    return _file("index.html")


@router.handles(endpoints.DASHBOARD_FILE)
async def file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _FILES:
        raise no_route(request.scope["path"])
    return _file(name)


@router.handles(endpoints.REQUESTS)
async def requests(request: Request) -> Response:
    """Lists the calls in the journal, newest first.

    `?account=`: lists only the calls of this account. `?limit=`: the maximum number of calls.
    `?after=`: lists only calls whose id is greater than this number.
    """
    journal = services_of(request).journal
    limit = _number(request, "limit", default=_DEFAULT_LIMIT, least=1, most=MAX_ENTRIES)
    after = _number(request, "after", default=0, least=0, most=2**53)
    account = account_of(request)
    if limit is None or after is None:
        return _refused(400, f"limit takes 1 to {MAX_ENTRIES}, and after takes the id of a request")
    return json_response(
        {
            "epoch": journal.epoch,
            "kept": journal.num_entries(account),
            "dropped": journal.num_dropped(account),
            "bytes": journal.num_bytes(account),
            "requests": [views.row(entry) for entry in journal.newest(limit, after, account)],
        }
    )


@router.handles(endpoints.ONE_REQUEST)
async def one_request(request: Request) -> Response:
    """Returns one inference call in the journal, with headers, bodies and prompt."""
    number = request.path_params["number"]
    journal = services_of(request).journal
    entry = journal.get(int(number)) if number.isdecimal() and len(number) < 16 else None
    if entry is None:
        return _refused(404, f"there is no request {number}, or newer requests have replaced it")
    await journal.store_prompt(entry)
    return JsonResponse(await views.whole(entry))


@router.handles(endpoints.LOAD)
async def load(request: Request) -> Response:
    """Returns the status of the backends, and the samples of the server's load.

    `?after=`: returns only the samples after this time, in seconds since 1970.
    """
    services = services_of(request)
    try:
        after = float(request.query_params.get("after", "0"))
    except ValueError:
        return _refused(400, "after takes the time of a sample, in seconds since 1970")
    samples = [asdict(sample) for sample in services.history.samples if sample.time > after]
    status = services.backends.status
    return json_response({"status": status, "interval_s": INTERVAL_S, "samples": samples})


def _number(request: Request, name: str, *, default: int, least: int, most: int) -> int | None:
    """Returns a query parameter as an integer, or `default` if the parameter is missing.

    Returns None if the parameter is not an integer from `least` to `most`.
    """
    text = request.query_params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    return number if least <= number <= most else None


def _file(name: str) -> Response:
    path = _FILES[name]
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_PAGE_HEADERS)


def _refused(status: int, error: str) -> Response:
    return json_response({"error": error}, status)
