"""Tokens that change: asked for when they are needed, and once more when a server refuses them.

A token that is a string is one of a client's headers, and none of this is in its way.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httpx
from pydantic import SecretStr

from llm_config_resilience import DeadlineExceededError, Pipeline, SingleFlight, Timeout
from llm_config_sdk.errors import InvalidRequestError, LLMConfigError, RequestTimeoutError, UnauthorizedError
from llm_config_sdk.operations import check_header
from llm_config_sdk.transport.mapping import FOR_A_TOKEN

if TYPE_CHECKING:
    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.operations import Progress
    from llm_config_sdk.transport import AsyncTransport, Transport, WireRequest

TokenText = str | SecretStr
Token = TokenText | Callable[[], TokenText | Awaitable[TokenText]] | httpx.Auth
"""A bearer token, what gives one when asked, or a scheme of httpx's."""

AUTHORIZATION: Final = "Authorization"
_LEAST_TIMEOUT: Final = 0.001  # seconds; to a socket, 0 means not to wait rather than to have no time


def credentials_for(token: object) -> Credentials | None:
    """Find what keeps a token that is not just a string; `None` for one that is, or for none.

    Raises:
        InvalidRequestError: It is nothing that gives a token.
    """
    if token is None or isinstance(token, (str, SecretStr)):
        return None
    if hasattr(token, "sync_auth_flow") and hasattr(token, "async_auth_flow"):
        return SchemeCredentials(token)
    if callable(token):
        return TokenCredentials(token)
    raise InvalidRequestError(
        f"token must be a string, a SecretStr, a callable or an httpx.Auth, not {type(token).__name__}"
    )


def bearer(token: object) -> str:
    """Write the header's value for a token.

    Raises:
        InvalidRequestError: It cannot be sent. It is not shown.
    """
    text = token.get_secret_value() if isinstance(token, SecretStr) else token
    if not isinstance(text, str) or not text.strip():
        kind = "an empty string" if isinstance(text, str) else type(text).__name__
        raise InvalidRequestError(f"a token must be a string that is not empty, not {kind}")
    return check_header(AUTHORIZATION, f"Bearer {text}")


class Credentials:
    """What sends a request with the authorization that it needs at the time.

    A request that has an Authorization header already is sent as it is.
    """

    def send(
        self, transport: Transport, request: WireRequest, timeout: float | None, progress: Progress
    ) -> Reply:
        """Send a request, and once more where its authorization is refused and there is another.

        Args:
            transport: What sends it.
            request: The request, without authorization.
            timeout: Seconds for all of it.
            progress: Where a second request is counted.

        Raises:
            UnauthorizedError: There is no token to be had.
            TransportError: No usable answer came.
        """
        raise NotImplementedError

    async def send_async(
        self, transport: AsyncTransport, request: WireRequest, timeout: float | None, progress: Progress
    ) -> Reply:
        """As `send`."""
        raise NotImplementedError


class _Held:
    """An Authorization header; its number says how many there were before."""

    __slots__ = ("header", "number")

    def __init__(self, number: int, header: str) -> None:
        self.number = number
        self.header = header


class TokenCredentials(Credentials):
    """Bearer tokens from a callable: asked at the first request, and again when a server says 401.

    All who wait for a token wait for one answer. A failure of the callable is theirs, too.

    Args:
        source: Gives a token; in async it may be a coroutine function.
    """

    def __init__(self, source: Callable[[], Any]) -> None:
        self._source = source
        self._held = _Held(0, "")
        # Who has seen different tokens refused does not wait for the same one.
        self._asking = Pipeline(Timeout(_limit), SingleFlight(_number_seen), name="token")

    def send(
        self, transport: Transport, request: WireRequest, timeout: float | None, progress: Progress
    ) -> Reply:
        """Send a request with the token; see `Credentials.send`."""
        if AUTHORIZATION in request.headers:
            return transport.send(request, timeout)
        left = _countdown(timeout)
        held = self._held if self._held.number else self._renewed(self._held, left())
        reply = transport.send(_authorized(request, held.header, progress), left())
        if reply.status != HTTPStatus.UNAUTHORIZED:
            return reply
        held = self._renewed(held, left())
        progress.attempts += 1
        return transport.send(_authorized(request, held.header, progress), left())

    async def send_async(
        self, transport: AsyncTransport, request: WireRequest, timeout: float | None, progress: Progress
    ) -> Reply:
        """Send a request with the token; see `Credentials.send`."""
        if AUTHORIZATION in request.headers:
            return await transport.send(request, timeout)
        left = _countdown(timeout)
        held = self._held if self._held.number else await self._renewed_async(self._held, left())
        reply = await transport.send(_authorized(request, held.header, progress), left())
        if reply.status != HTTPStatus.UNAUTHORIZED:
            return reply
        held = await self._renewed_async(held, left())
        progress.attempts += 1
        return await transport.send(_authorized(request, held.header, progress), left())

    def _renewed(self, seen: _Held, timeout: float | None) -> _Held:
        try:
            held: _Held = self._asking.call(self._ask, seen, timeout)
        except DeadlineExceededError as error:
            raise _too_late() from error
        return held

    async def _renewed_async(self, seen: _Held, timeout: float | None) -> _Held:
        try:
            held: _Held = await self._asking.call_async(self._ask_async, seen, timeout)
        except DeadlineExceededError as error:
            raise _too_late() from error
        return held

    def _ask(self, seen: _Held, timeout: float | None) -> _Held:
        del timeout  # the pipeline keeps it
        if self._held is not seen:
            return self._held
        try:
            token = self._source()
        except LLMConfigError:
            raise
        except Exception as error:
            raise _no_token(error) from error
        if inspect.isawaitable(token):
            if inspect.iscoroutine(token):
                token.close()
            raise InvalidRequestError("a token from an async callable is for AsyncConfigClient")
        return self._hold(seen, token)

    async def _ask_async(self, seen: _Held, timeout: float | None) -> _Held:
        del timeout
        if self._held is not seen:
            return self._held
        try:
            token = self._source()
            if inspect.isawaitable(token):
                token = await token
        except LLMConfigError:
            raise
        except Exception as error:
            raise _no_token(error) from error
        return self._hold(seen, token)

    def _hold(self, seen: _Held, token: object) -> _Held:
        self._held = held = _Held(seen.number + 1, bearer(token))
        return held


