"""How much of a model goes to the GPU: all of it with some sequences, else what layers fit."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from workers_ai_emulator.engine.gguf_format import GgufHeader

MAX_SLOTS = 8  # where the user names no number
_MARGIN_BYTES = 768 * 2**20  # of the GPU, for buffers of a calculation and for others
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Offload:
    """`num_layers` as llama.cpp counts them: the last layers, then the output.

    `weights_share` and `cells_share` of all are on the GPU then, for up to `max_slots` sequences.
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
    """What fits into `free` bytes of the GPU, or what `num_layers` that the user named come to.

    `context_length` in tokens; `parallel`: how many sequences the user wants.
    """
    sizes = _sizes(header)
    total = sum(tensor.size for tensor in header.tensors)
    slot_size = context_length * _cell_size(header)
    wanted = parallel or MAX_SLOTS
    if num_layers is not None:
        return _offload(sizes, total, min(num_layers, len(sizes)), wanted)
    for num_slots in [parallel] if parallel else range(wanted, 0, -1):
        if _needed(sizes, len(sizes), num_slots * slot_size) <= free:
            return _offload(sizes, total, len(sizes), num_slots)
    fitting = [n for n in range(len(sizes)) if _needed(sizes, n, wanted * slot_size) <= free]
    return _offload(sizes, total, max(fitting, default=0), wanted)


def _sizes(header: GgufHeader) -> list[int]:
    """Bytes of the weights that each further layer on the GPU brings there, the output last.

    A model without an output of its own uses its embeddings, which then are there a second time.
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


def _cell_size(header: GgufHeader) -> int:
    """Bytes of one token in all layers, as 16-bit floats; too many where layers differ."""
    num_heads = _number(header, "attention.head_count", 1)
    num_kv_heads = _number(header, "attention.head_count_kv", num_heads)
    length = _number(header, "attention.key_length", (header.embedding_length or 0) // num_heads)
    return (header.num_layers or 0) * num_kv_heads * length * 2 * 2


def _number(header: GgufHeader, key: str, default: int) -> int:
    value = header.metadata.get(f"{header.architecture}.{key}")
    return value if isinstance(value, int) and value else default


def _needed(sizes: list[int], num_layers: int, cells_size: int) -> int:
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
