"""Tests that responses of a model and of the real service are replayed byte for byte."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.test_binding import native, tensors, via_miniflare, via_workerd
from tests.server import (
    ACCOUNT_ID,
    INT8,
    ServerProcess,
    command,
    server_process,
    wait_until,
)

TOKEN = "cfut_0123456789abcdefghijklmnopqrstuvwxyz"
OTHER_ACCOUNT = "f" * 32
SHORT = {"prompt": "Say yes.", "max_tokens": 6}
STREAM = {**SHORT, "stream": True}
CHAT = {"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 6, "model": INT8}
STEP = {"provider": "workers-ai", "endpoint": INT8, "headers": {}, "query": SHORT}
RECORDED_HEADERS = re.compile(
    "content-type|content-length|cf-ai-.*|cf-aig-.*|x-emulator-.*|x-accel-.*"
)

Call = Callable[[ServerProcess], httpx.Response]


def run(body: Any, model: str = INT8) -> Call:
    return lambda server: server.run(body, model)


def api(path: str, body: Any) -> Call:
    return lambda server: server.post(f"{server.base_url}/accounts/{ACCOUNT_ID}/ai{path}", body)


def via_gateway(path: str, body: Any) -> Call:
    return lambda server: server.post(f"{server.root}/v1/{ACCOUNT_ID}/gw{path}", body)


def binding(body: Any, path: str = "/run?version=3", through: Any = via_workerd) -> Call:
    return lambda server: through(server, body, path=path)


CALLS: list[Call] = [
    run(SHORT),
    run(STREAM),
    run({**SHORT, "seed": 1, "temperature": 0}),
    run({"messages": CHAT["messages"], "max_tokens": 6, "stream": True}),
    run({"prompt": 1}),  # error 5006
    run({**STREAM, "temperature": 9}),  # error 5006
    run(SHORT, "@cf/meta/no-such-model"),  # error 7000
    run({**SHORT, "max_tokens": 100_000}),  # error 5021
    run({**SHORT, "lora": "x"}),  # error 5005
    api("/run", {"model": INT8, "input": STREAM}),
    api("/v1/chat/completions", CHAT),
    api(
        "/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    ),
    api("/v1/completions", {**STREAM, "model": INT8}),
    api("/v1/chat/completions", {**CHAT, "model": "nothing"}),  # error 5007
    via_gateway(f"/workers-ai/{INT8}", SHORT),
    via_gateway("/workers-ai/v1/chat/completions", {**CHAT, "stream": True}),
    via_gateway("/compat/chat/completions", {**CHAT, "model": f"workers-ai/{INT8}"}),
    via_gateway("", [{"provider": "openai", "endpoint": "x"}, STEP]),
    binding(native(SHORT)),
    binding(native(STREAM), through=via_miniflare),
    binding(native(SHORT), "/run?version=2"),  # the response is compressed
    binding(tensors("[INST] Say yes. [/INST]", 6, stream=True), "/run"),
    binding(native({}), "/ai-gateway/run?version=3"),  # error 5006
]


def recorded_parts(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """Returns the status, the recorded headers and the body of a response."""
    headers = {
        name: value for name, value in response.headers.items() if RECORDED_HEADERS.fullmatch(name)
    }
    return response.status_code, headers, response.content


def recording(folder: Path, *flags: str) -> Any:
    return server_process("--backend", "record", "--cassettes", str(folder), *flags)


def replaying(folder: Path, *flags: str) -> Any:
    return server_process("--backend", "replay", "--cassettes", str(folder), *flags)


def recorded_from_script(folder: Path, *calls: Call) -> list[httpx.Response]:
    with recording(folder, "--record-from", "scripted") as server:
        return [call(server) for call in calls]


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


# ── replay ────────────────────────────────────────────────────────────────────────────────────


def test_responses_of_a_model_are_replayed_byte_for_byte_without_the_model(tmp_path: Path) -> None:
    folder, no_models = tmp_path / "recordings", tmp_path / "models"
    with recording(folder, "--parallel", "2", "--context-length", "1024") as server:
        originals = [recorded_parts(call(server)) for call in CALLS]
        assert server.metric("workers_ai_emulator_slots") == 2
    assert {status for status, _, _ in originals} == {200, 400, 405, 413}
    assert len(list(folder.iterdir())) == len(CALLS)
    with replaying(folder, "--models-dir", str(no_models)) as server:
        for call, original in zip(CALLS, originals, strict=True):
            assert recorded_parts(call(server)) == original
        assert "slots{" not in httpx.get(f"{server.root}/_emulator/metrics").text
    assert not no_models.exists()


def test_the_error_for_a_wrong_model_name_is_replayed(tmp_path: Path) -> None:
    def call(server: ServerProcess) -> httpx.Response:
        return server.run(SHORT, model="openai/no-such-model")

    (original,) = recorded_from_script(tmp_path, call)
    assert (original.status_code, original.json()["errors"][0]["code"]) == (404, 7003)
    with replaying(tmp_path) as server:
        assert recorded_parts(call(server)) == recorded_parts(original)


def test_the_events_of_a_stream_are_replayed_one_by_one(tmp_path: Path) -> None:
    (original,) = recorded_from_script(tmp_path, run(STREAM))
    with replaying(tmp_path) as server, server.connect(STREAM) as connection:
        raw = b""
        while not raw.endswith(b"\r\n0\r\n\r\n"):
            raw += connection.recv(2**16)
    chunks = re.findall(rb"[0-9a-f]+\r\n(data: .*\n\n)\r\n", raw)
    assert b"".join(chunks) == original.content and len(chunks) == original.text.count("\n\n")


def test_replay_ignores_the_account_the_token_and_the_formatting(tmp_path: Path) -> None:
    (original,) = recorded_from_script(tmp_path, run(SHORT))
    with replaying(tmp_path) as server:
        url = (
            server.run_url().replace(ACCOUNT_ID, OTHER_ACCOUNT).replace("cf/meta/", "cf%2Fmeta%2F")
        )
        response = httpx.post(url, content=json.dumps(SHORT, indent=2), headers={"x-auth-key": "x"})
        assert recorded_parts(response) == recorded_parts(original)


def test_a_changed_request_is_an_error_with_the_difference(tmp_path: Path) -> None:
    recorded_from_script(tmp_path, run(SHORT), run({"prompt": "Something else."}))
    with replaying(tmp_path) as server:
        response = server.run({**SHORT, "prompt": "Say yes!", "seed": 1})
        binding_response = via_workerd(server, native(SHORT))
        wait_until(lambda: "".join(server.log).count("ERROR No recording of POST") == 2)
        line = next(line for line in server.log if "ERROR No recording of POST" in line)
    assert (response.status_code, response.headers["x-should-retry"]) == (500, "false")
    (error,) = response.json()["errors"]
    assert error["code"] == 3901 and str(tmp_path) in error["message"]
    assert ".json; lines with - are only in the recording, lines with + only in this call:" in line
    shown = ['- "prompt": "Say yes."', '+ "prompt": "Say yes!"', '+ "seed": 1']
    assert all(text in error["message"] and text in line for text in shown)
    assert binding_response.json()["internalCode"] == 3901


def test_responses_to_equal_requests_are_replayed_in_order_and_the_last_one_repeats(
    tmp_path: Path,
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("[{answer: one, times: 1}, {answer: two, times: 1}, {answer: three}]")
    folder = tmp_path / "recordings"
    with recording(folder, "--record-from", "scripted", "--script", str(rules)) as server:
        originals = [server.run(SHORT).text for _ in range(3)]
    assert len(set(originals)) == 3
    with replaying(folder) as server:
        assert [server.run(SHORT).text for _ in range(4)] == [*originals, originals[-1]]
        assert httpx.post(f"{server.root}/_emulator/reset").is_success
        assert server.run(SHORT).text == originals[0]


def test_recording_a_request_again_replaces_the_recordings_of_an_earlier_run(
    tmp_path: Path,
) -> None:
    recorded_from_script(tmp_path, run(SHORT), run(SHORT), run(STREAM))
    (newest,) = recorded_from_script(tmp_path, run(SHORT))
    assert len(list(tmp_path.iterdir())) == 2
    with replaying(tmp_path) as server:
        assert [server.run(SHORT).text for _ in range(2)] == [newest.text] * 2


def test_a_header_chooses_to_record_or_to_replay(tmp_path: Path) -> None:
    flags = ["--backend", "scripted", "--record-from", "scripted", "--cassettes", str(tmp_path)]
    with server_process(*flags) as server:

        def call(backend: str) -> httpx.Response:
            headers = {"x-emulator-backend": backend}
            return httpx.post(server.run_url(), json=SHORT, headers=headers)

        assert server.run(SHORT).is_success and not list(tmp_path.iterdir())
        assert call("replay").json()["errors"][0]["code"] == 3901
        assert recorded_parts(call("record")) == recorded_parts(call("replay"))
        assert "record, replay" in call("nothing").text


def test_a_replayed_stream_keeps_its_pace_and_ends_when_the_client_disconnects(
    tmp_path: Path,
) -> None:
    """At the speed 0.00001, the second event would be sent only after some hours."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("[{answer: one two three, tokens_per_second: 5}]")
    folder = tmp_path / "recordings"
    flags = ["--record-from", "scripted", "--script", str(rules), "--record-timing"]
    with recording(folder, *flags) as server:
        server.run(STREAM)
    with replaying(folder, "--replay-speed", "0.00001") as server:
        with server.connect(STREAM) as connection:
            path = only_file(folder)
            assert json.loads(path.read_text())["answer"]["timed_events"][1][0] >= 100
            connection.shutdown(1)
        wait_until(lambda: any("POST" in line for line in server.log))
    with replaying(folder, "--replay-speed", "1000") as server:
        assert server.run(STREAM).text.endswith("data: [DONE]\n\n")


