"""Decides how many layers of a model go to the GPU: all layers, or as many as fit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from workers_ai_emulator.engine.gguf_header import GgufHeader

MAX_SLOTS = 8  # the maximum number of slots of a model, unless the user sets `--parallel`
_MARGIN_BYTES = 768 * 2**20  # bytes of GPU memory for compute buffers and other processes
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Offload:
    """Which part of a model is on the GPU.

    `num_layers`: how many of the model's last layers are on the GPU (llama.cpp's `n_gpu_layers`).
    If the model has N layers, N + 1 means that all layers and the output weights are on the GPU.
    `weights_share`: the share (0 to 1) of all weights that is on the GPU. `cells_share`: the share
    (0 to 1) of all KV cells that is on the GPU. `max_slots`: the maximum number of slots.
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

    `context_length`: the maximum number of tokens of one sequence. `parallel`: the number of slots
    that the user has set; None if not set. `num_layers`: the number of layers that the user has
    set, which is used even if the layers do not fit; None if not set.
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
    """Returns how many bytes each layer's weights take, last layer first, then the output weights.

    If a model has no output weights, its token embeddings count instead, because llama.cpp copies
    the embeddings to the GPU.
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
    """Returns how many bytes of GPU memory the last `num_layers` layers need.

    The number includes the KV cells of the layers and a margin for compute buffers. `sizes`: the
    result of `_layer_sizes`. `cells_size`: the size of the KV cells of all layers, in bytes.
    """
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
