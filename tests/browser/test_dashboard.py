"""Tests the dashboard at /_emulator/ in a real browser, with mouse and keyboard."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, Page, expect
from workers_ai_emulator.admin import dashboard
from workers_ai_emulator.backends.rules import parse_rules

from tests.chromium import chromium, keep_screenshot
from tests.server import ENDLESS, FP16, INT8, ServerProcess, server_process, wait_until

pytestmark = pytest.mark.browser

SECRET = "sk-a-long-secret-0123456789"
QWEN = "@cf/qwen/qwen3-30b-a3b-fp8"
COMPARED = ("method", "path", "account", "model", "stream", "outcome", "rule", "completion_tokens")
SCRIPT = [
    {"contains": "slowly", "answer": "one two three " * 300, "tokens_per_second": 20},
    {"contains": "lighthouse", "answer": "It shows ships where the land is, by night and in fog."},
    {"answer": "It is done."},
]
EVIL = "<script>window.isBroken = true</script><img src=x onerror='window.isBroken = true'>"
PAGE = Path(dashboard.__file__).parent / "page"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
WIDTHS = {"desk": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # the timeout of a page does not apply to `expect`
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    rules = tmp_path_factory.mktemp("script") / "rules.json"
    rules.write_text(json.dumps(SCRIPT))
    with server_process("--backend", "scripted", "--script", str(rules)) as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yields a page. Fails if the page logs to the console or sends requests to a second server."""
    messages_logged: list[str] = []
    requested: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: messages_logged.append(message.text))
        page.on("pageerror", lambda error: messages_logged.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        yield page
        origins = {"/".join(url.split("/")[:3]) for url in requested}
    assert messages_logged == []
    assert len(origins) == 1


@pytest.fixture
def shown(page: Page, scripted: ServerProcess) -> Page:
    """Opens the dashboard after five calls: two succeed, two are rejected, one breaks off."""
    scripted.reset()
    scripted.run({"prompt": "Say something about lighthouses"}, FP16)
    scripted.run({"messages": [{"role": "user", "content": "What is a lighthouse for?"}]})
    scripted.run({"prompt": "Hi", "temperature": 99})
    scripted.run({"prompt": "Hi"}, "@cf/none/such")
    with pytest.raises(httpx.RemoteProtocolError):
        headers = {"x-emulator-fault": "cut-mid-event"}
        httpx.post(scripted.run_url(), json={"prompt": "Hi", "stream": True}, headers=headers)
    open_page(page, scripted)
    expect(page.locator("#rows tr")).to_have_count(5)
    return page


def open_page(page: Page, server: ServerProcess) -> None:
    page.goto(f"{server.root}/_emulator/")
    expect(page.locator("#status-text")).to_have_text("ready")
    expect(page.locator("#model option").first).to_be_attached()


def focused(page: Page) -> str:
    """Returns the id of the focused element, or its text if it has no id."""
    found = page.evaluate("document.activeElement.id || document.activeElement.textContent")
    assert isinstance(found, str)
    return found


def tab_to(page: Page, name: str) -> None:
    for _ in range(40):
        if focused(page) == name:
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not lead to {name}")


def test_the_list_shows_every_request_with_its_outcome(shown: Page) -> None:
    results = shown.locator("#rows .result").all_text_contents()
    assert results == ["cut", "400 · 7000", "400 · 5006", "ok", "ok"]
    first = shown.locator("#rows tr").first
    expect(first.locator(".fault")).to_have_text("cut-mid-event")
    expect(shown.locator("#plot-requests svg")).to_be_attached()
    keep_screenshot(shown, "dashboard-list")


def shown_ids(page: Page) -> list[str]:
    """Returns the ids of the visible rows, from top to bottom, as `#1`, `#2` and so on."""
    rows = page.locator("#rows tr:visible")
    return [row.locator("td").first.locator(".second").inner_text() for row in rows.all()]


def test_a_row_has_the_prompt_the_model_and_what_gave_the_completion(
    page: Page, scripted: ServerProcess
) -> None:
    account = "1" * 32
    headers = {"x-emulator-account": account}
    body = {"prompt": "What is a lighthouse for?", "stream": True}
    httpx.post(scripted.run_url(), json=body, headers=headers)
    open_page(page, scripted)
    first = page.locator("#rows tr").first
    expect(first).to_contain_text("What is a lighthouse for?")
    expect(first).to_contain_text("llama-2-7b-chat-int8 · stream · rule 2 · account 11111111…")
    first.click()
    facts = page.locator("#facts")
    expect(facts).to_contain_text("scripted, rule 2")
    expect(facts).to_contain_text(account)


def run_with_rules(server: ServerProcess, rules: object, body: object, model: str = INT8) -> None:
    """Calls a model with an account that has these rules of its own."""
    headers = {"x-emulator-account": "1" * 32}
    script = f"{server.root}/_emulator/script"
    httpx.post(script, json=rules, headers=headers).raise_for_status()
    httpx.post(server.run_url(model), json=body, headers=headers).raise_for_status()
    httpx.delete(script, headers=headers).raise_for_status()


def test_a_call_that_no_rule_answers_is_marked(page: Page, scripted: ServerProcess) -> None:
    scripted.reset()
    scripted.run({"prompt": "Hi"})
    run_with_rules(scripted, [{"contains": "Ho", "answer": "x"}], {"prompt": "Hi"})
    open_page(page, scripted)
    expect(page.locator("#rows tr").first.locator(".mark")).to_have_text("unmatched")
    page.select_option("#filter-kind", "unmatched")
    expect(page.locator("#rows tr:visible")).to_have_count(1)


def test_the_filter_hides_rows_without_its_words(shown: Page) -> None:
    all_ids = shown_ids(shown)
    shown.fill("#filter", "LIGHTHOUSE fp16")
    assert shown_ids(shown) == [all_ids[4]]
    expect(shown.locator("#requests-count")).to_have_text("1 of 5")
    shown.fill("#filter", "nothing has this")
    expect(shown.locator("#requests-none")).to_be_visible()
    shown.fill("#filter", all_ids[1])
    assert shown_ids(shown) == [all_ids[1]]


def test_the_filter_shows_only_failed_requests_also_among_new_ones(
    shown: Page, scripted: ServerProcess
) -> None:
    shown.select_option("#filter-kind", "failed")
    results = shown.locator("#rows tr:visible .result")
    assert results.all_text_contents() == ["cut", "400 · 7000", "400 · 5006"]
    scripted.run({"prompt": "Hi"})
    scripted.run({"prompt": 1})
    expect(results).to_have_count(4)
    expect(results.first).to_have_text("400 · 5006")
    shown.locator("#rows tr:visible a").first.focus()
    shown.keyboard.press("End")
    focused_row = shown.locator("#rows tr:focus-within .result")
    expect(focused_row).to_have_text("400 · 5006")
    shown.keyboard.press("ArrowUp")
    expect(focused_row).to_have_text("400 · 7000")


def test_the_reset_of_an_account_removes_only_its_rows(page: Page, scripted: ServerProcess) -> None:
    scripted.reset()
    account = "1" * 32
    for headers in ({}, {"x-emulator-account": account}, {}):
        httpx.post(scripted.run_url(), json={"prompt": "Hi"}, headers=headers)
    open_page(page, scripted)
    ids = shown_ids(page)
    page.locator("#rows a").last.focus()
    httpx.post(f"{scripted.root}/_emulator/reset?account={account}")
    expect(page.locator("#rows tr")).to_have_count(2)
    assert shown_ids(page) == [ids[0], ids[2]]
    expect(page.locator("#rows a").last).to_be_focused()


def test_a_reset_loads_older_requests_in_their_order(page: Page, scripted: ServerProcess) -> None:
    scripted.reset()
    account = "1" * 32
    scripted.run({"prompt": "the oldest"})
    with httpx.Client(headers={"x-emulator-account": account}) as client:
        for _ in range(200):
            client.post(scripted.run_url(), json={"prompt": "Hi"})
    scripted.run({"prompt": "the newest"})
    open_page(page, scripted)
    expect(page.locator("#rows tr")).to_have_count(200)
    expect(page.locator("#requests-count")).to_have_text("the newest 200")
    httpx.post(f"{scripted.root}/_emulator/reset?account={account}")
    expect(page.locator("#rows tr")).to_have_count(2)
    expect(page.locator("#rows tr").first).to_contain_text("the newest")
    expect(page.locator("#rows tr").last).to_contain_text("the oldest")


def test_the_body_of_a_refused_request_is_open(shown: Page) -> None:
    shown.locator("#rows tr").nth(2).click()
    expect(shown.locator("#body")).to_be_visible()
    expect(shown.locator("#body")).to_contain_text('"temperature": 99')
    shown.locator("#rows tr").nth(3).click()
    expect(shown.locator("#facts")).to_contain_text("200 ok")
    expect(shown.locator("#body")).to_be_hidden()


def test_the_reasoning_is_shown_apart_from_the_answer(page: Page, scripted: ServerProcess) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    run_with_rules(scripted, [{"reasoning": "They ask.", "answer": "I answer."}], body, QWEN)
    scripted.run({"prompt": "Hi"})
    open_page(page, scripted)
    page.locator("#rows tr").nth(1).click()
    expect(page.locator("#reasoning")).to_have_text("They ask.")
    expect(page.locator("#answer")).to_have_text("I answer.")
    page.locator("#rows tr").first.click()
    expect(page.locator("#reasoning-section")).to_be_hidden()


def copied(page: Page, button: str) -> str:
    """Clicks a button that copies a text, and returns the text in the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(button).click()
    expect(page.locator(button)).to_have_text("Copied")
    text = page.evaluate("navigator.clipboard.readText()")
    assert isinstance(text, str)
    return text


def test_the_copied_curl_command_sends_the_same_request_without_credentials(
    page: Page, scripted: ServerProcess
) -> None:
    body = {"prompt": 'It\'s `x` $HOME "é"\n\\ !', "stream": True, "max_tokens": 3}
    headers = {
        "authorization": f"Bearer {SECRET}",
        "x-api-key": SECRET,
        "x-emulator-account": "1" * 32,
        "`false`-authorization": SECRET,
    }
    httpx.post(scripted.run_url(), json=body, headers=headers)
    open_page(page, scripted)
    page.locator("#rows tr").first.click()
    command = copied(page, "#copy-curl")
    assert SECRET not in command
    environment = {**os.environ, "CLOUDFLARE_API_TOKEN": "another-token"}
    subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=30)
    first, second = httpx.get(f"{scripted.root}/_emulator/requests?limit=2").json()["requests"]
    assert [first[key] for key in COMPARED] == [second[key] for key in COMPARED]
    bodies = [
        httpx.get(f"{scripted.root}/_emulator/requests/{row['id']}").json()["request"]["body"]
        for row in (first, second)
    ]
    assert bodies == [body, body]


def test_the_copied_rule_gives_the_same_completion(page: Page, scripted: ServerProcess) -> None:
    text = "Line 1: 'a' # \"b\"\n\u2028- {{x}}\x7f"
    body = {"messages": [{"role": "user", "content": f"lighthouse {text}"}]}
    expected = scripted.run(body, QWEN).json()["result"]["choices"][0]["message"]["content"]
    open_page(page, scripted)
    page.locator("#rows tr").first.click()
    rule = copied(page, "#copy-rule")
    assert yaml.safe_load(rule) == [
        {"model": QWEN, "contains": f"lighthouse {text}", "answer": expected}
    ]
    parse_rules(yaml.safe_load(rule))


def test_a_request_whose_response_broke_off_cannot_be_copied_as_a_rule(shown: Page) -> None:
    shown.locator("#rows tr").nth(0).click()
    expect(shown.locator("#copy-curl")).to_be_enabled()
    expect(shown.locator("#copy-rule")).to_be_disabled()


def test_the_copied_rule_of_a_refused_request_gives_the_same_error(shown: Page) -> None:
    shown.locator("#rows tr").nth(2).click()
    [rule] = yaml.safe_load(copied(shown, "#copy-rule"))
    assert (rule["fault"], rule["status"], rule["code"]) == ("error", 400, 5006)
    parse_rules([rule])


def test_a_request_whose_body_is_not_stored_whole_cannot_be_copied(
    page: Page, scripted: ServerProcess
) -> None:
    scripted.run({"prompt": "x" * 300_000})
    open_page(page, scripted)
    page.locator("#rows tr").first.click()
    expect(page.locator("#facts")).to_contain_text("Result")
    expect(page.locator("#copy-curl")).to_be_disabled()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_row_has_the_same_size_and_columns_when_its_request_ends(
    page: Page, scripted: ServerProcess, width: str
) -> None:
    page.set_viewport_size({"width": WIDTHS[width][0], "height": WIDTHS[width][1]})
    scripted.reset()
    open_page(page, scripted)
    with scripted.connect({"prompt": "slowly", "stream": True}):
        expect(page.locator("#rows .result")).to_have_text("streaming")
        before = boxes(page)
    expect(page.locator("#rows .result")).to_have_text("cancelled")
    assert boxes(page) == before


def boxes(page: Page) -> object:
    """Returns the positions and sizes of the cells in the list, and of the page's sections."""
    return page.evaluate(
        "[...document.querySelectorAll('#rows td, section')].map((each) => {"
        " const { x, y, width, height } = each.getBoundingClientRect();"
        " return [x, y, width, height]; })"
    )


def test_a_new_request_appears_in_the_list_without_a_reload(
    shown: Page, scripted: ServerProcess
) -> None:
    with scripted.connect({"prompt": "slowly", "stream": True}):
        first = shown.locator("#rows tr").first
        expect(first.locator(".result")).to_have_text("streaming")
        expect(first.locator(".tokens")).to_have_text(re.compile(r"1 \+ [1-9]"))
    expect(first.locator(".result")).to_have_text("cancelled")


def test_the_detail_panel_shows_prompt_completion_bodies_and_headers(
    page: Page, scripted: ServerProcess
) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    body = {"prompt": f"What is a lighthouse for? {SECRET}", "stream": True}
    httpx.post(scripted.run_url(), json=body, headers=headers)
    open_page(page, scripted)
    page.locator("#rows tr").first.click()
    expect(page.locator("#answer")).to_contain_text("It shows ships")
    expect(page.locator("#prompt")).to_have_text("What is a lighthouse for? [redacted]")
    facts = page.locator("#facts").inner_text()
    assert "200 ok" in facts and INT8 in facts and "first byte after" in facts
    page.get_by_text("Request body").click()
    keep_screenshot(page, "dashboard-request")
    for summary in ("Request headers", "Answer as sent"):
        page.get_by_text(summary).click()
    expect(page.locator("#body")).to_contain_text('"stream": true')
    expect(page.locator("#request-headers")).to_contain_text("[redacted]")
    expect(page.locator("#sent")).to_contain_text("data: [DONE]")
    assert SECRET not in page.content()


def test_a_completion_grows_in_the_detail_panel_while_it_streams(
    shown: Page, scripted: ServerProcess
) -> None:
    with scripted.connect({"prompt": "slowly", "stream": True}):
        expect(shown.locator("#rows tr")).to_have_count(6)
        shown.locator("#rows tr").first.click()
        answer = shown.locator("#answer")
        expect(answer).to_contain_text("one two three")
        length = len(answer.inner_text())
        expect(answer).to_have_text(re.compile(rf"^[\s\S]{{{length + 10},}}$"))
    expect(shown.locator("#facts")).to_contain_text("cancelled")


def test_html_in_requests_is_shown_as_text(page: Page, scripted: ServerProcess) -> None:
    scripted.run({"prompt": EVIL}, f"@cf/{EVIL.replace('/', '')}")
    scripted.run({"prompt": f"slowly {EVIL}", "max_tokens": 2})
    headers = {"x-other": EVIL}
    httpx.post(scripted.run_url(), json={"prompt": EVIL, EVIL: EVIL}, headers=headers)
    open_page(page, scripted)
    for number in (2, 1, 0):
        page.locator("#rows tr").nth(number).click()
        expect(page.locator("#detail-body")).to_be_visible()
    expect(page.locator("#request-headers")).to_contain_text("<script>")
    expect(page.locator("#prompt")).to_have_text(EVIL)
    page.keyboard.press("Escape")
    page.fill("#message", EVIL)
    page.keyboard.press("Enter")
    expect(page.locator(".turn.user")).to_have_text(EVIL)
    expect(page.locator(".turn.assistant")).to_contain_text("It is done.")
    assert page.evaluate("window.isBroken") is None
    assert page.locator("main script, main img").count() == 0


def test_a_chat_sends_its_earlier_turns_and_its_options(
    page: Page, scripted: ServerProcess
) -> None:
    open_page(page, scripted)
    page.select_option("#model", FP16)
    page.locator("#options summary").click()
    page.fill("#system", "Be brief.")
    page.fill("#temperature", "0.5")
    page.fill("#seed", "7")
    for message in ("What is a lighthouse for?", "And by day?"):
        page.fill("#message", message)
        page.locator("#chat-send").click()
        expect(page.locator("#chat-send")).to_be_enabled()
    expect(page.locator(".turn.assistant")).to_have_count(2)
    expect(page.locator(".turn.assistant").first).to_contain_text("It shows ships")
    keep_screenshot(page, "dashboard-chat")
    number = httpx.get(f"{scripted.root}/_emulator/requests").json()["requests"][0]["id"]
    kept = httpx.get(f"{scripted.root}/_emulator/requests/{number}").json()
    body = kept["request"]["body"]
    roles = [message["role"] for message in body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert (kept["model"], body["temperature"], body["seed"]) == (FP16, 0.5, 7)


def test_a_chat_works_without_streaming(page: Page, scripted: ServerProcess) -> None:
    open_page(page, scripted)
    page.locator("#options summary").click()
    page.uncheck("#stream")
    page.fill("#message", "Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant")).to_contain_text("It is done.")
    row = httpx.get(f"{scripted.root}/_emulator/requests").json()["requests"][0]
    assert (row["stream"], row["outcome"]) == (False, "ok")


@pytest.mark.parametrize(
    ("results", "is_stream", "shown_text"),
    [
        ([{"choices": [{"message": {"role": "assistant", "content": "By night."}}]}], False, None),
        ([{"choices": [{"text": "By night."}]}], False, None),
        ([{"response": {"when": "night"}}], False, '{"when":"night"}'),
        (
            [{"response": None, "tool_calls": [{"name": "look", "arguments": {"at": "night"}}]}],
            False,
            'look {"at":"night"}',
        ),
        (
            [
                {"choices": [{"delta": {"tool_calls": [{"function": {"name": "look"}}]}}]},
                {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]},
            ],
            True,
            "look {}",
        ),
        (
            [
                {"choices": [{"delta": {"reasoning_content": "Hm."}}]},
                {"choices": [{"delta": {"content": "By "}}]},
                {"choices": [{"delta": {"content": "night."}}]},
                {"choices": []},
                {"response": "", "usage": {}},
            ],
            True,
            None,
        ),
    ],
    ids=["choices", "text", "json", "tool call", "stream of a tool call", "stream"],
)
def test_a_chat_shows_the_completion_in_every_response_form(
    page: Page,
    scripted: ServerProcess,
    results: list[object],
    is_stream: bool,
    shown_text: str | None,
) -> None:
    events = "".join(f"data: {json.dumps(result)}\n\n" for result in results) + "data: [DONE]\n\n"
    whole = json.dumps({"result": results[0]})
    body, media_type = (events, "text/event-stream") if is_stream else (whole, "application/json")
    headers = {"content-type": media_type}
    page.route("**/ai/run/**", lambda route: route.fulfill(headers=headers, body=body))
    open_page(page, scripted)
    page.fill("#message", "When?")
    page.keyboard.press("Enter")
    completion = page.locator(".turn.assistant span")
    expect(completion).to_have_text(shown_text or "By night.")


