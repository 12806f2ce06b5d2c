"""Log lines with fields: one for each incident, at the level that it deserves."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, ClassVar, Final

from llm_config_sdk.errors import LLMConfigError, one_line, without_credentials
from llm_config_sdk.observability.events import Observer, call_in_hand, fields_of
from llm_config_sdk.observability.families import code_of, error_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_config_resilience import Event
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.observability.events import CallEvent, Incident

_QUIET: Final = 60.0  # seconds without a failure after which the next one is a new incident

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
    "late": logging.WARNING,
    "ejected": logging.WARNING,
    "opened": logging.WARNING,
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
    """Writes what happens to the standard `logging`, under `llm_config_sdk`.

    A call's final error is a warning where trying again may help, and an error where it will not. Attempts,
    retries and cache misses are for debugging; a miss is a warning once it makes a call fall back further.
    A cache that fails is an error once an incident: until it was quiet for a minute. Every line has its
    facts as fields of the record (`operation`, `code`, `request_id`, `endpoint`, …), flat and of plain types.

    Args:
        logger: Where to; left out, the logger `llm_config_sdk`.
        now: Seconds on a monotonic clock.
    """

    wants: ClassVar[frozenset[EventKind] | None] = frozenset(_LEVELS)
    writes_log: ClassVar[bool] = True

    def __init__(
        self, logger: logging.Logger | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = logger if logger is not None else logging.getLogger("llm_config_sdk")
        self._now = now
        self._lock = threading.Lock()
        self._cache_failed_at: float | None = None

    @property
    def wants_successes(self) -> bool:  # type: ignore[override]  # it may change while the program runs
        """Whether cache misses would be written."""
        return self._log.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event) -> None:
        """Write what the stack did."""
        level = _LEVELS.get(event.kind)
        if level is None:
            return
        if event.kind == "cache_failed" and not self._is_new_cache_incident():
            level = logging.DEBUG
        if not self._log.isEnabledFor(level):
            return
        fields = _event_fields(event)
        shown = f": {_message(event.error)}" if event.error is not None else ""
        where = fields.get("endpoint") or fields.get("operation") or event.layer
        told = f"{where}: {_WORDS[event.kind]}" if where else _WORDS[event.kind]
        self._log.log(level, "%s%s", told, shown, extra=fields)

    def ended(self, event: CallEvent) -> None:
        """Write how a call ended, where that is worth a line."""
        error, call = event.error, event.call
        if event.outcome == "cancelled":
            self._line(logging.DEBUG, event, "%s: cancelled", call.location)
        elif error is None or event.outcome == "ok":
            if call.operation == "get_config" and event.source == "server":
                self._line(logging.DEBUG, event, "%s: not in the cache, asked the server", call.location)
        elif event.outcome == "degraded":
            said = "a stale value" if event.source in {"stale", "snapshot"} else "the fallback"
            message = "%s: no fresh value and no server, answering with %s: %s"
            self._line(logging.WARNING, event, message, call.location, said, error)
        else:
            level = logging.WARNING if error.is_retriable else logging.ERROR
            self._line(level, event, "%s", error)

    def noticed(self, incident: Incident) -> None:
        """Write that data was lost."""
        fields: dict[str, Any] = {"incident": incident.kind}
        if incident.call is not None:
            fields |= fields_of(incident.call)
        self._log.error("%s: %s", incident.kind, one_line(incident.message), extra=fields)

    def _line(self, level: int, event: CallEvent, message: str, *values: object) -> None:
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
        }
        if error is not None:
            fields["code"] = code_of(error)
            fields["error_type"] = error_type(error)
            fields["request_id"] = error.request_id or fields["request_id"]
            fields["status"] = error.status
        self._log.log(level, message, *values, extra=fields)

    def _is_new_cache_incident(self) -> bool:
        with self._lock:
            before, self._cache_failed_at = self._cache_failed_at, self._now()
            return before is None or self._cache_failed_at - before >= _QUIET


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
