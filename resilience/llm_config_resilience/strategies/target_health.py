"""What is known of one failover target: well, ejected for a while, or on probation. No clock of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from llm_config_resilience.arguments import check_above, check_at_least, check_count, check_share
from llm_config_resilience.strategies.growing_time import grown
from llm_config_resilience.strategies.outcome_window import OutcomeWindow

if TYPE_CHECKING:
    from collections.abc import Callable

TargetState: TypeAlias = Literal["well", "ejected"]

#: Defaults: what fails once is avoided at once, since asking another target costs little.
_FAILURES: Final = 1
#: Successes of probes after which a target is preferred again: the breaker's default.
_SUCCESSES: Final = 2


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """When a target is ejected and when it comes back; `Failover` says what each figure means."""

    failback_after: float = 30.0
    failure_threshold: int = _FAILURES
    failure_rate: float | None = None
    window: float = 10.0
    minimum_calls: int = 20
    success_threshold: int = _SUCCESSES

    def __post_init__(self) -> None:
        check_count(1, failure_threshold=self.failure_threshold, success_threshold=self.success_threshold)
        check_count(1, minimum_calls=self.minimum_calls)
        check_at_least(0, failback_after=self.failback_after)
        check_above(0, window=self.window)
        if self.failure_rate is not None:
            check_above(0, failure_rate=self.failure_rate)
            check_share(failure_rate=self.failure_rate)


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """A target and how it is, at one moment.

    Args:
        target: The target.
        state: `"well"`, or `"ejected"` until enough probes have succeeded.
        failures: Failures in a row.
        ejections: Ejections in a row.
        is_probed: Whether a call probes it at present.
    """

    target: Any
    state: TargetState
    failures: int
    ejections: int
    is_probed: bool = False


class TargetHealth:
    """Counts one target's outcomes. Its owner holds the lock.

    Args:
        settings: The figures.
    """

    __slots__ = ("ejections", "failures", "probe", "probe_until", "successes", "until", "window")

    def __init__(self, settings: HealthSettings) -> None:
        self.failures: int = 0
        self.ejections: int = 0
        self.successes: int = 0
        #: When probes begin, on the monotonic clock; `None` for a target that is well.
        self.until: float | None = None
        #: The call that probes it at present, and when that is given up.
        self.probe: object | None = None
        self.probe_until: float = 0.0
        self.window: OutcomeWindow | None = (
            None if settings.failure_rate is None else OutcomeWindow(settings.window)
        )

    @property
    def is_well(self) -> bool:
        """Whether it is preferred in its turn."""
        return self.until is None

    @property
    def is_untouched(self) -> bool:
        """Whether a success has nothing to tell."""
        return self.until is None and not self.failures and self.window is None

    def may_be_probed(self, now: float) -> bool:
        """Whether its time is over and nobody else is at it."""
        return (
            self.until is not None and now >= self.until and (self.probe is None or now >= self.probe_until)
        )

    def begin_probe(self, call: object, until: float) -> None:
        """Have a call probe it, until that is given up."""
        self.probe, self.probe_until = call, until

    def end_probe(self, call: object) -> bool:
        """Give the probe's place back; say whether the call held it."""
        held = self.probe is call
        if held:
            self.probe = None
        return held

    def succeed(self, now: float, settings: HealthSettings) -> bool:
        """Count a success, a probe's or a last resort's; say whether the target is readmitted by it."""
        if self.is_well:
            self.failures = 0
            if self.window is not None:
                self.window.record(now, failed=False)
            return False
        self.successes += 1
        if self.successes < settings.success_threshold:
            return False
        self.readmit()
        return True

    def fail(self, now: float, settings: HealthSettings, *, probed: bool) -> bool:
        """Count a failure; say whether it is one too many."""
        self.failures += 1
        self.successes = 0
        if not self.is_well:
            return probed
        if self.window is not None:
            self.window.record(now, failed=True)
        return self.failures >= settings.failure_threshold or self._fails_too_often(settings)

    def eject(self, now: float, settings: HealthSettings, draw: Callable[[], float]) -> float:
        """Pass it over; return for how many seconds."""
        seconds = grown(settings.failback_after, self.ejections, draw)
        self.until = now + seconds
        self.ejections += 1
        self.successes = 0
        if self.window is not None:
            self.window.clear()
        return seconds

    def readmit(self) -> None:
        """Prefer it again in its turn."""
        self.until = self.probe = None
        self.failures = self.ejections = self.successes = 0

    def _fails_too_often(self, settings: HealthSettings) -> bool:
        window, rate = self.window, settings.failure_rate
        return (
            window is not None
            and rate is not None
            and window.calls >= settings.minimum_calls
            and window.failure_rate >= rate
        )
