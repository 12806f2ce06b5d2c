"""The audit log: every change and every denied request, written before a change takes effect."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from .conditions import ComponentFailureError
from .tables import Table

if TYPE_CHECKING:
    from collections.abc import Generator

    from .conditions import Conditions
    from .messages import At
    from .storage import Storage

EVENT_TYPES: Final = frozenset(
    {
        "config.set",
        "config.delete",
        "config.rollback",
        "rbac.grant",
        "rbac.role",
        "vault.key",
        "vault.rotate",
        "cache.clear",
        "access.denied",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One thing that somebody did, or was not let do.

    Args:
        number: Counts from 1, without gaps.
        at: When, in nanoseconds since 1970-01-01 UTC.
        type: One of `EVENT_TYPES`.
        user: Who the token belongs to.
        user_id: What the request's `X-User-ID` said, or `None`.
        resource: What it was about (`app/llm/model`, `users/ann`).
        environment: The canonical environment, or `None`.
        request_id: The request's id.
        outcome: `done`, `failed` or `denied`.
    """

    number: int
    at: int
    type: str
    user: str
    user_id: str | None
    resource: str
    environment: str | None
    request_id: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSubject:
    """Who did something to what: an event before it has happened."""

    type: str
    user: str
    user_id: str | None
    resource: str
    environment: str | None
    request_id: str


class AuditLog:
    """Events in the order they happened, subject to the condition `audit`.

    Args:
        conditions: Where the condition is looked up.
        storage: Where the events are kept.

    Raises:
        ComponentFailureError: From every method, while the log is not well.
    """

    def __init__(self, conditions: Conditions, storage: Storage) -> None:
        """Go on where the storage ends."""
        self._conditions = conditions
        self._storage = storage
        self._events: Table[AuditEvent] = Table(storage, "audit", asdict, lambda fields: AuditEvent(**fields))

    def append(self, subject: AuditSubject, at: At, outcome: str) -> AuditEvent:
        """Write an event down."""
        self._conditions.check("audit")
        return self._write(subject, at, outcome)

    def _write(self, subject: AuditSubject, at: At, outcome: str) -> AuditEvent:
        event = AuditEvent(
            number=len(self._events) + 1,
            at=at.wall_ns,
            type=subject.type,
            user=subject.user,
            user_id=subject.user_id,
            resource=subject.resource,
            environment=subject.environment,
            request_id=subject.request_id,
            outcome=outcome,
        )
        if not self._conditions.loses("audit"):
            self._events[str(event.number)] = event
        return event

    @contextmanager
    def recording(self, subject: AuditSubject, at: At) -> Generator[None]:
        """Write an event down and let it happen, both or neither: what cannot be recorded takes no effect.

        Where it fails, what it wrote is taken back, and the event says so.
        """
        self._conditions.check("audit")
        try:
            with self._storage.transaction():
                self._write(subject, at, "done")
                yield
        except BaseException:
            with suppress(ComponentFailureError):  # the failure that led here says more than a second one
                self._write(subject, at, "failed")
            raise

    def events(
        self,
        *,
        type: str | None = None,  # noqa: A002 - the name of the field, and of the query parameter
        user: str | None = None,
        since: int | None = None,
        until: int | None = None,
    ) -> list[AuditEvent]:
        """Return the events of a type, of a user, and from `since` up to `until` (nanoseconds), in order."""
        self._conditions.check("audit")
        return [
            event
            for event in self._events.values()
            if (type is None or event.type == type)
            and (user is None or event.user == user)
            and (since is None or event.at >= since)
            and (until is None or event.at < until)
        ]
