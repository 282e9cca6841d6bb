"""Tests which features of the processor are read from llama.cpp's text about the system."""

from __future__ import annotations

import pytest
from workers_ai_emulator.engine.devices import _cpu_features, cpu_features


@pytest.mark.parametrize(
    ("text", "features"),
    [
        ("CPU : SSE3 = 1 | AVX2 = 1 | ", ["SSE3", "AVX2"]),
        ("CPU : SSE3 = 1 | AVX512 = 0 | OPENMP = 1 | ", ["SSE3", "OPENMP"]),
        ("CUDA : ARCHS = 900 | F16 = 1 | CPU : NEON = 1 | SVE_CNT = 16 | ", ["NEON", "SVE_CNT"]),
        ("CPU : NEON = 1 | Metal : EMBED_LIBRARY = 1 | ", ["NEON"]),
        ("", []),
    ],
)
def test_the_features_are_those_of_the_cpu_section(text: str, features: list[str]) -> None:
    assert _cpu_features(text) == features


def test_the_installed_llama_cpp_lists_features() -> None:
    assert cpu_features()


def test_make_has_compiled_llama_cpp_without_amx() -> None:
    assert "AMX_INT8" not in cpu_features()
