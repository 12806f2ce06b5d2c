"""The socket host: a server on a loopback port, in a thread of its own, that can break the wire.

h11 reads and writes the HTTP; what a `Delivery` asks for beyond it (resets, cuts, drips, garbage)
is done to the bytes that h11 has made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import h11

from llm_config_mock_server.messages import At, Delivery, Drip, End, Later, Outcome, Reply, Request

if TYPE_CHECKING:
    import ssl
    from asyncio.trsock import TransportSocket
    from collections.abc import Callable

    from llm_config_mock_server.core import Core, Exchange

BACKLOG: Final = 1024  # connections that wait to be accepted: a thousand clients may come at once
READ_BYTES: Final = 65_536  # at once
HEAD_MAX_BYTES: Final = 131_072  # h11 stops reading a head here; the limits below are told apart before
TARGET_MAX_BYTES: Final = 65_534  # where the platform's published server answers 414
HEADERS_MAX_BYTES: Final = 65_536  # our choice, of all headers together
HEADERS_MAX_COUNT: Final = 100  # where the platform's published server answers 431
RESET_FLUSH_SECONDS: Final = 0.005  # between the last byte and an RST, which throws unread data away
LINGER_SECONDS: Final = 0.5  # how long an unread body is read away, so that the reply survives the close
LINGER_BYTES: Final = 16 * 1024 * 1024  # and how much of it
TLS_CLOSE_SECONDS: Final = 0.5  # how long a TLS goodbye may take
_BAD_REQUEST: Final = 400
_TOO_LARGE: Final = 413
_TARGET_TOO_LONG: Final = 414
_HEADERS_TOO_LARGE: Final = 431
_NO_BODY: Final = frozenset({204, 304})
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)  # struct linger: on, no time

_T = TypeVar("_T")

# How a connection goes on after a reply.
_Next = Literal["keep", "close", "doomed", "gone"]


class SocketHost:
    """Serves a core on a TCP port, from an event loop in a daemon thread.

    Args:
        core: What answers.
        interface: The address to listen on.
        port: The port; 0 takes a free one at the first start and keeps it.
        clock: What reads the time.
        tls: The server's side of TLS, or `None` for plain HTTP.
    """

    def __init__(
        self,
        core: Core,
        *,
        interface: str,
        port: int,
        clock: Callable[[], At],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is bound before `start`."""
        self._core = core
        self._interface = interface
        self._wanted_port = port
        self._clock = clock
        self._tls = tls
        self._holder: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._owner = 0
        self._open: set[socket.socket | TransportSocket] = set()
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port, which stays the same until `close`.

        Raises:
            RuntimeError: The host was never started.
        """
        if self._holder is None:
            raise RuntimeError("the server has no port before it is started")
        port: int = self._holder.getsockname()[1]
        return port

    @property
    def is_running(self) -> bool:
        """Whether the port answers."""
        return self._thread is not None

    def start(self) -> None:
        """Listen. Starting what runs changes nothing.

        Raises:
            OSError: The port cannot be had.
        """
        if self._thread is not None:
            return
        if self._holder is None:
            # Bound and never listening: while the server is stopped, connections are refused and
            # nobody else is given the port. SO_REUSEADDR lets the listener share it.
            self._holder = self._bound(self._wanted_port)
            # Whoever stops a server and forgets it holds nothing worth a warning.
            weakref.finalize(self, self._holder.close).atexit = False
        listener = self._bound(self.port)
        try:
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        self._listener = listener
        self._owner = os.getpid()
        # Taken by name: a policy of the application (uvloop's) may give loops without real sockets.
        self._loop = asyncio.SelectorEventLoop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(self._loop, listener, self._stopping),
            name=f"mock-server-{self.port}",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and drop the open ones; the port stays ours. Stopping twice changes nothing."""
        thread, loop, stopping, listener = self._thread, self._loop, self._stopping, self._listener
        self._thread = self._loop = self._stopping = self._listener = None
        if thread is None or loop is None or stopping is None or listener is None:
            return
        if os.getpid() != self._owner:
            # A forked child has the parent's sockets but not its thread: let go, and disturb nothing.
            listener.close()
            return
        loop.call_soon_threadsafe(stopping.set)
        thread.join()

    def close(self) -> None:
        """Stop, and give the port back."""
        self.stop()
        holder, self._holder = self._holder, None
        if holder is not None:
            holder.close()

    def _bound(self, port: int) -> socket.socket:
        # The protocol is named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
        family = socket.AF_INET6 if ":" in self._interface else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._interface, port))
        except BaseException:
            bound.close()
            raise
        return bound

    # --- In the thread --------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, stopping: asyncio.Event) -> None:
        try:
            loop.run_until_complete(self._serve(listener, stopping))
        finally:
            loop.close()

    async def _serve(self, listener: socket.socket, stopping: asyncio.Event) -> None:
        server = await asyncio.start_server(
            self._connected, sock=listener, ssl=self._tls, limit=READ_BYTES, backlog=BACKLOG
        )
        await stopping.wait()
        # Shut down before it is closed: a forked child may hold a copy, which would keep the port listening.
        asyncio.get_running_loop().remove_reader(listener)
        _shut(listener)
        server.close()
        # Every other task of this loop is a connection of ours, or is about to become one.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        while self._open:
            self._open = {held for held in self._open if held.fileno() >= 0}
            await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._core, self._clock, reader, writer, is_tls=self._tls is not None)
        self._open.add(connection.socket)
        try:
            await connection.serve()
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # the client went, or the server stops: both are ordinary here
        except Exception as error:  # noqa: BLE001 - a defect of this host must reach the test, not the loop's log
            self._core.defects.append(error)
        finally:
            connection.abort()
            self._open.discard(connection.socket)