def test_a_stream_is_replayed_up_to_the_point_where_the_client_disconnected(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("[{answer: one two three, tokens_per_second: 0.001}]")
    folder = tmp_path / "recordings"
    with recording(folder, "--record-from", "scripted", "--script", str(rules)) as server:
        with server.connect(STREAM) as connection:
            while b'"one"' not in connection.recv(2**16):
                pass
        wait_until(lambda: any(folder.glob("*.json")))
    assert json.loads(only_file(folder).read_text())["answer"]["ending"] == "client left"
    with (
        replaying(folder) as server,
        httpx.stream("POST", server.run_url(), json=STREAM) as response,
    ):
        chunks = response.iter_text()
        assert '"one"' in next(chunks)
        with pytest.raises(httpx.RemoteProtocolError):
            next(chunks)


def test_a_client_that_disconnects_during_its_upload_is_no_unmatched_call(tmp_path: Path) -> None:
    with replaying(tmp_path) as server:
        with server.connect(SHORT, is_whole=False):
            pass
        wait_until(lambda: server.outcomes() == [(499, "cancelled")])
        assert httpx.get(f"{server.root}/_emulator/unmatched").json()["requests"] == []


def test_replay_checks_tokens(tmp_path: Path) -> None:
    recorded_from_script(tmp_path, run(SHORT), via_gateway(f"/workers-ai/{INT8}", SHORT))
    with replaying(tmp_path, "--api-token", TOKEN) as server:
        assert server.run(SHORT).json()["errors"][0]["code"] == 9106
        assert via_gateway(f"/workers-ai/{INT8}", SHORT)(server).json()["error"][0]["code"] == 2009
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert httpx.post(server.run_url(), json=SHORT, headers=headers).is_success
        bad_account = server.run_url().replace(ACCOUNT_ID, "nobody")
        assert httpx.post(bad_account, json=SHORT).json()["errors"][0]["code"] == 7003


def test_a_recording_that_is_damaged_while_the_server_runs_is_an_error_with_its_name(
    tmp_path: Path,
) -> None:
    recorded_from_script(tmp_path, run(SHORT))
    path = only_file(tmp_path)
    with replaying(tmp_path) as server:
        path.write_text(path.read_text()[:-20])
        (error,) = server.run(SHORT).json()["errors"]
        assert error["code"] == 3902 and str(path) in error["message"]


@pytest.mark.parametrize(
    "flags", [["replay"], *(["record", "--record-mode", m] for m in ("new_episodes", "once"))]
)
def test_a_damaged_recording_is_an_error_at_the_start_with_its_line(
    tmp_path: Path, flags: list[str]
) -> None:
    recorded_from_script(tmp_path, run(SHORT), run(STREAM))
    one, other = sorted(tmp_path.iterdir())
    one.write_text(one.read_text().replace('"status": 200', '"status": 2000'))
    other.write_text(other.read_text().replace('"answer":', '"answer"'))
    arguments = command("--backend", *flags, "--cassettes", str(tmp_path))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    first, second = done.stderr.splitlines()
    line = one.read_text()[: one.read_text().index('"status"')].count("\n") + 1
    assert done.returncode == 1
    mistake = f"line {line}: `answer.status` takes a whole number from 200 to 599, not 2000"
    assert f"--cassettes: {one} is no recording: {mistake}" in first
    line = other.read_text()[: other.read_text().index('"answer"')].count("\n") + 1
    assert f"--cassettes: {other} is no recording: line {line}: Expecting ':'" in second


def test_an_edited_request_is_replayed_once_its_file_has_the_name_in_the_error(
    tmp_path: Path,
) -> None:
    recorded_from_script(tmp_path, run(SHORT))
    path = only_file(tmp_path)
    path.write_text(path.read_text().replace("Say yes.", "Say no."))
    with replaying(tmp_path) as server:
        for prompt in ("Say yes.", "Say no."):
            (error,) = server.run({**SHORT, "prompt": prompt}).json()["errors"]
            (name,) = re.findall(r"rename the file to (\S+\.json)", error["message"])
        server.wait_for_line(f"WARNING {path} is not replayed")
        path.rename(tmp_path / name)
        assert server.run({**SHORT, "prompt": "Say no."}).is_success


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--backend", "replay", "--cassettes", "/nowhere/at/all"], "--cassettes: cannot read"),
        (["--backend", "record", "--cassettes", "/proc/none"], "--cassettes: cannot write"),
        (["--record-from", "cloudflare", "--cloudflare-url", "here"], "--cloudflare-url takes"),
        (["--record-from", "cloudflare", "--cloudflare-url", "http://x:y"], "takes a URL"),
        (["--record-from", "upstream"], "--record-from upstream needs --upstream-url"),
    ],
)
def test_an_invalid_setting_is_one_line(flags: list[str], reason: str) -> None:
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert reason in line


