"""Failures that are alike, told as one incident: which of them deserve a line, and when it is over."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from collections.abc import Hashable

QUIET: Final = 60.0  # seconds without a failure after which the next one is a new incident
REMINDER: Final = 60.0  # seconds between two lines of an incident that goes on
CALM: Final = 10.0  # seconds without a failure after which a success says that it is over
_CAPACITY: Final = 256  # streaks remembered: more than anybody reads, and far more than one outage makes


@dataclass(slots=True)
class Streak:
    """Failures that are alike, one after the other. Times are seconds on a monotonic clock.

    Attributes:
        name: What fails, for people.
        level: How loud it is, as a level of `logging`.
        operation: The method whose success says that it is over; empty where none does.
        since: When it began.
        last: When it last failed.
        told: When a failure was last worth a line.
        count: How many failures there were.
        untold: How many of them came after `told`.
    """

    name: str
    level: int
    operation: str
    since: float
    last: float
    told: float
    count: int = 1
    untold: int = 0


class Streaks:
    """What is going wrong at present; shared by threads.

    Args:
        capacity: Streaks remembered; the one that failed longest ago goes.

    Attributes:
        awaited: The methods whose success would end one.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self.awaited: frozenset[str] = frozenset()
        self._capacity = capacity
        self._lock = new_lock()
        self._streaks: OrderedDict[Hashable, Streak] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streaks)

    def failed(
        self,
        subject: Hashable,
        now: float,
        *,
        name: str,
        level: int,
        operation: str = "",
        reminder: float = REMINDER,
    ) -> int | None:
        """Count a failure, and say whether it is worth a line.

        Args:
            subject: What failures of one incident have in common.
            now: When it was.
            name: What fails.
            level: How loud it is.
            operation: The method whose success would say that it is over.
            reminder: Seconds between two lines.

        Returns:
            How many came since the last line, without this one; `None` if it is counted and no more.
        """
        with self._lock:
            streak = self._streaks.get(subject)
            if streak is None:
                self._streaks[subject] = Streak(name, level, operation, now, now, now)
                if len(self._streaks) > self._capacity:
                    self._streaks.popitem(last=False)
                self._note_awaited()
                return 0
            self._streaks.move_to_end(subject)
            is_new = now - streak.last >= QUIET
            streak.last = now
            if not is_new and now - streak.told < reminder:
                streak.count += 1
                streak.untold += 1
                return None
            if is_new:
                streak.since, streak.count = now, 0
            untold, streak.untold = streak.untold, 0
            streak.told = now
            streak.count += 1
            return untold

    def succeeded(self, operation: str, now: float) -> list[Streak]:
        """Say what is over, now that a method succeeds which failed; told once.

        Args:
            operation: The method.
            now: When it was.
        """
        if operation not in self.awaited:
            return []
        with self._lock:
            over = [
                subject
                for subject, streak in self._streaks.items()
                if streak.operation == operation and now - streak.last >= CALM
            ]
            ended = [self._streaks.pop(subject) for subject in over]
            self._note_awaited()
        return ended

    def end(self) -> list[Streak]:
        """Forget everything; returns what failed and had no line yet."""
        with self._lock:
            untold = [streak for streak in self._streaks.values() if streak.untold]
            self._streaks.clear()
            self._note_awaited()
        return untold

    def _note_awaited(self) -> None:
        self.awaited = frozenset(each.operation for each in self._streaks.values() if each.operation)
