"""`pull` and `models`: which weights there are, and where they come from."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from workers_ai_emulator.cli.options import ModelsDir, ModelsFile
from workers_ai_emulator.cli.output import print_line, print_table, tell
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.errors import CommandError, ModelUnknown, PullFailed
from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models.catalog import License, ModelSpec, default_context_length
from workers_ai_emulator.settings import default_models_dir

_DEFAULT_DIR = default_models_dir()
_JSON = typer.Option("--json", help="For programs.")

app = typer.Typer(help="Show, import, check and remove weights.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print_line(context.get_help())


def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models to bring.")],
    models_dir: ModelsDir = _DEFAULT_DIR,
    models_file: ModelsFile = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Agree to the weights' terms unasked.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but what fails.")] = False,
) -> None:
    """Download the weights of models, or go on where a download broke off.

    Every byte is checked against the hub's own digest. HF_ENDPOINT, HF_TOKEN, HF_HOME and
    HF_HUB_OFFLINE work as they do for huggingface-hub.
    """
    from workers_ai_emulator.cli.progress import progress_on
    from workers_ai_emulator.models.download import Retries
    from workers_ai_emulator.models.pull import pull as pull_weights

    shelf = _ModelsContext(models_dir, models_file)
    specs = [shelf.spec(name) for name in names]
    for license in {spec.license: None for spec in specs if spec.license}:
        _agree(license, is_agreed=accept_license, is_quiet=quiet)
    progress = progress_on(is_quiet=quiet)
    for spec in specs:
        pull_weights(spec, shelf.store, progress=progress, retries=Retries())


@app.command("list")
def list_models(
    models_dir: ModelsDir = _DEFAULT_DIR,
    models_file: ModelsFile = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """Which models are served, and from which files."""
    shelf = _ModelsContext(models_dir, models_file)
    facts = [shelf.facts(spec) for spec in shelf.catalog.values()]
    if as_json:
        print_line(json.dumps([asdict(of) for of in facts], indent=2))
        return
    print_table(
        ["NAME", "FILE", "TYPE", "SIZE", "CONTEXT", "SHA256", "ORIGIN"],
        [
            [f.name, f.file, f.type, _size(f), _text(f.context), f.sha256[:12], f.origin]
            for f in facts
        ],
    )


@app.command()
def show(
    name: Annotated[str, typer.Argument()],
    models_dir: ModelsDir = _DEFAULT_DIR,
    models_file: ModelsFile = None,
    as_json: Annotated[bool, _JSON] = False,
) -> None:
    """All that is known of one model."""
    shelf = _ModelsContext(models_dir, models_file)
    facts = shelf.facts(shelf.spec(name))
    if as_json:
        print_line(json.dumps(asdict(facts), indent=2))
        return
    for key, value in asdict(facts).items():
        print_line(f"{key + ':':<10} {_text(value)}")


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A GGUF file.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="@cf/author/model")],
    models_dir: ModelsDir = _DEFAULT_DIR,
    models_file: ModelsFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but what fails.")] = False,
) -> None:
    """Serve a GGUF file of yours under a name.

    The file is checked, then linked into the folder of models, or copied from another disk.
    """
    from workers_ai_emulator.cli.progress import progress_on
    from workers_ai_emulator.models.importing import import_weights

    shelf = _ModelsContext(models_dir, models_file)
    import_weights(file, name, shelf.store, shelf.models_file, progress_on(is_quiet=quiet))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument()] = None,
    models_dir: ModelsDir = _DEFAULT_DIR,
    models_file: ModelsFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but what fails.")] = False,
) -> None:
    """Read the weights of one model, or of all, and compare their digests."""
    from workers_ai_emulator.cli.progress import progress_on
    from workers_ai_emulator.models.importing import verify_weights

    shelf = _ModelsContext(models_dir, models_file)
    specs = [shelf.spec(name)] if name else [s for s in shelf.catalog.values() if shelf.has(s)]
    failures = []
    for spec in specs:
        try:
            print_line(
                f"{spec.name}: {verify_weights(spec, shelf.store, progress_on(is_quiet=quiet))}"
            )
        except CommandError as error:
            failures.append(str(error))
    if failures:
        raise CommandError("\n".join(failures))


@app.command()
def remove(
    name: Annotated[str, typer.Argument()],
    models_dir: ModelsDir = _DEFAULT_DIR,
    models_file: ModelsFile = None,
) -> None:
    """Delete the weights of a model, and what models.toml says of it.

    Files outside of the folder of models, and files that another model uses, stay.
    """
    from workers_ai_emulator.models.importing import remove_weights

    shelf = _ModelsContext(models_dir, models_file)
    for line in remove_weights(shelf.spec(name), shelf.catalog, shelf.store, shelf.models_file):
        tell(line)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is known of a model's weights. `size` in bytes, `context` in tokens."""

    name: str
    file: str
    type: str
    size: int | None
    context: int | None
    sha256: str
    origin: str


class _ModelsContext:
    """The catalogue and the folder that its weights are in."""

    def __init__(self, models_dir: Path, models_file: Path | None) -> None:
        from workers_ai_emulator.models.models_file import models_file as path_of  # slow to import
        from workers_ai_emulator.models.models_file import read_catalog
        from workers_ai_emulator.models.store import Store

        self.models_file = path_of(models_dir, models_file)
        self.catalog = read_catalog(models_dir, models_file)
        self.store = Store(models_dir, num_threads=1)

    def spec(self, name: str) -> ModelSpec:
        """Raises ModelUnknown."""
        if name not in self.catalog:
            raise ModelUnknown(
                f"no model is called {name}: `workers-ai-emulator models list` shows the names"
            )
        return self.catalog[name]

    def has(self, spec: ModelSpec) -> bool:
        return self.store.path(spec).exists()

    def facts(self, spec: ModelSpec) -> _Facts:
        from workers_ai_emulator.engine.gguf import read_header
        from workers_ai_emulator.models.store import Manifest

        path = self.store.path(spec)
        if not path.exists():
            origin = _home(spec) + (
                f"; until then {spec.stand_in} stand-in" if spec.stand_in else ""
            )
            return _Facts(spec.name, f"{path} (not there)", "", None, None, "", origin)
        manifest = Manifest.read(path)
        sha256, origin = (
            (manifest.sha256, manifest.origin) if manifest else ("", "put there by hand")
        )
        size = path.stat().st_size
        try:
            header = read_header(path)
        except GgufInvalid as error:
            return _Facts(spec.name, str(path), f"unusable: {error}", size, None, sha256, origin)
        context = spec.context_length or default_context_length(header.context_length)
        return _Facts(spec.name, str(path), header.weights_type, size, context, sha256, origin)


def _home(spec: ModelSpec) -> str:
    file = spec.hub_file
    return f"`pull` brings it from {file.repo}" if file else "nothing brings it"


def _agree(license: License, *, is_agreed: bool, is_quiet: bool) -> None:
    """Raises PullFailed where nobody agrees."""
    if not is_quiet:
        tell(f"These weights come under the {license.name}: {license.url}")
        tell(license.notice)
    if is_agreed:
        return
    if not sys.stdin.isatty():
        raise PullFailed(
            f"the {license.name} ({license.url}) must be agreed to: read it, then add "
            "--accept-license"
        )
    if not typer.confirm("Do you agree to these terms?", err=True):
        raise PullFailed("without agreement nothing is downloaded")


def _size(facts: _Facts) -> str:
    return "" if facts.size is None else in_units(facts.size)


def _text(value: object) -> str:
    return "" if value is None else str(value)