class SchemeCredentials(Credentials):
    """A scheme of httpx's or httpx2's that puts its authorization into headers: basic, digest, your own.

    Its flow is driven on the request as it is sent, for at most two requests. A flow that sends requests of
    its own, elsewhere or with another body, is refused: a callable may do that, or an injected client.

    Args:
        auth: An `httpx.Auth`, or httpx2's.
    """

    def __init__(self, auth: Any) -> None:
        self._auth = auth
        families = {cls.__module__.partition(".")[0] for cls in type(auth).__mro__}
        self._library = importlib.import_module("httpx2") if "httpx2" in families else httpx

    def send(
        self, transport: Transport, request: WireRequest, timeout: float | None, progress: Progress
    ) -> Reply:
        """Send a request through the scheme's flow; see `Credentials.send`."""
        if AUTHORIZATION in request.headers:
            return transport.send(request, timeout)
        left = _countdown(timeout)
        plain = self._plain(request)
        flow = self._auth.sync_auth_flow(plain)
        try:
            reply = transport.send(_with_headers(request, plain, next(flow), progress), left())
            try:
                again = flow.send(self._response(reply, plain))
            except StopIteration:
                return reply
            progress.attempts += 1
            return transport.send(_with_headers(request, plain, again, progress), left())
        finally:
            flow.close()

    async def send_async(
        self, transport: AsyncTransport, request: WireRequest, timeout: float | None, progress: Progress
    ) -> Reply:
        """Send a request through the scheme's flow; see `Credentials.send`."""
        if AUTHORIZATION in request.headers:
            return await transport.send(request, timeout)
        left = _countdown(timeout)
        plain = self._plain(request)
        flow = self._auth.async_auth_flow(plain)
        try:
            reply = await transport.send(_with_headers(request, plain, await anext(flow), progress), left())
            try:
                again = await flow.asend(self._response(reply, plain))
            except StopAsyncIteration:
                return reply
            progress.attempts += 1
            return await transport.send(_with_headers(request, plain, again, progress), left())
        finally:
            await flow.aclose()

    def _plain(self, request: WireRequest) -> Any:
        return self._library.Request(
            request.method, request.url, headers=dict(request.headers), content=request.body
        )

    def _response(self, reply: Reply, plain: Any) -> Any:
        headers = {name: value for name, value in reply.headers.items() if name not in _OF_THE_BODY}
        return self._library.Response(reply.status, headers=headers, content=reply.body, request=plain)


_OF_THE_BODY: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_OF_THE_CONNECTION: Final = frozenset({"host", "content-length", "transfer-encoding"})


def _with_headers(request: WireRequest, plain: Any, wanted: Any, progress: Progress) -> WireRequest:
    """Take over the headers of what a scheme's flow wants to have sent."""
    if wanted is not plain and (wanted.method, wanted.url, wanted.content) != (
        plain.method,
        plain.url,
        plain.content,
    ):
        raise InvalidRequestError(
            "this httpx.Auth sends requests of its own: pass a callable as token=…, or http_client=…"
        )
    known = {name.lower(): name for name in request.headers}
    headers: dict[str, str] = {
        known.get(name.lower()) or str(name).title(): check_header(name, value)
        for name, value in wanted.headers.items()
        if name.lower() not in _OF_THE_CONNECTION
    }
    progress.authorization = headers
    return replace(request, headers=headers)


def _authorized(request: WireRequest, header: str, progress: Progress) -> WireRequest:
    progress.authorization = {AUTHORIZATION: header}
    return replace(request, headers={**request.headers, AUTHORIZATION: header})


def _countdown(timeout: float | None) -> Callable[[], float | None]:
    if timeout is None:
        return lambda: None
    end = time.monotonic() + timeout
    return lambda: max(end - time.monotonic(), _LEAST_TIMEOUT)


def _limit(seen: _Held, timeout: float | None) -> float | None:
    del seen
    return timeout


def _number_seen(seen: _Held, timeout: float | None) -> int:
    del timeout
    return seen.number


def _no_token(error: Exception) -> UnauthorizedError:
    # Not what it says: that may be the token, or what the token is got with.
    return UnauthorizedError(f"no token to be had: the callable raised {type(error).__name__}")


def _too_late() -> RequestTimeoutError:
    return RequestTimeoutError(
        "no token in time; the request was never sent", never_sent=True, details=FOR_A_TOKEN
    )
