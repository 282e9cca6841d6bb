"""A Worker's folder on its developer's machine, and what runs in it."""

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
URL = "http://127.0.0.1:8787"  # as wrangler chooses; offline, nobody else has it
START_LIMIT_S = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What a Worker answers to a GET."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class ServedWorker:
    """A Worker behind a URL, and what its tool writes."""

    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8")

    def get(self, path: str) -> Answer:
        response = httpx.get(f"{URL}{path}", timeout=120)
        return Answer(response.status_code, response.text)


@dataclass(frozen=True, slots=True)
class CalledWorker:
    """A Worker that a program has called. It is gone; these were its answers."""

    log: str
    answers: dict[str, Answer]

    def get(self, path: str) -> Answer:
        return self.answers[path]


Worker = ServedWorker | CalledWorker


@dataclass(frozen=True, slots=True)
class Project:
    """The folder, and the server that is to answer the Worker's AI binding."""

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
        """What our command prints."""
        address = self.server.root.removeprefix("http://")
        return self.run(
            sys.executable, "-m", "workers_ai_emulator", *arguments, "--address", address
        )

    def block(self, tool: str, heading: str) -> str:
        """What `worker config` prints under a heading that has this in it."""
        _, *parts = re.split(r"^// (.*)\n", self.emulator("worker", "config", tool), flags=re.M)
        texts = dict(zip(parts[::2], parts[1::2], strict=True))
        return next(text for title, text in texts.items() if heading in title)

    def paste(self, text: str, file: str, place: str) -> None:
        """Put a text behind the first occurrence of another."""
        path = self.folder / file
        before, place, after = path.read_text("utf-8").partition(place)
        path.write_text(f"{before}{place}\n{text}{after}", "utf-8")

    def npx(self, program: str) -> str:
        """The path of an installed program."""
        return str(self.folder / "node_modules" / ".bin" / program)

    def under_exec(self, *command: str) -> list[str]:
        """The command, with its calls to Cloudflare answered by the server."""
        url = httpx.URL(self.server.root)
        ours = [sys.executable, "-m", "workers_ai_emulator", "exec"]
        return [*ours, "--host", url.host, "--port", str(url.port), "--", *command]

    def run(self, *command: str) -> str:
        """What a program prints."""
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
        """A program that serves the Worker, from the first answer at `path` on."""
        worker = ServedWorker(self.folder / "log.txt")
        with worker.log_file.open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self._environment() | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it has children
            )
        try:
            wait_until(lambda: process.poll() is not None or _answers(path), START_LIMIT_S)
            assert process.poll() is None, "it ended"
            yield worker
        except AssertionError as error:
            error.add_note(worker.log)
            raise
        finally:
            _stop(process)

    def _environment(self) -> dict[str, str]:
        """Ours, without what else the tools would read, and with a home for what they write."""
        others = re.compile("(cloudflare|wrangler|xdg)_.*|.*_proxy|node_options", re.IGNORECASE)
        ours = {key: value for key, value in os.environ.items() if not others.fullmatch(key)}
        home = str(self.folder / "home")
        quiet = {"CLOUDFLARE_CF_FETCH_ENABLED": "false", "WRANGLER_SEND_METRICS": "false"}
        return ours | quiet | {"HOME": home, "XDG_CONFIG_HOME": home}


def _answers(path: str) -> bool:
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
