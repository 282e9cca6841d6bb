"""Which calls get a fault, and what it does to them, without a server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from workers_ai_emulator.middleware.faults.middleware import FaultMiddleware
from workers_ai_emulator.middleware.faults.rules import (
    FaultRules,
    Subject,
    parse_fault,
    parse_fault_rules,
    requested_fault,
)
from workers_ai_emulator.wire.envelope import END_OF_STREAM, event
from workers_ai_emulator.wire.errors import WireError

from tests.server import ACCOUNT_ID, FP16, INT8

STREAM = Subject(ACCOUNT_ID, INT8, is_stream=True)
ANSWER = Subject(ACCOUNT_ID, INT8, is_stream=False)
BINDING = Subject(None, INT8, is_stream=False)
TIMEOUT_S = 10


def rules(*values: Mapping[str, Any]) -> FaultRules:
    made = FaultRules()
    made.add(parse_fault_rules([{"fault": "capacity", **value} for value in values]))
    return made


def chosen(made: FaultRules, *subjects: Subject) -> list[str | None]:
    faults = [made.choose(subject) for subject in subjects]
    return [fault.fault if fault else None for fault in faults]


def test_the_first_rule_that_applies_is_used_up_first() -> None:
    made = rules({"times": 2}, {"fault": "internal", "times": 1})
    assert chosen(made, *[ANSWER] * 4) == ["capacity", "capacity", "internal", None]
    assert len(made) == 0


def test_a_rule_without_a_number_goes_on_until_the_reset() -> None:
    made = rules({})
    assert chosen(made, *[ANSWER] * 50) == ["capacity"] * 50
    made.reset()
    assert chosen(made, ANSWER) == [None]


def test_a_rule_is_for_the_models_and_the_account_that_it_names() -> None:
    assert chosen(rules({"model": "*-int8"}), ANSWER) == ["capacity"]
    assert chosen(rules({"model": FP16}), ANSWER) == [None]
    assert chosen(rules({"account": ACCOUNT_ID}), ANSWER, BINDING) == ["capacity", None]
    assert chosen(rules({"account": "f" * 32}), ANSWER) == [None]
    assert chosen(rules({}), BINDING) == ["capacity"]


def test_a_rule_for_some_models_leaves_alone_what_names_none() -> None:
    nameless = Subject(ACCOUNT_ID, None, is_stream=False)
    assert chosen(rules({"model": "*-int8"}), nameless) == [None]
    assert chosen(rules({}), nameless) == ["capacity"]


@pytest.mark.parametrize("fault", ["stall", "no-done", "json-instead-of-stream"])
def test_a_fault_of_streams_is_not_used_up_by_an_answer(fault: str) -> None:
    made = rules({"fault": fault, "times": 1})
    assert chosen(made, ANSWER, STREAM, STREAM) == [None, fault, None]


def test_a_seed_hits_the_same_calls_each_time() -> None:
    first, second = (rules({"probability": 0.3, "seed": 7}) for _ in range(2))
    calls = [ANSWER] * 200
    hits = chosen(first, *calls)
    assert hits == chosen(second, *calls)
    assert 30 < hits.count("capacity") < 90


def test_a_call_that_is_spared_does_not_count() -> None:
    made = rules({"probability": 0.5, "seed": 7, "times": 3})
    assert chosen(made, *[ANSWER] * 50).count("capacity") == 3


def test_a_rule_for_others_draws_nothing() -> None:
    made = rules({"probability": 0.5, "seed": 7})
    alone = chosen(rules({"probability": 0.5, "seed": 7, "account": ACCOUNT_ID}), *[ANSWER] * 20)
    mixed = chosen(
        rules({"probability": 0.5, "seed": 7, "account": ACCOUNT_ID}), *[BINDING, ANSWER] * 20
    )
    assert chosen(made, *[ANSWER] * 20) == alone == mixed[1::2]


def test_what_is_left_is_shown_as_it_was_set() -> None:
    made = rules({"times": 3, "model": "*"}, {"fault": "cut-mid-event", "after_events": 4})
    made.choose(ANSWER)
    assert made.active == [
        {"fault": "capacity", "times": 2, "model": "*"},
        {"fault": "cut-mid-event", "after_events": 4},
    ]


def test_there_is_a_limit_to_rules() -> None:
    made = FaultRules()
    made.add(parse_fault_rules([{"fault": "capacity"}] * 1000))
    with pytest.raises(ValueError, match="1000 rules are the most"):
        made.add(parse_fault_rules({"fault": "capacity"}))


def test_every_mistake_has_a_line() -> None:
    with pytest.raises(ValueError) as caught:
        parse_fault_rules(
            [
                {"fault": "capasity", "times": 0, "probability": 2},
                {"fault": "internal", "after_events": 1, "seconds": 1, "modle": "x"},
                7,
                {"fault": "capacity", "times": "2"},
                {"fault": "slow-first-token", "seconds": 4000},
            ]
        )
    lines = str(caught.value).splitlines()
    starts = [line.split(": ")[:2] for line in lines]
    assert starts == [
        ["rule 1", "fault"],
        ["rule 1", "times"],
        ["rule 1", "probability"],
        ["rule 2", "after_events"],
        ["rule 2", "seconds"],
        ["rule 2", "modle"],
        ["rule 3", "Input should be a valid dictionary or instance of FaultRule"],
        ["rule 4", "times"],
        ["rule 5", "seconds"],
    ]
    assert "'retired'" in lines[0] and lines[0].endswith('not "capasity"')


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, None),
        ({"authorization": "Bearer x", "x-auth-key": "y"}, None),
        ({"authorization": "Bearer default:capacity"}, None),
        ({"x-emulator-fault": "stall"}, "stall"),
        ({"x-emulator-fault": "stall", "authorization": "Bearer fault:capacity"}, "stall"),
        ({"authorization": "Bearer fault:capacity"}, "capacity"),
        ({"authorization": "bearer  fault:stall;after_events=2"}, "stall;after_events=2"),
        ({"x-auth-email": "a@b.example", "x-auth-key": "fault:auth"}, "auth"),
        ({"x-auth-user-service-key": "fault:auth"}, "auth"),
        ({"authorization": "Bearer x", "cf-aig-authorization": "Bearer fault:auth"}, "auth"),
        ({"authorization": "Bearer fault:"}, ""),
    ],
)
def test_a_call_says_its_fault_in_a_header_or_a_token(
    headers: dict[str, str], text: str | None
) -> None:
    assert requested_fault(headers) == text


def test_what_a_call_says_may_have_options() -> None:
    assert parse_fault("capacity").fault == "capacity"
    assert parse_fault("stall; after_events=3").after_events == 3
    assert parse_fault("slow-first-token;seconds=0.25").seconds == 0.25


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["'capacity'", "'slow-first-token'"]),
        ("nonsense", ["'capacity'", '"nonsense"']),
        ("capacity;seconds=1", ["seconds: this is for slow-first-token"]),
        ("capacity;after_events=1", ["after_events: this is for cut-mid-event, cut-mid-utf8"]),
        ("stall;after_events=x;times=2", ["after_events: ", "; times: "]),
        ("slow-first-token;seconds=nan", ["seconds: "]),
        ("stall;", [": Extra inputs"]),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_can(text: str, parts: list[str]) -> None:
    with pytest.raises(WireError) as caught:
        parse_fault(text)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


class Client:
    """Calls the layer as a server would: sends a body, and then leaves, or does not."""

    def __init__(self, app: ASGIApp, made: FaultRules | None = None) -> None:
        self.made = made or FaultRules()
        self._app = FaultMiddleware(app, self.made)
        self._has_left = asyncio.Event()
        self._is_asked = False
        self.sent: list[Message] = []
        self.has_been_sent = asyncio.Event()

    async def call(self, body: Any, *, fault: str | None = None, path: str | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [(b"x-emulator-fault", fault.encode())] if fault is not None else []
        scope: Scope = {
            "type": "http",
            "method": "POST",
            "path": path or f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}",
            "headers": headers,
            "state": {},
        }

        async def receive() -> Message:
            if not self._is_asked:
                self._is_asked = True
                return {"type": "http.request", "body": data}
            await self._has_left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            self.sent.append(message)
            self.has_been_sent.set()

        await asyncio.wait_for(self._app(scope, receive, send), TIMEOUT_S)

    def leave(self) -> None:
        self._has_left.set()

    @property
    def text(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def is_complete(self) -> bool:
        return not self.sent[-1].get("more_body", False)


class Streaming:
    """An application that streams events, and goes on until the client leaves if told to."""

    def __init__(self, *texts: str, is_endless: bool = False) -> None:
        self._texts = texts
        self._is_endless = is_endless
        self.saw_client_leave = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-type", b"text/event-stream")]})
        for text in self._texts:
            await send({"type": "http.response.body", "body": data(text), "more_body": True})
        if self._is_endless:
            self.saw_client_leave = (await receive())["type"] == "http.disconnect"
            return
        await send({"type": "http.response.body", "body": END_OF_STREAM, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def data(text: str) -> bytes:
    return event({"response": text})


def met(app: ASGIApp, fault: str, body: Any = None) -> Client:
    """A client whose call with this fault has come to its end."""

    async def call() -> Client:
        client = Client(app)
        await client.call({"stream": True} if body is None else body, fault=fault)
        return client

    return asyncio.run(call())


def test_a_stream_is_cut_in_the_event_after_so_many() -> None:
    client = met(Streaming("one", "two", "three"), "cut-mid-event;after_events=2")
    assert client.text.startswith(data("one") + data("two"))
    rest = client.text.removeprefix(data("one") + data("two"))
    assert 0 < len(rest) < len(data("three")) and data("three").startswith(rest)
    assert not client.is_complete


def test_a_stream_may_be_cut_in_its_first_event() -> None:
    client = met(Streaming("one"), "cut-mid-event;after_events=0")
    assert data("one").startswith(client.text) and 0 < len(client.text) < len(data("one"))


def test_a_stream_that_is_too_short_breaks_in_its_end() -> None:
    client = met(Streaming("one"), "cut-mid-event;after_events=9")
    assert client.text == data("one") + END_OF_STREAM[: len(END_OF_STREAM) // 2]
    assert not client.is_complete


def test_a_stream_is_cut_in_a_character_that_is_there() -> None:
    client = met(Streaming("one", "an äpple"), "cut-mid-utf8")
    assert client.text == data("one") + data("an äpple").split(b"\xa4")[0]
    assert client.text.endswith(b"an \xc3")


@pytest.mark.parametrize(
    ("body", "beginning"),
    [
        ({"response": "two", "p": "abc"}, b'data: {"response":"'),
        ({"choices": [{"index": 0, "delta": {"content": "x"}}]}, b'{"content":"'),
        ({"choices": [{"index": 0, "text": "x"}]}, b'"text":"'),
        ({"result": [{"name": "name", "value": ["x"]}]}, b'"value":["'),
        ({"usage": {}}, b"data: "),
    ],
)
def test_without_such_a_character_one_is_put_in(body: Any, beginning: bytes) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(events(), headers={"content-type": "text/event-stream"})(
            scope, receive, send
        )

    async def events() -> Any:
        yield event(body)

    client = met(app, "cut-mid-utf8;after_events=0")
    assert client.text.endswith(beginning + b"\xf0")


def test_a_broken_stream_is_given_up_behind_it() -> None:
    app = Streaming("one", "two", is_endless=True)
    assert met(app, "cut-mid-event").text.startswith(data("one"))
    assert app.saw_client_leave


def test_a_stalled_stream_is_given_up_behind_it_while_its_client_waits() -> None:
    app = Streaming("one", "two", is_endless=True)

    async def call() -> Client:
        client = Client(app)
        calling = asyncio.create_task(client.call({"stream": True}, fault="stall"))
        await eventually(lambda: app.saw_client_leave)
        assert not calling.done()
        client.leave()
        await calling
        return client

    client = asyncio.run(call())
    assert client.text == data("one")
    assert not client.is_complete


def test_a_reset_lets_a_stalled_stream_go() -> None:
    async def call() -> bool:
        client = Client(Streaming("one", "two"))
        calling = asyncio.create_task(client.call({"stream": True}, fault="stall"))
        await client.has_been_sent.wait()
        await eventually(lambda: client.text == data("one"))
        client.made.reset()
        await calling
        return client.is_complete

    assert not asyncio.run(call())


def test_a_client_that_leaves_before_its_slow_token_reaches_no_model() -> None:
    asked = False

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked = True

    async def call() -> None:
        client = Client(app)
        client.leave()
        await client.call({}, fault="slow-first-token;seconds=60")

    asyncio.run(call())
    assert not asked


def test_a_slow_token_comes_all_the_same() -> None:
    client = met(Streaming("one"), "slow-first-token;seconds=0.01")
    assert client.text == data("one") + END_OF_STREAM
    assert client.is_complete


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True, "prompt": "x"},
        {"input": {"stream": True}},
        {"inputs": {"stream": True}, "options": {}},
        [{"provider": "workers-ai", "query": {"stream": True}}],
    ],
)
def test_json_instead_of_a_stream_is_asked_for_in_every_form(body: Any) -> None:
    client = met(repeat_body, "json-instead-of-stream", body)
    expected = json.loads(json.dumps(body).replace("true", "false"))
    assert json.loads(client.text) == expected


@pytest.mark.parametrize("body", [{"stream": False}, {"stream": "true"}, {}, b"", b"{", [1], "x"])
def test_a_call_for_no_stream_gets_its_answer(body: Any) -> None:
    client = met(repeat_body, "cut-mid-event", body)
    assert client.text == (body if isinstance(body, bytes) else json.dumps(body).encode())
    assert client.is_complete


def test_a_refusal_of_a_stream_is_whole() -> None:
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("{}", 400, media_type="application/json")(scope, receive, send)

    assert met(refuse, "cut-mid-event").text == b"{}"


def test_a_body_that_is_too_large_is_the_application_s_to_refuse() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Response("too large")(scope, receive, send)

    assert met(app, "capacity", b" " * (17 * 2**20)).text == b"too large"


def test_only_calls_for_text_have_faults() -> None:
    async def call() -> Client:
        client = Client(repeat_body)
        await client.call({}, fault="capacity", path="/_emulator/reset")
        return client

    assert asyncio.run(call()).text == b"{}"


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/{FP16}", {}, FP16),
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/v1/chat/completions", {"model": FP16}, FP16),
        (f"/v1/{ACCOUNT_ID}/gw/compat/chat/completions", {"model": f"workers-ai/{FP16}"}, FP16),
        (f"/v1/{ACCOUNT_ID}/gw/workers-ai/run/{FP16}", {}, FP16),
        (f"/v1/{ACCOUNT_ID}/gw", [{"endpoint": FP16}, {"endpoint": INT8}], FP16),
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/run", {"model": "my:@cf/x/y"}, "@cf/x/y"),
        (f"/client/v4/accounts/{ACCOUNT_ID}/ai/run", {}, "undefined"),
    ],
)
def test_the_retired_model_is_the_one_that_was_asked(path: str, body: Any, named: str) -> None:
    async def call() -> Client:
        client = Client(repeat_body)
        await client.call(body, fault="retired", path=path)
        return client

    message = json.loads(asyncio.run(call()).text)
    assert f": {named} was deprecated on 2026-05-30" in json.dumps(message)


async def repeat_body(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await Response(body)(scope, receive, send)


async def eventually(is_so: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not is_so():
            await asyncio.sleep(0)

    await asyncio.wait_for(poll(), TIMEOUT_S)
