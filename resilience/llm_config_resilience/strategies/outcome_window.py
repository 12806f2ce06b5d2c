"""Counts of calls, failures and slow calls over the last seconds."""

from __future__ import annotations

from collections import deque
from typing import Final

#: Parts a window is counted in: the oldest tenth leaves it at once.
_BUCKETS: Final = 10


class OutcomeWindow:
    """Calls, failures and slow calls in a sliding window of time. Its owner holds the lock.

    Args:
        seconds: The window's length.
    """

    __slots__ = ("_buckets", "_width", "calls", "failures", "seconds", "slow")

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds
        self._width = seconds / _BUCKETS
        #: (number of the part, calls, failures, slow calls), oldest first.
        self._buckets: deque[list[int]] = deque()
        self.calls: int = 0
        self.failures: int = 0
        self.slow: int = 0

    @property
    def failure_rate(self) -> float:
        """Failures a call, 0 to 1."""
        return self.failures / self.calls if self.calls else 0.0

    @property
    def slow_rate(self) -> float:
        """Slow calls a call, 0 to 1."""
        return self.slow / self.calls if self.calls else 0.0

    def record(self, now: float, *, failed: bool, slow: bool = False) -> None:
        """Count a call that ended.

        Args:
            now: Seconds on a monotonic clock.
            failed: Whether it failed.
            slow: Whether it took too long.
        """
        index = int(now // self._width)
        while self._buckets and self._buckets[0][0] <= index - _BUCKETS:
            _, calls, failures, slow_calls = self._buckets.popleft()
            self.calls -= calls
            self.failures -= failures
            self.slow -= slow_calls
        if not self._buckets or self._buckets[-1][0] != index:
            self._buckets.append([index, 0, 0, 0])
        part = self._buckets[-1]
        part[1] += 1
        part[2] += failed
        part[3] += slow
        self.calls += 1
        self.failures += failed
        self.slow += slow

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self.calls = self.failures = self.slow = 0
