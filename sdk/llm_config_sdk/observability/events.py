"""What the client tells its observers of calls and attempts; what the stack does, the toolkit's events tell.

A client makes one `Observers` of its listeners, or none: then nothing is built and nothing is asked. Of each
call an observer hears `began`, of each request `sending` and `answered`, and once `ended`; an answer from the
cache has only `ended`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from llm_config_resilience import current
from llm_config_sdk.entries import ConfigEntry
from llm_config_sdk.observability.families import is_callers_mistake
from llm_config_sdk.observability.versions import VersionWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from llm_config_resilience import Clock, Event
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.contract import Source
    from llm_config_sdk.errors import LLMConfigError
    from llm_config_sdk.operations import Call
    from llm_config_sdk.transport import Endpoint

_log: Final = logging.getLogger("llm_config_sdk.observability")

Outcome: TypeAlias = Literal["ok", "degraded", "failed", "refused", "cancelled"]
"""How a call ended: as it should; with something in the answer's place during an outage; with an error of the
platform or the network; with one that is the caller's; or not at all."""

IncidentKind: TypeAlias = Literal["corrupted_snapshot", "version_went_back", "audit_gap"]
"""The three ways in which data can be lost that this side can notice."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ObservedCall:
    """One call, the same object in all that is told of it; nothing in it is secret.

    Attributes:
        operation: The client's method (`get_config`).
        method: The HTTP method.
        route: The path with its placeholders, of which there are few.
        namespace: The namespace that is asked for.
        key: The key that is asked for.
        environment: The environment that is asked for.
        request_id: Sent with every attempt; empty for an answer without one.
        began: Seconds on the client's clock.
    """

    operation: str
    method: str = "GET"
    route: str = ""
    namespace: str | None = None
    key: str | None = None
    environment: str | None = None
    request_id: str = ""
    began: float = 0.0

    @property
    def location(self) -> str:
        """The call as it was made: `get_config app/llm model [production]`."""
        environment = f"[{self.environment}]" if self.environment else None
        return " ".join(part for part in (self.operation, self.namespace, self.key, environment) if part)


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Sending:
    """A request is about to leave.

    Attributes:
        call: The call it belongs to.
        attempt: The request's number in its call, from 1.
        endpoint: The base URL.
        host: The endpoint's host.
        port: The endpoint's port.
        url: The whole URL; it has no credentials.
        headers: What observers add to the request, by name. The request's own headers are not shown.
        time: Seconds on the client's clock.
    """

    call: ObservedCall
    attempt: int
    endpoint: str
    host: str
    port: int
    url: str
    time: float
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(frozen=True, slots=True)
class Answered:
    """A request is over.

    Attributes:
        sending: The request.
        status: The HTTP status, where there was an answer.
        error: What went wrong, with its traceback: keep it no longer than the event.
        duration: Seconds.
        cancelled: Whether nobody waited for the answer.
    """

    sending: Sending
    status: int | None
    error: BaseException | None
    duration: float
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class CallEvent:
    """A call is over.

    Attributes:
        call: The call.
        outcome: How it ended.
        time: When, in seconds on the client's clock.
        duration: Seconds, retries and all.
        source: Where the answer came from; empty where there was none.
        endpoint: The base URL of the answer or of the error, where there is one.
        error: What was raised, or what something had to stand in for. With its traceback: keep it no longer
            than the event.
        attempts: Requests made.
        entry_id: The identity of the entry that was answered with, where it was one entry.
        version: The version of that entry.
    """

    call: ObservedCall
    outcome: Outcome
    time: float
    duration: float = 0.0
    source: Source | Literal[""] = ""
    endpoint: str | None = None
    error: LLMConfigError | None = None
    attempts: int = 0
    entry_id: str | None = None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    """Data was lost, or may have been.

    Attributes:
        kind: What was noticed.
        message: What happened, for people; no values.
        call: The call in which it was noticed, if there was one.
    """

    kind: IncidentKind
    message: str
    call: ObservedCall | None = None


class Observer:
    """Hears of everything that a client does. Override what you need; whatever it raises breaks nothing.

    An observer is a listener too: pass it among a client's `listeners`. Calling it tells it of the stack's
    own events (retries, circuits, failover).

    Attributes:
        wants: The kinds of the stack's events that it is called with; `None` for all of them.
        wants_successes: Whether it hears `ended` of calls that went well.
        writes_log: Whether it writes the lines that the client writes itself otherwise.
    """

    wants: ClassVar[frozenset[EventKind] | None] = frozenset()
    wants_successes: bool = True
    writes_log: ClassVar[bool] = False

    def __call__(self, event: Event) -> None:
        """Hear of something that the stack did."""

    def began(self, call: ObservedCall) -> None:
        """Hear that a call begins, which the cache could not answer."""

    def sending(self, request: Sending) -> None:
        """Hear that a request is about to leave; what is put into its `headers` goes along."""

    def answered(self, answer: Answered) -> None:
        """Hear that a request is over."""

    def ended(self, event: CallEvent) -> None:
        """Hear that a call is over."""

    def noticed(self, incident: Incident) -> None:
        """Hear that data was lost."""


_Hook: TypeAlias = "Callable[[Any], object]"


class Observers:
    """A client's observers, sorted by what they override.

    Args:
        observers: At least one.
        clock: The client's clock.
    """

    def __init__(self, observers: Iterable[Observer], clock: Clock) -> None:
        everyone = tuple(observers)
        self.now: Callable[[], float] = clock.monotonic
        self.began: tuple[_Hook, ...] = _overriding(everyone, "began")
        self.sending: tuple[_Hook, ...] = _overriding(everyone, "sending")
        self.answered: tuple[_Hook, ...] = _overriding(everyone, "answered")
        self._ended = _overriding(everyone, "ended")
        self._noticed = _overriding(everyone, "noticed")
        self._enders = tuple(one for one in everyone if _overrides(one, "ended"))
        self._versions = VersionWatch() if self._noticed else None
        self.write_log: bool = any(one.writes_log for one in everyone)

    @classmethod
    def of(cls, listeners: Iterable[object], clock: Clock) -> Observers | None:
        """Find those among a client's listeners who hear of calls; `None` if nobody does."""
        found = [one for one in listeners if isinstance(one, Observer)]
        return cls(found, clock) if found else None

    def begin(self, call: Call[Any]) -> Observation:
        """Begin to observe a call that will be sent."""
        operation = call.operation
        route = operation.path if operation.name != "request" else ""  # a caller's own paths are many
        observed = ObservedCall(
            operation.name,
            operation.method,
            route,
            call.namespace,
            call.key,
            call.environment.value if call.environment else None,
            call.request_id,
            self.now(),
        )
        _tell(self.began, observed)
        return Observation(self, observed)

    def cached(self, operation: str, entry: ConfigEntry) -> None:
        """Tell of an answer that needed no call."""
        if not any(one.wants_successes for one in self._enders):
            return
        now = self.now()
        call = ObservedCall(
            operation,
            namespace=entry.namespace,
            key=entry.key,
            environment=entry.environment.value,
            began=now,
        )
        self.end(
            CallEvent(
                call,
                "ok",
                now,
                source=entry.source,
                endpoint=entry.endpoint,
                entry_id=entry.id,
                version=entry.version,
            )
        )

    def end(self, event: CallEvent) -> None:
        """Tell how a call ended, and look whether it shows that data was lost."""
        if self._versions is not None:
            lost = self._versions.check(event)
            if lost is not None:
                self.notice(Incident("version_went_back", lost, event.call))
        went_well = event.outcome == "ok"
        for observer in self._enders:
            if not went_well or observer.wants_successes:
                _tell((observer.ended,), event)

    def notice(self, incident: Incident) -> None:
        """Tell that data was lost."""
        _tell(self._noticed, incident)


