"""The SDK's own connections: a last-in-first-out free list of single HTTP/1.1 connections.

httpx's pool looks at all of its connections for every request, so its throughput collapses as callers grow.
Here a request takes the connection that was given back last, or opens one; at most `max_in_flight` are out at
once, and whoever waits is served in order, within its deadline. What failed or was cancelled is thrown away.

Both transports are `httpx` transports too, so that one can be mounted in an `httpx.Client` of the user's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn
from urllib.request import getproxies_environment
from weakref import WeakKeyDictionary

import anyio
import httpx

from llm_config_sdk.errors import (
    ConnectFailedError,
    InvalidRequestError,
    LLMConfigError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
)
from llm_config_sdk.transport.deadline import AsyncDeadlineBackend, Deadline, DeadlineBackend
from llm_config_sdk.transport.exchange import (
    MAX_RESPONSE_BYTES,
    Endpoint,
    ReplyReader,
    WireRequest,
    wire_headers,
)
from llm_config_sdk.transport.mapping import IN_LINE, map_error
from llm_config_sdk.transport.proxies import proxy_for
from llm_config_sdk.transport.tls import Verification, ssl_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import MutableMapping

    from llm_config_sdk.decoding import Reply

Family = Literal["httpx", "httpx2"]

MAX_IN_FLIGHT: Final = 100  # requests; throughput is flat from 8 to 200 against a quick server
KEEPALIVE_EXPIRY: Final = 15.0  # seconds; below the idle timeouts that common proxies have (60 s and more)
_CLOSE_TIMEOUT: Final = 1.0  # seconds that closing a broken connection may take
_CORES: Final = {"httpx": "httpcore", "httpx2": "httpcore2"}


class _Waiter:
    """Somebody in the queue for a slot; `event` is of threading or of anyio."""

    __slots__ = ("event",)

    def __init__(self, event: Any) -> None:
        self.event = event


@dataclass(frozen=True, slots=True)
class _Link:
    """A connection, and the deadline of the exchange that it carries."""

    connection: Any
    deadline: Deadline


class _Pool:
    """How many exchanges may run, first come, first served, and the connections that are idle.

    Bookkeeping alone: it never waits. It belongs to one process, and in async to one event loop.

    Args:
        limit: Exchanges at once.
    """

    def __init__(self, limit: int) -> None:
        self.pid = os.getpid()
        self._free = limit
        self._queue: deque[_Waiter] = deque()
        self._lock = threading.Lock()
        self._idle: defaultdict[tuple[str, str, int], deque[_Link]] = defaultdict(deque)

    def take(self, new_event: Any) -> _Waiter | None:
        """Take a slot now (`None`), or join the queue."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            waiter = _Waiter(new_event())
            self._queue.append(waiter)
            return waiter

    def give_back(self) -> None:
        """Pass a slot on to the first in the queue, or keep it for whoever comes."""
        with self._lock:
            if self._queue:
                self._queue.popleft().event.set()
            else:
                self._free += 1

    def leave(self, waiter: _Waiter) -> None:
        """Leave the queue; a slot that was handed over at the last moment is passed on."""
        with self._lock:
            try:
                self._queue.remove(waiter)
            except ValueError:
                handed_over = True
            else:
                handed_over = False
        if handed_over:
            self.give_back()

    def pop_idle(self, endpoint: Endpoint) -> tuple[_Link | None, list[_Link]]:
        """Take the connection given back last that still stands; the others are to be closed."""
        idle = self._idle[endpoint.scheme, endpoint.host, endpoint.port]
        dead: list[_Link] = []
        while True:
            try:
                link = idle.pop()
            except IndexError:
                return None, dead
            if not link.connection.has_expired():
                return link, dead
            dead.append(link)

    def push_idle(self, endpoint: Endpoint, link: _Link) -> None:
        """Keep a connection for the next exchange."""
        self._idle[endpoint.scheme, endpoint.host, endpoint.port].append(link)

    def drain(self) -> list[_Link]:
        """Take every idle connection, to be closed."""
        drained: list[_Link] = []
        for idle in list(self._idle.values()):
            while idle:
                drained.append(idle.pop())
        return drained


