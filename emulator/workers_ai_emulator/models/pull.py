"""Gets a model's weights from a Hugging Face hub, or from the local cache of huggingface-hub."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from workers_ai_emulator.errors import PullFailed
from workers_ai_emulator.machine import in_units
from workers_ai_emulator.models.catalog import HubFile, ModelSpec
from workers_ai_emulator.models.download import (
    Download,
    Progress,
    Retrier,
    Retries,
    link_or_copy,
    locked,
    sha256_of,
)
from workers_ai_emulator.models.manifest import Manifest
from workers_ai_emulator.models.store import Store
from workers_ai_emulator.network import check_hub_endpoint

_COMMIT = re.compile(r"[0-9a-f]{40}")


def pull(spec: ModelSpec, store: Store, *, progress: Progress, retries: Retries) -> Path:
    """Downloads a model's weights if they are missing, and returns their path.

    If the weights file exists, checks its sha256 instead. Leaves out the check if the file's size
    and modification time are unchanged since the last check. Raises PullFailed if the download
    fails or the sha256 is wrong, and SettingInvalid if HF_ENDPOINT is no URL.
    """
    file = file_to_pull(spec)
    target = store.path(spec)
    with locked(target, progress.note):
        manifest = Manifest.read(target)
        if manifest and manifest.matches(target):
            progress.note(f"{target} exists already, {in_units(manifest.size)}")
        else:
            _Pull(file, target, progress, retries).run()
    return target


def file_to_pull(spec: ModelSpec) -> HubFile:
    """Returns the file on the hub that contains a model's weights.

    Raises PullFailed if there is none, or if the weights are split into several files.
    """
    if spec.hub_file is None:
        raise PullFailed(
            f"{spec.name} has no repository on a hub: set its `repo` in models.toml, or run "
            f"`workers-ai-emulator models import FILE --as {spec.name}`"
        )
    if spec.hub_file.is_split:
        raise PullFailed(
            f"{spec.hub_file.path} of {spec.hub_file.repo} is one of several files, and `pull` "
            "downloads only models with one file: join the files with llama.cpp's "
            "`llama-gguf-split --merge`, then run "
            f"`workers-ai-emulator models import FILE --as {spec.name}`"
        )
    return spec.hub_file


class _Pull:
    """Gets a file from huggingface-hub's cache or from the hub, and stores it as `target`.

    The caller must hold the lock of `target`.
    """

    def __init__(self, file: HubFile, target: Path, progress: Progress, retries: Retries) -> None:
        check_hub_endpoint()
        # This import is slow, and `pull` does not need it if the weights file is unchanged.
        from workers_ai_emulator.models import hub

        self._hub = hub
        self._file = file
        self._target = target
        self._progress = progress
        self._retries = retries

    def run(self) -> None:
        """Links or copies the file from huggingface-hub's cache. If it is not cached, downloads it.

        If the target exists, only checks the target's sha256. Raises PullFailed if the sha256 is
        wrong or the download fails.
        """
        cached = self._hub.find_cached(self._file)
        is_fixed = _COMMIT.fullmatch(self._file.revision) or self._hub.is_offline()
        if cached and is_fixed and self._take_cached(*cached, commit=self._file.revision):
            return
        remote = Retrier(self._retries, self._progress).run(lambda: self._hub.describe(self._file))
        if self._target.exists():
            self._accept_existing(remote.sha256, remote.commit)
        elif not (
            cached
            and cached[1] == remote.sha256
            and self._take_cached(*cached, commit=remote.commit)
        ):
            Download(
                self._target,
                size=remote.size,
                sha256=remote.sha256,
                open_remote=partial(self._hub.open_remote, self._file, remote),
                progress=self._progress,
                retries=self._retries,
            ).run()
            self._write_manifest(remote.sha256, remote.commit)

    def _take_cached(self, blob: Path, sha256: str, *, commit: str) -> bool:
        """Links or copies the file `blob` from huggingface-hub's cache to the target.

        Returns False if the cached file is damaged, otherwise True. If the target exists, only
        checks the target's sha256, and raises PullFailed if the sha256 is wrong.
        """
        if self._target.exists():
            self._accept_existing(sha256, commit)
            return True
        self._progress.note(f"using the file in the cache: {blob}")
        if sha256_of(blob, self._progress) != sha256:
            self._progress.note("the file in the cache is damaged")
            return False
        link_or_copy(blob, self._target)
        self._write_manifest(sha256, commit)
        return True

    def _accept_existing(self, sha256: str, commit: str) -> None:
        """Checks that the existing target has the given sha256.

        If so, stores the sha256 in the file `TARGET.json`; otherwise raises PullFailed.
        """
        if sha256_of(self._target, self._progress) != sha256:
            raise PullFailed(
                f"{self._target} is another file than {self._file.path} of {self._file.repo}, or "
                "damaged: move it away, or run `workers-ai-emulator models remove`"
            )
        self._write_manifest(sha256, commit)

    def _write_manifest(self, sha256: str, commit: str) -> None:
        origin = f"{self._file.repo}/{self._file.path}@{commit}"
        Manifest.of(self._target, origin=origin, sha256=sha256).write(self._target)
        size = in_units(self._target.stat().st_size)
        self._progress.note(f"{self._target} is complete, {size}, sha256 {sha256}")
