"""Converts a GGUF file to another type of weights."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp.llama_cpp as llama

from workers_ai_emulator.engine import llama_log
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import WeightsType

_FTYPES = {"Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0, "F16": llama.LLAMA_FTYPE_MOSTLY_F16}


def quantize(source: Path, target: Path, weights_type: WeightsType, *, num_threads: int) -> None:
    """Write `source` as `weights_type` to `target`.

    Raises EngineError; a partial file may then be left.
    """
    llama_log.attach()
    params = llama.llama_model_quantize_default_params()
    params.ftype = _FTYPES[weights_type]
    params.nthread = num_threads
    params.allow_requantize = True
    status = llama.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    )
    if status != 0:
        raise EngineError(llama_log.complaint(f"cannot convert {source.name} to {weights_type}"))
