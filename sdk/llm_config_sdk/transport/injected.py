"""A client of the user's own, of either family, as a transport.

It is used through `send` alone, so its proxies, certificates, event hooks and mounted transports all work.
Its deadline is checked between the chunks of a body: a server that drips its *headers* can hold it longer,
for that is read inside the client.

Who has to wait for a connection waits here, in order, and not in the client's own pool: httpcore 1.0's loses
a connection for good when a request is cancelled that it was just given to, and its time grows with the
square of those who wait.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import anyio

from llm_config_sdk.decoding import Reply
from llm_config_sdk.errors import InvalidRequestError, LLMConfigError, RequestTimeoutError
from llm_config_sdk.transport.exchange import MAX_RESPONSE_BYTES, ReplyReader, WireRequest
from llm_config_sdk.transport.mapping import made_safe, map_error, timed_out_in_line
from llm_config_sdk.transport.slots import MAX_IN_FLIGHT, Line, Slots, running_loop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_LEAST_TIMEOUT: Final = 0.001  # seconds


class _Injected(Line[Slots]):
    """What the two have in common."""

    def __init__(self, client: Any, *, max_in_flight: int, max_response_bytes: int) -> None:
        super().__init__(min(max_in_flight, _most_connections(client)), Slots)
        self._client = client
        self._max_response_bytes = max_response_bytes

    def _reader(self, response: Any) -> ReplyReader:
        return ReplyReader(response.status_code, response.headers.raw, max_bytes=self._max_response_bytes)


class InjectedTransport(_Injected):
    """Sends through an `httpx.Client` or `httpx2.Client`, which stays the caller's to close.

    Args:
        client: The client.
        max_in_flight: Exchanges at once, and never more than the client has connections.
        max_response_bytes: Bytes of a body, on the wire and after decompression.

    Raises:
        InvalidRequestError: One of them cannot be used.
    """

    def __init__(
        self,
        client: Any,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        if not hasattr(client, "send") or not hasattr(client, "build_request") or hasattr(client, "aclose"):
            raise InvalidRequestError(
                f"http_client must be an httpx.Client or httpx2.Client, not {type(client).__name__}"
            )
        super().__init__(client, max_in_flight=max_in_flight, max_response_bytes=max_response_bytes)

    def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply. Raises as `StackTransport.send`."""
        outside = sys.exception()
        give_up_at = None if timeout is None else time.monotonic() + timeout
        pool = self._pool_of(self)
        turn = pool.take(threading.Event)
        if turn is not None and not self._wait(pool, turn, timeout):
            raise timed_out_in_line(request.endpoint.url, timeout)
        try:
            return self._exchange(request, _left(give_up_at, time.monotonic()), give_up_at, outside)
        finally:
            pool.give_back()

    def _exchange(
        self,
        request: WireRequest,
        timeout: float | None,
        give_up_at: float | None,
        outside: BaseException | None,
    ) -> Reply:
        reader: ReplyReader | None = None
        try:
            response = self._client.send(_build(self._client, request, timeout), **_options(request))
            try:
                if response.is_stream_consumed:
                    return _read_already(response)
                reader = self._reader(response)
                for chunk in response.iter_raw():
                    if not reader.feed(chunk):
                        response.close()  # which ends the stream
                    del chunk  # crash reporters send locals along, and it may be a secret
                    _check(give_up_at, timeout)
            finally:
                response.close()
            return reader.reply()
        except LLMConfigError:
            raise
        except Exception as error:  # what it means is looked up, and it is raised
            if reader is not None and reader.failure is not None:
                made_safe(error, outside)
                raise reader.take_failure() from error
            return _reply_or_raise(error, request, timeout, outside)

    def close(self) -> None:
        """Leave the client open: it is the caller's."""


