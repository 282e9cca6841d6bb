"""Decides how much of a model goes to the GPU: all layers, or as many layers as fit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from workers_ai_emulator.engine.gguf_header import GgufHeader

MAX_SLOTS = 8  # unless the user sets a number
_MARGIN_BYTES = 768 * 2**20  # GPU memory for compute buffers and for other processes
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Offload:
    """How much of a model is on the GPU.

    `num_layers` counts as llama.cpp does: the last layers first, then the output. `weights_share`
    and `cells_share` are the shares of all weights and of all KV cells on the GPU. At most
    `max_slots` sequences run at once.
    """

    num_layers: int = 0
    weights_share: float = 0.0
    cells_share: float = 0.0
    max_slots: int = MAX_SLOTS


def offload(
    header: GgufHeader,
    *,
    context_length: int,
    free: int,
    parallel: int | None,
    num_layers: int | None,
) -> Offload:
    """Returns the largest part of the model that fits into `free` bytes of GPU memory.

    `context_length`: tokens of one sequence. `parallel`: the number of sequences that the user
    set, if any. `num_layers`: the number of layers that the user set; it replaces the calculation.
    """
    sizes = _layer_sizes(header)
    total = sum(tensor.size for tensor in header.tensors)
    slot_size = context_length * header.kv_cell_size
    wanted = parallel or MAX_SLOTS
    if num_layers is not None:
        return _offload(sizes, total, min(num_layers, len(sizes)), wanted)
    for num_slots in [parallel] if parallel else range(wanted, 0, -1):
        if _needed(sizes, len(sizes), num_slots * slot_size) <= free:
            return _offload(sizes, total, len(sizes), num_slots)
    fitting = [n for n in range(len(sizes)) if _needed(sizes, n, wanted * slot_size) <= free]
    return _offload(sizes, total, max(fitting, default=0), wanted)


def _layer_sizes(header: GgufHeader) -> list[int]:
    """Returns the bytes of each layer's weights, the last layer first, then those of the output.

    A model without output weights uses its embeddings as output, and the GPU gets a second copy.
    """
    layers: Counter[int] = Counter()
    others: Counter[str] = Counter()
    for tensor in header.tensors:
        if match := _LAYER.match(tensor.name):
            layers[int(match[1])] += tensor.size
        else:
            others[tensor.name.partition(".")[0]] += tensor.size
    output = others["output"] or others["token_embd"]
    return [*(layers[number] for number in sorted(layers, reverse=True)), output]


def _needed(sizes: list[int], num_layers: int, cells_size: int) -> int:
    """Returns the GPU memory in bytes that `num_layers` layers need; `cells_size`: all KV cells."""
    num_with_cells = min(num_layers, len(sizes) - 1)
    cells = cells_size * num_with_cells // max(len(sizes) - 1, 1)
    return sum(sizes[:num_layers]) + cells + _MARGIN_BYTES * bool(num_layers)


def _offload(sizes: list[int], total: int, num_layers: int, max_slots: int) -> Offload:
    return Offload(
        num_layers,
        weights_share=sum(sizes[:num_layers]) / max(total, 1),
        cells_share=min(num_layers, len(sizes) - 1) / max(len(sizes) - 1, 1),
        max_slots=max_slots,
    )
