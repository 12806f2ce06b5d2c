"""Fixtures of the stories: two servers, a client on every face, time that steps, and the stack's events."""

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from client_faces import OWN, Driver, Face, SteppingClock
from llm_config_mock_server import MockServer
from llm_config_resilience import Event

SEED = 1  # servers of one seed share their tokens


def _serve() -> Iterator[MockServer]:
    with MockServer(seed=SEED) as running:
        running.token("admin")
        yield running


@pytest.fixture
def primary() -> Iterator[MockServer]:
    yield from _serve()


@pytest.fixture
def backup() -> Iterator[MockServer]:
    yield from _serve()


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture(params=OWN)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture
def events() -> list[Event]:
    return []


def _connect(
    face: Face, primary: MockServer, clock: SteppingClock, events: list[Event], **options: object
) -> Driver:
    given = {"token": primary.token("admin"), "environment": "production", "clock": clock, **options}
    return face.client(primary.url, listeners=[events.append], **given)


@pytest.fixture
def connect(face: Face, primary: MockServer, clock: SteppingClock, events: list[Event]) -> partial[Driver]:
    """Makes a client of the primary's whose events are noted down."""
    return partial(_connect, face, primary, clock, events)
