"""Events: what is new, as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

A stream says the state and the requests so far, then whatever changes, for as long as its client
stays. Every piece ends with an id, the *cursor*: a client that was cut off says it in
`Last-Event-ID` and is told what it missed, each request once. Nothing is queued for a client that
reads slowly: a piece is made when the one before it has gone.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.messages import Later, Reply, json_bytes, json_reply
from llm_config_sdk.contract import ErrorCode

from .refusals import RefusedError, no_method
from .views import request_body

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from llm_config_mock_server.core import Call, Core
    from llm_config_mock_server.messages import At, Header

BATCH_MAX: Final = 500  # requests in one piece of a stream
POLL_SECONDS: Final = 0.1  # between two looks at what is new: quick to a person, cheap to the server
HEARTBEAT_SECONDS: Final = 10.0  # the longest silence; below what proxies cut, and how a dead client is found
STREAM_SECONDS: Final = 3600.0  # the longest life of a stream: an `EventSource` goes on with the next one
STREAMS_MAX: Final = 32  # at once: a bound for pages that were left open
RETRY_MILLISECONDS: Final = 200  # when an `EventSource` comes back after it was cut off
TICKET_SECONDS: Final = 30.0  # between getting a ticket and using it
_PENDING_MAX: Final = 200  # undecided requests that a cursor remembers
_INSTANCE_BYTES: Final = 4  # enough to tell a server from the one before it
_TICKET_BYTES: Final = 16
_TICKETS_MAX: Final = 100
_CURSOR: Final = re.compile(
    r"([0-9a-f]{8})\.(\d{1,15})\.((?:\d{1,15}(?:-\d{1,15})*)?)\.([0-9a-f]{16})", re.ASCII
)
_HEADERS: Final[tuple[Header, ...]] = (("content-type", "text/event-stream"), ("x-accel-buffering", "no"))
_HEARTBEAT: Final = b": still here\n\n"


@dataclass(frozen=True, slots=True)
class _Cursor:
    """What a client has been told.

    Args:
        latest: The number of the newest request.
        pending: The numbers of those that were undecided.
        digest: Stands for the state.
    """

    latest: int = 0
    pending: frozenset[int] = frozenset()
    digest: str = ""


class Feed:
    """All that pages are told of one server.

    Args:
        core: The server's core.
        state: Returns its state, without entries and requests.
    """

    def __init__(self, core: Core, state: Callable[[], dict[str, Any]]) -> None:
        """Begin with nobody listening."""
        self.core = core
        self.instance: str = secrets.token_hex(_INSTANCE_BYTES)
        self.open: set[_EventStream] = set()
        self._state = state
        self._tickets: dict[str, float] = {}

    def reply(self, call: Call) -> Reply:
        """Answer with a stream.

        Raises:
            RefusedError: The cursor is none, or too many listen already.
        """
        request = call.request
        if request.method not in {"GET", "HEAD"}:
            raise no_method(request, "GET")
        # An `EventSource` that a page makes anew cannot set a header.
        told = request.header("last-event-id") or request.parameters.get("last_event_id", [""])[-1]
        cursor = self._parsed(told)
        if len(self.open) >= STREAMS_MAX:
            raise RefusedError(
                f"{STREAMS_MAX} clients follow the events already",
                code=ErrorCode.SERVICE_UNAVAILABLE,
                headers=(("retry-after", "1"),),
            )
        return Reply(200, _HEADERS, stream=_EventStream(self, cursor))

    def issue_ticket(self, call: Call) -> Reply:
        """Answer with a ticket, which stands for the caller's token once.

        It is for pages: an `EventSource` cannot send a token.
        """
        if call.request.method != "POST":
            raise no_method(call.request, "POST")
        now = call.at.monotonic
        self._tickets = {ticket: until for ticket, until in self._tickets.items() if until > now}
        if len(self._tickets) >= _TICKETS_MAX:
            del self._tickets[next(iter(self._tickets))]
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        self._tickets[ticket] = now + TICKET_SECONDS
        return json_reply(201, {"ticket": ticket, "expires_in": TICKET_SECONDS})

    def takes_ticket(self, call: Call) -> bool:
        """Say whether a request has a ticket that is good; it is good no more."""
        (ticket,) = call.request.parameters.get("ticket", [""])[-1:]
        return self._tickets.pop(ticket, 0.0) > call.at.monotonic

    def stamp(self) -> Hashable:
        """Return what changes whenever there may be news: cheaper than looking."""
        core = self.core
        return (
            core.journal.changes,
            core.platform.store.changes,
            tuple((rule.number, rule.fired, rule.is_spent) for rule in core.faults),
            tuple(core.platform.conditions.items()),
            len(core.defects),
        )

    def news(self, cursor: _Cursor) -> tuple[bytes, _Cursor, bool]:
        """Return the events since a cursor, the cursor after them, and whether they are all."""
        state = json_bytes({**self._state(), "instance": self.instance})
        digest = hashlib.sha256(state).hexdigest()[:16]
        events = [] if digest == cursor.digest else [_event("state", state)]
        entries = list(self.core.journal)
        fresh = [entry for entry in entries if entry.number > cursor.latest]
        told = fresh[-BATCH_MAX:] if cursor == _Cursor() else fresh[:BATCH_MAX]
        pending = [entry for entry in entries if entry.number in cursor.pending]
        settled = [entry for entry in pending if entry.is_done]
        events += [_event("request", json_bytes(request_body(entry))) for entry in (*settled, *told)]
        undecided = [entry.number for entry in (*pending, *told) if not entry.is_done]
        after = _Cursor(
            told[-1].number if told else cursor.latest, frozenset(undecided[-_PENDING_MAX:]), digest
        )
        if events:
            events.append(b"id: %b\n\n" % self._written(after).encode())
        return b"".join(events), after, not fresh or told[-1] is fresh[-1]

    def _written(self, cursor: _Cursor) -> str:
        pending = "-".join(map(str, sorted(cursor.pending)))
        return f"{self.instance}.{cursor.latest}.{pending}.{cursor.digest}"

    def _parsed(self, told: str) -> _Cursor:
        if not told:
            return _Cursor()
        found = _CURSOR.fullmatch(told)
        if found is None:
            raise RefusedError("Last-Event-ID is none of this server's", "Last-Event-ID")
        if found[1] != self.instance:
            return _Cursor()  # of the server that was here before: nothing of it is left
        numbers = frozenset(int(number) for number in found[3].split("-") if number)
        return _Cursor(int(found[2]), numbers, found[4])


class _EventStream:
    """What one client is told."""

    def __init__(self, feed: Feed, cursor: _Cursor) -> None:
        self._feed = feed
        self._cursor = cursor
        self._seen: Hashable = None
        self._until: float | None = None
        self._spoke = 0.0

    def next(self, at: At) -> bytes | Later | None:
        """Return what comes next: a piece, a wait, or the end."""
        with self._feed.core.lock:
            now = at.monotonic
            if self._until is None:
                self._until, self._spoke = now + STREAM_SECONDS, now
                self._feed.open.add(self)
                return b"retry: %d\n\n" % RETRY_MILLISECONDS
            if now >= self._until:
                return None
            stamp = self._feed.stamp()
            if stamp != self._seen:
                piece, self._cursor, is_all = self._feed.news(self._cursor)
                self._seen = stamp if is_all else None
                if piece:
                    self._spoke = now
                    return piece
            if now - self._spoke >= HEARTBEAT_SECONDS:
                self._spoke = now
                return _HEARTBEAT
            return Later(POLL_SECONDS)

    def close(self) -> None:
        """Say that nobody listens any more."""
        with self._feed.core.lock:
            self._feed.open.discard(self)


def _event(name: str, data: bytes) -> bytes:
    # JSON of ours has no line breaks outside of strings, and escapes those inside.
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)
