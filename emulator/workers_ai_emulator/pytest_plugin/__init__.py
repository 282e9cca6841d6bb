"""A pytest plugin. Its fixtures `workers_ai` and `workers_ai_session` start an emulator for tests.

If workers-ai-emulator is installed, pytest loads this module in every run. Slow imports are
therefore inside functions.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

from workers_ai_emulator.pytest_plugin.server import URL_VARIABLE, ChildServer, Server
from workers_ai_emulator.pytest_plugin.workers_ai import WorkersAI

if TYPE_CHECKING:
    import pluggy

__all__ = ["WorkersAI"]

_FIXTURES = ("workers_ai", "workers_ai_session")
_SERVER = pytest.StashKey[Server]()
_STRICT = "workers_ai_strict"
_STRICT_VARIABLE = "WORKERS_AI_EMULATOR_STRICT"
_URL = "workers_ai_url"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("workers_ai_backend", "The emulator's backend.", default="scripted")
    parser.addini("workers_ai_args", "More flags for `workers-ai-emulator serve`.", "args")
    parser.addini(_URL, "URL of a running emulator, which is used instead of starting one.")
    parser.addini(
        "workers_ai_env",
        "Start the emulator before the test files are imported, and set CLOUDFLARE_BASE_URL, "
        "CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN for the whole run.",
        "bool",
        default=False,
    )
    help_of_strict = "Fail tests with calls that no rule of the script and no recording answered."
    parser.addini(_STRICT, help_of_strict, "bool", default=False)
    group = parser.getgroup("workers-ai-emulator")
    group.addoption("--workers-ai-strict", action="store_true", help=help_of_strict)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{_STRICT}(is_strict=True): whether the test fails if no rule of the script and no "
        "recording answered one of its calls",
    )


# This hook runs before pytest imports conftest.py. Later hooks would be too late for a client that
# conftest.py creates.
@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Starts the emulator and sets the environment variables if `workers_ai_env` is set.

    Raises UsageError if the emulator does not start: without the variables, the tested program
    would call Cloudflare.
    """
    options = early_config.known_args_namespace
    if not early_config.getini("workers_ai_env") or options.version or options.help:
        return
    try:
        server = _server(early_config, is_shared=True)
    except Exception as error:
        raise pytest.UsageError(f"workers_ai_env: {error}") from None
    patch = pytest.MonkeyPatch()
    early_config.add_cleanup(patch.undo)
    _set_variables(patch, _environment_of(WorkersAI(server, server.session_account)))
    if isinstance(server, ChildServer):
        # The processes of pytest-xdist use this emulator, each with its own account.
        patch.setenv(URL_VARIABLE, server.root)


@pytest.fixture(scope="session")
def _workers_ai_server(pytestconfig: pytest.Config) -> Server:
    """Returns the emulator of this pytest process, and starts it first if necessary."""
    from workers_ai_emulator.errors import CommandError

    try:
        return _server(pytestconfig)
    except CommandError as error:
        failure = pytest.fail.Exception(str(error), pytrace=False)
        raise failure from None


@pytest.fixture(scope="session")
def workers_ai_session(_workers_ai_server: Server) -> Iterator[WorkersAI]:
    """Returns an emulator for fixtures that live longer than a test, such as a server under test.

    From now on until the end of the run, sets environment variables, so that Cloudflare's clients
    use the emulator.
    """
    emulator = WorkersAI(_workers_ai_server, _workers_ai_server.session_account)
    emulator.begin_test()
    with pytest.MonkeyPatch.context() as patch:
        _set_variables(patch, _environment_of(emulator))
        yield emulator
    emulator.discard()


@pytest.fixture
def workers_ai(
    request: pytest.FixtureRequest, _workers_ai_server: Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WorkersAI]:
    """Returns an emulator with an account that only this test uses.

    Sets environment variables during the test, so that Cloudflare's clients use the emulator. If
    the test also uses `workers_ai_session`, or if `workers_ai_env` is set, the account is that of
    the session; its rules, faults and calls are deleted before the test.
    """
    server = _workers_ai_server
    has_session = "workers_ai_session" in request.fixturenames
    account = server.session_account if has_session else server.account or secrets.token_hex(16)
    emulator = WorkersAI(server, account)
    emulator.begin_test()
    _set_variables(monkeypatch, _environment_of(emulator))
    yield emulator
    try:
        if _is_strict(request.node, emulator):
            emulator.check_matched()
    finally:
        emulator.discard()


