"""The commands `pull` and `models`: download, list, import, verify and remove weights."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workers_ai_emulator.cli.help import Command, Group
from workers_ai_emulator.cli.options import DEFAULTS, ModelsDir, ModelsFile
from workers_ai_emulator.cli.output import print_line, print_table, print_to_stderr
from workers_ai_emulator.engine.errors import GgufInvalid
from workers_ai_emulator.errors import CommandError, PullFailed
from workers_ai_emulator.machine import in_units

if TYPE_CHECKING:  # this import is slow, and only type annotations need it
    from workers_ai_emulator.engine.gguf_header import GgufHeader
    from workers_ai_emulator.models.catalog import HubFile, License, ModelSpec

Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_UNUSABLE = "unusable: "  # the beginning of the type of a file that cannot be used
# Longer file names are cut in the table, so that its rows fit into 100 columns.
_MAX_FILE_NAME = 32

app = typer.Typer(cls=Group, help="List, import, verify and remove weights.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print_line(context.get_help())


def pull(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models to download.")],
    models_dir: ModelsDir = DEFAULTS.models_dir,
    models_file: ModelsFile = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the weights' licence without a prompt.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Download the weights of models, or resume an interrupted download.

    Checks that each file has the sha256 that the Hugging Face Hub lists. The environment variables
    HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE have the same effect as for huggingface-hub.
    """
    from workers_ai_emulator.cli.progress import progress_on_stderr
    from workers_ai_emulator.models.download import Retries
    from workers_ai_emulator.models.pull import file_to_pull
    from workers_ai_emulator.models.pull import pull as pull_weights

    library = _Library(models_dir, models_file)
    specs = [library.spec(name) for name in names]
    for spec in specs:
        file = file_to_pull(spec)
        if not quiet:
            print_to_stderr(f"{spec.name}: {file.path} of {file.repo}{_about(file)}")
    for license in {spec.license: None for spec in specs if spec.license}:
        _confirm_license(license, is_accepted=accept_license, is_quiet=quiet)
    progress = progress_on_stderr(is_quiet=quiet)
    for spec in specs:
        pull_weights(spec, library.store, progress=progress, retries=Retries())


@app.command("list", cls=Command)
def list_models(
    models_dir: ModelsDir = DEFAULTS.models_dir,
    models_file: ModelsFile = None,
    as_json: Json = False,
) -> None:
    """List the names that requests can use, and what serves each of them.

    The command `models show`, and the flag `--json`, print more details.
    """
    library = _Library(models_dir, models_file)
    models = [(spec, library.details(spec)) for spec in library.catalog.values()]
    if as_json:
        print_line(json.dumps([asdict(details) for _, details in models], indent=2))
        return
    rows = [
        [spec.name, _served_by(spec, details), _state(spec, details)] for spec, details in models
    ]
    print_table(["NAME", "SERVED BY", "STATE"], rows)


@app.command(cls=Command)
def show(
    name: Annotated[str, typer.Argument()],
    models_dir: ModelsDir = DEFAULTS.models_dir,
    models_file: ModelsFile = None,
    as_json: Json = False,
) -> None:
    """Show the details of one model."""
    library = _Library(models_dir, models_file)
    details = asdict(library.details(library.spec(name)))
    if as_json:
        print_line(json.dumps(details, indent=2))
        return
    for key, value in details.items():
        print_line(f"{key + ':':<10} {_text(value)}")


@app.command("import", cls=Command)
def import_file(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A GGUF file.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="@cf/author/model")],
    models_dir: ModelsDir = DEFAULTS.models_dir,
    models_file: ModelsFile = None,
    quiet: Quiet = False,
) -> None:
    """Add a model whose weights are a GGUF file of yours.

    Checks the file, then links it into `imported`, a subfolder of the folder of the weights. If the
    file is on another disk, copies it instead.
    """
    from workers_ai_emulator.cli.progress import progress_on_stderr
    from workers_ai_emulator.models.importing import import_weights

    library = _Library(models_dir, models_file)
    progress = progress_on_stderr(is_quiet=quiet)
    import_weights(file, name, library.catalog, library.store, library.models_file, progress)


@app.command(cls=Command)
def verify(
    name: Annotated[str | None, typer.Argument()] = None,
    models_dir: ModelsDir = DEFAULTS.models_dir,
    models_file: ModelsFile = None,
    quiet: Quiet = False,
) -> None:
    """Check that weights still have the sha256 that they had after their download or import.

    Without a name, checks the weights of all models.
    """
    from workers_ai_emulator.cli.progress import progress_on_stderr
    from workers_ai_emulator.models.importing import verify_weights

    library = _Library(models_dir, models_file)
    failures = []
    specs = [library.spec(name)] if name else library.specs_with_weights()
    if not specs:
        print_to_stderr(f"no weights to verify in {models_dir}")
    for spec in specs:
        try:
            result = verify_weights(spec, library.store, progress_on_stderr(is_quiet=quiet))
            print_line(f"{spec.name}: {result}")
        except CommandError as error:
            failures.append(str(error))
    if failures:
        raise CommandError("\n".join(failures))


@app.command(cls=Command)
def remove(
    name: Annotated[str, typer.Argument()],
    models_dir: ModelsDir = DEFAULTS.models_dir,
    models_file: ModelsFile = None,
) -> None:
    """Delete a model's weights and its entry in models.toml.

    Files outside the folder of the weights, and files that another model uses, are not deleted.
    """
    from workers_ai_emulator.models.importing import remove_weights

    library = _Library(models_dir, models_file)
    spec = library.spec(name)
    line = None
    for line in remove_weights(spec, library.catalog, library.store, library.models_file):
        print_to_stderr(line)
    if line is None:
        print_to_stderr(f"{spec.name} has no weights: nothing removed")


