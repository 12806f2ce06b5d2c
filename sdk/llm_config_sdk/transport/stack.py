"""The SDK's own connections: a last-in-first-out free list of single HTTP/1.1 connections.

httpx's pool looks at all of its connections for every request, so its throughput collapses as callers grow.
Here a request takes the connection that was given back last, or opens one; at most `max_in_flight` are out at
once, and whoever waits is served in order, within its deadline. What failed or was cancelled is thrown away.

Both transports are `httpx` transports too, so that one can be mounted in an `httpx.Client` of the user's own.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Final, Literal

import anyio
import httpx

from llm_config_sdk.errors import InvalidRequestError, RequestTimeoutError
from llm_config_sdk.transport.deadline import AsyncDeadlineBackend, Deadline, DeadlineBackend
from llm_config_sdk.transport.exchange import (
    MAX_RESPONSE_BYTES,
    Endpoint,
    ReplyReader,
    WireRequest,
    wire_headers,
)
from llm_config_sdk.transport.mapping import map_error

if TYPE_CHECKING:
    import ssl

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


class _Slots:
    """How many exchanges may run, first come, first served. Bookkeeping alone: it never waits."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._queue: deque[_Waiter] = deque()
        self._lock = threading.Lock()

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


class _Stack:
    """What the sync and the async stack have in common: everything but waiting for the wire."""

    def __init__(
        self,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        keepalive_expiry: float = KEEPALIVE_EXPIRY,
        verify: bool | str | ssl.SSLContext = True,
        family: Family = "httpx",
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        if max_in_flight < 1:
            raise InvalidRequestError(f"max_in_flight must be at least 1, not {max_in_flight!r}")
        self._core = _import_core(family)
        self._limit = max_in_flight
        self._keepalive_expiry = keepalive_expiry
        self._verify = verify
        self._max_response_bytes = max_response_bytes
        self._ssl_context: ssl.SSLContext | None = None
        self._closed = False
        self._forget()

    def _forget(self) -> None:
        """Begin with no connection and every slot free: at first, and in a child after a fork."""
        self._pid = os.getpid()
        self._slots = _Slots(self._limit)
        self._idle: defaultdict[tuple[str, str, int], deque[Any]] = defaultdict(deque)

    def _enter(self, new_event: Any) -> _Waiter | None:
        if self._closed:
            raise InvalidRequestError("this client is closed")
        if self._pid != os.getpid():
            self._forget()  # a parent's sockets are the parent's
        return self._slots.take(new_event)

    def _pop_idle(self, endpoint: Endpoint) -> tuple[Any | None, list[Any]]:
        """Take the connection given back last that still stands; the others are to be closed."""
        idle = self._idle[endpoint.scheme, endpoint.host, endpoint.port]
        dead: list[Any] = []
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return None, dead
            if not connection.has_expired():
                return connection, dead
            dead.append(connection)

    def _push_idle(self, endpoint: Endpoint, connection: Any) -> bool:
        """Keep a connection for the next exchange; `False` where it cannot carry another."""
        if self._closed or not connection.is_available():
            return False
        self._idle[endpoint.scheme, endpoint.host, endpoint.port].append(connection)
        return True

    def _origin(self, endpoint: Endpoint) -> Any:
        return self._core.Origin(endpoint.scheme.encode(), endpoint.host.encode(), endpoint.port)

    def _tls(self, endpoint: Endpoint) -> ssl.SSLContext | None:
        if endpoint.scheme != "https":
            return None
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

    def _too_long_in_queue(self, request: WireRequest, timeout: float | None) -> RequestTimeoutError:
        return RequestTimeoutError(
            f"waited {timeout:.3g} s for one of {self._limit} connections; the request was never sent",
            never_sent=True,
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
    """

    def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply, within `timeout` seconds.

        Raises:
            TransportError: No usable answer came.
            ResponseDecodeError: The answer is too large, or its encoding is broken.
        """
        give_up_at = None if timeout is None else time.monotonic() + timeout
        waiter = self._enter(threading.Event)
        if waiter is not None:
            self._wait(waiter, request, timeout)
        try:
            return self._exchange(request, timeout, give_up_at)
        finally:
            self._slots.give_back()

    def _wait(self, waiter: _Waiter, request: WireRequest, timeout: float | None) -> None:
        try:
            served = waiter.event.wait(timeout)
        except BaseException:
            self._slots.leave(waiter)
            raise
        if not served:
            self._slots.leave(waiter)
            raise self._too_long_in_queue(request, timeout)

    def _exchange(self, request: WireRequest, timeout: float | None, give_up_at: float | None) -> Reply:
        connection, dead = self._pop_idle(request.endpoint)
        for expired in dead:
            expired.close()
        if connection is None:
            connection = self._connect(request.endpoint)
        connection.deadline.at = give_up_at
        try:
            response = connection.handle_request(self._core_request(request))
            reader = ReplyReader(response.status, response.headers, max_bytes=self._max_response_bytes)
            for chunk in response.stream:
                reader.feed(chunk)
            response.close()
        except Exception as error:
            connection.close()
            mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout)
            if mapped is None:
                raise
            raise mapped from error
        except BaseException:
            connection.close()
            raise
        if not self._push_idle(request.endpoint, connection):
            connection.close()
        return reader.reply()

    def _connect(self, endpoint: Endpoint) -> Any:
        deadline = Deadline(self._core)
        connection = self._core.HTTPConnection(
            self._origin(endpoint),
            ssl_context=self._tls(endpoint),
            keepalive_expiry=self._keepalive_expiry,
            network_backend=DeadlineBackend(self._core.SyncBackend(), deadline),
        )
        connection.deadline = deadline
        return connection

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Serve an `httpx.Client` that mounts this transport. The whole body is read before it returns."""
        reply = self.send(*_from_httpx(request, request.read()))
        return _to_httpx(reply, request)

    def close(self) -> None:
        """Close the idle connections; those in use are closed as they come back."""
        self._closed = True
        for idle in list(self._idle.values()):
            while idle:
                idle.pop().close()


class AsyncStackTransport(_Stack, httpx.AsyncBaseTransport):
    """Sends over the SDK's own connections, on asyncio and trio. Arguments as `StackTransport`.

    Connections belong to the event loop that opened them; another loop begins with new ones.
    """

    def _forget(self) -> None:
        super()._forget()
        self._loop: object | None = None

    async def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply, within `timeout` seconds. Raises as `StackTransport.send`."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        waiter = self._enter(anyio.Event)
        if waiter is not None:
            await self._wait(waiter, request, timeout)
        slots = self._slots
        try:
            return await self._exchange(request, timeout, give_up_at)
        finally:
            slots.give_back()

    def _enter(self, new_event: Any) -> _Waiter | None:
        loop = anyio.lowlevel.current_token()
        if self._loop != loop:
            if self._loop is not None:
                self._forget()
            self._loop = loop
        return super()._enter(new_event)

    async def _wait(self, waiter: _Waiter, request: WireRequest, timeout: float | None) -> None:
        served = False
        try:
            with anyio.move_on_after(timeout):
                await waiter.event.wait()
                served = True
        finally:
            if not served:
                self._slots.leave(waiter)
        if not served:
            raise self._too_long_in_queue(request, timeout)

    async def _exchange(self, request: WireRequest, timeout: float | None, give_up_at: float | None) -> Reply:
        connection, dead = self._pop_idle(request.endpoint)
        for expired in dead:
            await _discard(expired)
        if connection is None:
            connection = self._connect(request.endpoint)
        connection.deadline.at = give_up_at
        try:
            response = await connection.handle_async_request(self._core_request(request))
            reader = ReplyReader(response.status, response.headers, max_bytes=self._max_response_bytes)
            async for chunk in response.stream:
                reader.feed(chunk)
            await response.aclose()
        except Exception as error:
            await _discard(connection)
            mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout)
            if mapped is None:
                raise
            raise mapped from error
        except BaseException:
            await _discard(connection)
            raise
        if not self._push_idle(request.endpoint, connection):
            await _discard(connection)
        return reader.reply()

    def _connect(self, endpoint: Endpoint) -> Any:
        deadline = Deadline(self._core)
        connection = self._core.AsyncHTTPConnection(
            self._origin(endpoint),
            ssl_context=self._tls(endpoint),
            keepalive_expiry=self._keepalive_expiry,
            network_backend=AsyncDeadlineBackend(self._core.AnyIOBackend(), deadline),
        )
        connection.deadline = deadline
        return connection

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve an `httpx.AsyncClient` that mounts this transport. The body is read before it returns."""
        reply = await self.send(*_from_httpx(request, await request.aread()))
        return _to_httpx(reply, request)

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed as they come back."""
        self._closed = True
        for idle in list(self._idle.values()):
            while idle:
                await _discard(idle.pop())


async def _discard(connection: Any) -> None:
    with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
        await connection.aclose()


def _import_core(family: Family) -> Any:
    try:
        return importlib.import_module(_CORES[family])
    except KeyError:
        raise InvalidRequestError(f"transport must be 'httpx' or 'httpx2', not {family!r}") from None
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "transport='httpx2' needs the extra: pip install 'llm-config-sdk[httpx2]'"
        ) from error


_HOP_BY_HOP: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "accept-encoding", "connection"}
)


def _from_httpx(request: httpx.Request, body: bytes) -> tuple[WireRequest, float | None]:
    url = request.url
    port = f":{url.port}" if url.port else ""
    endpoint = Endpoint.parse(
        f"{url.scheme}://{url.netloc.decode().rpartition('@')[2] if port else url.host}"
    )
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    timeouts = [seconds for seconds in request.extensions.get("timeout", {}).values() if seconds is not None]
    wire = WireRequest(request.method, endpoint, url.raw_path.decode("ascii"), headers, body or None)
    return wire, max(timeouts, default=None)


_BODY_HEADERS: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


def _to_httpx(reply: Reply, request: httpx.Request) -> httpx.Response:
    headers = {name: value for name, value in reply.headers.items() if name not in _BODY_HEADERS}
    return httpx.Response(reply.status, headers=headers, content=reply.body, request=request)
