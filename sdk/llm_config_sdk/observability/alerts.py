"""The guide's four alerts, watched for in this process: no server of metrics is needed."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from llm_config_resilience import SystemClock
from llm_config_resilience.arguments import check_above, check_callable, check_count, check_is
from llm_config_resilience.locks import new_lock
from llm_config_sdk.contract import ErrorCategory
from llm_config_sdk.observability.events import Observer
from llm_config_sdk.observability.families import code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm_config_resilience import Clock
    from llm_config_sdk.errors import LLMConfigError
    from llm_config_sdk.observability.events import CallEvent, Incident, IncidentKind

_log: Final = logging.getLogger("llm_config_sdk.alerts")

RuleName: TypeAlias = Literal["high_error_rate", "repeated_failures", "critical_error", "resource_error"]
Severity: TypeAlias = Literal["warning", "critical"]

_WINDOW: Final = 300.0  # seconds: "within 5 minutes"
_ERROR_RATE: Final = 0.05  # share of the calls: the guide's 5 %
_MINIMUM_CALLS: Final = 20  # below that one failure would be more than 5 %
_REPETITIONS: Final = 10  # the guide's "10+ times"
_RECOVERED_AT: Final = 0.5  # share of the limit: an alert ends there, so that it does not flap at the limit
_SLOTS: Final = 60  # parts of the window that are counted and forgotten as a whole: 5 s each by default
_SUBJECTS: Final = 1000  # operations with codes, and kinds of errors, that are remembered


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertRules:
    """When to alert. The defaults are the guide's.

    Attributes:
        error_rate: Share of the calls that may fail.
        minimum_calls: Calls within the window below which no rate is judged.
        repetitions: Failures of one operation with one code that are an alert.
        window: Seconds that all rules look back.
    """

    error_rate: float = _ERROR_RATE
    minimum_calls: int = _MINIMUM_CALLS
    repetitions: int = _REPETITIONS
    window: float = _WINDOW

    def __post_init__(self) -> None:
        check_above(0, error_rate=self.error_rate, window=self.window)
        if not self.error_rate < 1:
            raise ValueError(f"error_rate must be a share below 1, not {self.error_rate!r}")
        check_count(1, minimum_calls=self.minimum_calls, repetitions=self.repetitions)


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should look at, or the notice that it is over.

    Attributes:
        rule: Which of the guide's four.
        subject: What it is about: an operation with its code, a kind of error; empty for all calls together.
        is_firing: Whether it begins; otherwise it is over.
        severity: How loud to be about it.
        summary: What happens, and what to do about it.
        since: When it began (UTC).
        time: When this was said (UTC).
        value: The figure that was judged: a share of the calls, or a count.
        threshold: The figure's limit.
        callers_mistakes: Calls within the window that failed by the caller's doing; the rate leaves them out.
    """

    rule: RuleName
    subject: str
    is_firing: bool
    severity: Severity
    summary: str
    since: datetime
    time: datetime
    value: float
    threshold: float
    callers_mistakes: int = 0


@dataclass(slots=True)
class _Counts:
    slot: int
    calls: int = 0
    failures: int = 0
    mistakes: int = 0


@dataclass(slots=True)
class _Firing:
    alert: Alert
    last: float  # seconds on the monotonic clock


