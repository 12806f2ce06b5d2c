"""From whatever an HTTP library raises to this SDK's errors.

httpx, httpx2, httpcore, httpcore2 and h11 use the same names for the same things, so the table is by name:
neither family has to be imported to understand it.
"""

from __future__ import annotations

import os
import ssl
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, cast

from llm_config_sdk.errors import (
    ConnectFailedError,
    InvalidRequestError,
    LLMConfigError,
    RequestTimeoutError,
    ResponseDecodeError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from llm_config_sdk.hints import TlsRefusal

_CONNECT: Final = "connecting"
_SEND: Final = "sending the request"
_READ: Final = "reading the response"
_WAIT: Final = "waiting for a connection"

_Row = tuple[type[LLMConfigError], str, bool]
"""The class it becomes, the phase it happened in, and whether the request provably never left."""

_BY_NAME: Final[dict[str, _Row]] = {
    "ConnectTimeout": (RequestTimeoutError, _CONNECT, True),
    "ReadTimeout": (RequestTimeoutError, _READ, False),
    "WriteTimeout": (RequestTimeoutError, _SEND, False),
    "PoolTimeout": (RequestTimeoutError, _WAIT, True),
    "TimeoutException": (RequestTimeoutError, "waiting", False),
    "ConnectError": (ConnectFailedError, _CONNECT, True),
    "ProxyError": (ConnectFailedError, "connecting through the proxy", True),
    "ReadError": (TransportError, _READ, False),
    "WriteError": (TransportError, _SEND, False),
    "CloseError": (TransportError, "closing the connection", False),
    "NetworkError": (TransportError, "talking to the server", False),
    "RemoteProtocolError": (TransportError, _READ, False),
    "ProtocolError": (TransportError, "talking to the server", False),
    "ConnectionNotAvailable": (TransportError, _WAIT, True),
    "DecodingError": (ResponseDecodeError, _READ, False),
    "TooManyRedirects": (InvalidRequestError, "following redirects", False),
    "UnsupportedProtocol": (InvalidRequestError, _CONNECT, True),
    "LocalProtocolError": (InvalidRequestError, _SEND, True),
    "InvalidURL": (InvalidRequestError, _SEND, True),
    "CookieConflict": (InvalidRequestError, _SEND, True),
    "StreamError": (TransportError, _READ, False),
    "TransportError": (TransportError, "talking to the server", False),
    "RequestError": (TransportError, "talking to the server", False),
    "HTTPError": (TransportError, "talking to the server", False),
    # Raw errors, from transports that a user mounts: sockets, TLS, anyio.
    "ConnectionRefusedError": (ConnectFailedError, _CONNECT, True),
    "gaierror": (ConnectFailedError, "looking up the host", True),
    "SSLError": (ConnectFailedError, "in the TLS handshake", False),
    "TimeoutError": (RequestTimeoutError, "waiting", False),
    "OSError": (TransportError, "talking to the server", False),
    "EndOfStream": (TransportError, _READ, False),
    "BrokenResourceError": (TransportError, "talking to the server", False),
    "ClosedResourceError": (TransportError, "talking to the server", False),
}
_LIBRARIES: Final = frozenset(
    {"httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio", "builtins", "socket", "ssl"}
)
_QUOTED: Final = ": bytearray("  # as h11 quotes what it cannot read
_OF_THE_WIRE: Final = frozenset(
    f"{__package__}.{name}"
    for name in ("anyio_stream", "connection", "deadline", "dialing", "http11", "lookups", "socket_stream")
)
_FRAMES_OF: Final = _LIBRARIES - {"builtins"} | {"asyncio", "contextlib", "outcome", "trio"}
_CAUSES_FOLLOWED: Final = 16  # errors of a chain, groups and all, in search of what is behind them


def map_error(
    error: Exception, *, endpoint: str, timeout: float | None = None, outside: BaseException | None = None
) -> LLMConfigError | None:
    """Turn a library's exception into ours.

    Args:
        error: What the library raised.
        endpoint: The base URL that was asked.
        timeout: Seconds that the exchange had, for the message of a timeout.
        outside: What the caller was handling when the exchange began: Python names it as the context of what
            happens meanwhile, and it has nothing to do with that.

    Returns:
        The error to raise `from` it, or `None` where it is not an HTTP library's at all.
    """
    row = _row_for(error)
    if row is None:
        return None
    cls, phase, never_sent = row
    facts: dict[str, Any] = {"endpoint": endpoint}
    if cls is RequestTimeoutError and phase is _WAIT:
        return timed_out_in_line(endpoint, timeout)
    if phase is _WAIT:
        facts["details"] = IN_LINE
    if issubclass(cls, TransportError):
        facts["never_sent"] = never_sent
    if issubclass(cls, RequestTimeoutError):
        allowed = f" (it had {timeout:.3g} s)" if timeout is not None else ""
        return cls(f"timed out while {phase}{allowed}", **facts)
    refused = _tls_refusal(error, outside)
    if refused is not None and (cls is ConnectFailedError or refused[0] == "client_certificate"):
        reason, told = refused
        return ConnectFailedError(told, endpoint=endpoint, details={"tls": reason})
    said = _reason(error, outside) or _unquoted(str(error)) or type(error).__name__
    return cls(f"failed while {phase}: {said}", **facts)


def timed_out_in_line(endpoint: str, timeout: float | None) -> RequestTimeoutError:
    """Say that no connection became free in time.

    Args:
        endpoint: The base URL that was to be asked.
        timeout: Seconds that the exchange had.
    """
    waited = "" if timeout is None else f" {timeout:.3g} s"
    return RequestTimeoutError(
        f"waited{waited} for a free connection, in vain; the request was never sent",
        never_sent=True,
        details=IN_LINE,
        endpoint=endpoint,
    )


IN_LINE: Final = {"phase": _WAIT}
"""Details of an error that happened before any endpoint was asked."""
FOR_A_TOKEN: Final = {"phase": "waiting for a token"}
"""The same, where no connection was what was wanting."""


def waited_in_line(error: Exception) -> bool:
    """Whether no connection became free, or no token came: nothing was sent, and no endpoint is to blame."""
    phases = IN_LINE["phase"], FOR_A_TOKEN["phase"]
    return isinstance(error, TransportError) and error.details.get("phase") in phases


def _row_for(error: Exception) -> _Row | None:
    for ancestor in type(error).__mro__:
        if ancestor.__module__.partition(".")[0] in _LIBRARIES and ancestor.__name__ in _BY_NAME:
            return _BY_NAME[ancestor.__name__]
    if isinstance(error, RuntimeError) and "closed" in str(error):
        return InvalidRequestError, "using a client that is closed", True
    return None


def _tls_refusal(error: BaseException, outside: BaseException | None) -> tuple[TlsRefusal, str] | None:
    """Say why one of the two sides does not go on with the other by TLS; `None` where that is not the matter.

    In the handshake nothing was sent. Behind it only the want of a certificate says that nothing was
    received: TLS 1.3 asks for one while the request is on its way, and who has none is refused unread.
    """
    for cause in _causes(error, outside):
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = _VERIFY_REASONS.get(getattr(cause, "verify_code", 0), "untrusted")
            return reason, f"the server's TLS certificate is not accepted: {cause.verify_message}"
        alert = str(getattr(cause, "reason", "")) if isinstance(cause, ssl.SSLError) else ""
        if alert in _ALERT_REASONS:
            reason = _ALERT_REASONS[alert]
            return reason, f"{_TLS_WORDS[reason]} ({alert.replace('_', ' ').lower()})"
    return None


# What OpenSSL says of a certificate (X509_V_ERR_…), and of how a handshake ended.
_VERIFY_REASONS: Final[Mapping[int, TlsRefusal]] = {
    9: "not_yet_valid",
    10: "expired",
    62: "hostname",
    64: "hostname",
}
_ALERT_REASONS: Final[Mapping[str, TlsRefusal]] = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "client_certificate",
    "TLSV1_ALERT_UNKNOWN_CA": "client_certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "client_certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "client_certificate",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "client_certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "client_certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "handshake",
    "TLSV1_ALERT_PROTOCOL_VERSION": "version",
    "UNSUPPORTED_PROTOCOL": "version",
    "NO_PROTOCOLS_AVAILABLE": "version",
    "WRONG_VERSION_NUMBER": "no_tls",
    "HTTP_REQUEST": "no_tls",
    "PACKET_LENGTH_TOO_LONG": "no_tls",
}
_TLS_WORDS: Final[Mapping[TlsRefusal, str]] = {
    "client_certificate": "the server does not accept this client's certificate, or misses one",
    "handshake": "the server broke the TLS handshake off",
    "version": "client and server have no version of TLS in common",
    "no_tls": "the server does not speak TLS on this port",
}


