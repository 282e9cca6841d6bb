"""A server with one slot: it rejects wrong tokens, and rejects requests while the slot is busy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import httpx

from tests.server import ENDLESS, ServerProcess, server_process, wait_until

TOKEN = "good"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class RefusingServer:
    """A running server that accepts only the token `TOKEN`, with one slot and no queue."""

    process: ServerProcess

    @property
    def base_url(self) -> str:
        return self.process.base_url

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keeps the only slot busy with a stream during the `with` block."""
        self._wait_for_running(0)
        body = {**ENDLESS, "max_tokens": 4000, "stream": True}
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with httpx.stream("POST", self.process.run_url(), json=body, headers=headers, timeout=60):
            self._wait_for_running(1)
            yield

    def busy_until_it_refuses(self, call: Callable[[], _T]) -> _T:
        """Runs `call` in a thread and returns its result.

        The only slot is busy until a request has got the status 429.
        """
        num_refused = self._num_refused()
        with ThreadPoolExecutor() as pool:
            with self.busy():
                result = pool.submit(call)
                wait_until(lambda: self._num_refused() > num_refused)
            return result.result()

    def _num_refused(self) -> int:
        return sum(" 429, " in line for line in list(self.process.log))

    def _wait_for_running(self, num_running: int) -> None:
        wait_until(lambda: self.process.metric("workers_ai_emulator_running") == num_running)


@contextmanager
def refusing_server() -> Iterator[RefusingServer]:
    flags = ["--parallel", "1", "--queue-size", "0", "--context-length", "4096", "--threads", "1"]
    with server_process(*flags, "--api-token", TOKEN) as process:
        yield RefusingServer(process)
