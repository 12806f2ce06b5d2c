"""`llm_config_resilience.testing` as pytest fixtures.

They are switched on in a `conftest.py`:

    pytest_plugins = ["llm_config_resilience.testing_plugin"]

A test has them by taking them as arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from llm_config_resilience import testing

if TYPE_CHECKING:
    from collections.abc import Generator

    from llm_config_resilience.events import Event

__all__ = ["manual_clock", "resilience_events", "resilience_test_mode"]


@pytest.fixture
def manual_clock() -> testing.ManualClock:
    """A `ManualClock`, to build pipelines with."""
    return testing.ManualClock()


@pytest.fixture
def resilience_test_mode(request: pytest.FixtureRequest) -> Generator[None]:
    """No waiting in this test, and one attempt a call.

    Parametrise it indirectly for more attempts:

        @pytest.mark.parametrize("resilience_test_mode", [3], indirect=True)
    """
    with testing.resilience_test_mode(getattr(request, "param", 1)):
        yield


@pytest.fixture
def resilience_events() -> Generator[list[Event]]:
    """The events of all pipelines called in this test."""
    with testing.capture_events() as events:
        yield events
        events.clear()
