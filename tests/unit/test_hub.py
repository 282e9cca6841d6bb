"""Tests which errors of huggingface-hub are retried, and which text the user gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # documented
from workers_ai_emulator.errors import PullFailed, TransferInterrupted
from workers_ai_emulator.models.catalog import HubFile
from workers_ai_emulator.models.hub import describe, mapped_error, url_of

FILE = HubFile("someone/Model-GGUF", "model.gguf", "v1")


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.example/"))


def set_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def hub_error(error: Callable[..., HfHubHTTPError], status: int) -> HfHubHTTPError:
    return error("message", response=response(status))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (hub_error(GatedRepoError, 401), "someone/Model-GGUF is gated: accept its terms"),
        (hub_error(RepositoryNotFoundError, 401), "there is no repository someone/Model-GGUF"),
        (hub_error(RevisionNotFoundError, 404), "has no revision v1"),
        (hub_error(RemoteEntryNotFoundError, 404), "has no file model.gguf in revision v1"),
        (HFValidationError("a space"), "'someone/Model-GGUF' is not a repository name: a space"),
        (OfflineModeIsEnabled(), "model.gguf of someone/Model-GGUF is not cached"),
        (hub_error(HfHubHTTPError, 416), "fewer bytes of model.gguf than it announces"),
        (hub_error(HfHubHTTPError, 403), "responded with status 403: Forbidden"),
        (hub_error(HfHubHTTPError, 499), "responded with status 499: no reason given"),
        (httpx2.TooManyRedirects("5 redirects"), "https://huggingface.co redirects too often"),
    ],
)
def test_errors_that_stay_are_not_retried(error: Exception, text: str) -> None:
    mapped = mapped_error(error, FILE)
    assert isinstance(mapped, PullFailed)
    assert text in str(mapped)
    assert "\n" not in str(mapped)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_hub_is_retried(status: int) -> None:
    mapped = mapped_error(hub_error(HfHubHTTPError, status), FILE)
    assert isinstance(mapped, TransferInterrupted)
    assert str(mapped).endswith(f"responded with status {status}")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (httpx2.ReadTimeout("slow"), "sends no data"),
        (httpx2.ConnectError("connection refused"), ": connection refused"),
        (httpx2.RemoteProtocolError(""), ": RemoteProtocolError"),
    ],
)
def test_network_errors_are_retried(error: Exception, text: str) -> None:
    mapped = mapped_error(error, FILE)
    assert isinstance(mapped, TransferInterrupted)
    assert str(mapped).endswith(text)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (httpx2.ReadTimeout("slow"), " sends no data"),
        (httpx2.ConnectError("connection refused"), ": connection refused"),
    ],
)
def test_a_network_error_names_the_proxy_without_its_password(
    error: Exception, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@127.0.0.1:1")
    proxy = "through the proxy http://127.0.0.1:1 (HTTPS_PROXY)"
    assert str(mapped_error(error, FILE)) == f"https://huggingface.co {proxy}{end}"
    monkeypatch.setenv("NO_PROXY", "huggingface.co")
    assert str(mapped_error(error, FILE)) == f"https://huggingface.co{end}"


@pytest.mark.parametrize(
    "endpoint", ["http://me:secret@hub.example", "http://me:12/secret@hub.example"]
)
def test_a_password_in_the_url_of_the_hub_is_not_printed(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_endpoint(monkeypatch, endpoint)
    for error in (httpx2.ReadTimeout("slow"), hub_error(GatedRepoError, 401)):
        assert "secret" not in str(mapped_error(error, FILE))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 500])
def test_a_password_in_a_url_that_the_hub_refuses_is_not_printed(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_endpoint(monkeypatch, "http://me:secret@hub.example")
    request = httpx2.Request("GET", url_of(FILE))
    with pytest.raises(HfHubHTTPError) as failure:
        hf_raise_for_status(httpx2.Response(status, request=request))
    assert "secret" in url_of(FILE)
    assert "secret" not in str(mapped_error(failure.value, FILE))


def test_a_password_in_the_url_of_an_endless_redirect_is_not_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def redirect(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(302, headers={"location": request.url.raw_path.decode()})

    client = httpx2.Client(transport=httpx2.MockTransport(redirect))
    set_endpoint(monkeypatch, "http://me:secret@hub.example")
    monkeypatch.setattr("huggingface_hub.utils._http.get_session", lambda: client)
    with pytest.raises(PullFailed, match=r"^http://hub\.example redirects too often$"):
        describe(FILE)


def test_the_message_of_the_hub_is_printed_in_one_line() -> None:
    answer = httpx2.Response(
        403, json={"error": "no\naccess"}, request=httpx2.Request("GET", url_of(FILE))
    )
    with pytest.raises(HfHubHTTPError) as failure:
        hf_raise_for_status(answer)
    text = str(mapped_error(failure.value, FILE))
    assert text.endswith("at https://huggingface.co responded with status 403: no access")


@pytest.mark.parametrize(
    ("variable", "named"),
    [("HF_TOKEN", "HF_TOKEN"), ("HUGGING_FACE_HUB_TOKEN", "HUGGING_FACE_HUB_TOKEN")],
)
@pytest.mark.parametrize("token", ["hf_t\u00f6ken", "hf_\x01"])
def test_a_token_that_no_header_can_contain_is_refused_without_showing_it(
    variable: str, named: str, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv(variable, token)
    with pytest.raises(PullFailed) as failure:
        describe(FILE)
    assert str(failure.value).startswith(f"{named} is not a token: ")
    assert token not in str(failure.value)


def test_a_bad_token_in_the_file_of_the_hub_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    file = tmp_path / "token"
    file.write_text("hf_t\u00f6ken", "utf-8")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(file))
    with pytest.raises(PullFailed, match="not a token") as failure:
        describe(FILE)
    assert str(failure.value).startswith(str(file))
