"""How long failures in a row have lately been: what tells an outage from errors that have become usual."""

from __future__ import annotations

import math
from typing import Final

#: Runs that ended in a success before failures count as usual.
_ENOUGH: Final = 5
#: How often chance may bring a run about that is taken for an outage.
_CHANCE: Final = 1e-6


class FailureRuns:
    """Remembers runs of failures that ended in a success, and forgets them little by little.

    The runs alone tell how often a failure follows a failure, so that a success on a healthy backend need not
    be counted: where each call fails with the same probability, a run goes on with just that probability.
    Its owner holds the lock.
    """

    __slots__ = ("_at", "_failures", "_runs")

    def __init__(self) -> None:
        self._at = 0.0
        self._failures = 0.0
        self._runs = 0.0

    def ended(self, length: int, now: float, memory: float) -> None:
        """Remember a run of failures that a success ended.

        Args:
            length: Its failures.
            now: Seconds on a monotonic clock.
            memory: Seconds after which a run weighs 1/e of what it did.
        """
        kept = self._kept(now, memory)
        self._at = now
        self._failures = self._failures * kept + length
        self._runs = self._runs * kept + 1

    def explain(self, length: int, now: float, memory: float) -> bool:
        """Say whether a run of that length is to be expected, as often as failures have been of late.

        Args:
            length: Its failures until now.
            now: Seconds on a monotonic clock.
            memory: As for `ended`.
        """
        kept = self._kept(now, memory)
        runs, failures = self._runs * kept, self._failures * kept
        if runs < _ENOUGH:
            return False
        # Laplace's rule of succession: of `failures`, so many were followed by another.
        repeated = (failures - runs + 1) / (failures + 2)
        return repeated ** (length - 1) > _CHANCE

    def _kept(self, now: float, memory: float) -> float:
        """Return what is left of the memory: all, for a thread that read its clock before another did."""
        return math.exp(min(0.0, self._at - now) / memory)

    def forget(self) -> None:
        """Forget everything."""
        self._failures = self._runs = 0.0
