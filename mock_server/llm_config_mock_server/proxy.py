"""`FaultProxy`: breaks the wire before any server, one of ours or not.

It passes bytes on and knows nothing of HTTP. An *exchange* is what a client sends and all that comes
back before it sends again: on a kept-alive connection, one request and its reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final, Literal, Self
from urllib.parse import urlsplit

from .authority import make_authority
from .hosts.port import BACKLOG, Port, arm_reset, shut
from .randomness import Randomness

if TYPE_CHECKING:
    import socket
    from asyncio.trsock import TransportSocket
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    import trustme

LOOPBACK: Final = "127.0.0.1"
READ_BYTES: Final = 65_536  # at once
PIECES_PER_SECOND: Final = 50  # that a limited bandwidth is dealt out in
CONNECT_SECONDS: Final = 5.0  # how long the target may take to accept
CLOSE_SECONDS: Final = 0.5  # how long a goodbye may take
CONTROL_SECONDS: Final = 10.0  # how long the proxy's own thread may take to obey: far beyond what it needs
RESET_FLUSH_SECONDS: Final = 0.005  # between the last byte and an RST, which throws unread data away
_TURNS_TO_BEGIN: Final = 10  # of the event loop, from accepting a connection to serving it: three, and some
_TURNS_TO_CLOSE: Final = 100  # of the event loop, from aborting a connection to closing its socket
_PORTS: Final = {"http": 80, "https": 443}

Side = Literal["request", "response"]
Certificate = Literal["valid", "expired", "wrong-host", "untrusted"]


class _Kind(Enum):
    """What a trouble does to the bytes."""

    REFUSE = auto()
    HANG = auto()
    RESET = auto()
    CUT = auto()
    HALF_CLOSE = auto()
    LATENCY = auto()
    BANDWIDTH = auto()
    BLACKHOLE = auto()
    CERTIFICATE = auto()


_OF_EXCHANGES: Final = frozenset({_Kind.HANG, _Kind.RESET, _Kind.CUT, _Kind.HALF_CLOSE})


@dataclass(eq=False)
class Trouble:
    """Something that is wrong with the wire, until it is healed.

    As a context manager (`with` and `async with` alike) it is healed at the end of the block.
    """

    healed: Callable[[Trouble], None] = field(repr=False)
    kind: _Kind
    after: int = 0
    of: Side = "response"
    seconds: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    certificate: Certificate = "valid"
    times: int | None = None
    probability: float = 1.0
    hits: int = 0
    """How many exchanges it has struck (or, for certificates, handshakes)."""

    def heal(self) -> None:
        """Make it well again; once more changes nothing."""
        self.healed(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.heal()


class FaultProxy:
    """A TCP proxy on a loopback port that can break the wire to any server.

    As a context manager (`with` and `async with` alike) it is started, and closed at the end.

        with FaultProxy("http://127.0.0.1:8080") as proxy:
            client = ConfigClient(proxy.url)
            with proxy.reset(after=100):
                client.get_config("app/llm", "model")  # fails in the middle of the reply

    Every method that breaks something returns a `Trouble`, which heals at the end of its `with`
    block; troubles of different kinds add up, of one kind the latest counts. They strike new
    connections and open ones alike. The methods return at once and can be called from any thread
    and from async code.

    Args:
        target_url: The server's base URL. With `https` and without `tls`, its TLS is passed through.
        port: The port; 0 takes a free one.
        host: The address to listen on.
        seed: Makes drawn delays and exchanges repeatable; drawn if left out (see `seed`).
        tls: Whether to speak HTTPS itself, with a certificate of a throw-away authority (needs
            `trustme`); `certificate` is then a fault that can be made.
        target_ssl: How to trust an `https` target, where the proxy itself speaks TLS.

    Raises:
        ValueError: The target is no http(s) URL.
    """

    def __init__(
        self,
        target_url: str,
        *,
        port: int = 0,
        host: str = LOOPBACK,
        seed: int | None = None,
        tls: bool = False,
        target_ssl: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is bound before `start`."""
        target = urlsplit(target_url)
        if target.scheme not in _PORTS or not target.hostname:
            raise ValueError(f"the target must be an http:// or https:// URL, not {target_url!r}")
        self.target_url = target_url
        self._path = target.path.rstrip("/")
        self._scheme = "https" if tls else target.scheme
        if not tls or target.scheme != "https":
            target_ssl = None
        elif target_ssl is None:
            target_ssl = ssl.create_default_context()
        self._host = host
        self._wanted_port = port
        self._port: Port | None = None
        self._randomness = Randomness(seed)
        self._certificates = _Certificates(host) if tls else None
        address = target.hostname, target.port or _PORTS[target.scheme]
        self._plan = _Plan(address, self._randomness, self._certificates, target_ssl)
        self._running: _Running | None = None

    # --- Running ----------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen. Starting what runs changes nothing.

        Raises:
            OSError: The port cannot be had.
        """
        if self._running is None:
            if self._port is None:
                self._port = Port(self._host, self._wanted_port)
            self._running = _Running(self._plan, self._port)
        return self

    def close(self) -> None:
        """Stop, drop every connection, and give the port back. Closing twice changes nothing."""
        running, self._running = self._running, None
        if running is not None:
            running.close()
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        where = self.url if self._running is not None else "stopped"
        return f"<FaultProxy {where} before {self.target_url}>"

    # --- Where it is, and what it saw -------------------------------------------------------------

    @property
    def url(self) -> str:
        """The base URL to give to clients, with the path of the target's.

        Raises:
            RuntimeError: The proxy was never started.
        """
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{self._scheme}://{host}:{self.port}{self._path}"

    @property
    def port(self) -> int:
        """The port.

        Raises:
            RuntimeError: The proxy was never started.
        """
        if self._port is None:
            raise RuntimeError("the proxy has no port before it is started")
        return self._port.number

    @property
    def seed(self) -> int:
        """The seed, drawn where none was given."""
        return self._randomness.seed

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open now."""
        return 0 if self._running is None else self._running.open_connections

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._plan.connections

    @property
    def request_bytes(self) -> int:
        """How many bytes were passed on to the target."""
        return self._plan.passed["request"]

    @property
    def response_bytes(self) -> int:
        """How many bytes were passed on to clients."""
        return self._plan.passed["response"]

    @property
    def troubles(self) -> list[Trouble]:
        """What is wrong now, newest first."""
        return list(self._plan.troubles)

    @property
    def ca(self) -> trustme.CA:
        """The throw-away authority that signed the proxy's certificate.

        Raises:
            RuntimeError: The proxy does not speak TLS itself.
        """
        if self._certificates is None:
            raise RuntimeError("the proxy has no authority: it was made without tls=True")
        return self._certificates.authority

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A context for clients that trusts this proxy's authority and nobody else.

        Raises:
            RuntimeError: The proxy does not speak TLS itself.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context

    # --- What goes wrong --------------------------------------------------------------------------

    def refuse(self) -> Trouble:
        """Refuse connections, and drop the open ones."""
        trouble = self._arm(_Kind.REFUSE)
        if self._running is not None:
            self._running.stop_listening()
        return trouble

    def hang(self, *, times: int | None = None, probability: float = 1.0) -> Trouble:
        """Accept connections and requests, and never answer; the target sees nothing of them.

        Args:
            times: How many exchanges it strikes; `None` for all.
            probability: The share of the exchanges that it strikes, drawn from the seed.

        Raises:
            ValueError: A figure is outside its range.
        """
        return self._arm(_Kind.HANG, times=times, probability=probability)

    def reset(
        self, *, after: int = 0, of: Side = "response", times: int | None = None, probability: float = 1.0
    ) -> Trouble:
        """Tear the connection down with RST in the middle of an exchange.

        Args:
            after: Bytes that still pass.
            of: Of what: the response (the target saw the request, and a write took effect), or the
                request (the target saw only so much of it).
            times: How many exchanges it strikes; `None` for all.
            probability: The share of the exchanges that it strikes, drawn from the seed.

        Raises:
            ValueError: A figure is outside its range.
        """
        return self._arm(_Kind.RESET, after=after, of=of, times=times, probability=probability)

    def cut(
        self, *, after: int = 0, of: Side = "response", times: int | None = None, probability: float = 1.0
    ) -> Trouble:
        """Close the connection in an orderly way in the middle of an exchange; takes what `reset` takes."""
        return self._arm(_Kind.CUT, after=after, of=of, times=times, probability=probability)

    def half_close(self, *, after: int = 0, times: int | None = None, probability: float = 1.0) -> Trouble:
        """End the server's direction after so many bytes of the response, and go on reading the client's.

        Under TLS the connection is closed: TLS has no half. Otherwise as `reset`.
        """
        return self._arm(_Kind.HALF_CLOSE, after=after, times=times, probability=probability)

    def latency(self, seconds: float, *, jitter: float = 0.0) -> Trouble:
        """Delay the first byte of every response.

        Args:
            seconds: How long.
            jitter: How much longer at most, drawn evenly from the seed.

        Raises:
            ValueError: A figure is negative.
        """
        return self._arm(_Kind.LATENCY, seconds=seconds, jitter=jitter)

    def bandwidth(self, bytes_per_second: float) -> Trouble:
        """Limit each direction of each connection.

        Raises:
            ValueError: The figure is not positive.
        """
        if not bytes_per_second > 0:
            raise ValueError(f"a bandwidth must be positive, not {bytes_per_second}")
        return self._arm(_Kind.BANDWIDTH, rate=bytes_per_second)

    def blackhole(self) -> Trouble:
        """Let nothing through and close nothing; what was held back flows on once it is healed."""
        return self._arm(_Kind.BLACKHOLE)

    def certificate(self, kind: Certificate) -> Trouble:
        """Show another certificate in new handshakes, and drop open connections so that there are some.

        Args:
            kind: `expired`, `wrong-host`, or `untrusted` (signed by an authority that nobody knows).

        Raises:
            RuntimeError: The proxy does not speak TLS itself.
            ValueError: There is no such kind.
        """
        if self._certificates is None:
            raise RuntimeError("the proxy shows no certificate: it was made without tls=True")
        self._certificates.context(kind)
        trouble = self._arm(_Kind.CERTIFICATE, certificate=kind)
        self.drop()
        return trouble

    def drop(self) -> None:
        """Close every open connection, once."""
        if self._running is not None:
            self._running.drop()

    def heal(self, trouble: Trouble | None = None) -> None:
        """Make one trouble well again, or all of them; connections that were struck stay lost."""
        self._plan.heal(trouble)
        if self._running is not None:
            if self._plan.current(_Kind.REFUSE) is None:
                self._running.listen()
            self._running.tell()

    def _arm(self, kind: _Kind, **told: Any) -> Trouble:
        trouble = Trouble(self.heal, kind, **told)
        _check(trouble)
        self._plan.arm(trouble)
        if self._running is not None:
            self._running.tell()
        return trouble


