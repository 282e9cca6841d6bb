"""The command `check`: measures a model on this machine, and prints a report for bug reports."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from workers_ai_emulator.cli.options import with_some_settings
from workers_ai_emulator.cli.output import print_line
from workers_ai_emulator.errors import CommandError
from workers_ai_emulator.settings import Settings

if TYPE_CHECKING:  # these imports are slow, and only type annotations need them
    from workers_ai_emulator.models.catalog import ModelSpec
    from workers_ai_emulator.runtime.determinism import Trial
    from workers_ai_emulator.runtime.model_manager import LoadedModel, ModelManager

# The time limits of the sections of the report, in seconds; together less than a minute.
_CALLS_LIMIT_S, _SPEED_LIMIT_S, _TRIAL_LIMIT_S = 13, 15, 25

Note = Callable[[str], None]  # prints a line about the progress


@with_some_settings(
    *("models_dir", "models_file", "memory_limit", "parallel", "context_length", "threads"),
    *("gpu_layers", "deterministic", "drafts"),
)
def check(
    settings: Settings,
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Model to check. Default: @cf/meta/llama-2-7b-chat-int8."
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print no progress.")] = False,
) -> None:
    """Measure speed and determinism on this machine, and print a report for a bug report.

    Takes less than a minute after the model is loaded; with a slow model, measures less. Exits with
    1 if equal requests got different completions, or if no completions were compared.
    """
    # The imports in this function are slow, and `check --help` does not need them.
    import asyncio

    from workers_ai_emulator.cli.progress import progress_on_stderr
    from workers_ai_emulator.cli.report import machine_section
    from workers_ai_emulator.engine.errors import EngineError
    from workers_ai_emulator.models.catalog import find_spec
    from workers_ai_emulator.models.models_file import read_catalog
    from workers_ai_emulator.runtime.model_manager import ModelManager

    catalog = read_catalog(settings.models_dir, settings.models_file)
    spec = find_spec(catalog, next(iter(catalog)) if model is None else model)
    print_line(machine_section())
    manager = ModelManager(settings, catalog)
    note = progress_on_stderr(is_quiet=quiet).note
    try:
        trial = asyncio.run(_check_model(settings, manager, spec, note))
    except EngineError as error:
        raise CommandError(f"{spec.name} does not compute: {error}") from error
    if not trial.num_compared:
        raise CommandError(
            f"no completions were compared: {spec.name} is too slow on this machine for the time "
            f"limit of {_TRIAL_LIMIT_S} s; stop other programs, or check a smaller model"
        )
    raise SystemExit(1 if trial.num_different else 0)


async def _check_model(
    settings: Settings, manager: ModelManager, spec: ModelSpec, note: Note
) -> Trial:
    """Loads the model and prints its sections. Returns the trial of its determinism."""
    from workers_ai_emulator.cli.report import model_section

    note(f"loading {spec.name}")
    try:
        async with manager.lease(spec) as loaded:
            print_line(model_section(loaded, settings))
            return await _measure(loaded, note)
    finally:
        await manager.close()


async def _measure(loaded: LoadedModel, note: Note) -> Trial:
    from workers_ai_emulator.cli.report import calls_section, determinism_section, speed_section
    from workers_ai_emulator.runtime.determinism import try_determinism
    from workers_ai_emulator.runtime.speed import call_durations, measure_speeds

    engine = loaded.engine
    note(f"measuring decode calls, for at most {_CALLS_LIMIT_S} s")
    durations, is_complete = await call_durations(engine, limit_s=_CALLS_LIMIT_S)
    print_line(calls_section(durations, is_complete=is_complete))
    note(f"measuring speed, for at most {_SPEED_LIMIT_S} s")
    speeds = await measure_speeds(engine, limit_s=_SPEED_LIMIT_S)
    print_line(speed_section(speeds))
    note(f"comparing completions of equal requests, for at most {_TRIAL_LIMIT_S} s")
    trial = await try_determinism(
        engine, tokens_per_s=speeds[0].tokens_per_s, limit_s=_TRIAL_LIMIT_S
    )
    print_line(determinism_section(trial))
    return trial
