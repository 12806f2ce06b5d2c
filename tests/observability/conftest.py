"""Fixtures: a server, clients that tell observers of what they do, and events made by hand."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from client_faces import OWN, Face, SteppingClock
from llm_config_mock_server import MockServer
from llm_config_resilience import ManualClock
from llm_config_sdk import ConfigClient, LLMConfigError
from llm_config_sdk.observability import CallEvent, ObservedCall

SEED = 1  # servers of one seed share their tokens


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=SEED) as running:
        running.put("app/llm", "model", "large", env="development")
        running.token("admin")
        yield running


@pytest.fixture
def backup() -> Iterator[MockServer]:
    with MockServer(seed=SEED) as running:
        running.put("app/llm", "model", "large", env="development")
        running.token("admin")
        yield running


@pytest.fixture(params=OWN)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """The client in each of its colours: sync, asyncio, trio."""
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture
def make_client(server: MockServer, clock: SteppingClock) -> Iterator[Callable[..., ConfigClient]]:
    """Makes a client with observers, on a virtual clock."""
    with ExitStack() as stack:

        def make(*observers: Any, **options: Any) -> ConfigClient:
            options = {"clock": clock, "token": server.token("admin"), **options}
            client = ConfigClient(server.url, listeners=observers, **options)
            return stack.enter_context(client)

        yield make


def call_event(
    outcome: str = "failed",
    error: LLMConfigError | None = None,
    *,
    operation: str = "get_config",
    clock: ManualClock | None = None,
    **facts: Any,
) -> CallEvent:
    """Make an event as the client would."""
    call = ObservedCall(operation, namespace="app/llm", key="model", environment="production")
    return CallEvent(call, outcome, clock.monotonic() if clock else 0.0, error=error, **facts)


def in_threads(count: int, work: Callable[[], None]) -> None:
    """Run the same work in several threads at once, and pass on what goes wrong."""
    failures: list[BaseException] = []
    ready = threading.Barrier(count)

    def run() -> None:
        ready.wait()
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # it is raised in the test
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
