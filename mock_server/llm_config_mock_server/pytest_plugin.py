"""Fixtures for pytest: a server a test, a module or a session, and clients of the SDK that talk to it.

    @pytest.mark.mock_config_server(profile="upstream-0.5", limits=False)
    def test_the_model_is_read(mock_config_server, config_client):
        mock_config_server.put("app/llm", "model", "gpt-4")
        assert config_client.get_str("app/llm", "model") == "gpt-4"

The marker takes what `MockServer` takes. Nothing is imported before a fixture is asked for. Every
server has a port of its own, so tests run in parallel under pytest-xdist as they are.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from llm_config_sdk import AsyncConfigClient, ConfigClient

    from .server import MockServer

MARKER: Final = "mock_config_server"
_SHOWN_REQUESTS: Final = 50  # of the journal, in the report of a failed test
_NO_SERVERS: Final[list[MockServer]] = []
_SERVERS: Final = pytest.StashKey["list[MockServer]"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**options): what the MockServer of this test is like: profile, seed, tls, limits, …;"
        " for the server of a module, on the module (pytestmark)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the servers saw to the report of a test that failed."""
    report = yield
    if call.when == "call" and report.failed:
        for server in item.stash.get(_SERVERS, _NO_SERVERS):
            report.sections.append((f"Journal of {server!r}", server.journal.table(last=_SHOWN_REQUESTS)))
    return report


@pytest.fixture
def mock_config_server(request: pytest.FixtureRequest) -> Iterator[MockServer]:
    """A reference server of this test's own, started; its marker says what it is like."""
    with _served(_options(request.node)) as server:
        _remember(request.node, server)
        yield server


@pytest.fixture(scope="module")
def _mock_config_server_of_module(request: pytest.FixtureRequest) -> Iterator[MockServer]:
    with _served(_options(request.node)) as server:
        yield server


@pytest.fixture(scope="session")
def _mock_config_server_of_session() -> Iterator[MockServer]:
    with _served({}) as server:
        yield server


@pytest.fixture
def mock_config_server_module(
    request: pytest.FixtureRequest, _mock_config_server_of_module: MockServer
) -> Iterator[MockServer]:
    """The reference server of this module, emptied and well again before each test that asks for it."""
    yield from _lent(request.node, _mock_config_server_of_module)


@pytest.fixture
def mock_config_server_session(
    request: pytest.FixtureRequest, _mock_config_server_of_session: MockServer
) -> Iterator[MockServer]:
    """The reference server of the session (of each worker), emptied before each test that asks for it."""
    yield from _lent(request.node, _mock_config_server_of_session)


@pytest.fixture
def config_client(request: pytest.FixtureRequest) -> Iterator[ConfigClient]:
    """A client with an admin's token, at the server that the test uses: its own if it asks for no other."""
    from llm_config_sdk import ConfigClient  # noqa: PLC0415 - only where it is asked for

    with ConfigClient(**_client_options(_server_of(request))) as client:
        yield client


@pytest.fixture
def async_config_client(request: pytest.FixtureRequest) -> AsyncConfigClient:
    """As `config_client`, async; closed at the end of the async test that asks for it, on any event loop."""
    from llm_config_sdk import AsyncConfigClient  # noqa: PLC0415 - only where it is asked for

    return AsyncConfigClient(**_client_options(_server_of(request)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let async tests close their async client, inside their own event loop."""
    for item in items:
        if isinstance(item, pytest.Function) and "async_config_client" in item.fixturenames:
            _close_client_after(item)


def _close_client_after(item: pytest.Function) -> None:
    # An async fixture would need a plugin that runs it; the test's own plugin runs the test for sure.
    test = item.obj
    if not inspect.iscoroutinefunction(test):
        return

    @wraps(test)
    async def closing(*args: Any, **kwargs: Any) -> None:
        client = cast("AsyncConfigClient", item.funcargs["async_config_client"])
        async with client:
            await test(*args, **kwargs)

    item.obj = closing


def _options(node: Any) -> dict[str, Any]:
    """Join what the markers say, from the outermost to the test's own."""
    options: dict[str, Any] = {}
    for marker in reversed(list(node.iter_markers(MARKER))):
        if marker.args:
            raise pytest.UsageError(
                f"@pytest.mark.{MARKER} takes keyword arguments alone, as MockServer does"
            )
        options |= marker.kwargs
    return options


@contextmanager
def _served(options: dict[str, Any]) -> Generator[MockServer]:
    from .server import MockServer  # noqa: PLC0415 - only where it is asked for

    with MockServer(**options) as server:
        yield server


def _lent(node: pytest.Item, server: MockServer) -> Iterator[MockServer]:
    if node.get_closest_marker(MARKER) is not None and _options(node) != _options(node.parent):
        raise pytest.UsageError(
            f"@pytest.mark.{MARKER} on a test is about a server of its own: ask for mock_config_server"
        )
    server.start()
    server.reset()
    _remember(node, server)
    yield server


def _remember(node: pytest.Item, server: MockServer) -> None:
    node.stash.setdefault(_SERVERS, []).append(server)


def _server_of(request: pytest.FixtureRequest) -> MockServer:
    for name in ("mock_config_server", "mock_config_server_module", "mock_config_server_session"):
        if name in request.fixturenames:
            server: MockServer = request.getfixturevalue(name)
            return server
    own: MockServer = request.getfixturevalue("mock_config_server")
    return own


def _client_options(server: MockServer) -> dict[str, Any]:
    options: dict[str, Any] = {
        "base_url": server.url,
        "token": server.token(),
        "environment": "development",
        # The platform's published server wants to hear that there was TLS before it.
        "headers": {"X-Forwarded-Proto": "https"},
    }
    if server.url.startswith("https://"):
        options["verify"] = server.ssl_context
    return options
