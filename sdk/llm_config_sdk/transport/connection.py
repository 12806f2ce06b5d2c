"""Single connections: the way to a server, opened and spoken over within a deadline.

What is said is decided in `http11.py`, and whom to connect to in `Route`; the two classes here connect, write
and read: in sync over the network streams of httpcore or httpcore2, in async over anyio's. httpx's own
timeouts bound one read each, so a server that drips a byte at a time is never late; here it is the exchange
that has a deadline.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import select
import socket
import ssl
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import h11

from llm_config_sdk.transport.exchange import wire_headers
from llm_config_sdk.transport.http11 import Http11
from llm_config_sdk.transport.tls import holds_back

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.transport.exchange import Endpoint, WireRequest
    from llm_config_sdk.transport.proxies import Proxy

_READ_BYTES: Final = 64 * 1024  # at once
_WRITE_BYTES: Final = 16 * 1024  # at once, so that the deadline is looked at in between
_CLOSE_TIMEOUT: Final = 1.0  # seconds that closing a broken connection may take

# Every look-up of a name uses it. A child forked while the first of them imports it would wait for ever.
codecs.lookup("idna")


class Deadline:
    """When an exchange has to be over. It begins as it is entered, with waiting for a connection.

    Args:
        family: `httpcore` or `httpcore2`, for its timeout exceptions.
        timeout: Seconds from now; `None` for as long as it takes.
    """

    __slots__ = ("_at", "_family", "_phase")

    def __init__(self, family: Any, timeout: float | None) -> None:
        self._family = family
        self._at = None if timeout is None else time.monotonic() + timeout
        self._phase = "Pool"

    def __enter__(self) -> None:
        """Begin the exchange. In sync each step is given what is left, and that is all."""

    def __exit__(self, *raised: Any) -> bool | None:  # noqa: PYI036  # handed on
        """End it."""

    def remaining(self) -> float | None:
        """Seconds that are left, 0 or more; `None` for as long as it takes."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def left(self, phase: str) -> float | None:
        """Seconds that are left; raises the family's timeout for the phase (`Read`, …) where none are."""
        self._phase = phase
        left = self.remaining()
        if left == 0.0:
            raise self.timed_out()
        return left

    def check(self) -> None:
        """Raise the family's timeout where what was read comes too late."""
        self.left("Read")

    def timed_out(self) -> Exception:
        """Make the family's timeout for the phase that was begun last."""
        timeout: Exception = getattr(self._family, f"{self._phase}Timeout")("the deadline has passed")
        return timeout


class AsyncDeadline(Deadline):
    """When an exchange has to be over, in async: it is interrupted then, wherever it waits. As `Deadline`."""

    __slots__ = ("_scope",)

    def __enter__(self) -> None:
        """Begin the exchange."""
        self._scope = anyio.move_on_after(self.remaining())
        self._scope.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:  # noqa: PYI036  # handed on
        """End it; raise the family's timeout if it was interrupted."""
        swallows = self._scope.__exit__(*raised)
        if self._scope.cancelled_caught:
            raise self.timed_out() from None
        return swallows