def test_the_stop_button_cancels_the_stream(page: Page, scripted: ServerProcess) -> None:
    open_page(page, scripted)
    page.fill("#message", "slowly")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant")).to_contain_text("one two")
    page.locator("#chat-stop").click()
    expect(page.locator(".turn.assistant")).to_contain_text("stopped")
    expect(page.locator("#rows .result").first).to_have_text("cancelled")


def test_a_new_chat_leaves_out_the_turn_that_was_streaming(
    page: Page, scripted: ServerProcess
) -> None:
    open_page(page, scripted)
    page.fill("#message", "slowly")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant")).to_contain_text("one two")
    page.locator("#chat-new").click()
    expect(page.locator("#chat-send")).to_be_enabled()
    page.fill("#message", "Hi")
    page.keyboard.press("Enter")
    expect(page.locator(".turn.assistant")).to_contain_text("It is done.")
    number = httpx.get(f"{scripted.root}/_emulator/requests").json()["requests"][0]["id"]
    kept = httpx.get(f"{scripted.root}/_emulator/requests/{number}").json()
    assert kept["request"]["body"]["messages"] == [{"role": "user", "content": "Hi"}]


def test_every_step_works_by_keyboard_alone(shown: Page) -> None:
    shown.keyboard.press("Tab")
    assert focused(shown) == "Skip to the requests"
    shown.keyboard.press("Enter")
    assert focused(shown) == "requests-title"
    tab_to(shown, "filter-kind")
    shown.keyboard.press("Tab")
    shown.keyboard.press("ArrowDown")
    shown.keyboard.press("ArrowDown")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert shown.evaluate(outline) == "solid"
    shown.keyboard.press("Enter")
    expect(shown.locator("#detail-title")).to_be_focused()
    expect(shown.locator("#facts")).to_contain_text("400 · 5006")
    shown.keyboard.press("Escape")
    expect(shown.locator("#rows tr").nth(2).locator("a")).to_be_focused()
    shown.keyboard.press("Home")
    expect(shown.locator("#rows tr").first.locator("a")).to_be_focused()
    tab_to(shown, "message")
    shown.keyboard.type("What is a lighthouse for?")
    shown.keyboard.press("Enter")
    expect(shown.locator(".turn.assistant")).to_contain_text("fog.")
    assert focused(shown) == "message"


