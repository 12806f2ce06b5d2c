"""The server's side of one connection, without I/O: what was read goes in, what to do next comes out.

`Wire.run` is a generator of moves. Whoever drives it owns the bytes and the time: the socket host
drives it over a real connection, the in-process transports over none. h11 reads and writes the
HTTP; what a `Delivery` asks for beyond it (resets, cuts, drips, garbage) is done to the bytes that
h11 has made.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import h11

from llm_config_mock_server.messages import (
    At,
    Delivery,
    Drip,
    End,
    Later,
    Outcome,
    Reply,
    Request,
    Stream,
    reason_phrase,
)

from .parsing import HEAD_END, Softened, head_problem, parsing_of, soften

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from llm_config_mock_server.core import Core, Exchange

HEAD_MAX_BYTES: Final = 131_072  # h11 stops reading a head here; narrower limits are told apart before
_BAD_REQUEST: Final = 400
_TOO_LARGE: Final = 413
_TARGET_TOO_LONG: Final = 414
_HEADERS_TOO_LARGE: Final = 431
_NO_BODY: Final = frozenset({204, 304})

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Send:
    """Put these bytes on the wire, all of them, before anything else.

    Args:
        data: The bytes.
        ends: Whether the end of the stream follows, to travel with them: who reads the last byte
            is then never in time to send another request.
    """

    data: bytes
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Sleep:
    """Let time pass.

    Args:
        seconds: How much.
        for_listener: Whether it passes for a client that listens: one that went ends the connection.
    """

    seconds: float
    for_listener: bool = False


class Move(Enum):
    """What else a connection does."""

    READ = auto()
    """Wait for bytes and send them in; no bytes mean that the client has ended its direction."""
    HALF_CLOSE = auto()
    """End the server's direction; bytes are still read."""
    CLOSE = auto()
    """Close; the client has sent nothing that was left unread. The last move."""
    LINGER = auto()
    """As `CLOSE`, but read away for a moment what still comes, so that the reply survives. The last move."""
    RESET = auto()
    """Tear the connection down, once the client had a chance to read what was sent. The last move."""


Action = Send | Sleep | Move

# How a connection goes on after a reply.
_Next = Literal["keep", "close", "doomed", "gone"]


