"""The SDK's own connections: a last-in-first-out free list of single HTTP/1.1 connections.

httpx's pool looks at all of its connections for every request, so its throughput collapses as callers grow.
Here a request takes the connection that was given back last, or opens one; at most `max_in_flight` are out at
once, and whoever waits is served in order, within its deadline. What failed or was cancelled is thrown away.

Both transports are `httpx` transports too, so that one can be mounted in an `httpx.Client` of the user's own.
"""

from __future__ import annotations

import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.request import getproxies_environment

import anyio
import httpx

from llm_config_sdk.errors import InvalidRequestError, LLMConfigError
from llm_config_sdk.transport.connection import AsyncConnection, Connection, Route
from llm_config_sdk.transport.deadline import AsyncDeadline, Deadline
from llm_config_sdk.transport.exchange import MAX_RESPONSE_BYTES, WireRequest
from llm_config_sdk.transport.mapping import made_safe, map_error
from llm_config_sdk.transport.mounted import from_httpx, raise_for_httpx, to_httpx
from llm_config_sdk.transport.pool import Pool
from llm_config_sdk.transport.proxies import proxy_for
from llm_config_sdk.transport.slots import MAX_IN_FLIGHT, NOW, Line, running_loop
from llm_config_sdk.transport.tls import Verification, ssl_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable

    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.transport.exchange import Endpoint

Family = Literal["httpx", "httpx2"]

KEEPALIVE_EXPIRY: Final = 15.0  # seconds; below the idle timeouts that common proxies have (60 s and more)
_CORES: Final = {"httpx": "httpcore", "httpx2": "httpcore2"}


class _Stack(Line[Pool[Any]]):
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
        super().__init__(max_in_flight, Pool[Any])
        self._core = _import_core(family)
        self._keepalive_expiry = keepalive_expiry
        known = ssl_context(verify)
        self._verify = known is not False
        self._ssl_context = None if isinstance(known, bool) else known
        self._max_response_bytes = max_response_bytes
        self._environment = getproxies_environment() if trust_env else {}
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidRequestError("this client is closed")

    def _route_to(self, endpoint: Endpoint) -> Route:
        tls = self._shared_context() if endpoint.scheme == "https" else None
        proxy = proxy_for(endpoint, self._environment)
        if proxy is None:
            return Route(endpoint.host, endpoint.port, endpoint, tls)
        return Route.through(proxy, endpoint, tls, self._shared_context() if proxy.is_tls else None)

    def _shared_context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # One for all connections: making one takes 30 ms.
            self._ssl_context = httpx.create_ssl_context(verify=self._verify)
        # A context that a caller shares with an HTTP/2 client would agree on what is not spoken here.
        self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def _keep(self, pool: Pool[Any], endpoint: Endpoint, connection: Connection | AsyncConnection) -> bool:
        """Keep a connection for the next exchange, if it may carry one."""
        if not connection.keep(self._keepalive_expiry):
            return False
        pool.push_idle(endpoint, connection)
        # Looked at last: whoever closes meanwhile finds it in the pool, or it is taken out again here.
        return not self._closed or not pool.take_back(endpoint, connection)


