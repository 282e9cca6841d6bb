"""Tests `exec`: it redirects unchanged programs, forwards signals, and returns exit codes."""

from __future__ import annotations

import http.server
import json
import os
import pty
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests import npm
from tests.server import (
    ACCOUNT_ID,
    ENDLESS,
    INT8,
    ServerProcess,
    server_process,
    wait_until,
)

URL = f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT_ID}/ai/run/{INT8}"
LIMIT_S = 120

PROGRAM = """
import asyncio, certifi, httpx, requests, sys
url, body = sys.argv[1], {"prompt": "Hi", "max_tokens": 2}
headers = {"Authorization": "Bearer token"}

async def post(**options):
    async with httpx.AsyncClient(timeout=60, **options) as client:
        return await client.post(url, json=body, headers=headers)
"""
PYTHON_CALLS = {
    "requests": "requests.post(url, json=body, headers=headers)",
    "httpx": "httpx.post(url, json=body, headers=headers, timeout=60)",
    "requests, with certifi's certificates": (
        "requests.post(url, json=body, headers=headers, verify=certifi.where())"
    ),
    "httpx, with certifi's certificates": (
        "httpx.post(url, json=body, headers=headers, timeout=60, verify=certifi.where())"
    ),
    "httpx, without the environment": (
        "httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)"
    ),
    "httpx, async": "asyncio.run(post())",
    "httpx, async, without a proxy": "asyncio.run(post(transport=httpx.AsyncHTTPTransport()))",
    "httpx, without a proxy": (
        "httpx.Client(transport=httpx.HTTPTransport(), timeout=60)"
        ".post(url, json=body, headers=headers)"
    ),
}
NODE_REQUEST = '{method: "POST", headers: {authorization: "Bearer token"}}'
NODE_BODY = 'JSON.stringify({prompt: "Hi", max_tokens: 2})'
NODE_CALLS = {
    "fetch": f"""
        fetch(process.argv[1], {{...{NODE_REQUEST}, body: {NODE_BODY}}})
          .then((response) => response.text()).then(console.log);""",
    "https": f"""
        require("node:https").request(process.argv[1], {NODE_REQUEST}, (response) =>
          response.pipe(process.stdout)).end({NODE_BODY});""",
    "https, with an agent": f"""
        const https = require("node:https");
        const agent = new https.Agent({{keepAlive: false}});
        https.request(process.argv[1], {{agent, ...{NODE_REQUEST}}}, (response) =>
          response.pipe(process.stdout)).end({NODE_BODY});""",
}

# Both of the functions that versions of Net::HTTP call, then Net::HTTP itself.
RUBY_PROGRAM = """
require "net/http"
host, port = "api.cloudflare.com", 443
sockets = [TCPSocket.open(host, port), Socket.tcp(host, port, connect_timeout: 60)]
address = ENV.fetch("WORKERS_AI_EMULATOR_TLS_ADDRESS")
sockets.each { |socket| abort unless socket.remote_address.inspect_sockaddr == address }
headers = {"Authorization" => "Bearer token", "Content-Type" => "application/json"}
puts Net::HTTP.post(URI(ARGV[0]), '{"prompt": "Hi", "max_tokens": 2}', headers).body
"""


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives each test its own cache folder, and removes the user's proxy settings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


def exec_command(port: int, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "workers_ai_emulator", "exec", "--port", str(port), *arguments]


