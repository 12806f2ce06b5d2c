"""So many calls in a time, evenly spread but for a burst."""

from __future__ import annotations

import heapq
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from llm_config_resilience.directives import Directive, Raise, Wait
from llm_config_resilience.errors import RateLimitedError
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context

#: Seconds below which a wait is none: sums of floats are off by less, and timers by more.
_ROUNDING = 1e-6


class _Booking(NamedTuple):
    """A moment that a waiting call has been promised. `earlier` is `None` where it was handed back before."""

    start: float
    due: float
    earlier: float | None


class RateLimit(Strategy):
    """Let calls start at a rate: a token bucket, kept as the generic cell rate algorithm (ITU-T I.371).

    A call that comes too early is promised the next free moment and waits for it, in the order of arrival;
    a cancelled one hands its moment back, for the next that comes. Late timers do not add up: moments are
    counted from each other, not from when they were used. Threads and tasks may share one.

    Args:
        rate: Calls in `per` seconds.
        burst: Calls that may start at once after a pause.
        per: Seconds that `rate` is for.
        wait: Whether a call that comes too early waits, within its deadline, or is rejected.
        name: For events and errors.

    Raises:
        RateLimitedError: The wait does not fit into the deadline, or `wait` is false; `retry_after` says in
            how many seconds there will be room. The call never ran, and has used up nothing.
    """

    role: ClassVar[str] = "rate_limit"

    def __init__(
        self, rate: float, burst: int = 1, *, per: float = 1.0, wait: bool = True, name: str = ""
    ) -> None:
        if rate <= 0 or burst < 1 or per <= 0:
            raise ValueError("rate and per are more than 0, burst is 1 or more")
        self.name = name
        self._rate = rate
        self._burst = burst
        self._per = per
        self._wait = wait
        self._interval = per / rate
        self._tolerance = (burst - 1) * self._interval
        #: When the bucket will be full again ("theoretical arrival time" of the next call, in the paper).
        self._due = -inf
        self._handed_back: list[float] = []
        self._lock = new_lock()

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Go on, wait, or reject."""
        now = ctx.now()
        with self._lock:
            start = self._next_start(now)
            delay = start - now
            if delay <= _ROUNDING:
                self._book(start, now)
                return None
            if self._wait and delay <= ctx.remaining():
                ctx.slots[at] = self._book(start, now)
                return Wait(delay)
        label = f"rate limit {self.name!r}" if self.name else "the rate limit"
        error = RateLimitedError(
            f"{label} of {self._rate:g} calls in {self._per:g} s is used up; there is room in {delay:.3f} s",
            name=self.name,
            retry_after=delay,
        )
        ctx.emit("rejected", at, error=error, delay=delay)
        return Raise(error)

    def released(self, ctx: Context, at: int) -> None:
        """Hand a promised moment back that has not come yet."""
        booking: _Booking | None = ctx.slots[at]
        ctx.slots[at] = None
        if booking is None or ctx.now() >= booking.start:
            return
        with self._lock:
            if booking.earlier is not None and booking.due == self._due:
                self._due = booking.earlier
            else:
                heapq.heappush(self._handed_back, booking.start)

    def describe(self) -> dict[str, Any]:
        """Show the limits."""
        return {"rate": self._rate, "burst": self._burst, "per": self._per, "wait": self._wait}

    def _next_start(self, now: float) -> float:
        """The next free moment. The lock is held."""
        while self._handed_back and self._handed_back[0] < now:
            heapq.heappop(self._handed_back)
        return self._handed_back[0] if self._handed_back else max(now, self._due - self._tolerance)

    def _book(self, start: float, now: float) -> _Booking:
        """Take that moment. The lock is held."""
        if self._handed_back:
            heapq.heappop(self._handed_back)
            return _Booking(start, self._due, None)
        earlier, self._due = self._due, max(self._due, now) + self._interval
        return _Booking(start, self._due, earlier)