class _Connecting:
    """A deadline that what is said to a proxy keeps: where it is late, no request was sent yet."""

    __slots__ = ("_deadline",)

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def left(self, phase: str) -> float | None:
        """Seconds that are left, whatever is done in them."""
        del phase
        return self._deadline.left("Connect")

    def check(self) -> None:
        """Raise the family's timeout where they are over."""
        self._deadline.left("Connect")


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a server, once for all of its connections.

    Attributes:
        host: Whom to connect to: the server, or its proxy.
        port: Where.
        endpoint: The server.
        tls: How to speak to the server; `None` in plain text.
        proxy_tls: How to speak to the proxy; `None` in plain text.
        tunnel: Whether the proxy has to be asked for one.
        absolute: What goes before a request's target: a proxy that forwards wants the whole URL.
        proxy_headers: What the proxy wants to see; not in `repr`, for it may be a password.
    """

    host: str
    port: int
    endpoint: Endpoint
    tls: ssl.SSLContext | None = None
    proxy_tls: ssl.SSLContext | None = None
    tunnel: bool = False
    absolute: str = ""
    proxy_headers: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)

    @classmethod
    def through(
        cls, proxy: Proxy, endpoint: Endpoint, tls: ssl.SSLContext | None, proxy_tls: ssl.SSLContext | None
    ) -> Route:
        """Lead through a proxy: in a tunnel to a server that speaks TLS (RFC 9110, 9.3.6), else forwarded."""
        parts = urlsplit(proxy.url)
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if proxy.auth is not None:
            credentials = base64.b64encode(":".join(proxy.auth).encode())
            headers = ((b"Proxy-Authorization", b"Basic " + credentials),)
        absolute = "" if tls is not None else f"{endpoint.scheme}://{endpoint.authority}"
        return cls(
            parts.hostname or "",
            parts.port or 0,
            endpoint,
            tls=tls,
            proxy_tls=proxy_tls,
            tunnel=tls is not None,
            absolute=absolute,
            proxy_headers=headers,
        )


class _Connection:
    """What both colours have in common: everything but waiting."""

    __slots__ = (
        "_family",
        "_http",
        "_idle_until",
        "_layers",
        "_max_response_bytes",
        "_poll",
        "_route",
        "_stream",
    )

    def __init__(self, route: Route, stream: Any, family: Any, max_response_bytes: int) -> None:
        self._route = route
        self._stream = stream
        self._family = family
        self._max_response_bytes = max_response_bytes
        self._http = Http11(max_response_bytes)
        self._idle_until = 0.0
        self._poll: select.poll | None = None
        self._layers: list[ssl.SSLObject] = []

    def keep(self, seconds: float) -> bool:
        """Note until when it may lie idle; say whether it may be used again at all."""
        self._idle_until = time.monotonic() + seconds
        return self._http.is_reusable

    def has_idled_too_long(self) -> bool:
        """Whether the time that it may lie idle is over."""
        return time.monotonic() > self._idle_until

    def is_expired(self) -> bool:
        """Whether it may not be used again. An idle one that has something to read was closed over there.

        Or it has a response that nobody asked for, which TLS may have taken from the socket already.
        """
        return (
            self.has_idled_too_long()
            or bool(self._poller().poll(0))
            or any(holds_back(layer) for layer in self._layers)
        )

    def _poller(self) -> select.poll:
        """Make what asks the socket, once: finding it behind its stream costs more than asking."""
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._stream.get_extra_info("socket"), select.POLLIN)
        return self._poll

    def _encrypted(self, stream: Any) -> None:
        """Go on over an encrypted stream. A TLS socket takes a record at a time, and holds none back."""
        self._stream = stream
        layer = stream.get_extra_info("ssl_object")
        if isinstance(layer, ssl.SSLObject):
            self._layers.append(layer)

    def _request(self, request: WireRequest) -> Iterator[bytes]:
        route = self._route
        headers = wire_headers(request)
        if route.absolute:
            headers += route.proxy_headers
        target = f"{route.absolute}{request.endpoint.prefix}{request.target}"
        return _in_pieces(self._http.request(request.method, target, headers, request.body))

    def _connect_request(self) -> Iterator[bytes]:
        route = self._route
        authority = route.endpoint.host_and_port
        headers = [(b"Host", authority.encode()), *route.proxy_headers]
        return _in_pieces(self._http.request("CONNECT", authority, headers))

    def _in_tunnel(self) -> None:
        """Begin to speak to the server; raise the family's error where the proxy opened no tunnel."""
        reply = self._http.reply()
        if not reply.is_success:
            raise self._family.ProxyError(f"{reply.status} {_phrase(reply.status)}")
        self._http = Http11(self._max_response_bytes)