def run(port: int, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        exec_command(port, *arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | variables,
    )


def python_path(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def start(port: int, *arguments: str) -> subprocess.Popen[str]:
    """Starts the command under `exec`, with pipes for stdin and stdout, and without a terminal."""
    return subprocess.Popen(
        exec_command(port, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=use_sighup,
    )


def use_sighup() -> None:
    """Makes SIGHUP end the process as usual. It is ignored if the tests run under `nohup`."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.fixture
def port(server: ServerProcess) -> int:
    """The port of a running emulator."""
    return int(server.root.rpartition(":")[2])


def assert_has_completion(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["usage"]["completion_tokens"] == 2
    assert done.stderr == ""


def test_curl_reaches_the_emulator(port: int) -> None:
    body = '{"prompt": "Hi", "max_tokens": 2}'
    assert_has_completion(
        run(port, "curl", "-sS", URL, "-H", "Authorization: Bearer x", "-d", body)
    )


@pytest.mark.parametrize("name", PYTHON_CALLS)
def test_python_reaches_the_emulator(port: int, name: str) -> None:
    program = f"{PROGRAM}\nprint({PYTHON_CALLS[name]}.text)"
    assert_has_completion(run(port, sys.executable, "-c", program, URL))


def test_python_without_the_hook_uses_the_proxy(port: int) -> None:
    program = f"{PROGRAM}\nprint({PYTHON_CALLS['httpx']}.text)"
    done = run(port, sys.executable, "-E", "-c", program, URL)
    assert json.loads(done.stdout)["result"]["usage"]["completion_tokens"] == 2
    assert done.stderr.startswith("workers-ai-emulator: warning: python -E does not load ")
    assert done.stderr.count("\n") == 1


def test_a_program_that_is_not_redirected_is_warned(port: int, tmp_path: Path) -> None:
    for name in ("aiohttp", "uvloop"):
        (tmp_path / f"{name}.py").touch()
    done = run(
        port, sys.executable, "-c", "import uvloop, aiohttp", PYTHONPATH=python_path(tmp_path)
    )
    assert done.stderr.startswith("workers-ai-emulator: warning: aiohttp on uvloop is not ")
    assert done.stderr.count("\n") == 1
    for name in ("aiohttp", "uvloop"):
        done = run(port, sys.executable, "-c", f"import {name}", PYTHONPATH=python_path(tmp_path))
        assert done.stderr == ""


def test_pycurl_trusts_the_certificates(port: int, tmp_path: Path) -> None:
    (tmp_path / "pycurl.py").write_text(
        "CAINFO = 10065\n"
        "class Curl:\n"
        "    def setopt(self, *option): print(*option)\n"
        "    def reset(self): print('reset')\n"
    )
    program = "import pycurl, os; print(os.environ['CURL_CA_BUNDLE']); pycurl.Curl().reset()"
    done = run(port, sys.executable, "-c", program, PYTHONPATH=python_path(tmp_path))
    bundle, first, reset, second = done.stdout.splitlines()
    assert first == second == f"10065 {bundle}" and reset == "reset"


@pytest.mark.parametrize(
    "line", ["proxy = http://127.0.0.1:1", "--noproxy *", "socks5 127.0.0.1:1"]
)
def test_curl_reaches_the_emulator_if_its_configuration_has_a_proxy(
    port: int, tmp_path: Path, line: str
) -> None:
    (tmp_path / ".curlrc").write_text(f'header = "Authorization: Bearer token"\n{line}\n')
    body = '{"prompt": "Hi", "max_tokens": 2}'
    assert_has_completion(run(port, "curl", "-sS", URL, "-d", body, CURL_HOME=str(tmp_path)))


@pytest.mark.skipif(not shutil.which("wget"), reason="wget is not installed")
def test_wget_reaches_the_emulator_and_reads_the_users_configuration(
    port: int, tmp_path: Path
) -> None:
    settings = "use_proxy = off", "https_proxy = http://127.0.0.1:1", "no_proxy = cloudflare.com"
    (tmp_path / "wgetrc").write_text("\n".join(["header = Authorization: Bearer token", *settings]))
    body = '--post-data={"prompt": "Hi", "max_tokens": 2}'
    users = {"WGETRC": str(tmp_path / "wgetrc")}
    assert_has_completion(run(port, "wget", "-qO-", body, URL, **users))


@pytest.mark.node
@pytest.mark.parametrize("name", NODE_CALLS)
def test_node_reaches_the_emulator(port: int, name: str) -> None:
    npm.require_node()
    assert_has_completion(run(port, "node", "-e", NODE_CALLS[name], URL))


@pytest.mark.skipif(not shutil.which("ruby"), reason="ruby is not installed")
@pytest.mark.parametrize(
    "users", [{}, {"http_proxy": "http://127.0.0.1:1"}, {"HTTP_PROXY": "http://127.0.0.1:1"}]
)
def test_ruby_reaches_the_emulator_with_and_without_an_http_proxy_of_the_user(
    port: int, users: dict[str, str]
) -> None:
    """Net::HTTP reads only http_proxy, also for https. The proxy of the user does not exist."""
    assert_has_completion(run(port, "ruby", "-w", "-e", RUBY_PROGRAM, URL, **users))


def test_requests_to_the_gateway_reach_the_emulator(port: int) -> None:
    url = f"https://gateway.ai.cloudflare.com/v1/{ACCOUNT_ID}/default/workers-ai/{INT8}"
    body = '{"prompt": "Hi", "max_tokens": 2}'
    assert_has_completion(
        run(port, "curl", "-sS", url, "-H", "Authorization: Bearer x", "-d", body)
    )


def test_a_stream_is_cancelled_when_the_program_disconnects(
    server: ServerProcess, port: int
) -> None:
    program = f"""
import httpx
with httpx.stream("POST", {URL!r}, json={ENDLESS | {"stream": True}!r}, timeout=60,
                  headers={{"Authorization": "Bearer token"}}) as response:
    next(response.iter_lines())
print("disconnected", flush=True)
input()
"""

    def num_cancelled() -> float:
        return server.metric("workers_ai_emulator_requests_total", reason="cancelled")

    num_before = num_cancelled()
    with start(port, sys.executable, "-c", program) as process:
        assert line_of(process) == "disconnected"
        wait_until(lambda: num_cancelled() == num_before + 1)  # the program has not ended yet
        process.communicate("\n")
    assert process.returncode == 0


@pytest.mark.node
def test_the_ai_binding_of_a_worker_calls_the_emulator(port: int, tmp_path: Path) -> None:
    npm.require_node()
    package = tmp_path / "node_modules" / "miniflare"
    package.mkdir(parents=True)
    (package / "index.js").write_text("""
        exports.PLUGINS = { ai: {
          async getBindings({ ai }) {
            if (!ai) return [];
            const innerBindings = [{ name: "fetcher", service: { name: "remote" } }];
            return [{ name: ai.binding, wrapped: { moduleName: "ai-api", innerBindings } }];
          },
          async getServices() { return [{ name: "remote", worker: {} }]; },
        } };""")
    program = """
        const { ai: plugin } = require("miniflare").PLUGINS;
        const options = { ai: { binding: "AI" } };
        (async () => console.log(JSON.stringify([
          await plugin.getBindings(options, 0), await plugin.getServices({ options }),
          await plugin.getExtensions({}),
          await plugin.getBindings({}, 0), await plugin.getServices({ options: {} }),
        ])))();"""
    done = run(port, "sh", "-c", f"cd {tmp_path} && node -e {shlex.quote(program)}")
    [[binding], [service], [extension], *others] = json.loads(done.stdout)
    assert service["external"] == {"address": f"127.0.0.1:{port}", "http": {}}
    assert binding["name"] == "AI"
    fetcher, address = binding["wrapped"]["innerBindings"]
    assert fetcher == {"name": "fetcher", "service": {"name": service["name"]}}
    assert address == {"name": "address", "json": f'"127.0.0.1:{port}"'}
    assert binding["wrapped"]["moduleName"] == extension["modules"][0]["name"]
    assert others == [[], []]


def test_the_users_sitecustomize_still_runs(port: int, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.is_users = True")
    program = "import sys, sitecustomize as s; print(is_users, s.__file__, *sys.path)"
    done = run(port, sys.executable, "-c", program, PYTHONPATH=str(tmp_path))
    assert done.stdout.startswith(f"True {tmp_path}") and "hooks" not in done.stdout


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["--", "sh", "-c", "kill -INT $$"], 130),
    ],
)
def test_exec_exits_with_the_exit_code_of_the_command(
    port: int, command: list[str], status: int
) -> None:
    done = run(port, *command)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")


@pytest.mark.parametrize(("command", "status"), [("no-such-command", 127), ("/", 126)])
def test_a_command_that_cannot_be_run_is_an_error_of_one_line(
    port: int, command: str, status: int
) -> None:
    done = run(port, command)
    assert (done.returncode, done.stdout) == (status, "")
    assert command in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_call_without_a_command_is_an_error() -> None:
    done = run(0)
    assert done.returncode == 2 and "--print-env" in done.stderr


def test_flags_after_the_command_belong_to_the_command(port: int) -> None:
    done = run(port, "echo", "--port", "--", "--print-env")
    assert done.stdout == "--port -- --print-env\n"


def test_the_variables_are_printed_as_shell_exports(port: int, tmp_path: Path) -> None:
    done = run(port, "--print-env", NODE_OPTIONS="--title='a b'")
    assert done.returncode == 0 and done.stderr == ""
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert all(len(words) == 2 and words[0] == "export" for words in lines)
    variables = dict(words[1].split("=", 1) for words in lines)
    assert variables["WORKERS_AI_EMULATOR_ADDRESS"] == f"127.0.0.1:{port}"
    assert variables["NODE_OPTIONS"].startswith("--title='a b' --require ")
    assert not Path(variables["SSL_CERT_FILE"]).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_unwritable_stdout_is_an_error_that_names_it(port: int) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            exec_command(port, "--print-env"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LIMIT_S,
        )
    first = done.stderr.splitlines()[0]
    assert done.returncode != 0
    assert first == "workers-ai-emulator: cannot write to stdout: No space left on device"


def test_exec_works_in_a_deleted_working_folder(port: int, tmp_path: Path) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    text = shlex.join(exec_command(port, "echo", "done"))
    done = subprocess.run(
        ["sh", "-c", f"rmdir {shlex.quote(str(folder))}; {text}"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_an_exception_for_all_hosts_also_applies_to_requests_without_tls(
    port: int, name: str
) -> None:
    """The proxy of the user does not exist, so a request through it would fail."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://internal.example:{server.server_port}"
        resolve = f"internal.example:{server.server_port}:127.0.0.1"
        command = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", resolve)
        users = {name: "http://127.0.0.1:1", "NO_PROXY": "*"}
        done = run(port, *command, url, **users)
    assert done.stdout == "501", done.stderr  # the server's own error: it has no method GET


def test_the_variables_are_printed_before_the_command_runs(port: int) -> None:
    done = run(port, "--print-env", "sh", "-c", "echo $HTTPS_PROXY")
    *variables, proxy = done.stdout.splitlines()
    assert f"export HTTPS_PROXY={proxy}" in variables


SIGNALLED = """
import signal, sys
def end(number, frame):
    sys.exit(number + 40)
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, end)
print("ready", flush=True)
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_forwarded_and_the_command_decides_the_exit_code(
    port: int, number: int
) -> None:
    with start(port, sys.executable, "-c", SIGNALLED) as process:
        assert line_of(process) == "ready"
        process.send_signal(number)
        assert process.wait(LIMIT_S) == number + 40


def test_the_command_inherits_the_usual_signal_dispositions(port: int) -> None:
    command = ["grep", "-E", "Sig(Ign|Blk|Cgt)", "/proc/self/status"]
    if not Path(command[-1]).exists():
        pytest.skip("no /proc")
    plain = subprocess.run(command, capture_output=True, text=True)
    assert run(port, *command).stdout == plain.stdout


def test_ctrl_c_reaches_the_command_once(port: int) -> None:
    program = """
import signal, sys
interrupts = []
def end(number, frame):
    print("interrupts", len(interrupts), flush=True)
    sys.exit()
signal.signal(signal.SIGINT, lambda *_: (interrupts.append(1), print("interrupted", flush=True)))
signal.signal(signal.SIGTERM, end)
print("ready", flush=True)
while True:
    signal.pause()
"""
    for line in interactive(port, program):
        if line == "ready":
            os.write(line.terminal, b"\x03")
        elif line == "interrupted":
            line.process.terminate()  # a second interrupt would arrive before SIGTERM
    assert line == "interrupts 1"


class Line(str):
    """A line of a program's output, with the program's terminal and the process of `exec`."""

    terminal: int
    process: subprocess.Popen[bytes]


def interactive(port: int, program: str) -> Iterator[Line]:
    """Runs a Python program under `exec` in a new terminal, and yields the lines of its output."""
    controller, terminal_end = pty.openpty()
    process = subprocess.Popen(
        exec_command(port, sys.executable, "-c", program),
        preexec_fn=lambda: os.login_tty(terminal_end),
    )
    os.close(terminal_end)
    with open(controller, "rb", buffering=0) as terminal:
        try:
            while text := _terminal_line(terminal.fileno()):
                line = Line(text.replace("^C", ""))
                line.terminal, line.process = terminal.fileno(), process
                yield line
        finally:
            process.kill()
            process.wait()


def _terminal_line(terminal: int) -> str:
    """Returns the next line of output, or "" after the terminal's last process has ended."""
    line = b""
    with suppress(OSError):  # Linux raises it after the last process has ended
        while (byte := os.read(terminal, 1)) not in (b"", b"\n"):
            line += byte
    return line.decode().strip()


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """Yields the port of a server that is not an emulator."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as foreign:
        threading.Thread(target=foreign.serve_forever).start()
        yield foreign.server_port
        foreign.shutdown()


def is_open(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port))).close()
    except ConnectionRefusedError:
        return False
    return True


def test_an_emulator_is_started_if_none_is_running_and_stops_with_the_command(
    foreign_port: int,
) -> None:
    program = 'echo "$WORKERS_AI_EMULATOR_ADDRESS"; curl -sS "$CLOUDFLARE_API_BASE_URL/x"'
    done = run(foreign_port, "sh", "-c", program, WORKERS_AI_EMULATOR_HOST="127.0.0.1")
    address, response = done.stdout.splitlines()
    assert not address.endswith(f":{foreign_port}")
    assert json.loads(response)["success"] is False
    assert not is_open(address)
    assert "INFO" not in done.stderr


def test_the_emulator_that_exec_has_started_prints_the_hint_for_a_mistake() -> None:
    url = f"https://gateway.ai.cloudflare.com/v1/{ACCOUNT_ID}/gw/anthropic/v1/messages"
    done = run(0, "curl", "-sS", "-d", "{}", url, WORKERS_AI_EMULATOR_BACKEND="scripted")
    assert json.loads(done.stdout)["errors"][0]["code"] == 7000
    [line] = done.stderr.splitlines()
    assert "hint: provider anthropic is not emulated, only workers-ai and compat" in line


def test_the_emulator_stops_when_exec_is_killed() -> None:
    with start(0, "sh", "-c", 'echo "$WORKERS_AI_EMULATOR_ADDRESS"; cat') as process:
        address = line_of(process)
        assert is_open(address)
        process.kill()
        process.wait()
        wait_until(lambda: not is_open(address))


def test_a_failed_start_prints_its_reason_and_runs_no_command(rules: dict[str, str]) -> None:
    Path(rules["WORKERS_AI_EMULATOR_SCRIPT"]).write_text("- answr: Hi\n", "utf-8")
    done = run(0, "echo", "run", **rules)
    assert (done.returncode, done.stdout) == (1, "")
    reason, consequence = done.stderr.splitlines()
    assert "did you mean `answer`?" in reason and "nothing was run" in consequence


def test_an_invalid_setting_is_an_error_of_one_line() -> None:
    done = run(0, "echo", "run", WORKERS_AI_EMULATOR_PARALLEL="many")
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert "WORKERS_AI_EMULATOR_PARALLEL" in line and "not 'many'" in line


def test_a_cache_folder_that_cannot_be_written_is_an_error_of_one_line(
    port: int, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = run(port, "echo", "run", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "XDG_CACHE_HOME" in done.stderr and len(done.stderr.splitlines()) == 1


# A program that hides every error.
HIDING = f"""
import sys, httpx
try:
    response = httpx.post({URL!r}, json={{"prompt": sys.argv[1]}}, timeout=60)
    print(response.json()["result"]["response"])
except Exception:
    print("Sorry.")
"""


@pytest.fixture
def rules(tmp_path: Path) -> dict[str, str]:
    """The environment variables of an emulator that has one rule, for prompts with "pizza"."""
    path = tmp_path / "rules.yaml"
    path.write_text("- contains: pizza\n  answer: Cheese.\n", "utf-8")
    return {"WORKERS_AI_EMULATOR_BACKEND": "scripted", "WORKERS_AI_EMULATOR_SCRIPT": str(path)}


@pytest.fixture(scope="module")
def scripted() -> Iterator[ServerProcess]:
    """Yields a running emulator that has no rules, and that is not strict."""
    with server_process("--backend", "scripted", "--log-level", "warning") as running:
        yield running


def test_strict_makes_exec_fail_although_the_program_hides_the_error(rules: dict[str, str]) -> None:
    command = [sys.executable, "-c", HIDING]
    done = run(0, "--strict", *command, "Why is pizza good?", **rules)
    assert (done.returncode, done.stdout, done.stderr) == (0, "Cheese.\n", "")
    done = run(0, "--strict", *command, "And pasta?", **rules)
    assert (done.returncode, done.stdout) == (99, "Sorry.\n")
    first, *others = done.stderr.splitlines()
    assert first.endswith("no rule of the script and no recording answered 1 call:")
    assert f'1. {INT8} "And pasta?": status 500' in "\n".join(others)


def test_strict_counts_only_the_calls_of_this_command_at_a_running_emulator(
    scripted: ServerProcess,
) -> None:
    port = int(scripted.root.rpartition(":")[2])
    scripted.run({"prompt": "another program"})
    assert run(port, "--strict", "true").returncode == 0
    failing = f"{HIDING}\nsys.exit(7)"
    done = run(port, "--strict", sys.executable, "-c", failing, "Hi")
    assert done.returncode == 7  # the exit code of a command that fails
    assert '"Hi": status 200' in done.stderr and "another" not in done.stderr


def test_strict_with_a_backend_that_answers_every_call_is_an_error(port: int) -> None:
    done = run(port, "--strict", "echo", "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--strict has no effect with the backend `llama`" in done.stderr


def test_all_calls_of_the_command_belong_to_the_account(scripted: ServerProcess) -> None:
    port, account = int(scripted.root.rpartition(":")[2]), "c" * 32
    script = f"{scripted.root}/_emulator/script?account={account}"
    httpx.post(script, json=[{"answer": "Own."}]).raise_for_status()
    done = run(port, "--account", account, sys.executable, "-c", HIDING, "Hi")
    assert (done.returncode, done.stdout) == (0, "Own.\n")
    done = run(port, "--account", account, "sh", "-c", "echo $WORKERS_AI_EMULATOR_URL")
    assert done.stdout == f"{scripted.root}/_emulator/accounts/{account}\n"


def test_an_invalid_account_is_an_error_of_one_line() -> None:
    done = run(0, "--account", "x", "true")
    assert done.returncode == 2
    assert "--account: it takes 32 hexadecimal digits" in done.stderr


def test_the_pytest_fixture_uses_the_emulator_of_exec(
    tmp_path: Path, rules: dict[str, str]
) -> None:
    (tmp_path / "test_it.py").write_text(
        f"""
import subprocess, sys

def ask(prompt):
    program = {HIDING!r}.replace({ACCOUNT_ID!r}, sys.modules["os"].environ["CLOUDFLARE_ACCOUNT_ID"])
    return subprocess.check_output([sys.executable, "-c", program, prompt], text=True).strip()

def test_own(workers_ai):
    workers_ai.script("Own.")
    assert ask("And pasta?") == "Own."

def test_unmatched(workers_ai):
    assert ask("And pasta?") == "Sorry."
"""
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = run(0, "--strict", *command, **rules)
    assert done.returncode == 1 and "2 passed, 1 error" in done.stdout, done.stdout + done.stderr


@pytest.mark.node
def test_the_calls_of_a_binding_belong_to_the_account() -> None:
    npm.require_node()
    hooks = Path(__file__).parents[2] / "emulator/workers_ai_emulator/interception/hooks"
    program = f"""
        const plugin = require("{hooks}/miniflare-plugin.cjs").plugins["workers-ai-emulator"];
        const options = [{{ name: "AI", plugin: {{ name: "workers-ai-emulator" }} }}];
        console.log(JSON.stringify(plugin.getServices({{ options }})));"""
    variables = {"WORKERS_AI_EMULATOR_ACCOUNT": "c" * 32}
    done = subprocess.run(
        ["node", "-e", program], capture_output=True, text=True, env=os.environ | variables
    )
    [service] = json.loads(done.stdout)
    [header] = service["external"]["http"]["injectRequestHeaders"]
    assert header == {"name": "x-emulator-account", "value": "c" * 32}