class _Stack:
    """What the sync and the async stack have in common: everything but waiting for the wire."""

    def __init__(
        self,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        keepalive_expiry: float = KEEPALIVE_EXPIRY,
        verify: Verification = True,
        family: Family = "httpx",
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        trust_env: bool = True,
    ) -> None:
        if max_in_flight < 1:
            raise InvalidRequestError(f"max_in_flight must be at least 1, not {max_in_flight!r}")
        self._core = _import_core(family)
        self._limit = max_in_flight
        self._keepalive_expiry = keepalive_expiry
        known = ssl_context(verify)
        self._verify = known is not False
        self._ssl_context = None if isinstance(known, bool) else known
        self._max_response_bytes = max_response_bytes
        self._environment = getproxies_environment() if trust_env else {}
        self._closed = False
        self._pools: MutableMapping[Any, _Pool] = WeakKeyDictionary()

    def _pool_of(self, owner: object) -> _Pool:
        """The pool of a transport, or of an event loop; a child process begins with one of its own."""
        pool = self._pools.get(owner)
        if pool is None:
            pool = self._pools.setdefault(owner, _Pool(self._limit))
        if pool.pid != os.getpid():
            self._pools[owner] = pool = _Pool(self._limit)
        return pool

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequestError("this client is closed")

    def _may_be_reused(self, link: _Link) -> bool:
        return not self._closed and bool(link.connection.is_available())

    def _origin(self, endpoint: Endpoint) -> Any:
        return self._core.Origin(endpoint.scheme.encode(), endpoint.host.encode(), endpoint.port)

    def _tls(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        return self._shared_context() if endpoint.scheme == "https" else None

    def _shared_context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # One for all connections: making one takes 30 ms.
            self._ssl_context = httpx.create_ssl_context(verify=self._verify)
        return self._ssl_context

    def _core_request(self, request: WireRequest) -> Any:
        endpoint = request.endpoint
        target = f"{endpoint.prefix}{request.target}".encode("ascii")
        url = self._core.URL(
            scheme=endpoint.scheme.encode(), host=endpoint.host.encode(), port=endpoint.port, target=target
        )
        return self._core.Request(
            request.method.encode(), url, headers=wire_headers(request), content=request.body
        )

    def _too_long_in_line(self, request: WireRequest, timeout: float | None) -> RequestTimeoutError:
        waited = "" if timeout is None else f" {timeout:.3g} s"
        return RequestTimeoutError(
            f"waited{waited} for one of {self._limit} connections; the request was never sent",
            never_sent=True,
            details=IN_LINE,
            endpoint=request.endpoint.url,
        )


class StackTransport(_Stack, httpx.BaseTransport):
    """Sends over the SDK's own connections, from any number of threads.

    Args:
        max_in_flight: Exchanges at once; who comes later waits in order, within its timeout.
        keepalive_expiry: Seconds that an idle connection is kept.
        verify: Whether the server's certificate is checked, a path to CA certificates, or an SSL context.
        family: Which library carries the bytes: `httpx` (httpcore) or `httpx2` (httpcore2).
        max_response_bytes: Bytes of a body, on the wire and after decompression.
        trust_env: Whether proxies are taken from the environment, as it is now: `HTTP_PROXY`, `HTTPS_PROXY`,
            `ALL_PROXY` and `NO_PROXY`.

    Raises:
        InvalidRequestError: One of them cannot be used.
    """

    def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply, within `timeout` seconds.

        Raises:
            TransportError: No usable answer came.
            ResponseDecodeError: The answer is too large, or its encoding is broken.
        """
        self._check_open()
        give_up_at = None if timeout is None else time.monotonic() + timeout
        pool = self._pool_of(self)
        waiter = pool.take(threading.Event)
        if waiter is not None:
            self._wait(pool, waiter, request, timeout)
        try:
            return self._exchange(pool, request, timeout, give_up_at)
        finally:
            pool.give_back()

    def _wait(self, pool: _Pool, waiter: _Waiter, request: WireRequest, timeout: float | None) -> None:
        served = False
        try:
            served = waiter.event.wait(timeout)
        finally:
            if not served:
                pool.leave(waiter)
        if not served:
            raise self._too_long_in_line(request, timeout)

    def _exchange(
        self, pool: _Pool, request: WireRequest, timeout: float | None, give_up_at: float | None
    ) -> Reply:
        link, dead = pool.pop_idle(request.endpoint)
        for expired in dead:
            _discard(expired)
        if link is None:
            link = self._connect(request.endpoint)
        link.deadline.at = give_up_at
        reader: ReplyReader | None = None
        try:
            response = link.connection.handle_request(self._core_request(request))
            reader = ReplyReader(response.status, response.headers, max_bytes=self._max_response_bytes)
            for chunk in response.stream:
                if not reader.feed(chunk):
                    _discard(link)  # which ends the stream
            response.close()
        except Exception as error:
            _discard(link)
            if reader is not None and reader.failure is not None:
                raise reader.failure from error
            mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout)
            if mapped is None:
                raise
            raise mapped from error
        except BaseException:
            _discard(link)
            raise
        if reader.failure is None and self._may_be_reused(link):
            pool.push_idle(request.endpoint, link)
        else:
            _discard(link)
        return reader.reply()

    def _connect(self, endpoint: Endpoint) -> _Link:
        deadline = Deadline(self._core)
        shared: dict[str, Any] = {
            "ssl_context": self._tls(endpoint),
            "keepalive_expiry": self._keepalive_expiry,
            "network_backend": DeadlineBackend(self._core.SyncBackend(), deadline),
        }
        origin, proxy = self._origin(endpoint), proxy_for(endpoint, self._environment)
        if proxy is None:
            return _Link(self._core.HTTPConnection(origin, **shared), deadline)
        if proxy.is_tls:
            shared["proxy_ssl_context"] = self._shared_context()
        through = self._core.HTTPProxy(proxy.url, proxy_auth=proxy.auth, **shared)
        return _Link(through.create_connection(origin), deadline)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Serve an `httpx.Client` that mounts this transport, in httpx's terms. The body is read before."""
        try:
            reply = self.send(*_from_httpx(request, request.read()))
        except LLMConfigError as error:
            _raise_for_httpx(error, request)
        return _to_httpx(reply, request)

    def close(self) -> None:
        """Close the idle connections; those in use are closed as they come back."""
        self._closed = True
        for link in self._pool_of(self).drain():
            _discard(link)


class AsyncStackTransport(_Stack, httpx.AsyncBaseTransport):
    """Sends over the SDK's own connections, on asyncio and trio. Arguments as `StackTransport`.

    Connections belong to the event loop that opened them, and `max_in_flight` is each loop's.
    """

    async def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply, within `timeout` seconds. Raises as `StackTransport.send`."""
        self._check_open()
        give_up_at = None if timeout is None else time.monotonic() + timeout
        pool = self._pool_of(_running_loop())
        waiter = pool.take(anyio.Event)
        if waiter is not None:
            await self._wait(pool, waiter, request, timeout)
        try:
            return await self._exchange(pool, request, timeout, give_up_at)
        finally:
            pool.give_back()

    async def _wait(self, pool: _Pool, waiter: _Waiter, request: WireRequest, timeout: float | None) -> None:
        served = False
        try:
            with anyio.move_on_after(timeout):
                await waiter.event.wait()
                served = True
        finally:
            if not served:
                pool.leave(waiter)
        if not served:
            raise self._too_long_in_line(request, timeout)

    async def _exchange(
        self, pool: _Pool, request: WireRequest, timeout: float | None, give_up_at: float | None
    ) -> Reply:
        link, dead = pool.pop_idle(request.endpoint)
        for expired in dead:
            await _discard_async(expired)
        if link is None:
            link = self._connect(request.endpoint)
        link.deadline.at = give_up_at
        reader: ReplyReader | None = None
        try:
            response = await link.connection.handle_async_request(self._core_request(request))
            reader = ReplyReader(response.status, response.headers, max_bytes=self._max_response_bytes)
            async for chunk in response.stream:
                if not reader.feed(chunk):
                    await _discard_async(link)  # which ends the stream
            await response.aclose()
        except Exception as error:
            await _discard_async(link)
            if reader is not None and reader.failure is not None:
                raise reader.failure from error
            mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout)
            if mapped is None:
                raise
            raise mapped from error
        except BaseException:
            await _discard_async(link)
            raise
        if reader.failure is None and self._may_be_reused(link):
            pool.push_idle(request.endpoint, link)
        else:
            await _discard_async(link)
        return reader.reply()

    def _connect(self, endpoint: Endpoint) -> _Link:
        deadline = Deadline(self._core)
        shared: dict[str, Any] = {
            "ssl_context": self._tls(endpoint),
            "keepalive_expiry": self._keepalive_expiry,
            "network_backend": AsyncDeadlineBackend(self._core.AnyIOBackend(), deadline),
        }
        origin, proxy = self._origin(endpoint), proxy_for(endpoint, self._environment)
        if proxy is None:
            return _Link(self._core.AsyncHTTPConnection(origin, **shared), deadline)
        if proxy.is_tls:
            shared["proxy_ssl_context"] = self._shared_context()
        through = self._core.AsyncHTTPProxy(proxy.url, proxy_auth=proxy.auth, **shared)
        return _Link(through.create_connection(origin), deadline)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve an `httpx.AsyncClient` that mounts this transport. As `StackTransport.handle_request`."""
        try:
            reply = await self.send(*_from_httpx(request, await request.aread()))
        except LLMConfigError as error:
            _raise_for_httpx(error, request)
        return _to_httpx(reply, request)

    async def aclose(self) -> None:
        """Close the idle connections of this event loop; those in use are closed as they come back."""
        self._closed = True
        for link in self._pool_of(_running_loop()).drain():
            await _discard_async(link)


def _discard(link: _Link) -> None:
    with contextlib.suppress(Exception):  # it is of no use any more, whatever it says
        link.connection.close()


async def _discard_async(link: _Link) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True), contextlib.suppress(Exception):
        await link.connection.aclose()