class Wire:
    """One connection, from accept to close.

    Args:
        core: What answers.
        clock: What reads the time.
        peer: The client's address.
    """

    def __init__(self, core: Core, clock: Callable[[], At], peer: str) -> None:
        """Begin before the first byte."""
        self._core = core
        self._clock = clock
        self._peer = peer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        self._parsing = parsing_of(core.profile.name)
        self._softened = Softened(b"")
        self._head = b""
        self._has_ended = False

    def run(self) -> Generator[Action, bytes, None]:
        """Answer requests until one side has had enough. Closing the generator abandons what runs."""
        delivery = self._core.connect(self._clock())
        if delivery is not None:
            if delivery.delay:
                yield Sleep(delivery.delay)
            yield from self._write(delivery.raw or b"", None)
            if delivery.end is not End.KEEP:
                yield from self._end(delivery.end)
                return
        doomed = False
        while True:
            try:
                event = yield from self._next_event()
            except h11.RemoteProtocolError as error:
                yield from self._refuse_protocol(error)
                return
            if not isinstance(event, h11.Request) or doomed:
                return
            following = yield from self._exchange(event)
            if following == "gone":
                return
            finished = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
            if following == "close" or not finished:
                yield self._goodbye()
                return
            doomed = following == "doomed"
            self._http.start_next_cycle()

    # --- Reading ----------------------------------------------------------------------------------

    def _next_event(self) -> Generator[Action, bytes, h11.Event | type[h11.PAUSED]]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA was just ruled out
            data = yield Move.READ
            self._has_ended = not data
            self._feed(data)

    def _feed(self, data: bytes) -> None:
        if self._parsing.is_lenient and self._http.their_state is h11.IDLE:
            self._head += data
            head, end, rest = self._head.partition(HEAD_END)
            if not end and data and len(self._head) <= HEAD_MAX_BYTES:
                return
            self._head = b""
            self._softened = soften(head + end) if end else Softened(head)
            data = self._softened.head + rest
            if data:
                self._http.receive_data(data)
            if not self._has_ended:
                return
            data = b""
        self._http.receive_data(data)

    def _request(self, head: h11.Request) -> Request:
        request = Request(
            head.method.decode("ascii"),
            head.target.decode("latin-1"),
            tuple(
                (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers.raw_items()
            ),
            peer=self._peer,
        )
        return self._softened.restored(request)

    # --- One request --------------------------------------------------------------------------------

    def _exchange(self, head: h11.Request) -> Generator[Action, bytes, _Next]:
        request = self._request(head)
        exchange = self._core.begin(request, self._clock())
        outcome: Outcome | None = None
        try:
            problem = head_problem(request, self._parsing)
            if problem is not None:
                outcome = exchange.refuse(*problem, self._clock())
            else:
                outcome = yield from self._ask(exchange.answer_head)
            if outcome is None:
                outcome = yield from self._late(exchange)
        finally:
            if outcome is None:
                exchange.abandon()
        if outcome is None:
            return "gone"
        return (yield from self._deliver(outcome, request))

    def _ask(self, question: Callable[[At], _T | Later]) -> Generator[Action, bytes, _T]:
        while True:
            answer = question(self._clock())
            if not isinstance(answer, Later):
                return answer
            yield Sleep(answer.seconds)

    def _late(self, exchange: Exchange) -> Generator[Action, bytes, Outcome | None]:
        if self._http.they_are_waiting_for_100_continue:
            yield Send(self._send(h11.InformationalResponse(status_code=100, headers=[])))
        body = bytearray()
        longest = self._core.platform.options.body_max_bytes
        while True:
            try:
                event = yield from self._next_event()
            except h11.RemoteProtocolError as error:
                if self._has_ended:
                    return None  # the client went in the middle of its body
                return exchange.refuse(_BAD_REQUEST, str(error), self._clock())
            if not isinstance(event, h11.Data):
                break
            body += event.data
            if len(body) > longest:
                return exchange.refuse(_TOO_LARGE, f"the body may have {longest} bytes", self._clock())
        return (yield from self._ask(lambda at: exchange.answer(bytes(body), at)))

    # --- The reply ----------------------------------------------------------------------------------

    def _deliver(self, outcome: Outcome, request: Request) -> Generator[Action, bytes, _Next]:
        reply, delivery = outcome.reply, outcome.delivery
        if delivery.delay:
            yield Sleep(delivery.delay)
        if delivery.raw is not None:
            yield from self._write(delivery.raw, delivery.body)
        elif reply is not None and reply.stream is not None:
            yield from self._send_stream(reply, reply.stream, request)
        elif reply is not None:
            yield from self._send_reply(reply, delivery, request)
        match delivery.end:
            case End.KEEP:
                return "keep"
            case End.CLOSE_ON_REUSE:
                return "doomed"
            case _:
                yield from self._end(delivery.end)
                return "gone"

    def _send_reply(
        self, reply: Reply, delivery: Delivery, request: Request
    ) -> Generator[Action, bytes, None]:
        head, body = self._serialised(reply, request)
        if delivery.cut_head is not None:
            head, body = head[: delivery.cut_head], b""
        elif delivery.cut_body is not None:
            body = body[: min(delivery.cut_body, max(0, len(body) - 1))]
        if delivery.head is None and delivery.body is None:
            yield Send(head + body, ends=delivery.end is End.CLOSE)
        else:
            yield from self._write(head, delivery.head)
            yield from self._write(body, delivery.body)

    def _send_stream(self, reply: Reply, stream: Stream, request: Request) -> Generator[Action, bytes, None]:
        try:
            # Without a length: h11 chunks the body, or ends it by closing for a client of HTTP/1.0.
            yield Send(self._head_of(reply, None))
            while request.method != "HEAD":
                piece = stream.next(self._clock())
                if piece is None:
                    break
                if isinstance(piece, Later):
                    yield Sleep(piece.seconds, for_listener=True)
                else:
                    yield Send(self._send(h11.Data(data=piece)))
            yield Send(self._send(h11.EndOfMessage()))
        finally:
            stream.close()

    def _serialised(self, reply: Reply, request: Request) -> tuple[bytes, bytes]:
        head = self._head_of(reply, None if reply.status in _NO_BODY else len(reply.body))
        bodiless = request.method == "HEAD" or reply.status in _NO_BODY
        body = b"" if bodiless else self._send(h11.Data(data=reply.body))
        return head, body + self._send(h11.EndOfMessage())

    def _head_of(self, reply: Reply, length: int | None) -> bytes:
        headers = [
            (name.encode("ascii"), value.encode("latin-1"))
            for name, value in reply.headers
            if name.lower() not in {"content-length", "transfer-encoding"}
        ]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        if self._http.their_state is not h11.DONE:
            # The body was not read, so nothing that follows could be told from it.
            headers.append((b"connection", b"close"))
        reason = reason_phrase(reply.status).encode("ascii")
        return self._send(h11.Response(status_code=reply.status, headers=headers, reason=reason))

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    def _write(self, data: bytes, drip: Drip | None) -> Generator[Action, bytes, None]:
        if drip is None:
            if data:
                yield Send(data)
            return
        for start in range(0, len(data), drip.size):
            yield Send(data[start : start + drip.size])
            yield Sleep(drip.interval)

    def _refuse_protocol(self, error: h11.RemoteProtocolError) -> Generator[Action, bytes, None]:
        status, reason = error.error_status_hint, str(error)
        waiting = self._http.trailing_data[0]
        if status == _HEADERS_TOO_LARGE and b"\r\n" not in waiting:
            longest = self._parsing.target_max_bytes
            status, reason = _TARGET_TOO_LONG, f"a target may have {longest} bytes"
        if self._has_ended or self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        reply = self._core.refuse(status, reason, self._clock())
        head, body = self._serialised(reply, Request("GET", "/"))
        yield Send(head + body)
        yield self._goodbye()

    def _goodbye(self) -> Move:
        everything_read = self._http.their_state is h11.DONE and not self._http.trailing_data[0]
        return Move.CLOSE if everything_read else Move.LINGER

    def _end(self, end: End) -> Generator[Action, bytes, None]:
        match end:
            case End.RESET:
                yield Move.RESET
            case End.HANG:
                yield from self._read_away()
            case End.HALF_CLOSE:
                yield Move.HALF_CLOSE
                yield from self._read_away()
            case _:
                yield self._goodbye()

    def _read_away(self) -> Generator[Action, bytes, None]:
        while (yield Move.READ):
            pass
