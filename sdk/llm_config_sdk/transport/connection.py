"""Single connections: the way to a server, opened and spoken over within a deadline.

What is said is decided in `http11.py`, and whom to connect to in `Route`; the two classes here connect, write
and read: in sync over sockets that never block, in async over anyio's streams. httpx's own
timeouts bound one read each, so a server that drips a byte at a time is never late; here it is the exchange
that has a deadline.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio
import h11

from llm_config_sdk.transport.deadline import Connecting
from llm_config_sdk.transport.exchange import wire_headers
from llm_config_sdk.transport.http11 import Http11
from llm_config_sdk.transport.socket_stream import SocketStream

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.transport.deadline import AsyncDeadline, Deadline
    from llm_config_sdk.transport.exchange import Endpoint, WireRequest
    from llm_config_sdk.transport.proxies import Proxy

_READ_BYTES: Final = 64 * 1024  # at once
_WRITE_BYTES: Final = 16 * 1024  # at once, so that the deadline is looked at in between
_CLOSE_TIMEOUT: Final = 1.0  # seconds that closing a broken connection may take

# Every look-up of a name uses it. A child forked while the first of them imports it would wait for ever.
codecs.lookup("idna")


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
        "_max_response_bytes",
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
        return self.has_idled_too_long() or self._stream.is_readable()

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
                    made._converse(made._connect_request(), Connecting(deadline))
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
        return SocketStream.connect(route.host, route.port, family, deadline)

    def exchange(self, request: WireRequest, deadline: Deadline) -> Reply:
        """Send a request and read the whole reply.

        Raises:
            ResponseDecodeError: The reply is too large, or its encoding is broken.
            Exception: One of the family's, or of h11's.
        """
        deadline.left()  # who is late by now has sent nothing
        self._converse(self._request(request), deadline)
        return self._http.reply()

    def _converse(self, pieces: Iterator[bytes], deadline: Deadline | Connecting) -> None:
        stream, http = self._stream, self._http
        try:
            for piece in pieces:
                stream.write(piece, deadline)
        except self._family.WriteError:
            pass  # a server may answer what it refuses to read, and close
        http.sent()
        while http.receive(stream.read(_READ_BYTES, deadline), deadline.check):
            pass

    def _start_tls(self, context: ssl.SSLContext, host: str, deadline: Deadline) -> None:
        self._stream = self._stream.start_tls(context, host, Connecting(deadline))

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
                    await made._converse(made._connect_request(), Connecting(deadline))
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
        from llm_config_sdk.transport.anyio_stream import AnyioStream  # noqa: PLC0415  # async alone needs it

        return await AnyioStream.connect(route.host, route.port, family, deadline)

    async def exchange(self, request: WireRequest, deadline: AsyncDeadline) -> Reply:
        """Send a request and read the whole reply."""
        deadline.left()  # who is late by now has sent nothing
        await self._converse(self._request(request), deadline)
        return self._http.reply()

    async def _converse(self, pieces: Iterator[bytes], deadline: AsyncDeadline | Connecting) -> None:
        stream, http = self._stream, self._http
        try:
            for piece in pieces:
                await stream.write(piece, deadline)
        except self._family.WriteError:
            pass  # a server may answer what it refuses to read, and close
        http.sent()
        while http.receive(await stream.read(_READ_BYTES, deadline), deadline.check):
            pass

    async def _start_tls(self, context: ssl.SSLContext, host: str, deadline: AsyncDeadline) -> None:
        self._stream = await self._stream.start_tls(context, host, Connecting(deadline))

    async def aclose(self) -> None:
        """Close it, within a moment and whatever that says."""
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True), contextlib.suppress(Exception):
            await self._stream.aclose()
