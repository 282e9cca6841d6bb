"""The page at /_emulator/, and the journal and the load that it shows, as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from workers_ai_emulator.middleware.journal import views as answers
from workers_ai_emulator.middleware.journal.history import INTERVAL_S, History
from workers_ai_emulator.middleware.journal.middleware import MAX_ENTRIES, Journal
from workers_ai_emulator.routes.access import before, check_token
from workers_ai_emulator.wire.envelope import JsonResponse, to_json

_PAGE = Path(__file__).parent / "page"
_PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_DEFAULT_LIMIT = 100


@asynccontextmanager
async def _recording(app: FastAPI) -> AsyncIterator[None]:
    history: History = app.state.history
    task = asyncio.create_task(history.record())
    try:
        yield
    finally:
        task.cancel()


router = APIRouter(prefix="/_emulator", lifespan=_recording)
_private = [before(check_token)]


@router.get("")
async def no_slash() -> Response:
    """The page's own files are beside it, so its address ends in a slash."""
    return RedirectResponse("/_emulator/")


def _page_file(path: Path) -> Callable[[], Awaitable[Response]]:
    """Returns an endpoint that sends a file of the page."""

    async def send() -> Response:
        return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_PAGE_HEADERS)

    return send


# One route with the name as a parameter would change the response to GET on POST endpoints (405).
for _path in _PAGE.iterdir():
    if _path.suffix in _MEDIA_TYPES:
        router.add_api_route("/" + _path.name.removesuffix("index.html"), _page_file(_path))


@router.get("/requests", dependencies=_private)
async def requests(request: Request) -> Response:
    """The last calls, newest first: at most `?limit=`, only those after the id `?after=`."""
    entries: Journal = request.app.state.journal
    limit = _number(request, "limit", default=_DEFAULT_LIMIT, least=1, most=MAX_ENTRIES)
    after = _number(request, "after", default=0, least=0, most=2**53)
    if limit is None or after is None:
        return _refusal(400, f"limit takes 1 to {MAX_ENTRIES}, and after the id of a request")
    rows = [answers.row(entry) for entry in entries.newest(limit, after)]
    return _answer(
        {
            "epoch": entries.epoch,
            "kept": len(entries),
            "dropped": entries.num_dropped,
            "bytes": entries.num_bytes,
            "requests": rows,
        }
    )


@router.get("/requests/{number}", dependencies=_private)
async def one_request(request: Request, number: str) -> Response:
    """All that is kept of one call."""
    entries: Journal = request.app.state.journal
    entry = entries.get(int(number)) if number.isdecimal() and len(number) < 16 else None
    if entry is None:
        return _refusal(404, f"there is no request {number}, or it has given way to newer ones")
    await entries.keep_prompt(entry)
    return JsonResponse(await answers.whole(entry))


@router.get("/load", dependencies=_private)
async def load(request: Request) -> Response:
    """Tokens, calls and slots of the last minutes; only samples after the time `?after=`."""
    history: History = request.app.state.history
    try:
        after = float(request.query_params.get("after", "0"))
    except ValueError:
        return _refusal(400, "after takes the time of a sample, in seconds since 1970")
    samples = [asdict(sample) for sample in history.samples if sample.time > after]
    status = request.app.state.backends.status
    return _answer({"status": status, "interval_s": INTERVAL_S, "samples": samples})


def _number(request: Request, name: str, *, default: int, least: int, most: int) -> int | None:
    """A number in the query; None for what is none."""
    text = request.query_params.get(name, str(default))
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    return number if least <= number <= most else None


def _refusal(status: int, error: str) -> Response:
    return _answer({"error": error}, status)


def _answer(value: Any, status: int = 200) -> Response:
    return JsonResponse(to_json(value), status)