class StackTransport(_Stack, httpx.BaseTransport):
    """Sends over the SDK's own connections, from any number of threads.

    Args:
        max_in_flight: Exchanges at once; who comes later waits in order, within its timeout.
        keepalive_expiry: Seconds that an idle connection is kept.
        verify: Whether the server's certificate is checked, a path to CA certificates, or an SSL context.
        family: Whose exceptions stand behind errors, as `__cause__`: `httpx` (httpcore's) or `httpx2`
            (httpcore2's).
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
        outside = sys.exception()
        deadline = Deadline(self._core, timeout)
        pool: Pool[Connection] = self._pool_of(self)
        try:
            with deadline:
                self._take_turn(pool, deadline)
                try:
                    return self._exchange(pool, request, deadline)
                finally:
                    pool.give_back()
        except Exception as error:
            mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout, outside=outside)
            if mapped is None:
                raise
            made_safe(error, outside)
            try:
                raise mapped from error
            finally:
                del mapped  # its cause's traceback leads here: both would live until the collector comes by

    def _take_turn(self, pool: Pool[Connection], deadline: Deadline) -> None:
        turn = pool.take(threading.Event)
        if turn is not None and not self._wait(pool, turn, deadline.remaining()):
            raise deadline.timed_out()

    def _exchange(self, pool: Pool[Connection], request: WireRequest, deadline: Deadline) -> Reply:
        connection, dead = pool.pop_idle(request.endpoint)
        kept = False
        try:
            self._close_all(dead)
            if connection is None:
                connection = self._connect(request.endpoint, deadline)
            reply = connection.exchange(request, deadline)
            kept = self._keep(pool, request.endpoint, connection)
        finally:
            if connection is not None and not kept:
                connection.close()
        return reply

    def _connect(self, endpoint: Endpoint, deadline: Deadline) -> Connection:
        route = self._route_to(endpoint)
        return Connection.open(route, self._core, self._max_response_bytes, deadline)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Serve an `httpx.Client` that mounts this transport, in httpx's terms. The body is read before."""
        try:
            reply = self.send(*from_httpx(request, request.read()))
        except LLMConfigError as error:
            raise_for_httpx(error, request)
        return to_httpx(reply, request)

    def close(self) -> None:
        """Close the idle connections; those in use are closed as they come back."""
        self._closed = True
        self._close_all(self._pool_of(self).drain())

    def _close_all(self, connections: list[Connection]) -> None:
        for each in connections:
            each.close()


class AsyncStackTransport(_Stack, httpx.AsyncBaseTransport):
    """Sends over the SDK's own connections, on asyncio and trio. Arguments as `StackTransport`.

    Connections belong to the event loop that opened them, and `max_in_flight` is each loop's.
    """

    async def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply, within `timeout` seconds. Raises as `StackTransport.send`."""
        self._check_open()
        outside = sys.exception()
        deadline = AsyncDeadline(self._core, timeout)
        pool: Pool[AsyncConnection] = self._pool_of(running_loop())
        try:
            with deadline:
                await self._take_turn(pool, deadline)
                try:
                    return await self._exchange(pool, request, deadline)
                finally:
                    pool.give_back()
        except Exception as error:
            mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout, outside=outside)
            if mapped is None:
                raise
            made_safe(error, outside)
            try:
                raise mapped from error
            finally:
                del mapped  # its cause's traceback leads here: both would live until the collector comes by

    def _take_turn(self, pool: Pool[AsyncConnection], deadline: AsyncDeadline) -> Awaitable[None]:
        del deadline  # it interrupts whoever waits
        turn = self._take_async(pool)
        return NOW if turn is None else self._wait_async(pool, turn)

    async def _exchange(
        self, pool: Pool[AsyncConnection], request: WireRequest, deadline: AsyncDeadline
    ) -> Reply:
        connection, dead = pool.pop_idle(request.endpoint)
        kept = False
        try:
            await self._close_all(dead)
            if connection is None:
                connection = await self._connect(request.endpoint, deadline)
            reply = await connection.exchange(request, deadline)
            kept = self._keep(pool, request.endpoint, connection)
        finally:
            if connection is not None and not kept:
                await connection.aclose()
        return reply

    async def _connect(self, endpoint: Endpoint, deadline: AsyncDeadline) -> AsyncConnection:
        route = self._route_to(endpoint)
        return await AsyncConnection.open(route, self._core, self._max_response_bytes, deadline)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve an `httpx.AsyncClient` that mounts this transport. As `StackTransport.handle_request`."""
        try:
            reply = await self.send(*from_httpx(request, await request.aread()))
        except LLMConfigError as error:
            raise_for_httpx(error, request)
        return to_httpx(reply, request)

    async def aclose(self) -> None:
        """Close the idle connections of this event loop; those in use are closed as they come back."""
        self._closed = True
        await self._close_all(self._pool_of(running_loop()).drain())

    async def _close_all(self, connections: list[AsyncConnection]) -> None:
        """Close them, each whether or not the caller is cancelled while another one closes."""
        if connections:
            async with anyio.create_task_group() as group:
                for each in connections:
                    group.start_soon(each.aclose)


def _import_core(family: Family) -> Any:
    try:
        return importlib.import_module(_CORES[family])
    except KeyError:
        raise InvalidRequestError(f"transport must be 'httpx' or 'httpx2', not {family!r}") from None
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "transport='httpx2' needs the extra: pip install 'llm-config-sdk[httpx2]'"
        ) from error
