"""Pages in a real browser: local ones may use the emulator, foreign ones may not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.chromium import chromium, keep_screenshot
from tests.server import ServerProcess

pytestmark = pytest.mark.browser

FOREIGN = "evil.example"
PAGE = b"<!doctype html><title>A page</title><h1>What does the emulator say?</h1><pre></pre>"

ASK = """
async ([url, body]) => {
  const headers = { Authorization: "Bearer x", "Content-Type": "application/json" };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  const text = await answer.text();
  document.querySelector("pre").textContent = text;
  return { status: answer.status, id: answer.headers.get("cf-ai-req-id"), text };
}
"""
# The kind of request that a browser sends without asking first.
ASK_SIMPLY = """
async ([url, body]) => {
  const answer = await fetch(url, { method: "POST", body: JSON.stringify(body) });
  return { status: answer.status, text: await answer.text() };
}
"""
ASK_WITHOUT_READING = """
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
    """The port of a server that has one page."""
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
    """For it, the foreign name is this machine: DNS rebinding has happened."""
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


def ask(page: Page, how: str, server: ServerProcess, **inputs: Any) -> Any:
    body = {"prompt": "Say yes.", "max_tokens": 4, "temperature": 0, **inputs}
    return page.evaluate(how, [server.run_url(), body])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "app.localhost"])
def test_a_local_page_reads_an_answer(
    page: Page, port: int, server: ServerProcess, host: str
) -> None:
    page.goto(f"http://{host}:{port}/")
    answer = ask(page, ASK, server)
    assert (answer["status"], len(answer["id"])) == (200, 36)
    assert '"success":true' in answer["text"]


def test_a_local_page_reads_a_stream(page: Page, port: int, server: ServerProcess) -> None:
    page.goto(f"http://localhost:{port}/")
    answer = ask(page, ASK, server, stream=True)
    assert answer["text"].endswith("data: [DONE]\n\n")
    assert keep_screenshot(page, "local-page").stat().st_size > 0


def test_a_local_page_reads_an_error(page: Page, port: int, server: ServerProcess) -> None:
    page.goto(f"http://localhost:{port}/")
    answer = ask(page, ASK, server, temperature=9)
    assert (answer["status"], '"code":5006' in answer["text"]) == (400, True)


@pytest.mark.parametrize("how", [ASK, ASK_SIMPLY], ids=["preflight", "simple"])
def test_a_foreign_page_reads_nothing(
    page: Page, port: int, server: ServerProcess, how: str
) -> None:
    page.goto(f"http://{FOREIGN}:{port}/")
    with pytest.raises(Exception, match="Failed to fetch"):
        ask(page, how, server)


def test_a_foreign_page_makes_the_model_do_nothing(
    page: Page, port: int, server: ServerProcess
) -> None:
    page.goto(f"http://{FOREIGN}:{port}/")
    num_requests = server.metric("workers_ai_emulator_requests_total")
    ask(page, ASK_WITHOUT_READING, server)
    assert " 403, " in server.log[-1]
    assert server.metric("workers_ai_emulator_requests_total") == num_requests


def test_a_page_whose_name_was_made_to_resolve_to_this_machine_is_refused(
    page: Page, server: ServerProcess
) -> None:
    url = server.run_url().replace("127.0.0.1", FOREIGN)
    page.goto(url)
    answer = page.evaluate(ASK_SIMPLY, [url, {"prompt": "Say yes."}])
    assert (answer["status"], '"code":9109' in answer["text"]) == (403, True)