def _in_pieces(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _WRITE_BYTES] for start in range(0, len(data), _WRITE_BYTES))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Connection(_Connection):
    """A connection of sync code."""

    __slots__ = ()

    @classmethod
    def open(cls, route: Route, family: Any, max_response_bytes: int, deadline: Deadline) -> Connection:
        """Connect, and bring TLS and a proxy's tunnel up.

        Raises:
            Exception: One of the family's.
        """
        stream = cls._reach(route, family, deadline)
        made = cls(route, stream, family, max_response_bytes)
        try:
            if route.proxy_tls is not None:
                made._start_tls(route.proxy_tls, route.host, deadline)
            if route.tunnel:
                try:
                    made._converse(made._connect_request(), _Connecting(deadline))
                except family.TimeoutException:
                    raise deadline.timed_out() from None
                except (family.ReadError, h11.RemoteProtocolError) as error:
                    raise family.ProxyError(error) from error
                made._in_tunnel()
            if route.tls is not None:
                made._start_tls(route.tls, route.endpoint.host, deadline)
        except BaseException:
            made.close()
            raise
        return made

    @staticmethod
    def _reach(route: Route, family: Any, deadline: Deadline) -> Any:
        """Try the host's addresses in turn; each has its share of the time, and none more than is left."""
        backend = family.SyncBackend()
        try:
            found = socket.getaddrinfo(route.host, route.port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # a part of the name is empty, or longer than the DNS allows
            raise family.ConnectError(error) from error
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        for number, address in enumerate(addresses, 1):
            left = deadline.left("Connect")
            share = None if left is None else left / (len(addresses) - number + 1)
            try:
                return backend.connect_tcp(address, route.port, share)
            except (family.ConnectError, family.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise family.ConnectError(f"{route.host} has no address")

    def exchange(self, request: WireRequest, deadline: Deadline) -> Reply:
        """Send a request and read the whole reply.

        Raises:
            ResponseDecodeError: The reply is too large, or its encoding is broken.
            Exception: One of the family's, or of h11's.
        """
        self._converse(self._request(request), deadline)
        return self._http.reply()

    def _converse(self, pieces: Iterator[bytes], deadline: Deadline | _Connecting) -> None:
        stream, receive = self._stream, self._http.receive
        try:
            for piece in pieces:
                stream.write(piece, deadline.left("Write"))
        except self._family.WriteError:
            pass  # a server may answer what it refuses to read, and close
        while receive(stream.read(_READ_BYTES, deadline.left("Read")), deadline.check):
            pass

    def _start_tls(self, context: ssl.SSLContext, host: str, deadline: Deadline) -> None:
        self._encrypted(self._stream.start_tls(context, host, deadline.left("Connect")))

    def close(self) -> None:
        """Close it, whatever that says: it is of no use any more."""
        with contextlib.suppress(Exception):
            self._stream.close()


class AsyncConnection(_Connection):
    """A connection of asyncio or trio. Methods as those of `Connection`; the deadline is to be entered."""

    __slots__ = ()

    @classmethod
    async def open(
        cls, route: Route, family: Any, max_response_bytes: int, deadline: AsyncDeadline
    ) -> AsyncConnection:
        """Connect, and bring TLS and a proxy's tunnel up."""
        stream = await cls._reach(route, family, deadline)
        made = cls(route, stream, family, max_response_bytes)
        try:
            if route.proxy_tls is not None:
                await made._start_tls(route.proxy_tls, route.host, deadline)
            if route.tunnel:
                try:
                    await made._converse(made._connect_request(), _Connecting(deadline))
                except family.TimeoutException:
                    raise deadline.timed_out() from None
                except (family.ReadError, h11.RemoteProtocolError) as error:
                    raise family.ProxyError(error) from error
                made._in_tunnel()
            if route.tls is not None:
                await made._start_tls(route.tls, route.endpoint.host, deadline)
        except BaseException:
            await made.aclose()
            raise
        return made

    @staticmethod
    async def _reach(route: Route, family: Any, deadline: AsyncDeadline) -> Any:
        """Connect; nobody reads what is left, but that it is connected for is noted."""
        from llm_config_sdk.transport.anyio_stream import AnyioStream  # noqa: PLC0415  # async alone needs it

        deadline.left("Connect")
        return await AnyioStream.connect(route.host, route.port, family)

    async def exchange(self, request: WireRequest, deadline: AsyncDeadline) -> Reply:
        """Send a request and read the whole reply."""
        await self._converse(self._request(request), deadline)
        return self._http.reply()

    async def _converse(self, pieces: Iterator[bytes], deadline: AsyncDeadline | _Connecting) -> None:
        stream, receive = self._stream, self._http.receive
        try:
            for piece in pieces:
                await stream.write(piece, deadline.left("Write"))
        except self._family.WriteError:
            pass  # a server may answer what it refuses to read, and close
        while receive(await stream.read(_READ_BYTES, deadline.left("Read")), deadline.check):
            pass

    async def _start_tls(self, context: ssl.SSLContext, host: str, deadline: AsyncDeadline) -> None:
        self._encrypted(await self._stream.start_tls(context, host, deadline.left("Connect")))

    async def aclose(self) -> None:
        """Close it, within a moment and whatever that says."""
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True), contextlib.suppress(Exception):
            await self._stream.aclose()
