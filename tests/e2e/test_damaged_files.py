"""Tests that damaged GGUF files never crash the server: it rejects the files or can use them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.engine.gguf_header import GgufArray, GgufHeader
from workers_ai_emulator.engine.probe import probe

from tests.gguf_files import llama2_model

NUM_CHILDREN = 2
NUM_FLIPS = 500
# The program of a child process. It reads paths of files and loads each file; for each file it
# prints the result or crashes.
CHILD = """
import signal, sys
from pathlib import Path
from workers_ai_emulator.engine.probe import evaluate, limit_memory
from workers_ai_emulator.engine.errors import EngineError

limit_memory(2**26)
for line in sys.stdin:
    signal.alarm(20)
    try:
        evaluate(Path(line.strip()))
        print("computes", flush=True)
    except EngineError as error:
        print("rejected:", error, flush=True)
    signal.alarm(0)
"""


@dataclass(frozen=True, slots=True)
class Flip:
    """One bit of the header of a GGUF file."""

    byte: int
    bit: int


class Child:
    """A process that loads GGUF files. After a crash, a new process replaces it."""

    def __init__(self) -> None:
        self._process = self._start()

    def outcome(self, path: Path) -> str:
        """Loads the file in the process. Returns `computes`, `rejected: …` or `crashes: …`."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        if line := self._process.stdout.readline().strip():
            return line
        status = self._process.wait()
        assert self._process.stderr
        lines = self._process.stderr.read().splitlines()
        self.close()
        self._process = self._start()
        return f"crashes: {signal.Signals(-status).name} {lines[-1:]}"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=os.environ | {"GGML_NO_BACKTRACE": "1"},
        )


@pytest.fixture(scope="module")
def content() -> bytes:
    return llama2_model()


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return path


def flips(header: GgufHeader, count: int, seed: int) -> list[Flip]:
    """Returns random bits of the header, of which half are outside of the header's arrays."""
    chooser = random.Random(seed)
    arrays = [value for value in header.metadata.values() if isinstance(value, GgufArray)]
    first, last = (pick(array.offset for array in arrays) for pick in (min, max))
    dense = [*range(first), *range(last + 4 * arrays[-1].length, header.data_offset)]
    everywhere = range(header.data_offset)
    return [
        Flip(chooser.choice(everywhere if index % 2 else dense), chooser.randrange(8))
        for index in range(count)
    ]


def outcomes(path: Path, chosen: Sequence[Flip]) -> Iterator[str]:
    """For each bit in `chosen`, yields the outcome after changing only this bit in the file."""
    child = Child()
    try:
        with path.open("r+b", buffering=0) as file:
            for flip in chosen:
                (original,) = os.pread(file.fileno(), 1, flip.byte)
                os.pwrite(file.fileno(), bytes([original ^ 1 << flip.bit]), flip.byte)
                yield outcome(path, child)
                os.pwrite(file.fileno(), bytes([original]), flip.byte)
    finally:
        child.close()


def replace(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))


def outcome(path: Path, child: Child) -> str:
    try:
        read_header(path)
    except GgufInvalid as error:
        return f"rejected: {error}"
    return child.outcome(path)


def test_an_undamaged_file_computes(path: Path) -> None:
    assert read_header(path).weights_type == "F32"
    probe(path)


def test_a_file_that_crashes_llama_cpp_does_not_crash_the_prober(path: Path) -> None:
    replace(path, b"<0x41>", b"<0x42>")  # now, two tokens have the same text
    with pytest.raises(
        GgufInvalid, match=r"^llama.cpp crashes on it \(SIGABRT: GGML_ASSERT\(.*\)$"
    ):
        probe(path)


def test_the_reason_of_llama_cpp_is_raised(path: Path) -> None:
    replace(path, b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight")
    read_header(path)
    with pytest.raises(GgufInvalid, match=r"'blk\.1\.attn_q\.weight' not found"):
        probe(path)


def test_weights_that_are_not_numbers_are_rejected(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-256, os.SEEK_END)
        file.write(b"\xff" * 256)
    with pytest.raises(GgufInvalid, match=r"not numbers: 32,000 of 32,000 logits are NaN"):
        probe(path)


def test_a_probe_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    with pytest.raises(GgufInvalid, match="did not load it within"):
        probe(path, limit_s=0.001)


def test_the_memory_of_a_probe_is_limited(path: Path) -> None:
    program = (
        "from workers_ai_emulator.engine.probe import limit_memory; limit_memory(0); "
        "import numpy; numpy.ones(5 * 2**30, 'u1')"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "MemoryError" in child.stderr


def test_a_file_that_is_truncated_anywhere_is_rejected_before_llama_cpp_loads_it(
    path: Path, content: bytes
) -> None:
    header_length = read_header(path).data_offset
    lengths = [
        *range(0, header_length, header_length // 100),
        *range(header_length, len(content), (len(content) - header_length) // 100),
    ]
    assert len(lengths) >= 200
    for length in reversed(lengths):
        os.truncate(path, length)
        with pytest.raises(GgufInvalid, match=r"truncated|empty") as raised:
            read_header(path)
        assert str(raised.value).isprintable()


def test_a_flipped_bit_in_the_header_is_rejected_or_harmless(
    tmp_path: Path, content: bytes
) -> None:
    paths = [tmp_path / f"{index}.gguf" for index in range(NUM_CHILDREN)]
    for path in paths:
        path.write_bytes(content)
    chosen = flips(read_header(paths[0]), NUM_FLIPS, seed=0)
    shares = [chosen[index::NUM_CHILDREN] for index in range(NUM_CHILDREN)]
    with ThreadPoolExecutor(NUM_CHILDREN) as threads:
        found = threads.map(lambda path, share: list(outcomes(path, share)), paths, shares)
    for share, results in zip(shares, found, strict=True):
        for flip, result in zip(share, results, strict=True):
            assert result == "computes" or result.startswith("rejected: "), flip
            assert result.removeprefix("rejected: "), f"{flip}: the reason is missing"