class AsyncInjectedTransport(_Injected):
    """Sends through an `httpx.AsyncClient` or `httpx2.AsyncClient`. Arguments as `InjectedTransport`."""

    def __init__(
        self,
        client: Any,
        *,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
    ) -> None:
        if not all(hasattr(client, name) for name in ("send", "build_request", "aclose")):
            raise InvalidRequestError(
                f"http_client must be an httpx.AsyncClient or httpx2.AsyncClient, not {type(client).__name__}"
            )
        super().__init__(client, max_in_flight=max_in_flight, max_response_bytes=max_response_bytes)

    async def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply. Raises as `StackTransport.send`."""
        # By the event loop's time, which simulations move.
        give_up_at = None if timeout is None else anyio.current_time() + timeout
        pool = self._pool_of(running_loop())
        turn = self._take_async(pool)
        if turn is not None:
            with anyio.move_on_after(timeout) as scope:
                await self._wait_async(pool, turn)
            if scope.cancelled_caught:
                raise timed_out_in_line(request.endpoint.url, timeout)
        try:
            return await _apart(self._exchange, request, _left(give_up_at, anyio.current_time()))
        finally:
            pool.give_back()

    async def _exchange(self, request: WireRequest, timeout: float | None) -> Reply:
        reader: ReplyReader | None = None
        try:
            with anyio.fail_after(timeout):
                response = await self._client.send(
                    _build(self._client, request, timeout), **_options(request)
                )
                try:
                    if response.is_stream_consumed:
                        return _read_already(response)
                    reader = self._reader(response)
                    async for chunk in response.aiter_raw():
                        if not reader.feed(chunk):
                            await response.aclose()  # which ends the stream
                        del chunk  # as in sync
                finally:
                    await response.aclose()
            return reader.reply()
        except LLMConfigError:
            raise
        except Exception as error:  # what it means is looked up, and it is raised
            if reader is not None and reader.failure is not None:
                made_safe(error)
                raise reader.take_failure() from error
            return _reply_or_raise(error, request, timeout)

    async def aclose(self) -> None:
        """Leave the client open: it is the caller's."""


async def _apart(
    exchange: Callable[[WireRequest, float | None], Awaitable[Reply]],
    request: WireRequest,
    timeout: float | None,
) -> Reply:
    """Make an exchange in a task of its own, so that asyncio's cancellations reach it as anyio's do.

    httpcore shields what may not be left half done from anyio's alone: those of `asyncio.timeout` and
    `Task.cancel` go through the shield, and leave a connection behind that nobody can use.
    """
    ended: list[Reply | Exception] = []

    async def run() -> None:
        try:
            ended.append(await exchange(request, timeout))
        except Exception as error:  # noqa: BLE001  # it is raised where the caller waits, and in no group
            ended.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
    if not ended:  # what the client waited for was cancelled, of which the group says nothing
        raise asyncio.CancelledError
    outcome = ended.pop()
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            del outcome
    return outcome


def _most_connections(client: Any) -> int:
    """How many connections a client may have at once, where it has such a bound and it can be told."""
    pool = getattr(getattr(client, "_transport", None), "_pool", None)
    most: object = getattr(pool, "_max_connections", None)
    return most if isinstance(most, int) and most > 0 else sys.maxsize


def _left(give_up_at: float | None, now: float) -> float | None:
    """Seconds that are left; 0 would mean not to wait at all."""
    return None if give_up_at is None else max(give_up_at - now, _LEAST_TIMEOUT)


def _read_already(response: Any) -> Reply:
    """Take a response that came with its body, as a mounted transport or a hook makes them."""
    body: bytes = response.content if response.is_stream_consumed else b""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, body)


def _options(request: WireRequest) -> dict[str, Any]:
    # The client's own auth stands in only where the SDK has no token: one Authorization header is enough.
    own_auth = {"auth": None} if "Authorization" in request.headers else {}
    return {"stream": True, "follow_redirects": False, **own_auth}


def _reply_or_raise(
    error: Exception, request: WireRequest, timeout: float | None, outside: BaseException | None = None
) -> Reply:
    """Turn an error into ours; one that a hook of the client's made of a reply is that reply again."""
    response = getattr(error, "response", None) if type(error).__name__ == "HTTPStatusError" else None
    if response is not None:
        return _read_already(response)
    mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout, outside=outside)
    try:
        if mapped is None:
            raise error
        made_safe(error, outside)
        raise mapped from error
    finally:
        del error, mapped, outside  # their tracebacks lead here, as in `StackTransport.send`


def _build(client: Any, request: WireRequest, timeout: float | None) -> Any:
    headers = {**request.headers, "Accept-Encoding": "gzip"}
    return client.build_request(
        request.method, request.url, headers=headers, content=request.body, timeout=timeout
    )


def _check(give_up_at: float | None, timeout: float | None) -> None:
    if give_up_at is not None and time.monotonic() > give_up_at:
        raise RequestTimeoutError(f"timed out while reading the response (it had {timeout:.3g} s)")
