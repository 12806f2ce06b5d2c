"""For tests of code that uses the toolkit: time by hand, no waiting, events to look at.

    with resilience_test_mode(max_attempts=2), capture_events() as events:
        with pytest.raises(ConnectionError):
            stack.call(always_down)
    assert [event.kind for event in events] == ["retry", "gave_up", "failed"]

What is changed is changed for the calls of the current context: a test's other threads, and tests that run at
the same time, are not touched. `llm_config_resilience.testing_plugin` has the same as pytest fixtures.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from llm_config_resilience.arguments import check_count
from llm_config_resilience.clock import ManualClock
from llm_config_resilience.rehearsal import Rehearsal, rehearsal

if TYPE_CHECKING:
    from collections.abc import Generator

    from llm_config_resilience.events import Event

__all__ = ["ManualClock", "capture_events", "resilience_test_mode"]


@contextmanager
def resilience_test_mode(max_attempts: int | None = 1) -> Generator[None]:
    """Have calls in the body wait for nothing, and try no more often than is said.

    Backoff, rate limits and injected latency take no time; whatever waits for another call (a bulkhead's
    queue, a flight, a hedge's delay) and deadlines are as ever.

    Args:
        max_attempts: Attempts a `Retry` makes at most; `None` leaves that to its policy.

    Raises:
        ValueError: `max_attempts` is below 1.
    """
    if max_attempts is not None:
        check_count(1, max_attempts=max_attempts)  # the first call is one of them
    with _rehearsing(replace(_now(), max_attempts=max_attempts, sleeps=False)):
        yield


@contextmanager
def capture_events() -> Generator[list[Event]]:
    """List the events of all pipelines called in the body.

    An event holds its error with the traceback: drop the list when the test is done.
    """
    events: list[Event] = []
    with _rehearsing(replace(_now(), listeners=(*_now().listeners, events.append))):
        yield events


def _now() -> Rehearsal:
    return rehearsal.get() or Rehearsal()


@contextmanager
def _rehearsing(drill: Rehearsal) -> Generator[None]:
    before = rehearsal.get()
    rehearsal.set(drill)
    try:
        yield
    finally:
        # Not by the token: a fixture may end in another context than it began in.
        rehearsal.set(before)
