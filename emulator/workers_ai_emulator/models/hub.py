"""A Hugging Face hub: where a file lies there, its size, digest and bytes.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`, `HF_HUB_OFFLINE` and the like are the library's. It is slow to
import, and only who pulls needs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented all the same
    build_hf_headers,
    hf_raise_for_status,
)

from workers_ai_emulator import __version__
from workers_ai_emulator.errors import PullFailed, TransferInterrupted
from workers_ai_emulator.models.catalog import HubFile

# Else its first call reports what runs it.
constants.HF_HUB_DISABLE_TELEMETRY = True

_CHUNK_BYTES = 2**16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub describes it. `commit` is what the revision stands for now."""

    url: str
    commit: str
    size: int
    sha256: str


def locate(file: HubFile) -> RemoteFile:
    """Ask the hub. Raises PullFailed for good, or TransferInterrupted for now."""
    url = url_of(file)
    with _translated(file):
        metadata = get_hf_file_metadata(url, headers=_headers(), timeout=_ask_timeout_s())
    missing = [
        name
        for name, value in (
            ("commit", metadata.commit_hash),
            ("size", metadata.size),
            ("sha256", _SHA256.fullmatch(metadata.etag or "")),
        )
        if value is None
    ]
    if missing or metadata.commit_hash is None or metadata.size is None or metadata.etag is None:
        raise PullFailed(
            f"{url} names no {' and no '.join(missing)}: check that HF_ENDPOINT is a Hugging Face "
            "hub and that the file is stored there as a large one"
        )
    return RemoteFile(url, metadata.commit_hash, metadata.size, metadata.etag)


def find_cached(file: HubFile) -> tuple[Path, str] | None:
    """The file in the hub library's own cache, and the sha256 it is filed under.

    Raises PullFailed for a name that is none.
    """
    with _translated(file):
        found = try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    if not isinstance(found, str):
        return None
    blob = Path(found).resolve()
    return (blob, blob.name) if _SHA256.fullmatch(blob.name) and blob.is_file() else None


@contextmanager
def reading(file: HubFile, remote: RemoteFile, start: int) -> Iterator[tuple[int, Iterator[bytes]]]:
    """The file's bytes, and where they begin: at `start`, or at 0 where the server ignores that.

    Raises PullFailed for good, or TransferInterrupted for now, also while it is read.
    """
    headers = _headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with (
        _translated(file),
        get_session().stream(
            "GET", remote.url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response,
    ):
        if response.is_error:
            response.read()  # the library looks for a reason in it
        hf_raise_for_status(response)
        yield _first_byte(response, start), response.iter_raw(_CHUNK_BYTES)


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids to ask."""
    return constants.is_offline_mode()


def page(file: HubFile) -> str:
    """The repository's page for people."""
    return f"{constants.ENDPOINT}/{file.repo}"


def _first_byte(response: httpx2.Response, start: int) -> int:
    if response.status_code != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    return int(match[1]) if match else start


def url_of(file: HubFile) -> str:
    return hf_hub_url(file.repo, file.path, revision=file.revision, endpoint=constants.ENDPOINT)


def _headers() -> dict[str, str]:
    return build_hf_headers(library_name="workers-ai-emulator", library_version=__version__)


def _ask_timeout_s() -> float:
    return float(constants.HF_HUB_ETAG_TIMEOUT)


@contextmanager
def _translated(file: HubFile) -> Iterator[None]:
    """The library's many exceptions as two: for good, and for now."""
    where = f"{file.repo} at {constants.ENDPOINT}"
    try:
        yield
    except GatedRepoError as error:
        raise PullFailed(
            f"{file.repo} is gated: accept its terms at {page(file)}, then set HF_TOKEN to a token "
            "of that account"
        ) from error
    except RepositoryNotFoundError as error:
        raise PullFailed(
            f"there is no repository {where}, or it is private: check the name, or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise PullFailed(f"{where} has no revision {file.revision}: check it") from error
    except RemoteEntryNotFoundError as error:
        raise PullFailed(
            f"{where} has no file {file.path} in revision {file.revision}: check the name"
        ) from error
    except HFValidationError as error:
        raise PullFailed(f"{file.repo!r} is no name of a repository: {error}") from error
    except OfflineModeIsEnabled as error:
        raise PullFailed(
            f"{file.path} of {file.repo} is in no cache and HF_HUB_OFFLINE is set: unset it to "
            "download the file"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in _TRANSIENT:
            raise TransferInterrupted(f"{where} answers {status}") from error
        if status == 416:
            raise PullFailed(f"{where} has less of {file.path} than it announces") from error
        reason = " ".join(str(error.server_message or error).split())  # the library writes lines
        raise PullFailed(f"{where} answers {status}: {reason}") from error
    except httpx2.TimeoutException as error:
        raise TransferInterrupted(f"{constants.ENDPOINT} sends nothing") from error
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise TransferInterrupted(f"{constants.ENDPOINT}: {reason}") from error