def _reason(error: BaseException, outside: BaseException | None) -> str:
    """Say what the operating system said: the async libraries tell of attempts, and not of the reason."""
    reasons: dict[str, None] = {}
    for cause in _causes(error, outside):
        if isinstance(cause, ssl.SSLError):  # it counts in numbers of its own
            return ""
        if isinstance(cause, OSError) and cause.errno is not None:
            # asyncio has words of its own for a system error; those for a look-up's are below zero.
            told = f"[Errno {cause.errno}] {os.strerror(cause.errno)}" if cause.errno > 0 else str(cause)
            reasons[told] = None
    return "; ".join(reasons)


def made_safe(error: BaseException, outside: BaseException | None = None) -> None:
    """Take out of an error, and of those behind it, what may hold a token or a value.

    That is what h11 quotes of an answer that is no HTTP, and the frames that handle bytes, here and in the
    libraries: they say nothing to a caller, and their locals hold what was sent, which crash reporters pass
    on. The frames of a caller's own hooks and transports stay.
    """
    for each in _causes(error, outside):
        each.__traceback__ = _own_frames(each.__traceback__)
        each.args = tuple(_unquoted(part) if isinstance(part, str) else part for part in each.args)


def _unquoted(text: str) -> str:
    return text.partition(_QUOTED)[0]


def _own_frames(traceback: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if name not in _OF_THE_WIRE and name.partition(".")[0] not in _FRAMES_OF:
            kept.append(traceback)
        traceback = traceback.tb_next
    for frame, following in pairwise([*kept, None]):
        if frame is not None:
            frame.tb_next = following
    return kept[0] if kept else None


def _causes(error: BaseException, outside: BaseException | None) -> Iterator[BaseException]:
    """Walk an error and what is behind it, causes, contexts, the members of groups, up to what is outside."""
    waiting, seen = [error], {id(outside)}
    while waiting and len(seen) < _CAUSES_FOLLOWED:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        behind = found.__cause__ or (None if _hides_its_context(found) else found.__context__)
        if isinstance(found, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", found).exceptions
        if behind is not None:
            waiting.append(behind)


def _hides_its_context(error: BaseException) -> bool:
    # httpcore's pool raises again "from None" what its connection had raised from the system's own error.
    return error.__suppress_context__ and not type(error).__module__.startswith("httpcore")