class _Connection:
    """One connection, from accept to close."""

    def __init__(
        self,
        core: Core,
        clock: Callable[[], At],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_tls: bool,
    ) -> None:
        self._core = core
        self._clock = clock
        self._reader = reader
        self._writer = writer
        self._is_tls = is_tls
        self._is_reset = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        self._peer = (writer.get_extra_info("peername") or ("",))[0]
        self.socket: TransportSocket = writer.get_extra_info("socket")
        # `drain` is to mean that the kernel has every byte.
        writer.transport.set_write_buffer_limits(0)

    def abort(self) -> None:
        """Let go of the connection at once."""
        # Shut down before it is closed: a forked child may hold a copy, which would keep it open.
        if not self._is_tls and not self._is_reset:
            _shut(self.socket)
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Answer requests until one side has had enough."""
        delivery = self._core.connect(self._clock())
        if delivery is not None:
            await asyncio.sleep(delivery.delay)
            await self._write(delivery.raw or b"", None)
            await self._end(delivery.end)
            return
        doomed = False
        while True:
            try:
                event = await self._next_event()
            except h11.RemoteProtocolError as error:
                await self._refuse_protocol(error)
                return
            if not isinstance(event, h11.Request) or doomed:
                return
            following = await self._exchange(event)
            if following == "close":
                await self._goodbye()
            if following in {"close", "gone"}:
                return
            doomed = following == "doomed"
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                await self._goodbye()
                return
            self._http.start_next_cycle()

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA was just ruled out
            self._http.receive_data(await self._reader.read(READ_BYTES))

    async def _exchange(self, head: h11.Request) -> _Next:
        request = Request(
            head.method.decode("ascii"),
            head.target.decode("latin-1"),
            tuple(
                (name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers.raw_items()
            ),
            peer=self._peer,
        )
        exchange = self._core.begin(request, self._clock())
        settled = False
        try:
            problem = _head_problem(request)
            outcome: Outcome | None
            if problem is not None:
                outcome = exchange.refuse(*problem, self._clock())
            else:
                outcome = await self._ask(exchange.answer_head)
            if outcome is None:
                outcome = await self._late(exchange)
            settled = True
        finally:
            if not settled:
                exchange.abandon()
        return await self._deliver(outcome, request)

    async def _ask(self, question: Callable[[At], _T | Later]) -> _T:
        while True:
            answer = question(self._clock())
            if not isinstance(answer, Later):
                return answer
            await asyncio.sleep(answer.seconds)

    async def _late(self, exchange: Exchange) -> Outcome:
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._send(h11.InformationalResponse(status_code=100, headers=[])), None)
        body = bytearray()
        longest = self._core.platform.options.body_max_bytes
        while True:
            try:
                event = await self._next_event()
            except h11.RemoteProtocolError as error:
                if self._reader.at_eof():
                    raise ConnectionResetError("the client went in the middle of its body") from error
                return exchange.refuse(_BAD_REQUEST, str(error), self._clock())
            if not isinstance(event, h11.Data):
                break
            body += event.data
            if len(body) > longest:
                return exchange.refuse(_TOO_LARGE, f"the body may have {longest} bytes", self._clock())
        return await self._ask(lambda at: exchange.answer(bytes(body), at))

    async def _deliver(self, outcome: Outcome, request: Request) -> _Next:
        reply, delivery = outcome.reply, outcome.delivery
        if delivery.delay:
            await asyncio.sleep(delivery.delay)
        if delivery.raw is not None:
            await self._write(delivery.raw, delivery.body)
        elif reply is not None:
            await self._send_reply(reply, delivery, request)
        match delivery.end:
            case End.KEEP:
                return "keep"
            case End.CLOSE_ON_REUSE:
                return "doomed"
            case _:
                await self._end(delivery.end)
                return "gone"

    async def _send_reply(self, reply: Reply, delivery: Delivery, request: Request) -> None:
        head, body = self._serialised(reply, request)
        if delivery.cut_head is not None:
            head, body = head[: delivery.cut_head], b""
        elif delivery.cut_body is not None:
            body = body[: min(delivery.cut_body, max(0, len(body) - 1))]
        if delivery.head is None and delivery.body is None:
            await self._write(head + body, None)
        else:
            await self._write(head, delivery.head)
            await self._write(body, delivery.body)

    def _serialised(self, reply: Reply, request: Request) -> tuple[bytes, bytes]:
        bodiless = request.method == "HEAD" or reply.status in _NO_BODY
        headers = [
            (name.encode("ascii"), value.encode("latin-1"))
            for name, value in reply.headers
            if name.lower() not in {"content-length", "transfer-encoding"}
        ]
        if reply.status not in _NO_BODY:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        if self._http.their_state is not h11.DONE:
            # The body was not read, so nothing that follows could be told from it.
            headers.append((b"connection", b"close"))
        head = self._send(h11.Response(status_code=reply.status, headers=headers))
        body = b"" if bodiless else self._send(h11.Data(data=reply.body))
        return head, body + self._send(h11.EndOfMessage())

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _write(self, data: bytes, drip: Drip | None) -> None:
        if drip is None:
            if data:
                self._writer.write(data)
                await self._writer.drain()
            return
        for start in range(0, len(data), drip.size):
            self._writer.write(data[start : start + drip.size])
            await self._writer.drain()
            await asyncio.sleep(drip.interval)

    async def _refuse_protocol(self, error: h11.RemoteProtocolError) -> None:
        status, reason = error.error_status_hint, str(error)
        waiting = self._http.trailing_data[0]
        if status == _HEADERS_TOO_LARGE and b"\r\n" not in waiting:
            status, reason = _TARGET_TOO_LONG, f"a target may have {TARGET_MAX_BYTES} bytes"
        if self._reader.at_eof() or self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        reply = self._core.refuse(status, reason, self._clock())
        head, body = self._serialised(reply, Request("GET", "/"))
        await self._write(head + body, None)
        await self._goodbye()

    async def _goodbye(self) -> None:
        """Close after the last reply, without losing it to an RST over bytes that nobody read."""
        if self._is_tls:
            self._writer.close()
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(self._writer.wait_closed(), TLS_CLOSE_SECONDS)
            return
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        if self._http.their_state is h11.DONE and not self._http.trailing_data[0]:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                await self._read_away(LINGER_BYTES)

    async def _read_away(self, most: int | None = None) -> None:
        while chunk := await self._reader.read(READ_BYTES):
            most = None if most is None else most - len(chunk)
            if most is not None and most <= 0:
                return

    async def _end(self, end: End) -> None:
        match end:
            case End.RESET:
                await asyncio.sleep(RESET_FLUSH_SECONDS)
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                self._is_reset = True
                self._writer.transport.abort()
            case End.HANG:
                await self._read_away()
            case End.HALF_CLOSE:
                if self._writer.can_write_eof():
                    self._writer.write_eof()
                await self._read_away()
            case _:
                await self._goodbye()


def _head_problem(request: Request) -> tuple[int, str] | None:
    if len(request.target) > TARGET_MAX_BYTES:
        return _TARGET_TOO_LONG, f"a target may have {TARGET_MAX_BYTES} bytes"
    if len(request.headers) > HEADERS_MAX_COUNT:
        return _HEADERS_TOO_LARGE, f"there may be {HEADERS_MAX_COUNT} headers"
    if sum(len(name) + len(value) for name, value in request.headers) > HEADERS_MAX_BYTES:
        return _HEADERS_TOO_LARGE, f"headers may have {HEADERS_MAX_BYTES} bytes"
    return None


def _shut(held: socket.socket | TransportSocket) -> None:
    with contextlib.suppress(OSError):
        held.shutdown(socket.SHUT_RDWR)
