"""What a test changes for the calls made in its context, and for no others. `testing` is its public face."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_resilience.clock import Clock, Expiry
    from llm_config_resilience.events import Listener
    from llm_config_resilience.gate import Gate


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What is different in a test.

    Args:
        max_attempts: Attempts a `Retry` makes at most, whatever its policy; `None` leaves that to it.
        sleeps: Whether backoff and other waits take their time.
        listeners: Who hears of events, besides the pipelines' own listeners.
    """

    max_attempts: int | None = None
    sleeps: bool = True
    listeners: tuple[Listener, ...] = ()

    def clock(self, clock: Clock) -> Clock:
        """Give the clock that calls are to use in place of their pipeline's.

        Args:
            clock: The pipeline's clock.
        """
        return clock if self.sleeps else SleeplessClock(clock)


class SleeplessClock:
    """Another clock, but for its sleeps, which take no time. Gates are waited for as ever.

    Args:
        clock: The other clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.monotonic: Callable[[], float] = clock.monotonic
        self.time: Callable[[], float] = clock.time
        self.wait: Callable[[Gate, float], bool] = clock.wait
        self.expiring: Callable[[float], Expiry] = clock.expiring

    def __repr__(self) -> str:
        return f"SleeplessClock({self._clock!r})"

    def sleep(self, _seconds: float, /) -> None:
        """Go on at once."""

    async def sleep_async(self, _seconds: float, /) -> None:
        """Go on once other tasks have had a turn."""
        import anyio.lowlevel  # noqa: PLC0415 - sync users never need it

        await anyio.lowlevel.checkpoint()

    async def wait_async(self, gate: Gate, seconds: float, /) -> bool:
        """Wait for a gate as the other clock does."""
        return await self._clock.wait_async(gate, seconds)


#: Scoped like any context variable: other threads and tasks made before are not touched.
rehearsal: ContextVar[Rehearsal | None] = ContextVar("llm_config_resilience.rehearsal", default=None)
