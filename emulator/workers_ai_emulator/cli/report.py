"""Formats the sections of the report that the command `check` prints, in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from workers_ai_emulator import __version__, machine
from workers_ai_emulator.engine.devices import cpu_features, gpus
from workers_ai_emulator.engine.gguf import read_header
from workers_ai_emulator.runtime.determinism import Difference, Trial
from workers_ai_emulator.runtime.model_manager import LoadedModel
from workers_ai_emulator.runtime.speed import Speed
from workers_ai_emulator.settings import Settings

_BINDINGS = "llama-cpp-python"
_MAX_DIFFERENCES = 6  # how many differences the report describes


def machine_section() -> str:
    """Describes this machine, and the versions of the installed programs."""
    devices = [f"{gpu.name}, {machine.in_units(gpu.free)} free" for gpu in gpus()]
    memory = f"{machine.in_units(machine.available_memory())} free"
    memory += f" of {machine.in_units(machine.total_memory())}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return _section(
        "Machine",
        f"- emulator {__version__}, {_BINDINGS} {version(_BINDINGS)}, "
        f"Python {platform.python_version()}",
        f"- system: {platform.platform()}",
        f"- processor: {machine.processor_name()}, {machine.num_cores()} of {os.cpu_count()} "
        f"cores{load}",
        f"- llama.cpp uses: {' '.join(cpu_features())}",
        f"- memory: {memory}",
        f"- GPU: {'; '.join(devices) or 'none that llama.cpp can use'}",
    )


def model_section(loaded: LoadedModel, settings: Settings) -> str:
    """Describes a loaded model and the settings with which it runs."""
    weights = loaded.weights
    stand_in = " (the stand-in model)" if weights.is_trusted else ""
    layers = "auto" if settings.gpu_layers is None else settings.gpu_layers
    return _section(
        "Model",
        f"- name: {loaded.spec.name}",
        f"- weights: {weights.name}.gguf, {read_header(weights.path).weights_type}{stand_in}",
        f"- sequences at the same time (`--parallel`): {loaded.engine.status.num_slots}, "
        f"of {loaded.engine.context_length} tokens",
        f"- memory: {machine.in_units(loaded.memory)} at most",
        f"- settings: `--threads {settings.threads} --gpu-layers {layers} "
        f"{_flag('deterministic', settings.deterministic)} {_flag('drafts', settings.drafts)}`",
    )


def calls_section(durations: Mapping[int, float], *, is_complete: bool) -> str:
    """Shows how long decode calls take. `durations`: the seconds, by the number of rows.

    `is_complete`: whether all numbers of rows were measured.
    """
    if not durations and is_complete:
        return _section(
            "Decode calls",
            "Not measured: the engine measures its calls only if `--drafts` is on, and on a GPU "
            "only with `--no-deterministic`.",
        )
    cut = "" if is_complete else "\n\nThe time limit was reached before all calls were measured."
    return _section(
        "Decode calls",
        "| rows | " + " | ".join(map(str, durations)) + " |",
        "|---|" + "--:|" * len(durations),
        "| ms | " + " | ".join(f"{1000 * s:.1f}" for s in durations.values()) + " |" + cut,
    )


def speed_section(speeds: Sequence[Speed]) -> str:
    """Shows the tokens per second by the number of clients, and the time to the first token."""
    return _section("Speed", *map(_speed_line, speeds))


def determinism_section(trial: Trial) -> str:
    """Shows the rounds of a determinism trial, and its result as the last line."""
    lengths = [len(request.prompt_tokens) for request in trial.requests]
    differences = [(round.way, d) for round in trial.rounds for d in round.differences]
    return _section(
        "Determinism",
        f"{len(lengths)} greedy and seeded requests with prompts of {min(lengths)} to "
        f"{max(lengths)} tokens ran one after the other. The same requests ran again:\n",
        *(
            f"- {round.way}: {_result(len(round.differences), round.num_compared)}"
            for round in trial.rounds
        ),
        *(f"- {_difference(way, d)}" for way, d in differences[:_MAX_DIFFERENCES]),
        f"\nResult: {_result(trial.num_different, trial.num_compared)}{_cut(trial)}",
    )


def _section(title: str, *lines: str) -> str:
    return "\n".join((f"## {title}\n", *lines, ""))


def _flag(name: str, is_on: bool) -> str:
    return f"--{name}" if is_on else f"--no-{name}"


def _speed_line(speed: Speed) -> str:
    clients = "1 client" if speed.num_clients == 1 else f"{speed.num_clients} clients"
    if speed.tokens_per_s is None or speed.first_token_s is None:
        return f"- {clients}: not measured, too few tokens before the time limit"
    cut = f" (the time limit was reached after {speed.num_tokens} tokens)" if speed.is_cut else ""
    return (
        f"- {clients}: {speed.tokens_per_s:.1f} tokens/s, "
        f"first token after {1000 * speed.first_token_s:.0f} ms{cut}"
    )


def _result(num_different: int, num_compared: int) -> str:
    if not num_compared:
        return "nothing compared"
    return f"{num_different} of {num_compared} differ" if num_different else "equal"


def _difference(way: str, difference: Difference) -> str:
    request = difference.request
    kind = "greedy" if request.params.temperature == 0 else "seeded"
    return (
        f"the {kind} request with {len(request.prompt_tokens)} prompt tokens differs from token "
        f"{difference.token + 1} on ({way})"
    )


def _cut(trial: Trial) -> str:
    if trial.num_compared == trial.num_planned:
        return ""
    return (
        f". The time limit was reached: {trial.num_compared} of {trial.num_planned} completions "
        "were compared."
    )