class AlertMonitor(Observer):
    """Watches calls for the guide's four alerts.

        monitor = AlertMonitor(lambda alert: page(alert.summary))
        client = ConfigClient("https://config.example.com", listeners=[monitor])

    Calls themselves drive it; call `check()` now and then to hear of recoveries while there are none. Shared
    by threads and clients; callbacks run in the thread that noticed, with no lock held.

    Args:
        *callbacks: Called with each alert, when it begins and when it is over; one that raises is logged.
        rules: The limits.
        clock: Time; a `ManualClock` in tests.
    """

    def __init__(
        self,
        *callbacks: Callable[[Alert], object],
        rules: AlertRules | None = None,
        clock: Clock | None = None,
    ) -> None:
        for callback in callbacks:
            check_callable(callback=callback)
        if rules is not None:
            check_is(AlertRules, rules=rules)
        self.rules: AlertRules = rules if rules is not None else AlertRules()
        self._callbacks = callbacks
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._lock = new_lock()
        self._slots: deque[_Counts] = deque()
        self._total = _Counts(0)
        self._next_look = 0.0
        self._repeated: OrderedDict[str, deque[float]] = OrderedDict()
        self._firing: OrderedDict[tuple[RuleName, str], _Firing] = OrderedDict()

    def __repr__(self) -> str:
        return f"AlertMonitor({len(self._firing)} firing)"

    @property
    def active(self) -> tuple[Alert, ...]:
        """The alerts that have begun and are not over, the oldest first."""
        with self._lock:
            return tuple(firing.alert for firing in self._firing.values())

    def ended(self, event: CallEvent) -> None:
        """Count a call, and judge."""
        if event.outcome == "cancelled":
            return
        error = event.error if event.outcome != "ok" else None
        with self._lock:
            now = self._clock.monotonic()
            if event.source != "cache":  # the cache's answers say nothing of the platform
                self._count(now, event)
            said = list(self._judge_error(now, event, error)) if error is not None else []
            said += self._judge_rate(now)
            if now >= self._next_look:
                said += self._end_what_is_over(now)
        self._tell(said)

    def noticed(self, incident: Incident) -> None:
        """Alert on lost data."""
        summary = f"Data may be lost: {incident.message}. {_TO_DO[incident.kind]}"
        with self._lock:
            now = self._clock.monotonic()
            said = list(self._begin("critical_error", incident.kind, now, summary))
        self._tell(said)

    def check(self) -> tuple[Alert, ...]:
        """Judge now, without a call; returns what is still active."""
        with self._lock:
            now = self._clock.monotonic()
            said = [*self._judge_rate(now), *self._end_what_is_over(now)]
        self._tell(said)
        return self.active

    # --- Judging, with the lock held ---

    def _count(self, now: float, event: CallEvent) -> None:
        slot = int(now / (self.rules.window / _SLOTS))
        if not self._slots or self._slots[-1].slot < slot:
            self._slots.append(_Counts(slot))
        is_mistake = event.outcome == "refused"
        for counts in (self._slots[-1], self._total):
            counts.mistakes += is_mistake
            counts.calls += not is_mistake
            counts.failures += not is_mistake and event.outcome != "ok"

    def _judge_rate(self, now: float) -> Iterator[Alert]:
        oldest = int(now / (self.rules.window / _SLOTS)) - _SLOTS + 1
        while self._slots and self._slots[0].slot < oldest:
            gone = self._slots.popleft()
            self._total.calls -= gone.calls
            self._total.failures -= gone.failures
            self._total.mistakes -= gone.mistakes
        calls, mistakes = self._total.calls, self._total.mistakes
        rate = self._total.failures / calls if calls else 0.0
        limit = self.rules.error_rate
        firing = self._firing.get(("high_error_rate", ""))
        if firing is None:
            if calls >= self.rules.minimum_calls and rate > limit:
                summary = (
                    f"{rate:.1%} of {calls} calls failed within {_minutes(self.rules.window)}, more than "
                    f"{limit:.0%} (caller's mistakes beside it: {mistakes}). Look at the platform's health "
                    "and at the errors by type; reads go on from cache and backups as far as there are any."
                )
                yield from self._begin(
                    "high_error_rate", "", now, summary, value=rate, threshold=limit, mistakes=mistakes
                )
        elif rate <= limit * _RECOVERED_AT:
            yield self._end("high_error_rate", "", rate, mistakes)

    def _judge_error(self, now: float, event: CallEvent, error: LLMConfigError) -> Iterator[Alert]:
        code = code_of(error)
        subject = f"{event.call.operation} {code}"
        times = self._repeated.setdefault(subject, deque(maxlen=self.rules.repetitions))
        times.append(now)
        self._repeated.move_to_end(subject)
        if len(self._repeated) > _SUBJECTS:
            self._repeated.popitem(last=False)
        recent = self._recent(times, now)
        if recent >= self.rules.repetitions:
            summary = (
                f"{event.call.operation} failed {recent} times or more with {code} within "
                f"{_minutes(self.rules.window)}. {error.hint}"
            )
            limit = self.rules.repetitions
            yield from self._begin("repeated_failures", subject, now, summary, value=recent, threshold=limit)
        if error.is_critical:
            summary = (
                f"{event.call.operation} failed with {code}, which does not pass by itself. {error.hint} "
                "Tell the platform's operators the request id in the logs."
            )
            yield from self._begin("critical_error", code, now, summary)
        if error.category is ErrorCategory.SYSTEM:
            kind = error.kind or code
            summary = (
                f"The platform's host is out of a resource ({kind}), and an administrator has to act. "
                f"{error.hint}"
            )
            yield from self._begin("resource_error", kind, now, summary)

    def _begin(
        self,
        rule: RuleName,
        subject: str,
        now: float,
        summary: str,
        *,
        value: float = 1,
        threshold: float = 1,
        mistakes: int = 0,
    ) -> Iterator[Alert]:
        firing = self._firing.get((rule, subject))
        if firing is not None:
            firing.last = now  # the same incident goes on
            return
        at = self._utc()
        severity = _SEVERITIES[rule]
        alert = Alert(rule, subject, True, severity, summary, at, at, value, threshold, mistakes)
        self._firing[rule, subject] = _Firing(alert, now)
        if len(self._firing) > _SUBJECTS:
            self._firing.popitem(last=False)
        yield alert

    def _end_what_is_over(self, now: float) -> Iterator[Alert]:
        self._next_look = now + self.rules.window / _SLOTS
        for (rule, subject), firing in list(self._firing.items()):
            if rule == "repeated_failures":
                recent = self._recent(self._repeated.get(subject, ()), now)
                if recent <= self.rules.repetitions * _RECOVERED_AT:
                    yield self._end(rule, subject, recent)
            elif rule != "high_error_rate" and now - firing.last >= self.rules.window:
                yield self._end(rule, subject, 0)

    def _end(self, rule: RuleName, subject: str, value: float, mistakes: int = 0) -> Alert:
        begun = self._firing.pop((rule, subject)).alert
        at = self._utc()
        lasted = timedelta(seconds=round((at - begun.since).total_seconds()))
        about = f"{rule} {subject}".strip().replace("_", " ", 1) if not subject else f"{rule}: {subject}"
        summary = f"Over after {lasted}: {about}. Nothing is left to do but to find the cause."
        return Alert(
            rule, subject, False, begun.severity, summary, begun.since, at, value, begun.threshold, mistakes
        )

    def _recent(self, times: deque[float] | tuple[()], now: float) -> int:
        return sum(now - moment < self.rules.window for moment in times)

    def _utc(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)

    def _tell(self, alerts: list[Alert]) -> None:
        for alert in alerts:
            for callback in self._callbacks:
                try:
                    callback(alert)
                except Exception:  # noqa: BLE001  # the next callback may be the one that wakes somebody
                    _log.exception("a callback failed on the alert %s", alert.rule)


_SEVERITIES: Final[dict[RuleName, Severity]] = {
    "high_error_rate": "critical",
    "repeated_failures": "warning",
    "critical_error": "critical",
    "resource_error": "critical",
}
_TO_DO: Final[dict[IncidentKind, str]] = {
    "corrupted_snapshot": "Delete the file, or restore it; the next read from a server writes a new one.",
    "version_went_back": "Ask the platform's operators whether a backup was restored, and write again.",
    "audit_gap": "Ask the platform's operators for the audit log of that time before it is rotated away.",
}


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} minutes"
