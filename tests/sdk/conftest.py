"""Fixtures of the client's tests: servers, and a client on every face."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from client_faces import ALL, OWN, Driver, Face, SteppingClock
from llm_config_mock_server import MockServer
from redis_server import redis_url  # noqa: F401  # a fixture

SEED = 1  # servers of one seed share their tokens


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=SEED) as running:
        running.token("admin")
        yield running


@pytest.fixture
def backup() -> Iterator[MockServer]:
    """A second server, which knows the first one's tokens."""
    with MockServer(seed=SEED) as running:
        running.token("admin")
        yield running


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture(params=OWN)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """The client's own connections: sync, asyncio, trio."""
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture(params=ALL)
def any_face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """As `face`, and the other wires: httpx2, injected clients."""
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture(params=[name for name in ALL if "injected" in name])
def injected_face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """The wires that are a caller's own clients."""
    with ExitStack() as stack:
        yield Face(request.param, stack)


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
