"""Tests that llama.cpp computes with the epsilon that the emulator sets, not with the file's."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from workers_ai_emulator.engine.llama import LlamaModel, LlamaRunner
from workers_ai_emulator.engine.types import Span

from tests.gguf_files import FLOAT32, llama2_model, string

KEY = string("llama.attention.layer_norm_rms_epsilon") + struct.pack("<I", FLOAT32)


def logits(path: Path, rms_epsilon: float | None = None) -> np.ndarray:
    model = LlamaModel(path, rms_epsilon=rms_epsilon)
    runner = LlamaRunner(model, num_slots=1, context_length=64, batch_length=8, num_threads=1)
    runner.decode([Span(0, 0, [1, 15043], num_outputs=1)])
    found = runner.logits(0).copy()
    runner.close()
    return found


def test_an_epsilon_argument_replaces_the_epsilon_of_the_file(tmp_path: Path) -> None:
    data = llama2_model()
    start = data.index(KEY) + len(KEY)
    (own,) = struct.unpack_from("<f", data, start)
    other = 1e-2
    replaced = tmp_path / "replaced.gguf"
    replaced.write_bytes(data[:start] + struct.pack("<f", other) + data[start + 4 :])
    path = tmp_path / "own.gguf"
    path.write_bytes(data)
    assert own != other
    assert np.array_equal(logits(path, rms_epsilon=other), logits(replaced))
    assert not np.array_equal(logits(path), logits(replaced))
    assert np.array_equal(logits(path), logits(path, rms_epsilon=own))