def test_every_control_has_an_accessible_name(shown: Page) -> None:
    shown.locator("#options summary").click()
    tree = shown.locator("body").aria_snapshot()
    for line in tree.splitlines():
        control = re.match(r"\s*- (button|link|textbox|combobox|spinbutton|checkbox|img)(.*)", line)
        assert control is None or '"' in control[2], line
    assert all(
        landmark in tree for landmark in ("- banner", "- main", "- region", "- table", "- log")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways(
    page: Page, scripted: ServerProcess, width: str, scheme: str
) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": WIDTHS[width][0], "height": WIDTHS[width][1]})
    scripted.run({"prompt": "lighthouse " + "x" * 400})
    open_page(page, scripted)
    is_narrow = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(is_narrow)
    page.locator("#rows tr").first.click()
    expect(page.locator("#answer")).to_contain_text("ships")
    assert page.evaluate(is_narrow)
    keep_screenshot(page, f"dashboard-{width}-{scheme}")


def test_the_charts_show_the_load_of_a_real_model(page: Page, server: ServerProcess) -> None:
    body = {**ENDLESS, "max_tokens": 250, "stream": True}
    open_page(page, server)
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(server.run, body) for _ in range(4)]
        expect(page.locator("#now-running")).to_have_text("4")
        expect(page.locator("#plot-requests")).to_have_attribute(
            "aria-label", re.compile("^Requests: 4 running, 0 waiting, 8 slots")
        )
        rate = page.locator("#plot-tokens path.tokens")
        wait_until(lambda: (rate.get_attribute("d") or "").count("L") >= 12, limit_s=60)
        keep_screenshot(page, "dashboard-load")
        assert all(stream.result().status_code == 200 for stream in streams)


