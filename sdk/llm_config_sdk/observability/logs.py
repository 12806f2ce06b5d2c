"""Log lines with fields: one for each incident, at the level that it deserves."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

from llm_config_sdk.errors import LLMConfigError, one_line, without_credentials
from llm_config_sdk.observability.events import Observer
from llm_config_sdk.observability.families import code_of, error_type, is_callers_mistake
from llm_config_sdk.observability.observers import call_in_hand, fields_of
from llm_config_sdk.observability.streaks import Streaks

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from llm_config_resilience import Event
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.observability.events import CallEvent, Incident

_LEVELS: Final[Mapping[EventKind, int]] = {
    "retry": logging.DEBUG,  # an attempt; the call's end has its own line
    "gave_up": logging.DEBUG,
    "rejected": logging.DEBUG,
    "timed_out": logging.DEBUG,
    "failed_over": logging.DEBUG,  # "ejected" says it once
    "served_stale": logging.DEBUG,
    "fell_back": logging.DEBUG,
    "source_failed": logging.DEBUG,
    "refreshing": logging.DEBUG,
    "recovered": logging.DEBUG,
    "half_opened": logging.INFO,
    "closed": logging.INFO,
    "readmitted": logging.INFO,
    "opened": logging.INFO,  # of calls that fail, each method says it itself
    "late": logging.WARNING,
    "ejected": logging.WARNING,
    "background_failed": logging.WARNING,
    "cache_failed": logging.ERROR,
}
_WORDS: Final[Mapping[EventKind, str]] = {
    "retry": "an attempt failed and is repeated",
    "gave_up": "not repeated",
    "rejected": "turned away on this side",
    "timed_out": "time was up",
    "failed_over": "the next endpoint is tried",
    "served_stale": "a stale value is served",
    "fell_back": "a fallback is served",
    "source_failed": "a fallback's source failed",
    "refreshing": "a cached value is renewed in the background",
    "recovered": "succeeded after more than one attempt",
    "half_opened": "the circuit admits probes",
    "closed": "the circuit closed: the endpoint is well again",
    "readmitted": "the endpoint answers again",
    "late": "an answer came after its deadline",
    "ejected": "the endpoint failed and is passed over",
    "opened": "the circuit opened: the endpoint is given a rest",
    "background_failed": "work in the background failed",
    "cache_failed": "the cache failed and is bypassed",
}


class LogListener(Observer):
    """Writes what happens to the standard `logging`, under `llm_config_sdk`: a line an incident.

        client = ConfigClient("https://config.example.com", listeners=[LogListener(my_logger)])

    A client has one of its own unless it is given one.

    A call's final error is a warning where trying again may help, and an error where it will not. Failures
    that are alike are one incident: the first one has a line, once a minute one says how many there were, and
    the first success after ten quiet seconds how it ended. Alike are, in one method, all that may pass (the
    same outage is a refused connection, a timeout and an open circuit), and errors of one code; of what is
    the caller's doing, and of secrets that cannot be read, errors about the same entry.

    Each call, attempt and retry that has no line is there for debugging. Every line has its facts as fields
    of the record (`operation`, `code`, `request_id`, `endpoint`, …), flat and of plain types.

    Args:
        logger: Where to; left out, the logger `llm_config_sdk`.
    """

    wants: ClassVar[frozenset[EventKind] | None] = frozenset(_LEVELS)
    wants_hits: ClassVar[bool] = False
    writes_log: ClassVar[bool] = True

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._log = logger if logger is not None else logging.getLogger("llm_config_sdk")
        self._streaks = Streaks()

    @property
    def wants_successes(self) -> bool:  # type: ignore[override]  # it may change while the program runs
        """Whether something is going wrong that a success would end, or cache misses would be written."""
        return bool(self._streaks.awaited) or self._log.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event) -> None:
        """Write what the stack did."""
        level = _LEVELS.get(event.kind)
        if level is None:
            return
        fields = _event_fields(event)
        where = fields["endpoint"] or fields.get("operation") or event.layer
        if level >= logging.WARNING:
            told = self._streaks.failed(
                (event.kind, where), event.time, name=_WORDS[event.kind], level=level, reminder=inf
            )
            level = logging.DEBUG if told is None else level
        if not self._log.isEnabledFor(level):
            return
        shown = f": {_message(event.error)}" if event.error is not None else ""
        words = f"{where}: {_WORDS[event.kind]}" if where else _WORDS[event.kind]
        self._log.log(level, "%s%s", words, shown, extra=fields)

    def ended(self, event: CallEvent) -> None:
        """Write how a call ended, where that is worth a line."""
        if event.outcome == "cancelled":
            self._line(logging.DEBUG, event, f"{event.call.location}: cancelled")
        elif event.outcome == "ok" or event.error is None:
            self._went_well(event)
        else:
            self._went_wrong(event, event.error)

    def _went_well(self, event: CallEvent) -> None:
        call = event.call
        if event.source != "server":
            return
        for streak in self._streaks.succeeded(call.operation, event.time):
            if streak.count > 1:
                lasted = f"{streak.count} calls within {streak.last - streak.since:.0f} s"
                self._line(logging.INFO, event, f"{streak.name}: over after {lasted}", calls=streak.count)
        if call.operation == "get_config":
            self._line(logging.DEBUG, event, f"{call.location}: not in the cache, asked the server")

    def _went_wrong(self, event: CallEvent, error: LLMConfigError) -> None:
        call = event.call
        if event.outcome == "degraded":
            level, words = logging.WARNING, f"{call.location}: {_STAND_INS[event.source]}: {error}"
        else:
            level, words = logging.WARNING if error.is_retriable else logging.ERROR, str(error)
        untold: int | None = None
        if not call.is_quiet:
            subject, name = _subject(event, error, level)
            operation = "" if is_callers_mistake(error) or error.is_critical else call.operation
            untold = self._streaks.failed(subject, event.time, name=name, level=level, operation=operation)
        if untold:
            words += f" [and {untold} more like it since the last line]"
        self._line(logging.DEBUG if untold is None else level, event, words, calls=(untold or 0) + 1)

    def detached(self) -> None:
        """Write how many failures had no line yet."""
        for streak in self._streaks.end():
            fields = {"calls": streak.untold}
            told = "%s: %d more like it until the client was closed"
            self._log.log(streak.level, told, streak.name, streak.untold, extra=fields)

    def noticed(self, incident: Incident) -> None:
        """Write that data was lost."""
        fields: dict[str, Any] = {"incident": incident.kind}
        if incident.call is not None:
            fields |= fields_of(incident.call)
        self._log.error("%s: %s", incident.kind, one_line(incident.message), extra=fields)

    def _line(self, level: int, event: CallEvent, words: str, *, calls: int = 1) -> None:
        if not self._log.isEnabledFor(level):
            return
        error = event.error
        fields: dict[str, Any] = {
            **fields_of(event.call),
            "outcome": event.outcome,
            "source": event.source or None,
            "endpoint": _shown(event.endpoint),
            "attempts": event.attempts,
            "duration": event.duration,
            "calls": calls,
        }
        if error is not None:
            fields["code"] = code_of(error)
            fields["error_type"] = error_type(error)
            fields["request_id"] = error.request_id or fields["request_id"]
            fields["status"] = error.status
        self._log.log(level, "%s", words, extra=fields)


_STAND_INS: Final[Mapping[str, str]] = {
    "stale": "serving a stale value",
    "snapshot": "serving values of an earlier run",
    "default": "answering with the fallback",
}


def _subject(event: CallEvent, error: LLMConfigError, level: int) -> tuple[Hashable, str]:
    """Say what an incident's failures have in common, and name it."""
    call, code, outcome = event.call, code_of(error), event.outcome
    if error.is_unauthorized:
        return code, code
    if is_callers_mistake(error) or error.is_critical:
        return (code, call.location), f"{call.location}: {code}"
    if level == logging.ERROR:
        return (code, call.operation), f"{call.operation}: {code}"
    limited = error_type(error) == "rate_limit"
    words = "a rate limit" if limited else "no answer"
    return (outcome, limited, call.operation), f"{call.operation}: {words}, {outcome}"


def _event_fields(event: Event) -> dict[str, Any]:
    call = call_in_hand()
    target = event.details.get("breaker") or getattr(event.target, "url", None)
    fields: dict[str, Any] = {
        "event_kind": event.kind,
        "pipeline": event.pipeline,
        "layer": event.layer,
        "attempt": event.attempt,
        "endpoint": _shown(target) if isinstance(target, str) else None,
        "delay": event.delay,
        "reason": event.details.get("reason"),
    }
    if call is not None:
        fields["operation"] = call.operation.name
        fields["request_id"] = call.request_id
    if event.error is not None:
        fields["code"] = code_of(event.error)
        fields["error_type"] = error_type(event.error)
    return fields


def _message(error: BaseException) -> str:
    return one_line(error.message if isinstance(error, LLMConfigError) else str(error))


def _shown(endpoint: str | None) -> str | None:
    return None if endpoint is None else one_line(without_credentials(endpoint))
