"""Converts the weights of a GGUF file to another type: Q8_0 or F16."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp.llama_cpp as llama

from workers_ai_emulator.engine import llama_log
from workers_ai_emulator.engine.errors import EngineError
from workers_ai_emulator.engine.types import WeightsType

_FTYPES = {"Q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0, "F16": llama.LLAMA_FTYPE_MOSTLY_F16}


def quantize(source: Path, target: Path, weights_type: WeightsType, *, num_threads: int) -> None:
    """Converts the weights in `source` to `weights_type` and writes a GGUF file to `target`.

    Raises EngineError if the conversion fails; `target` may then be incomplete.
    """
    llama_log.attach()
    params = llama.llama_model_quantize_default_params()
    params.ftype = _FTYPES[weights_type]
    params.nthread = num_threads
    params.allow_requantize = True
    with llama_log.collected_errors() as errors:
        status = llama.llama_model_quantize(
            os.fsencode(source), os.fsencode(target), ctypes.byref(params)
        )
    if status != 0:
        default = f"cannot convert {source.name} to {weights_type}"
        raise EngineError(llama_log.reason(errors, default))
