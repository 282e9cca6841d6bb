"""Lists the GPUs and the processor features that the installed build of llama.cpp uses."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml

_GPU_TYPES = (1, 2)  # values of ggml_backend_dev_type: dedicated GPU, integrated GPU


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU: its name, and how many bytes of its memory are free."""

    name: str
    free: int


def cpu_features() -> list[str]:
    """Returns the instruction sets of the processor that llama.cpp uses, such as `AVX2`.

    llama.cpp's list also names the options of its build, such as `OPENMP`.
    """
    llama.llama_backend_init()  # loads llama.cpp's CPU backends if they are shared libraries
    return _cpu_features(llama.llama_print_system_info().decode("utf-8", "replace"))


def gpus() -> list[Device]:
    """Returns the GPUs that llama.cpp can use; [] if llama.cpp was built for the CPU only."""
    llama.llama_backend_init()  # loads llama.cpp's GPU backends if they are shared libraries
    if not llama.llama_supports_gpu_offload():
        return []
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    type_of = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    devices = [get(index) for index in range(count())]
    return [_device(device) for device in devices if type_of(device) in _GPU_TYPES]


def _cpu_features(system_info: str) -> list[str]:
    """Returns the features in llama.cpp's text about the system whose value is not 0.

    The text has the form `CUDA : ARCHS = 900 | CPU : SSE3 = 1 | AVX2 = 1 | `.
    """
    section = re.search(r"\bCPU : ((?:\w+ = \w+ \| ?)*)", system_info)
    return re.findall(r"(\w+) = (?!0 )", section[1]) if section else []


def _device(pointer: int) -> Device:
    describe = _function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    memory = _function(
        "ggml_backend_dev_memory",
        None,
        *(ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(ctypes.c_size_t)),
    )
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory(pointer, ctypes.byref(free), ctypes.byref(total))
    return Device(describe(pointer).decode("utf-8", "replace"), free.value)


def _function(name: str, result: type | None, *arguments: type) -> ctypes._NamedFuncPointer:
    function = getattr(libggml, name)
    function.restype, function.argtypes = result, arguments
    return function  # type: ignore[no-any-return]