def _running_loop() -> Any:
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def _import_core(family: Family) -> Any:
    try:
        return importlib.import_module(_CORES[family])
    except KeyError:
        raise InvalidRequestError(f"transport must be 'httpx' or 'httpx2', not {family!r}") from None
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "transport='httpx2' needs the extra: pip install 'llm-config-sdk[httpx2]'"
        ) from error


# --- As transports of httpx ---------------------------------------------------------------------

_HOP_BY_HOP: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "accept-encoding", "connection"}
)


def _from_httpx(request: httpx.Request, body: bytes) -> tuple[WireRequest, float | None]:
    url = request.url
    endpoint = Endpoint.parse(f"{url.scheme}://{url.netloc.decode('ascii')}")
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    timeouts = [seconds for seconds in request.extensions.get("timeout", {}).values() if seconds is not None]
    wire = WireRequest(request.method, endpoint, url.raw_path.decode("ascii"), headers, body or None)
    return wire, max(timeouts, default=None)


_BODY_HEADERS: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


def _to_httpx(reply: Reply, request: httpx.Request) -> httpx.Response:
    headers = {name: value for name, value in reply.headers.items() if name not in _BODY_HEADERS}
    return httpx.Response(reply.status, headers=headers, content=reply.body, request=request)


def _raise_for_httpx(error: LLMConfigError, request: httpx.Request) -> NoReturn:
    """Raise what users of httpx catch; ours is its cause."""
    raise _httpx_class(error)(error.message, request=request) from error


def _httpx_class(error: LLMConfigError) -> type[httpx.RequestError]:
    if isinstance(error, RequestTimeoutError):
        if error.details == IN_LINE:
            return httpx.PoolTimeout
        return httpx.ConnectTimeout if error.never_sent else httpx.ReadTimeout
    if isinstance(error, ConnectFailedError):
        return httpx.ConnectError
    if isinstance(error, ResponseDecodeError):
        return httpx.DecodingError
    return httpx.RemoteProtocolError if isinstance(error, TransportError) else httpx.LocalProtocolError