class _Plan:
    """What is wrong with the wire, and what has passed over it; shared with the proxy's thread."""

    def __init__(
        self,
        target: tuple[str, int],
        randomness: Randomness,
        certificates: _Certificates | None,
        target_ssl: ssl.SSLContext | None,
    ) -> None:
        self._target = target
        self._target_ssl = target_ssl
        self._randomness = randomness
        self._certificates = certificates
        self._lock = threading.Lock()
        self._troubles: tuple[Trouble, ...] = ()
        self._exchanges = 0
        self.connections = 0
        self.passed: dict[Side, int] = {"request": 0, "response": 0}

    @property
    def troubles(self) -> tuple[Trouble, ...]:
        """What is wrong, newest first."""
        return self._troubles

    def arm(self, trouble: Trouble) -> None:
        """Let something go wrong."""
        with self._lock:
            self._troubles = (trouble, *self._troubles)

    def heal(self, trouble: Trouble | None) -> None:
        """Let something be well again; `None` is everything."""
        with self._lock:
            self._troubles = tuple(other for other in self._troubles if trouble not in {None, other})

    def current(self, kind: _Kind) -> Trouble | None:
        """Return the trouble of a kind that counts, or `None`."""
        return next((trouble for trouble in self._troubles if trouble.kind is kind), None)

    def strike(self) -> tuple[Trouble | None, float]:
        """Begin an exchange: return what breaks it, or `None`, and how long its response is delayed."""
        self._exchanges += 1
        source = self._randomness.derive("exchange", self._exchanges)
        draw, jitter = source.random(), source.random()
        delay = 0.0
        slow = self.current(_Kind.LATENCY)
        if slow is not None:
            slow.hits += 1
            delay = slow.seconds + slow.jitter * jitter
        for trouble in self._troubles:
            spent = trouble.times is not None and trouble.hits >= trouble.times
            if trouble.kind in _OF_EXCHANGES and not spent and draw < trouble.probability:
                trouble.hits += 1
                return trouble, delay
        return None, delay

    def server_side(self) -> ssl.SSLContext | None:
        """Return what to shake hands with, or `None` for plain TCP."""
        if self._certificates is None:
            return None
        trouble = self.current(_Kind.CERTIFICATE)
        if trouble is None:
            return self._certificates.context("valid")
        trouble.hits += 1
        return self._certificates.context(trouble.certificate)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the target."""
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(*self._target, ssl=self._target_ssl, limit=READ_BYTES)


def _check(trouble: Trouble) -> None:
    for name in ("after", "seconds", "jitter", "rate"):
        if getattr(trouble, name) < 0:
            raise ValueError(f"{name} must not be negative, as {getattr(trouble, name)} is")
    if trouble.times is not None and trouble.times < 1:
        raise ValueError(f"times must be at least 1, not {trouble.times}")
    if not 0.0 <= trouble.probability <= 1.0:
        raise ValueError(f"probability must be between 0 and 1, not {trouble.probability}")
    if trouble.of not in {"request", "response"}:
        raise ValueError(f"of must be 'request' or 'response', not {trouble.of!r}")


class _Certificates:
    """What the proxy can show in a handshake, made when it is first asked for."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.authority = make_authority()

    def context(self, kind: Certificate) -> ssl.SSLContext:
        if kind not in self._contexts:
            now = datetime.now(UTC)
            match kind:
                case "valid":
                    leaf = self.authority.issue_cert(self._host, "localhost")
                case "expired":
                    leaf = self.authority.issue_cert(
                        self._host,
                        "localhost",
                        not_before=now - timedelta(days=2),
                        not_after=now - timedelta(days=1),
                    )
                case "wrong-host":
                    leaf = self.authority.issue_cert("somebody-else.invalid")
                case "untrusted":
                    leaf = make_authority().issue_cert(self._host, "localhost")
                case _:
                    raise ValueError(f"a certificate can be expired, wrong-host or untrusted, not {kind!r}")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            leaf.configure_cert(context)
            self._contexts[kind] = context
        return self._contexts[kind]