def test_an_open_page_lets_the_server_stop_and_reconnects_to_the_next_one(browser: Browser) -> None:
    flags = ["--backend", "scripted"]
    with browser.new_context() as context:
        page = context.new_page()
        with server_process(*flags) as first:
            open_page(page, first)
            first.run({"prompt": "Hi"})
            first.run({"prompt": "Hi"})
            expect(page.locator("#rows tr")).to_have_count(2)
            first.process.send_signal(signal.SIGTERM)
            assert first.process.wait(timeout=10) == 0
            expect(page.locator("#status-text")).to_contain_text("does not answer")
            port = first.root.rpartition(":")[2]
        with server_process(*flags, "--port", port) as second:
            expect(page.locator("#status-text")).to_have_text("ready")
            second.run({"prompt": "Hi"})
            expect(page.locator("#rows tr")).to_have_count(1)


def test_the_page_asks_for_a_missing_token_and_works_with_it(browser: Browser) -> None:
    flags = ["--backend", "scripted", "--api-token", SECRET]
    with browser.new_context() as context, server_process(*flags) as strict:
        page = context.new_page()
        page.goto(f"{strict.root}/_emulator/")
        expect(page.locator("#status-text")).to_contain_text("asks for a token")
        page.locator("#options summary").click()
        page.fill("#token", SECRET)
        expect(page.locator("#status-text")).to_have_text("ready")
        expect(page.locator("#model option").first).to_be_attached()
        page.fill("#message", "Hi")
        page.keyboard.press("Enter")
        expect(page.locator("#rows tr .result")).to_have_text("ok")


