"""Requests files from a Hugging Face hub: first the size and the sha256, then the bytes.

The library huggingface-hub itself reads the environment variables `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HOME` and `HF_HUB_OFFLINE`. Importing the library is slow, so only the command `pull` imports
this module.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    get_session,
    hf_hub_url,
    set_client_factory,
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
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not exported
    build_hf_headers,
    hf_raise_for_status,
)

from workers_ai_emulator import __version__
from workers_ai_emulator.errors import PullFailed, SettingInvalid, TransferInterrupted
from workers_ai_emulator.models.catalog import HubFile
from workers_ai_emulator.network import (
    check_certificates,
    check_proxies,
    described_proxy,
    is_loopback,
)
from workers_ai_emulator.urls import shown_url

# Prevents huggingface-hub from sending usage data.
constants.HF_HUB_DISABLE_TELEMETRY = True

_BLOCK_BYTES = 2**16
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # the first one has priority
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """The URL, commit, size (bytes) and sha256 of a file on the hub.

    `commit`: the requested commit, or the commit to which the requested branch or tag points.
    `url`: contains the commit, so that the file stays the same if a branch or tag moves.
    """

    url: str
    commit: str
    size: int
    sha256: str


def _client() -> httpx2.Client:
    """Creates the HTTP client for huggingface-hub.

    If the hub is on this machine, the client uses no proxy. Raises PullFailed if an environment
    variable for proxies or certificates is invalid.
    """
    transport = None
    try:
        check_certificates()
        if is_loopback(httpx2.URL(constants.ENDPOINT).host):
            transport = httpx2.HTTPTransport()
        else:
            check_proxies()
    except SettingInvalid as error:
        raise PullFailed(str(error)) from error
    hooks = {"request": [_check_offline]}
    return httpx2.Client(
        transport=transport, event_hooks=hooks, follow_redirects=True, timeout=None
    )


def _check_offline(request: httpx2.Request) -> None:
    if constants.is_offline_mode():
        raise OfflineModeIsEnabled(f"{request.url} is not requested")


set_client_factory(_client)


def describe(file: HubFile) -> RemoteFile:
    """Requests the commit, the size and the sha256 of a file from the hub.

    Raises TransferInterrupted for temporary errors, and PullFailed for all other errors. An unknown
    host is not a temporary error here, because the hub has not responded before.
    """
    url = url_of(file)
    with _hub_errors(file), _unknown_host():
        metadata = get_hf_file_metadata(url, headers=_headers(), timeout=_metadata_timeout_s())
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
            f"the response of {shown_url(url)} has no {' and no '.join(missing)}: check that "
            "HF_ENDPOINT is a Hugging Face hub, and that the file is stored there as a large file "
            "(LFS or Xet)"
        )
    url = url_of(replace(file, revision=metadata.commit_hash))
    return RemoteFile(url, metadata.commit_hash, metadata.size, metadata.etag)


def find_cached(file: HubFile) -> tuple[Path, str] | None:
    """Returns the path and the sha256 of a file in the cache of huggingface-hub.

    The sha256 comes from the name of the cached file; the content of the file is not read. Returns
    None if the cache does not contain the file. Raises PullFailed for an invalid repository name.
    """
    with _hub_errors(file):
        found = try_to_load_from_cache(file.repo, file.path, revision=file.revision)
    if not isinstance(found, str):
        return None
    blob = Path(found).resolve()
    return (blob, blob.name) if _SHA256.fullmatch(blob.name) and blob.is_file() else None


@contextmanager
def open_remote(
    file: HubFile, remote: RemoteFile, start: int
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Context manager that requests the bytes of a file from the position `start` on.

    Yields the position of the first byte that the server sends, and the blocks of bytes. If the
    server ignores the Range header, it sends the whole file from position 0. Raises
    TransferInterrupted for temporary errors, and PullFailed for all other errors. Reading the
    blocks can also raise these exceptions.
    """
    headers = _headers() | {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    timeout = httpx2.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    with (
        _hub_errors(file),
        get_session().stream(
            "GET", remote.url, headers=headers, timeout=timeout, follow_redirects=True
        ) as response,
    ):
        if response.is_error:
            response.read()  # hf_raise_for_status reads the error's reason from the body
        hf_raise_for_status(response)
        yield _first_byte(response, start), response.iter_raw(_BLOCK_BYTES)


def is_offline() -> bool:
    """Returns whether the environment variable `HF_HUB_OFFLINE` forbids requests to the hub."""
    return constants.is_offline_mode()


def _endpoint() -> str:
    """Returns the hub's base URL for messages, without a user name and a password."""
    return shown_url(constants.ENDPOINT)


def page(file: HubFile) -> str:
    """Returns the URL of the web page of the file's repository, for messages."""
    return f"{_endpoint()}/{file.repo}"


def _first_byte(response: httpx2.Response, start: int) -> int:
    if response.status_code != 206:
        return 0
    match = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    return int(match[1]) if match else start


def url_of(file: HubFile) -> str:
    return hf_hub_url(file.repo, file.path, revision=file.revision, endpoint=constants.ENDPOINT)


def _headers() -> dict[str, str]:
    """Returns the headers of a request to the hub, with the user's token if there is one.

    Raises PullFailed if the token contains characters that a header cannot contain. The message
    does not contain the token.
    """
    headers = build_hf_headers(library_name="workers-ai-emulator", library_version=__version__)
    if not _HEADER_VALUE.fullmatch(headers.get("authorization", "")):
        variables = (name for name in _TOKEN_VARIABLES if os.environ.get(name))
        raise PullFailed(
            f"{next(variables, constants.HF_TOKEN_PATH)} is not a token: it contains characters "
            "that are not visible ASCII; correct it or remove it"
        )
    return headers


def _metadata_timeout_s() -> float:
    return float(constants.HF_HUB_ETAG_TIMEOUT)


@contextmanager
def _hub_errors(file: HubFile) -> Iterator[None]:
    """Context manager that converts exceptions of huggingface-hub in the `with` block.

    Raises TransferInterrupted for temporary errors, and PullFailed for all other errors.
    """
    try:
        yield
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx2.HTTPError) as error:
        raise mapped_error(error, file) from error


