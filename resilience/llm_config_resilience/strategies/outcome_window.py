"""Counts of calls and failures over the last seconds."""

from __future__ import annotations

from collections import deque

#: Parts a window is counted in: the oldest tenth leaves it at once.
_BUCKETS = 10


class OutcomeWindow:
    """Calls and failures in a sliding window of time. Its owner holds the lock.

    Args:
        seconds: The window's length.
    """

    __slots__ = ("_buckets", "_width", "calls", "failures")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / _BUCKETS
        self._buckets: deque[list[int]] = deque()
        self.calls = 0
        self.failures = 0

    @property
    def failure_rate(self) -> float:
        """Failures a call, 0 to 1."""
        return self.failures / self.calls if self.calls else 0.0

    def record(self, now: float, *, failed: bool) -> None:
        """Count a call that ended.

        Args:
            now: Seconds on a monotonic clock.
            failed: Whether it failed.
        """
        index = int(now // self._width)
        while self._buckets and self._buckets[0][0] <= index - _BUCKETS:
            _, calls, failures = self._buckets.popleft()
            self.calls -= calls
            self.failures -= failures
        if not self._buckets or self._buckets[-1][0] != index:
            self._buckets.append([index, 0, 0])
        self._buckets[-1][1] += 1
        self._buckets[-1][2] += failed
        self.calls += 1
        self.failures += failed

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self.calls = self.failures = 0
