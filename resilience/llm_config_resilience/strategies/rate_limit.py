"""So many calls in a time, evenly spread but for a burst."""

from __future__ import annotations

import heapq
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from llm_config_resilience.arguments import check_above, check_count
from llm_config_resilience.directives import Directive, Raise, Wait
from llm_config_resilience.errors import RateLimitedError
from llm_config_resilience.locks import new_lock
from llm_config_resilience.rehearsal import rehearsal
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context

#: Seconds below which a wait is none: sums of floats are off by less, and timers by more.
_ROUNDING = 1e-6
#: Seconds that timers may be late by. Calls that are later than that do not make up for it in a bunch.
_LATENESS = 0.05


class _Booking(NamedTuple):
    """A moment that a waiting call has been promised. `earlier` is `None` where it was handed back before."""

    start: float
    due: float
    earlier: float | None


class RateLimit(Strategy):
    """Let calls start at a rate: a token bucket, kept as the generic cell rate algorithm (ITU-T I.371).

        stack = Pipeline(RateLimit(60, burst=10, per=60.0))  # sixty a minute, ten of them at once
        price = stack.call(fetch, "EUR")

    A call that comes too early is promised the next free moment and waits for it, in the order of arrival;
    a cancelled one hands its moment back, for the next that comes. Late timers do not add up: moments are
    counted from each other, not from when they were used. But where all of a program was held up, what could
    not begin meanwhile is spread anew: no stretch of time sees more calls begin than `burst`, and the rate
    for that time and 0.05 seconds. Threads and tasks may share one.

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
        check_above(0, rate=rate, per=per)
        check_count(1, burst=burst)
        self.name = name
        self._rate = rate
        self._burst = burst
        self._per = per
        self._wait = wait
        self._interval = per / rate
        self._tolerance = (burst - 1) * self._interval
        #: When the bucket will be full again ("theoretical arrival time" of the next call, in the paper).
        self._due = -inf
        #: The same of calls that have begun: it runs after `_due` where they began late.
        self._begun = -inf
        self._handed_back: list[float] = []
        self._lock = new_lock()

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Go on, wait, or reject."""
        now = ctx.now()
        with self._lock:
            start = self._next_start(now)
            delay = max(start, self._may_begin_at()) - now
            if delay <= _ROUNDING:
                self._book(start, now)
                self._begin(now)
                return None
            if self._wait and delay <= ctx.remaining():
                ctx.slots[at] = self._book(start, now)
                return Wait(delay, then=self._waited)
        return self._reject(ctx, at, delay)

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

    def _waited(self, ctx: Context, at: int) -> Directive | None:
        """Go on, unless the wait was so long that others begin now, too."""
        now, drill = ctx.now(), rehearsal.get()
        took_no_time = drill is not None and not drill.sleeps
        with self._lock:
            delay = self._may_begin_at() - now
            if delay <= _ROUNDING or took_no_time:
                self._begin(now)
                return None
        return Wait(delay, then=self._waited) if delay <= ctx.remaining() else self._reject(ctx, at, delay)

    def _reject(self, ctx: Context, at: int, delay: float) -> Directive:
        label = f"rate limit {self.name!r}" if self.name else "the rate limit"
        error = RateLimitedError(
            f"{label} of {self._rate:g} calls in {self._per:g} s is used up; there is room in {delay:.3f} s",
            name=self.name,
            retry_after=delay,
        )
        ctx.emit("rejected", at, error=error, delay=delay)
        return Raise(error)

    def describe(self) -> dict[str, Any]:
        """Show the limits."""
        return {"rate": self._rate, "burst": self._burst, "per": self._per, "wait": self._wait}

    def _may_begin_at(self) -> float:
        """When a call may begin, by those that have. The lock is held."""
        return self._begun - self._tolerance - _LATENESS

    def _begin(self, now: float) -> None:
        """Count a call that begins. The lock is held."""
        self._begun = max(self._begun, now) + self._interval

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
