"""The SDK's connections as transports of httpx: its requests in, its responses and its exceptions out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NoReturn

import httpx

from llm_config_sdk.errors import (
    ConnectFailedError,
    LLMConfigError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
)
from llm_config_sdk.transport.exchange import Endpoint, WireRequest, joined
from llm_config_sdk.transport.mapping import IN_LINE

if TYPE_CHECKING:
    from llm_config_sdk.decoding import Reply

_HOP_BY_HOP: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "accept-encoding", "connection"}
)


def from_httpx(request: httpx.Request, body: bytes) -> tuple[WireRequest, float | None]:
    """Read a request whose body has been read, and the longest of its timeouts."""
    url = request.url
    headers = joined(request.headers.raw)
    endpoint = Endpoint.parse(f"{url.scheme}://{url.netloc.decode('ascii')}")
    endpoint = replace(endpoint, authority=headers.get("host", endpoint.authority))
    kept = {name: value for name, value in headers.items() if name not in _HOP_BY_HOP}
    timeouts = list(request.extensions.get("timeout", {}).values())
    wire = WireRequest(request.method, endpoint, url.raw_path.decode("ascii"), kept, body or None)
    return wire, None if None in timeouts else max(timeouts, default=None)


_BODY_HEADERS: Final = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


def to_httpx(reply: Reply, request: httpx.Request) -> httpx.Response:
    """Write a response whose body is there, decompressed."""
    headers = [
        (name, value)
        for name, value in reply.raw_headers
        if name.lower() not in _BODY_HEADERS or request.method == "HEAD"
    ]
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
