"""One exchange on the wire, in terms of no library: what is sent, and reading what comes back in bounds."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from urllib.parse import urlsplit

from llm_config_sdk.decoding import Reply
from llm_config_sdk.errors import InvalidRequestError, ResponseDecodeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_RESPONSE_BYTES: Final = 32 * 1024 * 1024
"""Bytes of a body, on the wire and after decompression: sixteen times what a server accepts as one value."""

_GZIP: Final = 16 + zlib.MAX_WBITS  # how zlib is told
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[0-9A-Za-z._~-]+|[0-9A-Fa-f:.]+")  # a name or IPv4 address, or an IPv6 address
_PATH: Final = re.compile(r"[!$-;=@-Z_a-z~]*")  # RFC 3986's characters of a path


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's base URL, taken apart once.

    Attributes:
        url: As it is shown and reported, without a trailing slash.
        scheme: `http` or `https`.
        host: Without brackets.
        port: Always a number.
        prefix: The path that the platform is mounted at, or the empty string.
        authority: What the Host header says.
    """

    url: str
    scheme: str
    host: str
    port: int
    prefix: str
    authority: str

    def __hash__(self) -> int:
        return hash(self.url)  # which says all that the others say, and whose hash is known

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read a base URL.

        Raises:
            InvalidRequestError: It is no http(s) URL, or it has credentials, a query or a fragment.
        """
        text = str(url).strip()
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidRequestError(f"the base URL cannot be read: {error}") from None
        if parts.username is not None or parts.password is not None:
            raise InvalidRequestError("the base URL must not carry credentials: pass token=… instead")
        host = _ascii_host(parts.hostname or "")
        if parts.scheme not in _DEFAULT_PORTS or host is None:
            raise InvalidRequestError("the base URL must begin with http:// or https:// and a host")
        if "?" in text or "#" in text or not _PATH.fullmatch(parts.path) or not text.isprintable():
            raise InvalidRequestError(
                f"the base URL must be scheme, host and path alone, as in {parts.scheme}://{host}"
            )
        shown = f"[{host}]" if ":" in host else host
        default = _DEFAULT_PORTS[parts.scheme]
        authority = shown if port in {None, default} else f"{shown}:{port}"
        prefix = parts.path.rstrip("/")
        return cls(
            f"{parts.scheme}://{authority}{prefix}", parts.scheme, host, port or default, prefix, authority
        )

    @property
    def host_and_port(self) -> str:
        """Where it is, in full (RFC 9112, section 3.2.3)."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _ascii_host(host: str) -> str | None:
    """Write a host the way it goes over the wire; `None` where it is none."""
    try:
        ascii_host = host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        return None
    return ascii_host if _HOST.fullmatch(ascii_host) else None


@dataclass(slots=True)
class WireRequest:
    """What goes over the wire, but for what the connection adds (Host, lengths).

    Attributes:
        method: The HTTP method.
        endpoint: Where to.
        target: Path and query below the endpoint's prefix, percent-encoded.
        headers: Names and values; never in `repr`, for one of them is the token.
        body: The body, or `None`.
    """

    method: str
    endpoint: Endpoint
    target: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The whole URL."""
        return f"{self.endpoint.url}{self.target}"


class Transport(Protocol):
    """What the sync client sends through."""

    def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once, and read the whole reply, within `timeout` seconds.

        Raises:
            TransportError: No usable answer came.
        """
        ...

    def close(self) -> None:
        """Close what this transport opened."""
        ...


class AsyncTransport(Protocol):
    """What the async client sends through; as `Transport`."""

    async def send(self, request: WireRequest, timeout: float | None) -> Reply:
        """Send once, and read the whole reply, within `timeout` seconds."""
        ...

    async def aclose(self) -> None:
        """Close what this transport opened."""
        ...


class ReplyReader:
    """Puts a reply together from its chunks: decompressed, and never larger than it may be.

    What is wrong is remembered and raised by `reply`: whoever reads has a stream to bring to its end first.

    Args:
        status: The HTTP status.
        headers: Raw names and values, in any case.
        max_bytes: The most bytes of body, on the wire and after decompression.

    Attributes:
        failure: What makes the reply unreadable, as far as it is known.
    """

    def __init__(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, max_bytes: int) -> None:
        self.failure: ResponseDecodeError | None = None
        self._status = status
        self._raw_headers = tuple(headers)
        self._headers = joined(self._raw_headers)
        self._max_bytes = max_bytes
        self._body = bytearray()  # no list of pieces: each costs more than it holds, where they are small
        self._on_wire = 0
        encoding = self._headers.get("content-encoding", "identity").strip().lower()
        self._gunzip = zlib.decompressobj(_GZIP) if encoding in {"gzip", "x-gzip"} else None
        if self._gunzip is None and encoding not in {"", "identity"}:
            self._fail(f"it is encoded as {encoding[:40]!r}, which was not asked for")

    def feed(self, chunk: bytes) -> bool:
        """Take the next bytes from the wire; say whether more are wanted."""
        if self.failure is not None:
            return False
        self._on_wire += len(chunk)
        if self._on_wire > self._max_bytes:
            return self._fail(f"it is larger than {self._max_bytes} bytes")
        if self._gunzip is not None:
            try:
                chunk = self._unpacked(chunk, self._gunzip)
            except zlib.error as error:  # without its frames: they hold the bytes
                return self._fail("its gzip encoding is broken", error.with_traceback(None))
        self._body += chunk
        if len(self._body) > self._max_bytes:
            return self._fail(f"it unpacks to more than {self._max_bytes} bytes")
        return True

    def _unpacked(self, chunk: bytes, gunzip: Any) -> bytes:
        """Decompress, member by member (RFC 1952, section 2.2), one byte more than allowed at most."""
        most = self._max_bytes - len(self._body) + 1
        unpacked: bytes = gunzip.decompress(chunk, most)
        while gunzip.eof and gunzip.unused_data and len(unpacked) < most:
            rest = gunzip.unused_data
            self._gunzip = gunzip = zlib.decompressobj(_GZIP)
            unpacked += gunzip.decompress(rest, most - len(unpacked))
        return unpacked

    def reply(self) -> Reply:
        """Finish.

        Raises:
            ResponseDecodeError: The body is too large, or not what the headers say.
        """
        if self.failure is None and self._gunzip is not None and self._on_wire and not self._gunzip.eof:
            self._fail("its gzip encoding is cut off")
        if self.failure is not None:
            raise self.take_failure()
        return Reply(self._status, self._headers, bytes(self._body), self._raw_headers)

    def take_failure(self) -> ResponseDecodeError:
        """Give away the failure, of which there is one: its traceback will lead here, so it is not kept."""
        failure, self.failure = self.failure, None
        return cast("ResponseDecodeError", failure)

    def _fail(self, what: str, cause: Exception | None = None) -> bool:
        self._body.clear()
        self.failure = ResponseDecodeError(f"cannot read the body of an HTTP {self._status} response: {what}")
        self.failure.__cause__ = cause
        return False


def joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Read raw headers: names in lower case, the values of one name together (RFC 9110, section 5.3)."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def wire_headers(request: WireRequest) -> list[tuple[bytes, bytes]]:
    """Write the headers for a connection that adds none itself."""
    headers = [(b"Host", request.endpoint.authority.encode()), (b"Accept-Encoding", b"gzip")]
    headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()]
    if request.body is not None:
        headers.append((b"Content-Length", str(len(request.body)).encode()))
    elif request.method in {"POST", "PUT", "PATCH"}:
        headers.append((b"Content-Length", b"0"))
    return headers
