"""The SDK's connections as transports of httpx: its requests in, its responses and its exceptions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import httpx

from llm_config_sdk.errors import (
    ConnectFailedError,
    LLMConfigError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
)
from llm_config_sdk.transport.exchange import Endpoint, WireRequest
from llm_config_sdk.transport.mapping import IN_LINE

if TYPE_CHECKING:
    from llm_config_sdk.decoding import Reply

_HOP_BY_HOP: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "accept-encoding", "connection"}
)


def from_httpx(request: httpx.Request, body: bytes) -> tuple[WireRequest, float | None]:
    """Read a request whose body has been read, and the longest of its timeouts."""
    url = request.url
    endpoint = Endpoint.parse(f"{url.scheme}://{url.netloc.decode('ascii')}")
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
    timeouts = [seconds for seconds in request.extensions.get("timeout", {}).values() if seconds is not None]
    wire = WireRequest(request.method, endpoint, url.raw_path.decode("ascii"), headers, body or None)
    return wire, max(timeouts, default=None)


_BODY_HEADERS: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})


def to_httpx(reply: Reply, request: httpx.Request) -> httpx.Response:
    """Write a response whose body is there, decompressed."""
    headers = {name: value for name, value in reply.headers.items() if name not in _BODY_HEADERS}
    return httpx.Response(reply.status, headers=headers, content=reply.body, request=request)


def raise_for_httpx(error: LLMConfigError, request: httpx.Request) -> NoReturn:
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