@contextmanager
def _unknown_host() -> Iterator[None]:
    """Context manager that raises PullFailed if the name of the hub's host cannot be resolved.

    With a proxy, only the name of the proxy's host is resolved.
    """
    try:
        yield
    except httpx2.ConnectError as error:
        if not _has_cause(error, socket.gaierror):
            raise
        if proxy := described_proxy(constants.ENDPOINT):
            text = f"the host of the proxy {proxy} is unknown ({error}): correct the variable"
            raise PullFailed(f"{text} or unset it, and try again") from error
        raise PullFailed(
            f"the host of {_endpoint()} is unknown ({error}): check the network, the proxy "
            "(HTTPS_PROXY) and HF_ENDPOINT, and try again"
        ) from error


def _has_cause(error: BaseException | None, type_: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, type_):
            return True
        error = error.__cause__ or error.__context__
    return False


def mapped_error(error: Exception, file: HubFile) -> PullFailed | TransferInterrupted:
    """Converts an exception of huggingface-hub or of its HTTP client to one of our exceptions.

    Returns TransferInterrupted for temporary errors, and PullFailed for all other errors. The text
    does not contain the texts of exceptions that can contain the URL, because HF_ENDPOINT can
    contain a password.
    """
    where = f"{file.repo} at {_endpoint()}"
    match error:
        case GatedRepoError():
            return PullFailed(
                f"{file.repo} is gated: accept its terms at {page(file)}, then set HF_TOKEN to a "
                "token of that account"
            )
        case RepositoryNotFoundError():
            return PullFailed(
                f"there is no repository {where}, or it is private: check the name, or set HF_TOKEN"
            )
        case RevisionNotFoundError():
            return PullFailed(f"{where} has no revision {file.revision}: check its name")
        case RemoteEntryNotFoundError():
            return PullFailed(
                f"{where} has no file {file.path} in revision {file.revision}: check the name"
            )
        case HFValidationError():
            return PullFailed(f"{file.repo!r} is not a repository name: {error}")
        case OfflineModeIsEnabled():
            return PullFailed(
                f"{file.path} of {file.repo} is not cached and HF_HUB_OFFLINE is set: unset it to "
                "download the file"
            )
        case HfHubHTTPError():
            return _status_error(error, file, where)
        case httpx2.TooManyRedirects():
            return PullFailed(f"{_endpoint()} redirects too often")
        case httpx2.TimeoutException():
            return TransferInterrupted(f"{_endpoint()}{_through_proxy()} sends no data")
    reason = str(error) or type(error).__name__
    return TransferInterrupted(f"{_endpoint()}{_through_proxy()}: {reason}")


def _through_proxy() -> str:
    """Returns the end of the hub's name in messages: its proxy; empty if it has none."""
    proxy = described_proxy(constants.ENDPOINT)
    return f" through the proxy {proxy}" if proxy else ""


def _status_error(
    error: HfHubHTTPError, file: HubFile, where: str
) -> PullFailed | TransferInterrupted:
    status = error.response.status_code
    if status in _TRANSIENT:
        return TransferInterrupted(f"{where} responded with status {status}")
    if status == 416:
        return PullFailed(f"{where} has fewer bytes of {file.path} than it announces")
    reason = error.server_message or error.response.reason_phrase or "no reason given"
    return PullFailed(f"{where} responded with status {status}: {' '.join(reason.split())}")
