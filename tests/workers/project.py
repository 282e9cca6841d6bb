"""Creates the project folder of a Worker, and runs programs in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.server import ServerProcess, wait_until

FILES = Path(__file__).with_name("worker")
URL = "http://127.0.0.1:8787"  # wrangler's default; the port is free in the network namespace
START_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Response:
    """A Worker's response to a GET request."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class ServedWorker:
    """A running Worker that listens at URL. `log`: the output of the tool that runs it."""

    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def get(self, path: str) -> Response:
        response = httpx.get(f"{URL}{path}", timeout=120)
        return Response(response.status_code, response.text)


@dataclass(frozen=True, slots=True)
class CalledWorker:
    """A Worker that has ended. `responses`: its responses to a test program, by path."""

    log: str
    responses: dict[str, Response]

    def get(self, path: str) -> Response:
        return self.responses[path]


Worker = ServedWorker | CalledWorker


@dataclass(frozen=True, slots=True)
class Project:
    """A Worker's project folder, and the emulator for the Worker's AI binding."""

    folder: Path
    server: ServerProcess

    @classmethod
    def create(
        cls, folder: Path, worker_module: Path, node_modules: Path, server: ServerProcess
    ) -> Project:
        shutil.copytree(FILES, folder, dirs_exist_ok=True)
        shutil.copy(worker_module, folder)
        (folder / "node_modules").symlink_to(node_modules)
        return cls(folder, server)

    def emulator(self, *arguments: str) -> str:
        """Runs a subcommand of `workers-ai-emulator` and returns its output."""
        address = self.server.root.removeprefix("http://")
        return self.run(
            sys.executable, "-m", "workers_ai_emulator", *arguments, "--address", address
        )

    def block(self, tool: str, heading: str) -> str:
        """Returns the block of `worker config TOOL`'s output whose heading contains this text."""
        _, *parts = re.split(r"^// (.*)\n", self.emulator("worker", "config", tool), flags=re.M)
        texts = dict(zip(parts[::2], parts[1::2], strict=True))
        return next(text for title, text in texts.items() if heading in title)

    def paste(self, text: str, file: str, place: str) -> None:
        """Inserts `text` into the file, after the first occurrence of the text `place`."""
        path = self.folder / file
        before, place, after = path.read_text("utf-8").partition(place)
        path.write_text(f"{before}{place}\n{text}{after}", "utf-8")

    def npx(self, program: str) -> str:
        """Returns the path of a program that is installed with npm."""
        return str(self.folder / "node_modules" / ".bin" / program)

    def under_exec(self, *command: str) -> list[str]:
        """Returns the command under `exec`, which redirects its requests to the emulator."""
        url = httpx.URL(self.server.root)
        ours = [sys.executable, "-m", "workers_ai_emulator", "exec"]
        return [*ours, "--host", url.host, "--port", str(url.port), "--", *command]

    def run(self, *command: str) -> str:
        """Runs a program, waits for its end and returns its output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serve(self, *command: str, path: str = "/", **variables: str) -> Iterator[ServedWorker]:
        """Starts a program that serves the Worker, and yields when GET `path` succeeds.

        Stops the program after the `with` block. `variables`: additional environment variables.
        """
        worker = ServedWorker(self.folder / "log.txt")
        with worker.log_file.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that _stop() also ends its children
            )
        try:
            wait_until(lambda: process.poll() is not None or _is_served(path), START_LIMIT_S)
            assert process.poll() is None, "the program ended"
            yield worker
        except AssertionError as error:
            error.add_note(worker.log)
            raise
        finally:
            _stop(process)

    def _environment(self) -> dict[str, str]:
        """The environment for programs: this process's variables and a home folder.

        Omits variables that configure the tools or a proxy.
        """
        unwanted = re.compile("(cloudflare|wrangler|xdg)_.*|.*_proxy|node_options", re.IGNORECASE)
        ours = {key: value for key, value in os.environ.items() if not unwanted.fullmatch(key)}
        home = str(self.folder / "home")
        quiet = {"CLOUDFLARE_CF_FETCH_ENABLED": "false", "WRANGLER_SEND_METRICS": "false"}
        return ours | quiet | {"HOME": home, "XDG_CONFIG_HOME": home}


def _is_served(path: str) -> bool:
    try:
        return httpx.get(f"{URL}{path}", follow_redirects=True).is_success
    except httpx.TransportError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
