"""Tests in a real browser that only pages of local origins may call the emulator."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.chromium import chromium, keep_screenshot
from tests.server import ServerProcess, wait_until

pytestmark = pytest.mark.browser

FOREIGN = "evil.example"
PAGE = b"<!doctype html><title>A page</title><h1>What does the emulator send?</h1><pre></pre>"

FETCH = """
async ([url, body]) => {
  const headers = { Authorization: "Bearer x", "Content-Type": "application/json" };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  const text = await response.text();
  document.querySelector("pre").textContent = text;
  return { status: response.status, id: response.headers.get("cf-ai-req-id"), text };
}
"""
# Sends a request for which the browser needs no CORS preflight.
FETCH_WITHOUT_PREFLIGHT = """
async ([url, body]) => {
  const response = await fetch(url, { method: "POST", body: JSON.stringify(body) });
  return { status: response.status, text: await response.text() };
}
"""
FETCH_OPAQUELY = """
async ([url, body]) => {
  await fetch(url, { method: "POST", mode: "no-cors", body: JSON.stringify(body) });
}
"""


class PageHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def page_server() -> Iterator[int]:
    """Yields the port of a server that sends the HTML page PAGE for every path."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), PageHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Runs a browser in which the name FOREIGN resolves to this machine, as in DNS rebinding."""
    with chromium(f"--host-resolver-rules=MAP {FOREIGN} 127.0.0.1") as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with page_server() as port:
        yield port


def call(page: Page, script: str, server: ServerProcess, **inputs: Any) -> Any:
    body = {"prompt": "Say yes.", "max_tokens": 4, "temperature": 0, **inputs}
    return page.evaluate(script, [server.run_url(), body])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "app.localhost"])
def test_a_local_page_reads_a_response(
    page: Page, port: int, server: ServerProcess, host: str
) -> None:
    page.goto(f"http://{host}:{port}/")
    response = call(page, FETCH, server)
    assert (response["status"], len(response["id"])) == (200, 36)
    assert '"success":true' in response["text"]


def test_a_local_page_reads_a_stream(page: Page, port: int, server: ServerProcess) -> None:
    page.goto(f"http://localhost:{port}/")
    response = call(page, FETCH, server, stream=True)
    assert response["text"].endswith("data: [DONE]\n\n")
    assert keep_screenshot(page, "local-page").stat().st_size > 0


def test_a_local_page_reads_an_error(page: Page, port: int, server: ServerProcess) -> None:
    page.goto(f"http://localhost:{port}/")
    response = call(page, FETCH, server, temperature=9)
    assert (response["status"], '"code":5006' in response["text"]) == (400, True)


@pytest.mark.parametrize("script", [FETCH, FETCH_WITHOUT_PREFLIGHT], ids=["preflight", "simple"])
def test_a_foreign_page_reads_nothing(
    page: Page, port: int, server: ServerProcess, script: str
) -> None:
    page.goto(f"http://{FOREIGN}:{port}/")
    with pytest.raises(Exception, match="Failed to fetch"):
        call(page, script, server)


def test_a_request_of_a_foreign_page_reaches_no_model(
    page: Page, port: int, server: ServerProcess
) -> None:
    page.goto(f"http://{FOREIGN}:{port}/")
    num_requests = server.metric("workers_ai_emulator_requests_total")
    call(page, FETCH_OPAQUELY, server)
    wait_until(lambda: " 403, " in server.log[-1])
    assert server.metric("workers_ai_emulator_requests_total") == num_requests


def test_a_page_with_a_rebound_host_name_is_refused(page: Page, server: ServerProcess) -> None:
    url = server.run_url().replace("127.0.0.1", FOREIGN)
    page.goto(url)
    response = page.evaluate(FETCH_WITHOUT_PREFLIGHT, [url, {"prompt": "Say yes."}])
    assert (response["status"], '"code":9109' in response["text"]) == (403, True)