class _Running:
    """The proxy's thread, from start to close."""

    def __init__(self, plan: _Plan, port: Port) -> None:
        self._plan = plan
        self._port = port
        self._owner = os.getpid()
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._changed = asyncio.Condition()
        self._listener: socket.socket | None = None
        # Taken by name: a policy of the application (uvloop's) may give loops without real sockets.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=f"fault-proxy-{port.number}", daemon=True)
        self._thread.start()
        if plan.current(_Kind.REFUSE) is None:
            self.listen()

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def listen(self) -> None:
        self._do(self._listen)

    def stop_listening(self) -> None:
        self._do(self._stop_listening)

    def drop(self) -> None:
        self._do(self._drop)

    def tell(self) -> None:
        """Wake whoever waits for a trouble to be healed."""
        self._do(self._tell)

    def close(self) -> None:
        if os.getpid() == self._owner:
            self._do(self._stop_listening)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        elif self._listener is not None:
            self._listener.close()

    def _do(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("this proxy belongs to the parent process")
        if threading.current_thread() is self._thread:
            raise RuntimeError("the proxy cannot be steered from its own thread")
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(CONTROL_SECONDS)

    # --- In the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        if self._server is not None:
            return
        self._listener = self._port.listen()
        self._server = await asyncio.start_server(
            self._connected, sock=self._listener, limit=READ_BYTES, backlog=BACKLOG
        )

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None and self._listener is not None:
            self._loop.remove_reader(self._listener)
            shut(self._listener)
            # What was accepted and has not begun becomes a link first, to be dropped like the others.
            for _ in range(_TURNS_TO_BEGIN):
                await asyncio.sleep(0)
            server.close()
        await self._drop()

    async def _drop(self) -> None:
        links = set(self._links)
        for link in links:
            link.task.cancel()
        if links:
            await asyncio.wait([link.task for link in links])
        for _ in range(_TURNS_TO_CLOSE):
            if not any(link.is_open for link in links):
                break
            await asyncio.sleep(0)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: a task that is cancelled before its first step could not let go of anything.
        self._plan.connections += 1
        link = _Link(self._plan, self._changed, reader, writer)
        link.task = self._loop.create_task(self._serve(link))
        self._links.add(link)
        link.task.add_done_callback(lambda _: self._ended(link))

    async def _serve(self, link: _Link) -> None:
        # A side went, a handshake failed, or the link was dropped: all are ordinary here.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await link.run()

    def _ended(self, link: _Link) -> None:
        link.abort()
        self._links.discard(link)


class _Struck(Exception):  # noqa: N818 - not an error: the way out of both directions at once
    """The exchange met its trouble."""

    def __init__(self, kind: _Kind) -> None:
        super().__init__(kind)
        self.kind = kind


class _Link:
    """One connection of a client, and the one to the target behind it."""

    def __init__(
        self,
        plan: _Plan,
        changed: asyncio.Condition,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._plan = plan
        self._changed = changed
        self.task: asyncio.Task[None]
        self._reader = reader
        self._writer = writer
        self._behind: asyncio.StreamWriter | None = None
        self._trouble: Trouble | None = None
        self._delay = 0.0
        self._request_turn = False
        self._passed = 0
        self._is_tls = False
        self._is_reset = False
        self._sockets = [_socket(writer)]

    async def run(self) -> None:
        """Pass bytes on, in both directions, until both have ended or a trouble strikes."""
        await self._healed()
        context = self._plan.server_side()
        if context is not None:
            self._is_tls = True
            await self._writer.start_tls(context)
        first = await self._reader.read(READ_BYTES)
        if not first:
            return
        try:
            await self._begin_exchange()
            await self._pass_through(first)
        except* _Struck as several:
            await self._end(_kind_of(several))
        except* OSError:
            await self._end(_Kind.RESET)  # a side tore its connection down: so do we

    async def _pass_through(self, first: bytes) -> None:
        # A target that refuses is a reset to the client: as near as an accepted connection comes to it.
        reader, self._behind = await self._plan.connect()
        self._sockets.append(_socket(self._behind))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump("request", self._reader, self._behind, first))
            group.create_task(self._pump("response", reader, self._writer, b""))

    @property
    def is_open(self) -> bool:
        """Whether a socket of it is."""
        return any(held.fileno() >= 0 for held in self._sockets)

    def abort(self) -> None:
        """Let go of both connections at once."""
        for held in self._sockets:
            if not self._is_reset and not self._is_tls:
                shut(held)
        for writer in (self._writer, self._behind):
            if writer is not None:
                writer.transport.abort()

    async def _pump(
        self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
    ) -> None:
        while True:
            data = data or await reader.read(READ_BYTES)
            await self._healed()
            if not data:
                break
            if side == "request" and not self._request_turn:
                await self._begin_exchange()
            elif side == "response" and self._request_turn:
                self._request_turn = False
                await asyncio.sleep(self._delay)
                await self._healed()
            await self._pass_on(side, data, writer)
            data = b""
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()

    async def _begin_exchange(self) -> None:
        self._trouble, self._delay = self._plan.strike()
        self._request_turn = True
        self._passed = 0
        if self._trouble is not None and self._trouble.kind is _Kind.HANG:
            raise _Struck(_Kind.HANG)

    async def _pass_on(self, side: Side, data: bytes, writer: asyncio.StreamWriter) -> None:
        trouble = self._trouble
        if trouble is None or trouble.of != side:
            await self._write(data, writer, side)
            return
        left = trouble.after - self._passed
        self._passed += len(data)
        await self._write(data[:left], writer, side)
        if len(data) >= left:
            raise _Struck(trouble.kind)

    async def _write(self, data: bytes, writer: asyncio.StreamWriter, side: Side) -> None:
        while data:
            slow = self._plan.current(_Kind.BANDWIDTH)
            size = len(data) if slow is None else max(1, int(slow.rate / PIECES_PER_SECOND))
            piece, data = data[:size], data[size:]
            writer.write(piece)
            await writer.drain()
            self._plan.passed[side] += len(piece)
            if slow is not None:
                await self._wait_for_change(len(piece) / slow.rate)
            await self._healed()

    async def _healed(self) -> None:
        while self._plan.current(_Kind.BLACKHOLE) is not None:
            async with self._changed:
                await self._changed.wait()

    async def _wait_for_change(self, seconds: float) -> None:
        """Wait, but no longer than until a trouble comes or goes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    async def _end(self, kind: _Kind) -> None:
        match kind:
            case _Kind.RESET:
                await asyncio.sleep(RESET_FLUSH_SECONDS)
                self._is_reset = True
                arm_reset(self._sockets[0])
            case _Kind.HANG:
                await self._read_away()
            case _Kind.HALF_CLOSE if self._writer.can_write_eof():
                self._writer.write_eof()
                await self._read_away()
            case _:
                # What is unread at a close makes it a reset, so it is read away first.
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        if self._writer.can_write_eof():
                            self._writer.write_eof()
                            await self._read_away()
                        self._writer.close()
                        await self._writer.wait_closed()

    async def _read_away(self) -> None:
        while await self._reader.read(READ_BYTES):
            pass


def _kind_of(several: BaseExceptionGroup[_Struck]) -> _Kind:
    struck = several.exceptions[0]
    return struck.kind if isinstance(struck, _Struck) else _kind_of(struck)


def _socket(writer: asyncio.StreamWriter) -> TransportSocket:
    held: TransportSocket = writer.get_extra_info("socket")
    return held
