"""Rate limits: the generic cell rate algorithm, one cell a caller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """A rate limit.

    Args:
        rate: Requests a second, in the long run.
        burst: Requests at once, from a standstill.
    """

    rate: float
    burst: int

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.burst < 1:
            raise ValueError(f"a limit needs a positive rate and a burst of at least 1, not {self}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a request may pass.

    Args:
        allowed: Whether it may.
        remaining: Requests that would pass at once after this one.
        retry_after: Seconds until the next one passes; 0 where this one did.
        reset_after: Seconds until the full burst is there again.
    """

    allowed: bool
    remaining: int
    retry_after: float
    reset_after: float


class Limiter:
    """GCRA (ITU-T I.371): for each caller, the time at which its next cell is due."""

    def __init__(self, limits: Limits) -> None:
        """Begin with everybody at a standstill."""
        self.limits = limits
        self._interval = 1.0 / limits.rate
        self._tolerance = self._interval * limits.burst
        self._due: dict[str, float] = {}

    def reset(self) -> None:
        """Bring everybody to a standstill."""
        self._due.clear()

    def take(self, caller: str, now: float) -> Verdict:
        """Count a request of a caller.

        Args:
            caller: Whose cell it is.
            now: Monotonic time in seconds.
        """
        due = max(self._due.get(caller, now), now)
        after = due + self._interval
        room = self._tolerance - (after - now)
        if room < -_ROUNDING * self._interval:
            return Verdict(allowed=False, remaining=0, retry_after=-room, reset_after=due - now)
        self._due[caller] = after
        remaining = int(room / self._interval + _ROUNDING)
        return Verdict(allowed=True, remaining=remaining, retry_after=0.0, reset_after=after - now)


_ROUNDING = 1e-6  # of an interval: sums of floats must not turn the last request of a burst away
