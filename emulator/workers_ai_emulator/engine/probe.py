"""Test-loads a GGUF file in a subprocess, because llama.cpp crashes on some damaged files.

The subprocess is `python -m workers_ai_emulator.engine.probe FILE COMPUTES`. COMPUTES is what it
computes: `text`, `embedding` or `ranking`. If llama.cpp can run the file, the subprocess exits with
status 0. If llama.cpp rejects the file, the subprocess prints the reason as its last line and exits
with status 1.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

from workers_ai_emulator.engine.embedding_runner import EmbeddingRunner
from workers_ai_emulator.engine.errors import EngineError, GgufInvalid
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.pooling import Pooling
from workers_ai_emulator.engine.shared_calls import can_share_calls
from workers_ai_emulator.engine.types import SamplingParams, Span

if sys.platform != "win32":
    import resource

Computes = Literal["text", "embedding", "ranking"]

_REJECTED = 1
_SLOWEST_DISK = 50 * 10**6  # bytes per second; the time limit is long enough for this speed
_MEMORY = 4 * 2**30  # bytes that the subprocess may allocate besides one copy of the weights
_CONTEXT_LENGTH = 64
_BATCH_LENGTH = 16
# A text that tests byte tokens: most vocabularies have no tokens for some of its characters, so a
# tokenizer must split these characters into bytes.
_TEXT = "Hello, world: 1 + 1 = 2, été, 東京, \N{GRINNING FACE}\0\x7f\n"
_GREEDY = SamplingParams(temperature=0.0)
_RANDOM = SamplingParams(temperature=1.0, top_k=40, top_p=0.9, seed=1, repetition_penalty=1.1)


def probe(path: Path, *, computes: Computes = "text", limit_s: float = 120.0) -> None:
    """Loads a GGUF file in a subprocess and computes something there, as a test.

    `computes`: what is computed: two tokens of text, an embedding, or the score of a reranker.

    Raises GgufInvalid if llama.cpp rejects the file, crashes or takes too long. Raises OSError if
    the file is missing. The time limit is `limit_s` plus the time that a slow disk takes to read
    the file.
    """
    command = [sys.executable, "-P", "-m", "workers_ai_emulator.engine.probe", str(path)]
    command.append(computes)
    limit_s += path.stat().st_size / _SLOWEST_DISK
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit_s,
            # Without this variable, llama.cpp starts gdb when it crashes.
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
    except subprocess.TimeoutExpired as error:
        raise GgufInvalid(f"llama.cpp did not load it within {limit_s:.0f} s") from error
    if child.returncode == _REJECTED:
        raise GgufInvalid(_last_line(child.stdout) or _last_line(child.stderr))
    if child.returncode != 0:
        raise GgufInvalid(f"llama.cpp crashes on it ({_crash(child.returncode, child.stderr)})")


def evaluate_embedding(path: Path, pooling: Pooling) -> None:
    """Loads a GGUF file in this process, and computes the embedding or the score of a text.

    Raises EngineError as `evaluate` does.
    """
    with ExitStack() as stack:
        model = LlamaModel(path)
        stack.callback(model.close)
        can_share_calls(model, 1)  # the server makes these calls, too
        runner = EmbeddingRunner(model, _CONTEXT_LENGTH)
        stack.callback(runner.close)
        vocabulary = model.vocabulary
        tokens = vocabulary.text_start + vocabulary.tokenize(_TEXT)[:_BATCH_LENGTH]
        (vector,) = runner.embed([tokens + vocabulary.text_end], pooling, 1)
        if not np.isfinite(vector).all():
            raise EngineError("it loads but its results are not numbers")


def evaluate(path: Path) -> None:
    """Loads a GGUF file in this process, tokenises a text, and generates two tokens.

    Raises EngineError with llama.cpp's reason if llama.cpp rejects the file. On some damaged files,
    llama.cpp crashes this process instead.
    """
    with ExitStack() as stack:
        model = LlamaModel(path)
        stack.callback(model.close)
        runner = LlamaRunner(
            model,
            num_slots=1,
            context_length=_CONTEXT_LENGTH,
            batch_length=_BATCH_LENGTH,
            num_threads=1,
            batch_invariant=False,
        )
        stack.callback(runner.close)
        _generate(runner)


def limit_memory(file_size: int) -> None:
    """Limits the memory of this process (only on Linux) and disables core dumps (not on Windows).

    In addition to its present memory, the process may then allocate `file_size` bytes plus 4 GiB.
    Memory-mapped files do not count.
    """
    if sys.platform == "win32":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        limit = psutil.Process().memory_info().data + file_size + _MEMORY
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        is_free = hard == resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_DATA, (limit if is_free else min(limit, hard), hard))


def main(path: Path, computes: str) -> int:
    """Runs in the subprocess: test-loads the file, and returns 1 if it is rejected, otherwise 0."""
    # Ctrl-C must end the process at once; Python's own handler waits until llama.cpp returns.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit_memory(path.stat().st_size)
    try:
        if computes == "text":
            evaluate(path)
        else:
            evaluate_embedding(path, Pooling.RANK if computes == "ranking" else Pooling.MEAN)
    except EngineError as error:
        sys.stdout.write(f"{error}\n")
        return _REJECTED
    return 0


def _generate(runner: LlamaRunner) -> None:
    vocabulary = runner.vocabulary
    text_tokens = vocabulary.tokenize(_TEXT)
    for token in text_tokens:
        vocabulary.piece(token)
    tokens, start = text_tokens[:_BATCH_LENGTH] or [vocabulary.bos or 0], 0
    for params in (_GREEDY, _RANDOM):
        runner.decode([Span(0, start, tokens, num_outputs=1)])
        _check_logits(runner.logits(0))
        sampler = runner.sampler(params, tokens)
        start += len(tokens)
        tokens = [sampler.sample(0)]
        sampler.close()
        vocabulary.piece(tokens[0])


def _check_logits(logits: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    num_nan = int(np.isnan(logits).sum())
    if num_nan or not np.isfinite(logits).any():
        raise EngineError(
            f"it loads but its results are not numbers: {num_nan:,} of {len(logits):,} logits are "
            "NaN"
        )


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _crash(status: int, output: str) -> str:
    """Describes a crash of the subprocess: its signal or exit status, and the failed assertion.

    `output`: what the subprocess has written to standard error. If `output` contains no failed
    assertion, the description contains the last line of `output` instead.
    """
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"exit status {status}"
    reasons = [line for line in output.splitlines() if "GGML_ASSERT" in line or "what():" in line]
    line = reasons[-1] if reasons else _last_line(output)
    for start in ("GGML_ASSERT", "what():"):
        line = line[max(line.find(start), 0) :]
    return f"{name}: {line.strip()}" if line else name


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
