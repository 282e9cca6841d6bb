"""Brings a model's weights from the hub, or from its library's cache, to the folder of models."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from workers_ai_emulator.errors import PullFailed
from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models.catalog import HubFile, ModelSpec
from workers_ai_emulator.models.download import (
    Download,
    Patience,
    Progress,
    Retries,
    exclusive,
    place,
    sha256_of,
)
from workers_ai_emulator.models.store import Manifest, Store

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pull(spec: ModelSpec, store: Store, *, progress: Progress, retries: Retries) -> Path:
    """The path of the model's weights, which are there when this returns. Raises PullFailed.

    Asks nobody if they are there already and are as they were when they were checked.
    """
    if spec.hub_file is None:
        raise PullFailed(
            f"{spec.name} is at home on no hub: name its `repo` in models.toml, or run "
            f"`workers-ai-emulator models import FILE --as {spec.name}`"
        )
    target = store.path(spec)
    with exclusive(target, progress):
        manifest = Manifest.read(target)
        if manifest and manifest.fits(target):
            progress.note(f"{target} is there already, {in_units(manifest.size)}")
        else:
            _Pull(spec.hub_file, target, progress, retries).run()
    return target


class _Pull:
    """One file of the hub on its way to `target`."""

    def __init__(self, file: HubFile, target: Path, progress: Progress, retries: Retries) -> None:
        from workers_ai_emulator.models import (
            hub,  # slow to import, and a second pull does not need it
        )

        self._hub = hub
        self._file = file
        self._target = target
        self._progress = progress
        self._retries = retries

    def run(self) -> None:
        cached = self._hub.find_cached(self._file)
        is_fixed = _COMMIT.fullmatch(self._file.revision) or self._hub.is_offline()
        if cached and is_fixed and self._take_cached(*cached, commit=self._file.revision):
            return
        patience = Patience(self._retries, self._progress)
        remote = patience.until_done(lambda: self._hub.locate(self._file))
        if self._target.exists():
            self._recognise(remote.sha256, remote.commit)
        elif not (
            cached
            and cached[1] == remote.sha256
            and self._take_cached(*cached, commit=remote.commit)
        ):
            Download(
                self._target,
                size=remote.size,
                sha256=remote.sha256,
                reading=partial(self._hub.reading, self._file, remote),
                progress=self._progress,
                retries=self._retries,
            ).run()
            self._note_down(remote.sha256, remote.commit)

    def _take_cached(self, blob: Path, sha256: str, *, commit: str) -> bool:
        """Link the hub library's own copy, or copy it to another disk. False if it is damaged."""
        if self._target.exists():
            self._recognise(sha256, commit)
            return True
        self._progress.note(f"taking it from the cache: {blob}")
        if sha256_of(blob, self._progress) != sha256:
            self._progress.note("the copy in the cache is damaged")
            return False
        place(blob, self._target)
        self._note_down(sha256, commit)
        return True

    def _recognise(self, sha256: str, commit: str) -> None:
        """Somebody else put a file there: it is what it should be, or nobody overwrites it."""
        if sha256_of(self._target, self._progress) != sha256:
            raise PullFailed(
                f"{self._target} is another file than {self._file.path} of {self._file.repo}, or "
                "damaged: move it away, or run `workers-ai-emulator models remove`"
            )
        self._note_down(sha256, commit)

    def _note_down(self, sha256: str, commit: str) -> None:
        origin = f"{self._file.repo}/{self._file.path}@{commit}"
        Manifest.of(self._target, origin=origin, sha256=sha256).write(self._target)
        size = in_units(self._target.stat().st_size)
        self._progress.note(f"{self._target} is whole, {size}, sha256 {sha256}")