class Observation:
    """One call under observation, from its beginning to its end.

    Args:
        observers: Whom to tell.
        call: The call.
    """

    __slots__ = ("_attempts", "_is_over", "_observers", "_open", "call")

    def __init__(self, observers: Observers, call: ObservedCall) -> None:
        self.call: ObservedCall = call
        self._observers = observers
        self._open: list[Sending] = []
        self._attempts = 0
        self._is_over = False

    def sending(self, endpoint: Endpoint, url: str) -> Sending:
        """Tell that a request leaves. The caller adds the `headers` of what is returned to the request."""
        self._attempts += 1
        request = Sending(
            self.call,
            self._attempts,
            endpoint.url,
            endpoint.host,
            endpoint.port,
            url,
            self._observers.now(),
        )
        self._open.append(request)
        _tell(self._observers.sending, request)
        return request

    def answered(
        self, request: Sending, status: int | None = None, error: BaseException | None = None
    ) -> None:
        """Tell what became of a request."""
        if request in self._open:
            self._open.remove(request)
            self._tell_answer(request, status, error, cancelled=False)

    def succeeded(self, value: object, source: Source = "server", endpoint: str | None = None) -> None:
        """Tell that the call has its answer.

        Args:
            value: What the client returns; an entry says itself where it comes from.
            source: Where anything else comes from.
            endpoint: Who sent anything else.
        """
        entry = as_entry(value)
        error = entry.error if entry is not None else None
        self._end(
            "ok" if error is None or is_callers_mistake(error) else "degraded",
            source=source if entry is None else entry.source,
            endpoint=endpoint if entry is None else entry.endpoint,
            error=error,
            entry=entry,
        )

    def failed(self, error: LLMConfigError) -> None:
        """Tell that the call raises an error."""
        outcome: Outcome = "refused" if is_callers_mistake(error) else "failed"
        self._end(outcome, endpoint=error.endpoint, error=error)

    def close(self) -> None:
        """Tell that the call was cancelled, unless it ended some other way. Calling it twice does no harm."""
        if not self._is_over:
            for request in self._open:
                self._tell_answer(request, None, None, cancelled=True)
            self._open = []
            self._end("cancelled")

    def _tell_answer(
        self, request: Sending, status: int | None, error: BaseException | None, *, cancelled: bool
    ) -> None:
        observers = self._observers
        if observers.answered:
            duration = observers.now() - request.time
            _tell(observers.answered, Answered(request, status, error, duration, cancelled))

    def _end(
        self,
        outcome: Outcome,
        *,
        source: Source | Literal[""] = "",
        endpoint: str | None = None,
        error: LLMConfigError | None = None,
        entry: ConfigEntry | None = None,
    ) -> None:
        if self._is_over:
            return
        self._is_over = True
        if error is not None:  # a request that is still open was ended by the call's deadline
            for request in self._open:
                self._tell_answer(request, None, error, cancelled=False)
            self._open = []
        now = self._observers.now()
        has_identity = entry is not None and entry.version > 0
        self._observers.end(
            CallEvent(
                self.call,
                outcome,
                now,
                now - self.call.began,
                source,
                endpoint,
                error,
                self._attempts,
                entry.id if entry is not None and has_identity else None,
                entry.version if entry is not None and has_identity else None,
            )
        )


