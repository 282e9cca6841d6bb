"""Tries a GGUF file in a process of its own, which llama.cpp may crash.

llama.cpp ends the whole process on some files. The first load therefore happens in a child,
`python -m workers_ai_emulator.engine.probe FILE`, which exits with 0, exits with 1 and prints the
reason as its last line, or crashes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from workers_ai_emulator.engine.errors import EngineError, GgufInvalid
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.types import SamplingParams, Span

if sys.platform != "win32":
    import resource

_REFUSED = 1
_SLOWEST_DISK = 50 * 10**6  # bytes per second
_MEMORY = 4 * 2**30  # beside a copy of the weights, which llama.cpp makes of some types
_CONTEXT_LENGTH = 64
_BATCH_LENGTH = 16
_TEXT = "Hello, world: 1 + 1 = 2, été, 東京, \N{GRINNING FACE}\0\x7f\n"  # bytes and characters
_GREEDY = SamplingParams(temperature=0.0)
_RANDOM = SamplingParams(temperature=1.0, top_k=40, top_p=0.9, seed=1, repetition_penalty=1.1)


def probe(path: Path, *, limit_s: float = 120.0) -> None:
    """Have a child process load the file, evaluate some tokens and sample.

    The child may take `limit_s` beside the time that a slow disk needs for the file; it runs on
    one thread, without a GPU. Raises GgufInvalid with llama.cpp's reason, or with what is known of
    its crash, and OSError for a file that is not there.
    """
    command = [sys.executable, "-P", "-m", "workers_ai_emulator.engine.probe", str(path)]
    limit_s += path.stat().st_size / _SLOWEST_DISK
    try:
        child = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit_s,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else gdb is asked, if there is one
        )
    except subprocess.TimeoutExpired as error:
        raise GgufInvalid(f"llama.cpp has not loaded it after {limit_s:.0f} s") from error
    if child.returncode == _REFUSED:
        raise GgufInvalid(_last_line(child.stdout) or _last_line(child.stderr))
    if child.returncode != 0:
        raise GgufInvalid(f"llama.cpp crashes on it ({_death(child.returncode, child.stderr)})")


def evaluate(path: Path) -> None:
    """Load the file, tokenize, evaluate and sample twice, and turn the tokens into text.

    Raises EngineError with llama.cpp's reason. llama.cpp may end the process instead.
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
    """Let this process have no more memory than a file of this size can need, and leave no dump.

    Only what is written counts, so neither a mapped file nor addresses that are merely reserved.
    """
    if sys.platform == "win32":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if sys.platform == "linux":
        limit = psutil.Process().memory_info().data + file_size + _MEMORY
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        is_free = hard == resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_DATA, (limit if is_free else min(limit, hard), hard))


def main(path: Path) -> int:
    """The child's work; returns its exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's would wait for llama.cpp
    limit_memory(path.stat().st_size)
    try:
        evaluate(path)
    except EngineError as error:
        sys.stdout.write(f"{error}\n")
        return _REFUSED
    return 0


def _generate(runner: LlamaRunner) -> None:
    vocabulary = runner.vocabulary
    text_tokens = vocabulary.tokenize(_TEXT)
    for token in text_tokens:
        vocabulary.piece(token)
    tokens, start = text_tokens[:_BATCH_LENGTH] or [vocabulary.bos or 0], 0
    for params in (_GREEDY, _RANDOM):
        runner.decode([Span(0, start, tokens, wants_logits=True)])
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
            f"it loads but computes no numbers: of {len(logits):,} logits {num_nan:,} are NaN"
        )


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _death(status: int, output: str) -> str:
    """A crash in a few words: the signal, and the assertion or exception if there was one."""
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"exit status {status}"
    told = [line for line in output.splitlines() if "GGML_ASSERT" in line or "what():" in line]
    line = told[-1] if told else _last_line(output)
    for start in ("GGML_ASSERT", "what():"):
        line = line[max(line.find(start), 0) :]
    return f"{name}: {line.strip()}" if line else name


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