# ── secrets ───────────────────────────────────────────────────────────────────────────────────

SECRET_HEADERS = [
    {"authorization": f"Bearer {TOKEN}"},
    {"authorization": f"bearer  {TOKEN}"},
    {"cf-aig-authorization": f"Bearer {TOKEN}"},
    {"x-auth-key": TOKEN, "x-auth-email": "somebody@example.com"},
    {"x-auth-user-service-key": TOKEN},
    {"cf-access-client-secret": TOKEN},
    {"cookie": f"a=1; session={TOKEN}"},
]


def test_no_recording_log_or_error_has_credentials(tmp_path: Path) -> None:
    folder, email = tmp_path / "recordings", "somebody@example.com"
    prompts = ["I am", f"I am {TOKEN}", f"I am {TOKEN} {email}"]
    bodies: list[dict[str, Any]] = [{"prompt": prompt} for prompt in prompts]
    bodies += [bodies[1] | {"stream": True}, {"prompt": "I am", TOKEN: 1}]
    step = {**STEP, "headers": {"Authorization": f"Bearer {TOKEN}"}}
    with recording(folder, "--record-from", "scripted") as server:
        for headers in SECRET_HEADERS:
            for body in bodies:
                httpx.post(server.run_url(), json=body, headers=headers)
                via_workerd(server, native(body), headers=headers)
            httpx.post(f"{server.root}/v1/{ACCOUNT_ID}/gw", json=[step], headers=headers)
    with replaying(folder) as replayer:
        body = {"prompt": f"I am {TOKEN} {email}, more or less"}
        miss = httpx.post(replayer.run_url(), json=body, headers=SECRET_HEADERS[3])
    assert "more or less" in miss.text
    files = list(folder.iterdir())
    num_calls = {file: json.loads(file.read_text()).get("times", 1) for file in files}
    assert sum(num_calls.values()) == len(SECRET_HEADERS) * (2 * len(bodies) + 1)
    stored = "".join([file.name + file.read_text() for file in files])
    assert "I am [redacted]" in stored and ACCOUNT_ID not in stored
    assert TOKEN not in stored + miss.text + "".join(server.log + replayer.log)
    with_email = [file for file in files if email in file.read_text()]
    # For one pair of headers, the email address is a credential and is redacted.
    assert sum(num_calls[file] for file in with_email) == 2 * (len(SECRET_HEADERS) - 1)