def call_in_hand() -> Call[Any] | None:
    """Find the call that one of the stack's events belongs to, while it is being told."""
    context = current()
    if context is None:
        return None
    for argument in context.args:
        if hasattr(argument, "operation") and hasattr(argument, "request_id"):
            call: Call[Any] = argument
            return call
    return None


def as_entry(value: object) -> ConfigEntry | None:
    """Narrow what a call returned to one entry."""
    return value if isinstance(value, ConfigEntry) else None


def fields_of(call: ObservedCall) -> Mapping[str, str | None]:
    """Name a call, field by field, as logs and spans do."""
    return {
        "operation": call.operation,
        "namespace": call.namespace,
        "config_key": call.key,
        "environment": call.environment,
        "request_id": call.request_id or None,
    }


def _overrides(observer: Observer, hook: str) -> bool:
    return getattr(type(observer), hook) is not getattr(Observer, hook)


def _overriding(observers: Iterable[Observer], hook: str) -> tuple[_Hook, ...]:
    return tuple(getattr(observer, hook) for observer in observers if _overrides(observer, hook))


def _tell(hooks: Iterable[_Hook], event: object) -> None:
    for hook in hooks:
        try:
            hook(event)
        except Exception:  # noqa: BLE001  # telling must not change what is told
            _log.exception("an observer failed on %s", type(event).__name__)
