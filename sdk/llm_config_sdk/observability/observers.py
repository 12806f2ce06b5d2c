"""Who hears of a client's calls, and one call under observation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from llm_config_resilience import current
from llm_config_sdk.entries import ConfigEntry
from llm_config_sdk.observability.events import (
    Answered,
    CallEvent,
    Incident,
    ObservedCall,
    Observer,
    Outcome,
    Sending,
)
from llm_config_sdk.observability.families import is_callers_mistake
from llm_config_sdk.observability.versions import VersionWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from llm_config_resilience import Clock
    from llm_config_sdk.contract import Source
    from llm_config_sdk.errors import LLMConfigError
    from llm_config_sdk.observability.events import ObservedClient
    from llm_config_sdk.operations import Call
    from llm_config_sdk.transport import Endpoint

_log: Final = logging.getLogger("llm_config_sdk.observability")

_Hook: TypeAlias = "Callable[[Any], object]"


class Observers:
    """A client's observers, sorted by what they override.

    Args:
        observers: Who they are.
        clock: The client's clock.

    Attributes:
        wants_hits: Whether anybody hears of reads that the cache answered.
    """

    def __init__(self, observers: Iterable[Observer], clock: Clock) -> None:
        everyone = tuple(observers)
        self.now: Callable[[], float] = clock.monotonic
        self.attached: tuple[_Hook, ...] = _overriding(everyone, "attached")
        self.detached: tuple[Callable[[], object], ...] = tuple(
            one.detached for one in everyone if _overrides(one, "detached")
        )
        self.began: tuple[_Hook, ...] = _overriding(everyone, "began")
        self.sending: tuple[_Hook, ...] = _overriding(everyone, "sending")
        self.answered: tuple[_Hook, ...] = _overriding(everyone, "answered")
        self._noticed = _overriding(everyone, "noticed")
        self._enders = tuple(one for one in everyone if _overrides(one, "ended"))
        self._hears_requests = bool(self.began or self.sending or self.answered)
        self._versions = VersionWatch() if self._noticed else None
        self.wants_hits: bool = any(one.wants_hits for one in self._enders)

    @classmethod
    def of(cls, listeners: Iterable[object], clock: Clock) -> Observers:
        """Find those among a client's listeners who hear of calls."""
        return cls([one for one in listeners if isinstance(one, Observer)], clock)

    @property
    def follows(self) -> bool:
        """Whether a call is observed from its beginning; else it is enough to tell of one that fails."""
        return self._hears_requests or any(one.wants_successes for one in self._enders)

    def attach(self, client: ObservedClient) -> None:
        """Tell of the client, before its first call."""
        _tell(self.attached, client)

    def detach(self) -> None:
        """Tell that the client is closed."""
        for hook in self.detached:
            _safely(hook)

    def begin(self, call: Call[Any], *, is_quiet: bool = False) -> Observation:
        """Begin to observe a call that will be sent."""
        seen = observed(call, is_quiet=is_quiet)
        _tell(self.began, seen)
        return Observation(self, seen)

    def look_back(self, call: Call[Any], *, is_quiet: bool = False) -> Observation:
        """Observe a call that nobody followed, for how it ends is worth telling."""
        return Observation(self, observed(call, is_quiet=is_quiet), attempts=call.progress.attempts)

    def cached(self, operation: str, entry: ConfigEntry) -> None:
        """Tell of an answer that needed no call."""
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
        went_well, is_hit = event.outcome == "ok", event.source == "cache"
        for observer in self._enders:
            if not went_well or (observer.wants_successes and (observer.wants_hits or not is_hit)):
                _tell((observer.ended,), event)

    def notice(self, incident: Incident) -> None:
        """Tell that data was lost."""
        _tell(self._noticed, incident)


class Observation:
    """One call under observation, from its beginning to its end.

    Args:
        observers: Whom to tell.
        call: The call.
        attempts: Requests made before it was observed.
    """

    __slots__ = ("_attempts", "_is_over", "_observers", "_open", "call")

    def __init__(self, observers: Observers, call: ObservedCall, *, attempts: int = 0) -> None:
        self.call: ObservedCall = call
        self._observers = observers
        self._open: list[Sending] = []
        self._attempts = attempts
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


def observed(call: Call[Any], *, is_quiet: bool = False) -> ObservedCall:
    """Describe a call for observers."""
    operation = call.operation
    route = operation.path if operation.name != "request" else ""  # a caller's own paths are many
    return ObservedCall(
        operation.name,
        operation.method,
        route,
        call.namespace,
        call.key,
        call.environment.value if call.environment else None,
        call.request_id,
        call.progress.began,
        is_quiet,
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
        _safely(hook, event)


def _safely(hook: Callable[..., object], *event: object) -> None:
    try:
        hook(*event)
    except Exception:  # noqa: BLE001  # telling must not change what is told
        about = type(event[0]).__name__ if event else "the end of its client"
        _log.exception("an observer failed on %s", about)
