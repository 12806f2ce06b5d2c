"""Fixtures of the client's tests: servers, and a client on every face."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from client_faces import ALL, OWN, Driver, Face, SteppingClock
from llm_config_mock_server import MockServer
from redis_server import redis_url  # noqa: F401  # a fixture
from sdk.profiles import BEHIND_TLS, UPSTREAM, on_both_profiles, runs_there

SEED = 1  # servers of one seed share their tokens


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what both servers are to be the same to on both."""
    on_both_profiles(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what on the 0.5 server would say nothing new."""
    chosen = [item for item in items if runs_there(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
    items[:] = chosen


@pytest.fixture
def profile(request: pytest.FixtureRequest) -> str:
    """How the servers of the test speak."""
    return getattr(request, "param", "guide")


@pytest.fixture
def server(profile: str) -> Iterator[MockServer]:
    with MockServer(profile, seed=SEED, limits=False) as running:
        yield running


@pytest.fixture
def backup(profile: str) -> Iterator[MockServer]:
    """A second server, which knows the first one's tokens."""
    with MockServer(profile, seed=SEED, limits=False) as running:
        yield running


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


def _face(name: str, profile: str, stack: ExitStack) -> Face:
    return Face(name, stack, headers=BEHIND_TLS if profile == UPSTREAM else {})


@pytest.fixture(params=OWN)
def face(request: pytest.FixtureRequest, profile: str) -> Iterator[Face]:
    """The client's own connections: sync, asyncio, trio."""
    with ExitStack() as stack:
        yield _face(request.param, profile, stack)


@pytest.fixture(params=ALL)
def any_face(request: pytest.FixtureRequest, profile: str) -> Iterator[Face]:
    """As `face`, and the other wires: httpx2, injected clients."""
    with ExitStack() as stack:
        yield _face(request.param, profile, stack)


@pytest.fixture(params=[name for name in ALL if "injected" in name])
def injected_face(request: pytest.FixtureRequest, profile: str) -> Iterator[Face]:
    """The wires that are a caller's own clients."""
    with ExitStack() as stack:
        yield _face(request.param, profile, stack)


def _connect(face: Face, server: MockServer, clock: SteppingClock, **options: object) -> Driver:
    given = {"token": server.token("admin"), "environment": "production", "clock": clock, **options}
    return face.client(server.url, **given)


@pytest.fixture
def connect(face: Face, server: MockServer, clock: SteppingClock) -> partial[Driver]:
    """Makes a client of the server's, in production, as an admin, on stepping time."""
    return partial(_connect, face, server, clock)


@pytest.fixture
def connect_any(any_face: Face, server: MockServer, clock: SteppingClock) -> partial[Driver]:
    """As `connect`, on every wire."""
    return partial(_connect, any_face, server, clock)