# The hooks with `yield` use the old option `hookwrapper`. With the new option `wrapper`, every test
# run with a pluggy older than 1.2 would fail.
@pytest.hookimpl(hookwrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, pluggy.Result[None]]:
    """Starts the emulator again if it has exited. Prepares the check of a strict test's calls."""
    server = item.config.stash.get(_SERVER, None)
    if server is not None:
        _restart(server)
    outcome = yield
    names = getattr(item, "fixturenames", ())
    if outcome.excinfo is None and "workers_ai_session" in names and "workers_ai" not in names:
        item.addfinalizer(lambda: _check_session(item))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pluggy.Result[pytest.TestReport], None]:
    """Adds the emulator's stderr output to the report of a failed test."""
    outcome = yield
    if outcome.excinfo is not None:
        return  # another plugin's hook raised an exception; pluggy raises it again after this hook
    report = outcome.get_result()
    emulators = [getattr(item, "funcargs", {}).get(name) for name in _FIXTURES]
    emulator = next((each for each in emulators if isinstance(each, WorkersAI)), None)
    if report.failed and emulator is not None:
        try:
            output = emulator.output
        except Exception as error:  # an exception in this hook would end the whole test run
            output = f"cannot be read: {error!r}"
        if output:
            report.sections.append(("Output of workers-ai-emulator", output))


def _server(config: pytest.Config, *, is_shared: bool = False) -> Server:
    """Returns the emulator of this pytest process. The first call finds or starts it.

    `is_shared`: all tests of the process use the same account, because clients that are created
    before the tests keep their account. Raises CommandError if the emulator does not start, or if
    its URL is invalid.
    """
    if (server := config.stash.get(_SERVER, None)) is None:
        if url := config.getini(_URL) or os.environ.get(URL_VARIABLE):
            server = Server.running(url)
            if is_shared:
                server.account = server.session_account
        else:
            account = secrets.token_hex(16) if is_shared else None
            server = ChildServer(_flags(config), account)
        config.stash[_SERVER] = server
        config.add_cleanup(server.stop)
    return server


def _flags(config: pytest.Config) -> list[str]:
    """Returns the flags of `serve` for the emulator that pytest starts."""
    flags = ["--backend", config.getini("workers_ai_backend")]
    flags += ["--strict"] if _is_strict_run(config) else []
    return [*flags, *_with_paths(config.getini("workers_ai_args"), config)]


def _with_paths(arguments: Sequence[str], config: pytest.Config) -> list[str]:
    """Makes the paths in flags of `serve` absolute: they are relative to pytest's rootdir."""
    from workers_ai_emulator.settings import Settings
    from workers_ai_emulator.settings.declaration import declarations

    settings = declarations(Settings()).values()
    flags = {f"--{each.flag}" for each in settings if each.setting.path}
    words: list[str] = []
    for argument in arguments:
        flag, is_joined, value = argument.partition("=")
        if words and words[-1] in flags:
            words.append(str(config.rootpath / argument))
        elif is_joined and flag in flags:
            words.append(f"{flag}={config.rootpath / value}")
        else:
            words.append(argument)
    return words


def _is_strict_run(config: pytest.Config) -> bool:
    """Returns whether tests are strict by default. `exec --strict` sets the variable."""
    # Before pytest has imported conftest.py, only `known_args_namespace` has the parsed flags. In
    # the processes of pytest-xdist, only `option` has them.
    parsed = (config.known_args_namespace, config.option)
    if config.getini(_STRICT) or any(getattr(each, _STRICT, False) for each in parsed):
        return True
    return os.environ.get(_STRICT_VARIABLE, "").lower() in ("1", "true", "yes", "on")


def _is_strict(item: pytest.Item, emulator: WorkersAI) -> bool:
    """Returns whether a test fails if no rule and no recording answered one of its calls.

    The test's mark decides, otherwise pytest's setting, otherwise the emulator's setting `strict`.
    """
    if (mark := item.get_closest_marker(_STRICT)) is not None:
        values = [*mark.args, *mark.kwargs.values()] or [True]
        is_known = not mark.kwargs.keys() - {"is_strict"}
        if len(values) == 1 and isinstance(values[0], bool) and is_known:
            return values[0]
        pytest.fail(f"the mark `{_STRICT}` takes only True or False", pytrace=False)
    return _is_strict_run(item.config) or emulator.settings.get("strict") is True


def _check_session(item: pytest.Item) -> None:
    __tracebackhide__ = True
    emulator = getattr(item, "funcargs", {}).get("workers_ai_session")
    if isinstance(emulator, WorkersAI) and _is_strict(item, emulator):
        emulator.check_matched()


def _restart(server: Server) -> None:
    """Starts the emulator again if it has exited.

    If it does not start, the fixture of the next test reports that the emulator has exited.
    """
    from workers_ai_emulator.errors import CommandError

    try:
        server.begin_test()
    except CommandError:
        return


def _environment_of(emulator: WorkersAI) -> Mapping[str, str]:
    """Returns the variables for a test: those of the emulator, and `NO_PROXY` with its host."""
    exceptions = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    host = emulator.base_url.removeprefix("http://").partition("/")[0].rpartition(":")[0]
    # Some clients cannot parse an IPv6 address in NO_PROXY.
    is_excluded = exceptions.strip() == "*" or host in exceptions.split(",")
    is_needed = not is_excluded and not host.startswith("[")
    no_proxy = ",".join(filter(None, [exceptions, host])) if is_needed else exceptions
    return {**emulator.environment, "no_proxy": no_proxy, "NO_PROXY": no_proxy}


def _set_variables(patch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)