@dataclass(frozen=True, slots=True)
class _Details:
    """What the commands `models list` and `models show` print about a model.

    `size` is the size of the weights file in bytes. `context` is the maximum number of tokens of
    prompt and completion together, or of a text of an embedding model. `size` and `context` are
    None if they are unknown.
    """

    name: str
    file: str
    type: str
    size: int | None
    context: int | None
    sha256: str
    origin: str


class _Library:
    """The catalogue (list of all models), the path of `models.toml`, and the models folder."""

    def __init__(self, models_dir: Path, models_file: Path | None) -> None:
        # These imports are slow, and `--help` does not need them.
        from workers_ai_emulator.models.models_file import models_file as path_of
        from workers_ai_emulator.models.models_file import read_catalog
        from workers_ai_emulator.models.store import Store

        self.models_file = path_of(models_dir, models_file)
        self.catalog = read_catalog(models_dir, models_file)
        self.store = Store(models_dir, num_threads=1)

    def spec(self, name: str) -> ModelSpec:
        """Returns the model `name` of the catalogue. Raises ModelUnknown if there is none."""
        from workers_ai_emulator.models.catalog import find_spec

        return find_spec(self.catalog, name)

    def specs_with_weights(self) -> list[ModelSpec]:
        """Returns the models whose weights exist. Of models with the same file, only the first."""
        specs: dict[Path, ModelSpec] = {}
        for spec in self.catalog.values():
            specs.setdefault(self.store.path(spec), spec)
        return [spec for path, spec in specs.items() if path.exists()]

    def details(self, spec: ModelSpec) -> _Details:
        """Returns the details of a model.

        Reads them from the header of the model's GGUF file, and from its manifest: a JSON file with
        the origin and the sha256 of the GGUF file. If the GGUF file is missing, the field `origin`
        describes how to get it.
        """
        from workers_ai_emulator.models.manifest import Manifest
        from workers_ai_emulator.models.weights_header import read_weights_header

        path = self.store.path(spec)
        if not path.exists():
            return _Details(spec.name, f"{path} (missing)", "", None, None, "", _source(spec))
        manifest = Manifest.read(path)
        sha256 = manifest.sha256 if manifest else ""
        origin = manifest.origin if manifest else "added by hand"
        size = path.stat().st_size
        try:
            header = read_weights_header(path, spec)
        except GgufInvalid as error:
            return _Details(spec.name, str(path), f"{_UNUSABLE}{error}", size, None, sha256, origin)
        context = _context_length(spec, header)
        return _Details(spec.name, str(path), header.weights_type, size, context, sha256, origin)


def _context_length(spec: ModelSpec, header: GgufHeader) -> int:
    """Returns the maximum number of tokens of a sequence, or of a text of an embedding model."""
    from workers_ai_emulator.models.catalog import default_context_length

    trained = header.context_length
    if spec.embedding is not None:
        return min(spec.embedding.max_tokens, trained or spec.embedding.max_tokens)
    return spec.context_length or default_context_length(trained)


def _source(spec: ModelSpec) -> str:
    """Returns a text that tells the user where to get the missing weights of a model.

    If the stand-in model replaces the missing weights, the text also mentions the stand-in model.
    """
    return _download(spec.hub_file) + (
        f"; until then the stand-in model as {spec.stand_in}" if spec.stand_in else ""
    )


def _download(file: HubFile | None) -> str:
    if file is None:
        return "no repository"
    if file.is_split:
        return f"several files in {file.repo}{_about(file)}, which `pull` does not download"
    return f"`pull` downloads it from {file.repo}{_about(file)}"


def _about(file: HubFile) -> str:
    """Returns the file's approximate size, such as `, about 1.9 GiB`; empty if it is unknown."""
    return f", about {in_units(file.size)}" if file.size else ""


def _confirm_license(license: License, *, is_accepted: bool, is_quiet: bool) -> None:
    """Prints the licence of the weights, and asks for its acceptance if the licence requires it.

    If `is_quiet`, does not print the licence. If `is_accepted`, does not ask. Raises PullFailed if
    the user does not accept the licence. Also raises PullFailed if stdin is not a terminal, because
    the user then cannot respond.
    """
    if not is_quiet:
        print_to_stderr(f"These weights come under the {license.name}: {license.url}")
        if license.notice:
            print_to_stderr(license.notice)
    if is_accepted or not license.needs_acceptance:
        return
    if not sys.stdin.isatty():
        raise PullFailed(
            f"the {license.name} ({license.url}) must be accepted: read it, then add "
            "--accept-license"
        )
    if not typer.confirm("Do you accept these terms?", err=True):
        raise PullFailed("nothing was downloaded: the licence was not accepted")


def _served_by(spec: ModelSpec, details: _Details) -> str:
    """Returns the name of the weights file, or what serves the model without it."""
    if details.size is None:
        return f"stand-in model ({spec.stand_in})" if spec.stand_in else "nothing"
    name = Path(details.file).name
    return name if len(name) <= _MAX_FILE_NAME else f"{name[: _MAX_FILE_NAME - 1]}…"


def _state(spec: ModelSpec, details: _Details) -> str:
    """Returns whether the model's own weights can be used, or how to get them."""
    if details.size is not None:
        is_unusable = details.type.startswith(_UNUSABLE)
        return details.type if is_unusable else f"ready, {in_units(details.size)}"
    if (file := spec.hub_file) is None or file.is_split:  # `models show` prints the reason
        return "stand-in only" if spec.stand_in else "weights missing"
    return f"`pull` gets {in_units(file.size)}" if file.size else "`pull` gets it"


def _text(value: object) -> str:
    return "" if value is None else str(value)
