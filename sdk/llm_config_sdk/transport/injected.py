"""A client of the user's own, of either family, as a transport.

It is used through `send` alone, so its proxies, certificates, event hooks and mounted transports all work.
Its deadline is checked between the chunks of a body: a server that drips its *headers* can hold it longer,
for that is read inside the client.
"""

from __future__ import annotations

import time
from typing import Any

import anyio

from llm_config_sdk.decoding import Reply
from llm_config_sdk.errors import InvalidRequestError, LLMConfigError, RequestTimeoutError
from llm_config_sdk.transport.exchange import MAX_RESPONSE_BYTES, ReplyReader, WireRequest
from llm_config_sdk.transport.mapping import made_safe, map_error


class _Injected:
    """What the two have in common."""

    def __init__(self, client: Any, *, max_response_bytes: int = MAX_RESPONSE_BYTES) -> None:
        self._client = client
        self._max_response_bytes = max_response_bytes

    def _reader(self, response: Any) -> ReplyReader:
        return ReplyReader(response.status_code, response.headers.raw, max_bytes=self._max_response_bytes)


class InjectedTransport(_Injected):
    """Sends through an `httpx.Client` or `httpx2.Client`, which stays the caller's to close."""

    def __init__(self, client: Any, *, max_response_bytes: int = MAX_RESPONSE_BYTES) -> None:
        if not hasattr(client, "send") or not hasattr(client, "build_request") or hasattr(client, "aclose"):
            raise InvalidRequestError(
                f"http_client must be an httpx.Client or httpx2.Client, not {type(client).__name__}"
            )
        super().__init__(client, max_response_bytes=max_response_bytes)

    def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply. Raises as `StackTransport.send`."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
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
                made_safe(error)
                raise reader.failure from error
            return _reply_or_raise(error, request, timeout)

    def close(self) -> None:
        """Leave the client open: it is the caller's."""


class AsyncInjectedTransport(_Injected):
    """Sends through an `httpx.AsyncClient` or `httpx2.AsyncClient`, which stays the caller's to close."""

    def __init__(self, client: Any, *, max_response_bytes: int = MAX_RESPONSE_BYTES) -> None:
        if not all(hasattr(client, name) for name in ("send", "build_request", "aclose")):
            raise InvalidRequestError(
                f"http_client must be an httpx.AsyncClient or httpx2.AsyncClient, not {type(client).__name__}"
            )
        super().__init__(client, max_response_bytes=max_response_bytes)

    async def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once and read the whole reply. Raises as `StackTransport.send`."""
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
                raise reader.failure from error
            return _reply_or_raise(error, request, timeout)

    async def aclose(self) -> None:
        """Leave the client open: it is the caller's."""


def _read_already(response: Any) -> Reply:
    """Take a response that came with its body, as a mounted transport or a hook makes them."""
    body: bytes = response.content if response.is_stream_consumed else b""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status_code, headers, body)


def _options(request: WireRequest) -> dict[str, Any]:
    # The client's own auth stands in only where the SDK has no token: one Authorization header is enough.
    own_auth = {"auth": None} if "Authorization" in request.headers else {}
    return {"stream": True, "follow_redirects": False, **own_auth}


def _reply_or_raise(error: Exception, request: WireRequest, timeout: float | None) -> Reply:
    """Turn an error into ours; one that a hook of the client's made of a reply is that reply again."""
    response = getattr(error, "response", None) if type(error).__name__ == "HTTPStatusError" else None
    if response is not None:
        return _read_already(response)
    mapped = map_error(error, endpoint=request.endpoint.url, timeout=timeout)
    if mapped is None:
        raise error
    made_safe(error)
    raise mapped from error


def _build(client: Any, request: WireRequest, timeout: float | None) -> Any:
    headers = {**request.headers, "Accept-Encoding": "gzip"}
    return client.build_request(
        request.method, request.url, headers=headers, content=request.body, timeout=timeout
    )


def _check(give_up_at: float | None, timeout: float | None) -> None:
    if give_up_at is not None and time.monotonic() > give_up_at:
        raise RequestTimeoutError(f"timed out while reading the response (it had {timeout:.3g} s)")
