"""The audit log: every change and every denied request, written before a change takes effect."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

    from .conditions import Conditions
    from .messages import At

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

    Raises:
        ComponentFailureError: From every method, while the log is not well.
    """

    def __init__(self, conditions: Conditions) -> None:
        """Begin empty."""
        self._conditions = conditions
        self._events: list[AuditEvent] = []

    def reset(self) -> None:
        """Forget every event."""
        self._events.clear()

    def append(self, subject: AuditSubject, at: At, outcome: str) -> AuditEvent:
        """Write an event down."""
        self._conditions.check("audit")
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
        self._events.append(event)
        return event

    @contextmanager
    def recording(self, subject: AuditSubject, at: At) -> Generator[None]:
        """Write an event down, then let it happen: what cannot be recorded does not take effect."""
        event = self.append(subject, at, "done")
        try:
            yield
        except BaseException:
            self._events[event.number - 1] = replace(event, outcome="failed")
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
            for event in self._events
            if (type is None or event.type == type)
            and (user is None or event.user == user)
            and (since is None or event.at >= since)
            and (until is None or event.at < until)
        ]