@pytest.mark.parametrize("file", sorted(PAGE.iterdir()), ids=lambda file: file.name)
def test_every_file_of_the_page_loads_nothing_from_other_servers(
    scripted: ServerProcess, file: Path
) -> None:
    path = "" if file.name == "index.html" else f"page/{file.name}"
    response = httpx.get(f"{scripted.root}/_emulator/{path}")
    assert response.content == file.read_bytes()
    assert response.headers["content-type"] == MEDIA_TYPES[file.suffix]
    assert response.headers["content-security-policy"].startswith("default-src 'self'")
    assert response.headers["cache-control"] == "no-cache"
    assert "http" not in response.text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    "path", ["main.js", "page/none.js", "page/%2e%2e/dashboard.py", "page/..%2fdashboard.py"]
)
def test_only_files_of_the_page_are_served(scripted: ServerProcess, path: str) -> None:
    response = httpx.get(f"{scripted.root}/_emulator/{path}")
    assert (response.status_code, response.json()["errors"][0]["code"]) == (400, 7000)


def test_the_address_without_a_slash_is_redirected(scripted: ServerProcess) -> None:
    redirect = httpx.get(f"{scripted.root}/_emulator")
    assert (redirect.status_code, redirect.headers["location"]) == (307, "_emulator/")
