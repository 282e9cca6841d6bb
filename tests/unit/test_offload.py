"""Tests how many layers of a model fit into the free memory of a GPU."""

from __future__ import annotations

import pytest
from workers_ai_emulator.engine.gguf_header import GgufHeader, GgufTensor
from workers_ai_emulator.runtime.offload import MAX_SLOTS, Offload, offload

MIB = 2**20
MARGIN = 768 * MIB
SLOT = 64 * MIB  # 2048 tokens, 4 layers, 8 KV heads of length 256


def header() -> GgufHeader:
    """Returns a header of a model with four layers of 100 MiB each.

    The output and the embeddings of the model have 50 MiB each.
    """
    sizes = {"token_embd.weight": 50, "output.weight": 50}
    sizes |= {f"blk.{n}.ffn_up.weight": 60 for n in range(4)}
    sizes |= {f"blk.{n}.attn_q.weight": 40 for n in range(4)}
    tensors = tuple(GgufTensor(name, (1,), "F16", 0, size * MIB) for name, size in sizes.items())
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": 4,
        "llama.embedding_length": 4096,
        "llama.attention.head_count": 16,
        "llama.attention.head_count_kv": 8,
    }
    return GgufHeader(3, metadata, tensors, 0, 0)


def fitting(free: int, parallel: int | None = None, num_layers: int | None = None) -> Offload:
    return offload(
        header(), context_length=2048, free=free, parallel=parallel, num_layers=num_layers
    )


def test_all_layers_are_offloaded_with_as_many_sequences_as_fit() -> None:
    assert fitting(100_000 * MIB) == Offload(5, 0.9, 1.0, MAX_SLOTS)
    assert fitting(MARGIN + 450 * MIB + 3 * SLOT) == Offload(5, 0.9, 1.0, 3)
    assert fitting(MARGIN + 450 * MIB + 3 * SLOT, parallel=2).max_slots == 2


def test_as_many_layers_are_offloaded_as_fit_with_their_cells() -> None:
    half = fitting(MARGIN + 200 * MIB + 2 * SLOT // 4, parallel=1)
    assert half.num_layers == 2
    assert half.weights_share == pytest.approx(200 / 500)
    assert half.cells_share == 0.5


def test_a_gpu_that_is_too_small_gets_no_layers() -> None:
    assert fitting(MARGIN, parallel=1).num_layers == 0
    assert fitting(0) == Offload(0, 0.0, 0.0, MAX_SLOTS)


def test_the_users_number_of_layers_is_used() -> None:
    assert fitting(0, num_layers=3).num_layers == 3
    assert fitting(0, num_layers=99) == Offload(5, 0.9, 1.0, MAX_SLOTS)
    assert fitting(100_000 * MIB, num_layers=0).num_layers == 0
