"""What the client tells its observers of calls and attempts; what the stack does, the toolkit's events tell.

Of a client an observer hears `attached` and `detached`; of each call `began`, of each request `sending` and
`answered`, and once `ended`. An answer from the cache has only `ended`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

if TYPE_CHECKING:
    from llm_config_resilience import Event, RetryBudget
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.contract import Source
    from llm_config_sdk.errors import LLMConfigError

Outcome: TypeAlias = Literal["ok", "degraded", "failed", "refused", "cancelled"]
"""How a call ended: as it should; with something in the answer's place during an outage; with an error of the
platform or the network; with one that is the caller's; or not at all."""

IncidentKind: TypeAlias = Literal["corrupted_snapshot", "version_went_back", "audit_gap"]
"""The three ways in which data can be lost that this side can notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedClient:
    """Whom an observer will hear of.

    Attributes:
        endpoints: The base URLs, the primary first.
        budget: What retries are paid from; `None` where nothing is retried.
    """

    endpoints: tuple[str, ...]
    budget: RetryBudget | None = None


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
        is_quiet: Whether somebody else tells of its failure, as a watcher does of its polls'.
    """

    operation: str
    method: str = "GET"
    route: str = ""
    namespace: str | None = None
    key: str | None = None
    environment: str | None = None
    request_id: str = ""
    began: float = 0.0
    is_quiet: bool = False

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
        wants_hits: Whether it hears `ended` of reads that the cache answered.
        writes_log: Whether it writes the log: a client without such a listener has a `LogListener`.
    """

    wants: ClassVar[frozenset[EventKind] | None] = frozenset()
    wants_successes: bool = True
    wants_hits: ClassVar[bool] = True
    writes_log: ClassVar[bool] = False

    def __call__(self, event: Event) -> None:
        """Hear of something that the stack did."""

    def attached(self, client: ObservedClient) -> None:
        """Hear of a client, or of a copy of one with other retries, before its first call."""

    def detached(self) -> None:
        """Hear that a client is closed."""

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
