"""The circuit itself: which calls may pass, and what their outcomes change. No I/O, no clock of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from llm_config_resilience.arguments import check_above, check_at_least, check_count, check_share
from llm_config_resilience.errors import without_frames
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.failure_runs import FailureRuns
from llm_config_resilience.strategies.growing_time import MAX_GROWTH, grown
from llm_config_resilience.strategies.outcome_window import OutcomeWindow

if TYPE_CHECKING:
    from collections.abc import Callable

CircuitState: TypeAlias = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class CircuitSettings:
    """The figures of a circuit; `CircuitBreaker` says what each of them means."""

    failure_threshold: int = 5
    success_threshold: int = 2
    timeout: float = 60.0
    max_probes: int = 1
    failure_rate: float | None = None
    slow_after: float | None = None
    slow_rate: float = 1.0
    window: float = 10.0
    minimum_calls: int = 20
    patience: float = 4.0

    def __post_init__(self) -> None:
        check_count(1, failure_threshold=self.failure_threshold, success_threshold=self.success_threshold)
        check_count(1, max_probes=self.max_probes, minimum_calls=self.minimum_calls)
        check_above(0, timeout=self.timeout, window=self.window, slow_rate=self.slow_rate)
        check_share(slow_rate=self.slow_rate)
        if self.failure_rate is not None:
            check_above(0, failure_rate=self.failure_rate)
            check_share(failure_rate=self.failure_rate)
        if self.slow_after is not None:
            check_above(0, slow_after=self.slow_after)
        check_at_least(1, patience=self.patience)


class Admission:
    """Leave to pass: its era fences it, as results of an older era change nothing."""

    __slots__ = ("began", "calls", "era")

    def __init__(self, era: object, began: float | None, calls: int = 0) -> None:
        self.era: object = era
        #: When the call began, in seconds; `None` where nobody asks how long it took.
        self.began: float | None = began
        #: How often the function had been called before.
        self.calls: int = calls


class Refusal(NamedTuple):
    """No leave to pass, for so many seconds (`None`: until somebody resets the circuit)."""

    state: CircuitState
    wait: float | None


class Change(NamedTuple):
    """A change of state. What was `heard` from another process is not told back to it."""

    state: CircuitState
    open_for: float | None = None
    heard: bool = False


class Circuit:
    """Closed, open or half-open. Shared by threads and event loops; its lock is never held during a call.

    Args:
        settings: Its figures.
        watched: Whether every call has to ask, because another process may have changed the state.
    """

    def __init__(self, settings: CircuitSettings, *, watched: bool = False) -> None:
        self.settings: CircuitSettings = settings
        self.state: CircuitState = "closed"
        self.forced: bool = False
        #: What lets a call pass without asking, the first time: on a closed circuit, where its duration does
        #: not matter.
        self.entry: Admission | None = None
        #: The admission whose success has nothing to tell.
        self.idle: Admission | None = None
        #: Changes of state that were not told yet, in their order.
        self.changes: deque[Change] = deque()
        #: The failure that opened it, without its traceback.
        self.last_failure: BaseException | None = None
        self._watched = watched
        self._lock = new_lock()
        self._era = object()
        self._failures = 0
        self._runs = FailureRuns()
        self._successes = 0
        self._reopened = 0
        self._open_until = 0.0
        self._leases: dict[Admission, float] = {}
        self._window = _window(settings)
        self._open_the_door()

    @property
    def probes(self) -> int:
        """Probes that are under way."""
        return len(self._leases)

    def admit(self, now: float, calls: int) -> Admission | Refusal:
        """Let a call pass or not; an open circuit whose time is over turns half-open.

        Args:
            now: Seconds on the monotonic clock.
            calls: How often the function was called before, in this call.
        """
        with self._lock:
            if self.state == "open" and not self.forced and now >= self._open_until:
                self._move("half-open")
            if self.state == "closed":
                if self.entry is not None and not calls:
                    return self.entry
                return Admission(self._era, now, calls)
            if self.state == "open":
                return Refusal("open", None if self.forced else self._open_until - now)
            self._leases = {probe: until for probe, until in self._leases.items() if until > now}
            if len(self._leases) >= self.settings.max_probes:
                return Refusal("half-open", min(self._leases.values()) - now)
            probe = Admission(self._era, now, calls)
            self._leases[probe] = now + self.settings.timeout
            return probe

    def succeed(self, admission: Admission, now: float) -> bool:
        """Count a success; say whether the state changed."""
        with self._lock:
            slow = self._was_slow(admission, now)
            if self._leases.pop(admission, None) is not None:
                if slow:
                    self._open(now, self._open_time(None, _unjittered))
                    return True
                self._successes += 1
                if self._successes < self.settings.success_threshold:
                    return False
                self._move("closed")
                return True
            if admission.era is not self._era or self.state != "closed" or self.forced:
                return False
            if self._failures:
                self._runs.ended(self._failures, now, self.settings.timeout)
                self._failures = 0
            self._record(now, failed=False, slow=slow)
            self._open_the_door()
            if not (slow and self._is_too_slow()):
                return False
            self._open(now, self.settings.timeout)
            return True

    def fail(
        self,
        admission: Admission,
        error: Exception,
        now: float,
        hint: float | None,
        draw: Callable[[], float],
    ) -> bool:
        """Count a failure; say whether it opened the circuit.

        Args:
            admission: What `admit` gave.
            error: The failure.
            now: Seconds on the monotonic clock.
            hint: Seconds the backend asks to be left alone, where it does.
            draw: Gives at least 0 and below 1.
        """
        with self._lock:
            if self._leases.pop(admission, None) is None:
                if admission.era is not self._era or self.state != "closed" or self.forced:
                    return False
                self._failures += 1
                self._record(now, failed=True, slow=self._was_slow(admission, now))
                self._open_the_door()
                if not (self._is_down(now) or self._fails_too_often() or self._is_too_slow()):
                    return False
            self._open(now, self._open_time(hint, draw))
            self.last_failure = without_frames(error)
            return True

    def give_back(self, admission: Admission) -> None:
        """Take a probe's place back; nothing is counted."""
        with self._lock:
            self._leases.pop(admission, None)

    def force(self, state: CircuitState, *, forced: bool) -> None:
        """Put the circuit into a state, and keep it there if it is `forced`."""
        with self._lock:
            self.forced = forced
            self._reopened = 0
            self._runs.forget()
            self._open_until = float("inf")
            self.last_failure = None
            self._move(state)

    def adopt(self, state: CircuitState, now: float, open_for: float) -> bool:
        """Follow another process into a state; say whether that changed anything.

        Args:
            state: The state.
            now: Seconds on the monotonic clock.
            open_for: Seconds that are left of its open time.
        """
        with self._lock:
            if self.forced or state == self.state or (state == "half-open" and self.state == "open"):
                return False  # an open circuit probes when its own time is over
            if state == "open":
                self._open(now, min(max(0.0, open_for), self.settings.timeout), heard=True)
            else:
                self._move(state, heard=True)
            return True

    def reconfigure(self, settings: CircuitSettings) -> None:
        """Take other figures; state, counts and whoever is on the way stay."""
        with self._lock:
            self.settings = settings
            wanted = _window(settings)
            if self._window is None or wanted is None or self._window.seconds != settings.window:
                self._window = wanted
            self._open_the_door()

    def unwatch(self) -> None:
        """Let calls pass without asking from now on: nobody else changes the state."""
        with self._lock:
            self._watched = False
            self._open_the_door()

    def _open(self, now: float, seconds: float, *, heard: bool = False) -> None:
        self._reopened += self.state == "half-open"
        self._open_until = now + seconds
        self.last_failure = None
        self._move("open", open_for=seconds, heard=heard)

    def _move(self, state: CircuitState, *, open_for: float | None = None, heard: bool = False) -> None:
        """Change the state: whatever was admitted before counts no more."""
        if state != self.state:
            self.changes.append(Change(state, open_for, heard))
        self.state = state
        self._era = object()
        self._failures = self._successes = 0
        self._leases = {}
        if state == "closed":
            self._reopened = 0
        if self._window is not None:
            self._window.clear()
        self.entry = None
        self._open_the_door()

    def _open_the_door(self) -> None:
        if self.state != "closed" or self._watched or self.settings.slow_after is not None:
            self.entry = self.idle = None
            return
        if self.entry is None or self.entry.era is not self._era:
            self.entry = Admission(self._era, None)
        nothing_counted = not self._failures and self._window is None
        self.idle = self.entry if self.forced or nothing_counted else None

    def _open_time(self, hint: float | None, draw: Callable[[], float]) -> float:
        repeats = self._reopened + (self.state == "half-open")
        # A date may have been read on a clock that was stepped back since: even so it is probed some time.
        asked = min(hint or 0.0, self.settings.timeout * MAX_GROWTH)
        return max(grown(self.settings.timeout, repeats, draw), asked)

    def _record(self, now: float, *, failed: bool, slow: bool) -> None:
        if self._window is not None:
            self._window.record(now, failed=failed, slow=slow)

    def _was_slow(self, admission: Admission, now: float) -> bool:
        limit = self.settings.slow_after
        return limit is not None and admission.began is not None and now - admission.began >= limit

    def _is_down(self, now: float) -> bool:
        """Whether so many failures in a row mean that the backend is down."""
        threshold, failures = self.settings.failure_threshold, self._failures
        return failures >= threshold and (
            failures >= threshold * self.settings.patience
            or not self._runs.explain(failures, now, self.settings.timeout)
        )

    def _fails_too_often(self) -> bool:
        window, rate = self._window, self.settings.failure_rate
        return (
            window is not None
            and rate is not None
            and window.calls >= self.settings.minimum_calls
            and window.failure_rate >= rate
        )

    def _is_too_slow(self) -> bool:
        window = self._window
        return (
            window is not None
            and self.settings.slow_after is not None
            and window.calls >= self.settings.minimum_calls
            and window.slow_rate >= self.settings.slow_rate
        )


def _window(settings: CircuitSettings) -> OutcomeWindow | None:
    asked = settings.failure_rate is not None or settings.slow_after is not None
    return OutcomeWindow(settings.window) if asked else None


def _unjittered() -> float:
    """Draw the middle, where nobody gave a source of randomness."""
    return 0.5