def test_a_response_with_a_credential_that_cannot_be_redacted_is_not_stored(tmp_path: Path) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "cf-consn-sdk-version": "1.1.0"}  # gets gzip
    with recording(tmp_path, "--record-from", "scripted") as server:
        body = native({"prompt": f"I am {TOKEN}"})
        compressed = via_workerd(server, body, path="/run?version=2", headers=headers)
        assert TOKEN in gzip.decompress(compressed.content).decode()
        wait_until(lambda: any("not recorded" in line for line in server.log))
    assert not list(tmp_path.iterdir())


# ── the real service ──────────────────────────────────────────────────────────────────────────


class Service(ThreadingHTTPServer):
    """A fake of Cloudflare's service. Its streams wait for `go_on` after each part."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), ServiceHandler)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.go_on = threading.Semaphore(0)
        self.num_disconnects = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class ServiceHandler(BaseHTTPRequestHandler):
    """Sends a response that the prompt of the request chooses."""

    protocol_version = "HTTP/1.1"
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append((self.path, headers, body))
        prompt = json.loads(body).get("prompt")
        if prompt == "stream":
            self.stream()
        elif prompt == "break":
            self.send_start(200, {"content-type": "text/event-stream"}, length=None)
            self.send_chunk(b'data: {"response":"a"}\n\n')
        else:
            self.whole(prompt)

    def whole(self, prompt: str) -> None:
        statuses = {"gone": 410, "busy": 429, "unauthorized": 401, "teapot": 500}
        status = statuses.get(prompt, 200)
        data = json.dumps({"result": {"response": f"from the service: {prompt}"}}).encode()
        headers = {"content-type": "application/json", "set-cookie": "__cflb=secret"}
        if status != 401:
            headers |= {"cf-ai-req-id": "an-id", "cf-ai-neurons": "1.98"}
            headers |= {"cf-aig-note": "✓".encode().decode("latin-1")}
        self.send_start(status, headers, length=len(data))
        self.wfile.write(data)

    def stream(self) -> None:
        self.send_start(200, {"content-type": "text/event-stream"}, length=None)
        try:
            # The second event is sent in two parts. The cut is inside of a character.
            whole = 'data: {"response":"é"}\n\n'.encode()
            for part in (
                b'data: {"response":"a"}\n\n',
                whole[:20],
                whole[20:],
                b"data: [DONE]\n\n",
            ):
                self.send_chunk(part)
                assert self.server.go_on.acquire(timeout=30)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.server.num_disconnects += 1

    def send_start(self, status: int, headers: dict[str, str], length: int | None) -> None:
        self.send_response(status)
        length_header = ("transfer-encoding", "chunked")
        if length is not None:
            length_header = ("content-length", str(length))
        for name, value in [*headers.items(), length_header, ("connection", "close")]:
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def send_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@contextmanager
def recording_service(folder: Path, service: Service, *flags: str) -> Iterator[ServerProcess]:
    source = ["--record-from", "cloudflare", "--cloudflare-url", service.url]
    with recording(folder, *source, *flags) as server:
        yield server


def call_service(
    server: ServerProcess, prompt: str, model: str = "@cf/new/model"
) -> httpx.Response:
    headers = {
        b"authorization": f"Bearer {TOKEN}".encode(),
        b"cookie": b"mine=1",
        b"cf-aig-skip-cache": b"true",
        b"cf-cache-ttl": b"60",
        b"accept-encoding": b"gzip, br",
        b"user-agent": "Müller/1.0".encode("latin-1"),
        b"cf-aig-metadata": '{"city":"Köln"}'.encode(),
    }
    url = f"{server.run_url(model)}?a=%20b"
    return httpx.post(url, json={"prompt": prompt}, headers=headers, timeout=60)


def test_the_real_service_receives_the_clients_request(tmp_path: Path, service: Service) -> None:
    with recording_service(tmp_path, service) as server:
        response = call_service(server, "hello", "@cf%2Fnew%2Fmodel")
    ((path, headers, body),) = service.requests
    assert path == f"/client/v4/accounts/{ACCOUNT_ID}/ai/run/@cf%2Fnew%2Fmodel?a=%20b"
    assert json.loads(body) == {"prompt": "hello"}
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert (headers["cf-aig-skip-cache"], headers["accept-encoding"]) == ("true", "identity")
    assert headers["cf-cache-ttl"] == "60"
    assert headers["user-agent"] == "Müller/1.0"
    assert headers["cf-aig-metadata"].encode("latin-1") == '{"city":"Köln"}'.encode()
    assert "cookie" not in headers and "x-emulator-backend" not in headers
    assert response.json()["result"]["response"] == "from the service: hello"
    assert response.headers["cf-ai-neurons"] == "1.98"
    assert (b"cf-aig-note", "✓".encode()) in response.headers.raw
    assert response.headers["x-emulator-model"] == "cloudflare"
    assert "set-cookie" not in response.headers


def test_responses_of_the_real_service_are_replayed(tmp_path: Path, service: Service) -> None:
    prompts = ["hello", "gone", "busy", "teapot"]
    with recording_service(tmp_path, service) as server:
        originals = [recorded_parts(call_service(server, prompt)) for prompt in prompts]
    assert [status for status, _, _ in originals] == [200, 410, 429, 500]
    text = "".join(file.read_text() for file in tmp_path.iterdir())
    assert TOKEN not in text and ACCOUNT_ID not in text and "__cflb" not in text
    num_requests = len(service.requests)
    with replaying(tmp_path) as server:
        assert [recorded_parts(call_service(server, prompt)) for prompt in prompts] == originals
        assert call_service(server, "new").json()["errors"][0]["code"] == 3901
    assert len(service.requests) == num_requests


def test_chunks_of_the_real_service_are_passed_on_at_once(tmp_path: Path, service: Service) -> None:
    body = {"prompt": "stream"}
    with recording_service(tmp_path, service) as server:
        headers = {"x-auth-email": "me@example.com", "x-auth-key": TOKEN}
        with httpx.stream(
            "POST", server.run_url(), json=body, headers=headers, timeout=60
        ) as response:
            chunks = []
            for chunk in response.iter_raw():
                chunks.append(chunk)
                service.go_on.release()  # lets the service send the next chunk
        assert len(chunks) == 4
        events = json.loads(only_file(tmp_path).read_text())["answer"]["events"]
    assert events == [{"response": "a"}, {"response": "é"}, "data: [DONE]\n\n"]
    with replaying(tmp_path) as server:
        assert server.run(body).content == b"".join(chunks)


def test_a_stream_of_the_real_service_is_cancelled_when_the_client_disconnects(
    tmp_path: Path, service: Service
) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    body = {"prompt": "stream"}
    with recording_service(tmp_path, service) as server:
        with httpx.stream("POST", server.run_url(), json=body, headers=headers) as response:
            assert "a" in next(response.iter_text())
        wait_until(lambda: any(tmp_path.glob("*.json")))

        def is_disconnected() -> bool:
            service.go_on.release()
            return service.num_disconnects == 1

        wait_until(is_disconnected)
    assert json.loads(only_file(tmp_path).read_text())["answer"]["ending"] == "client left"


def test_a_stream_that_the_real_service_cuts_off_is_cut_off(
    tmp_path: Path, service: Service
) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}

    def call(server: ServerProcess) -> str:
        text = ""
        with (
            pytest.raises(httpx.RemoteProtocolError),
            httpx.stream("POST", server.run_url(), json={"prompt": "break"}, headers=headers) as a,
        ):
            for part in a.iter_text():
                text += part
        return text

    with recording_service(tmp_path, service) as server:
        assert call(server) == 'data: {"response":"a"}\n\n'
        wait_until(lambda: any(tmp_path.glob("*.json")))
    assert json.loads(only_file(tmp_path).read_text())["answer"]["ending"] == "broken off"
    with replaying(tmp_path) as server:
        assert call(server) == 'data: {"response":"a"}\n\n'


def test_credentials_in_the_body_of_a_gateway_call_are_sent_but_not_stored(
    tmp_path: Path, service: Service
) -> None:
    step = {**STEP, "headers": {"Authorization": f"Bearer {TOKEN}"}}
    with recording_service(tmp_path, service) as server:
        original = recorded_parts(via_gateway("", step)(server))
    ((path, _, body),) = service.requests
    assert path == f"/v1/{ACCOUNT_ID}/gw" and TOKEN.encode() in body
    assert TOKEN not in only_file(tmp_path).read_text()
    with replaying(tmp_path) as server:
        step = {**STEP, "headers": {"Authorization": "Bearer other"}}
        assert recorded_parts(via_gateway("", step)(server)) == original


def test_errors_about_the_callers_credentials_are_not_recorded(
    tmp_path: Path, service: Service
) -> None:
    with recording_service(tmp_path, service) as server:
        assert call_service(server, "unauthorized").status_code == 401
        assert server.run({"prompt": "hello"}).json()["errors"][0]["code"] == 9106
        binding_error = via_workerd(server, native(SHORT), headers={"x-auth-key": TOKEN}).json()
        assert binding_error["internalCode"] == 3903 and "binding" in binding_error["message"]
        wait_until(lambda: any("401 is not a response of a model" in line for line in server.log))
    assert len(service.requests) == 1 and not list(tmp_path.iterdir())


def test_an_unreachable_service_is_an_error_with_the_reason(tmp_path: Path) -> None:
    flags = ["--record-from", "cloudflare", "--cloudflare-url", "http://127.0.0.1:1"]
    with recording(tmp_path, *flags) as server:
        response = call_service(server, "hello")
    (error,) = response.json()["errors"]
    assert (response.status_code, error["code"]) == (502, 3903)
    assert "the real service cannot be asked: 127.0.0.1" in error["message"]
    assert "HTTPS_PROXY" in error["message"] and "--record-mode none" in error["message"]
    assert not list(tmp_path.iterdir())
