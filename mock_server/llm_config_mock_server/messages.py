"""What passes between the core and its hosts: a request and the time in, a reply and its delivery out.

Everything here is data. A host turns bytes into a `Request`, asks the core, and carries out the
`Outcome`; whatever a wire can suffer on the way is said by the `Delivery`.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from http import HTTPStatus
from typing import Any, Final, Protocol, Self, cast
from urllib.parse import parse_qs, unquote

from llm_config_sdk.contract import API_PREFIX, Environment

CONFIGS_PREFIX: Final = f"{API_PREFIX}/configs/"
NANOSECONDS: Final = 1_000_000_000  # a second

Header = tuple[str, str]

_JSON: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class At:
    """A moment, as a server sees it.

    Args:
        wall_ns: Nanoseconds since 1970-01-01 UTC.
        monotonic: Seconds of a clock that never goes back.
    """

    wall_ns: int
    monotonic: float

    @classmethod
    def now(cls) -> Self:
        """Read the machine's two clocks."""
        return cls(time.time_ns(), time.monotonic())

    @property
    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return self.wall_ns / NANOSECONDS

    def rfc3339(self, suffix: str = "+00:00") -> str:
        """Say this moment as the platform does: nine fractional digits and an offset."""
        seconds, nanoseconds = divmod(self.wall_ns, NANOSECONDS)
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}{suffix}"


@dataclass(frozen=True)
class Request:
    """One request, as it came: nothing is decoded that was not asked for.

    Args:
        method: The method, in upper case.
        target: The raw request target, query included.
        headers: Names and values in the order sent.
        body: The whole body; empty while only the head is there.
        peer: The client's address.
    """

    method: str
    target: str
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    peer: str = "127.0.0.1"

    def with_body(self, body: bytes) -> Request:
        """Return the same request, now that its body is there."""
        return replace(self, body=body) if body else self

    @cached_property
    def path(self) -> str:
        """The raw path, without the query."""
        return self.target.partition("?")[0]

    @cached_property
    def query(self) -> str:
        """The raw query, without its question mark."""
        return self.target.partition("?")[2]

    @cached_property
    def decoded_path(self) -> str:
        """The path for people and matchers: percent-decoded, slashes of a namespace included."""
        return unquote(self.path)

    @cached_property
    def parameters(self) -> dict[str, list[str]]:
        """The query's parameters, each with every value it was given."""
        return parse_qs(self.query, keep_blank_values=True)

    @cached_property
    def _headers(self) -> dict[str, str]:
        folded: dict[str, str] = {}
        for name, value in self.headers:
            lower = name.lower()
            folded[lower] = f"{folded[lower]}, {value}" if lower in folded else value
        return folded

    def header(self, name: str) -> str | None:
        """Return a header's value, repeated ones joined by commas, or `None`."""
        return self._headers.get(name.lower())

    @property
    def token(self) -> str | None:
        """The bearer token, or `None` where there is none (RFC 6750)."""
        scheme, _, token = (self.header("authorization") or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" and token.strip() else None

    @cached_property
    def _config(self) -> tuple[str | None, str | None]:
        if not self.path.startswith(CONFIGS_PREFIX):
            return None, None
        namespace, _, rest = self.path.removeprefix(CONFIGS_PREFIX).partition("/")
        key = rest.partition("/")[0]
        return unquote(namespace), unquote(key) if key else None

    @property
    def namespace(self) -> str | None:
        """The namespace that the path names, or `None`."""
        return self._config[0]

    @property
    def key(self) -> str | None:
        """The config's key that the path names, or `None`."""
        return self._config[1]

    @cached_property
    def environment(self) -> str | None:
        """The canonical environment that query or body names, as sent where it is unknown, or `None`."""
        named: Any = self.parameters.get("env", [None])[0]
        if named is None and self.body:
            try:
                body = json.loads(self.body)
            except (ValueError, RecursionError):
                return None
            named = cast("dict[str, Any]", body).get("env") if isinstance(body, dict) else None
        if not isinstance(named, str):
            return None
        try:
            return str(Environment.parse(named))
        except ValueError:
            return named


class Stream(Protocol):
    """A body that is made while it is sent, for as long as its client stays."""

    def next(self, at: At) -> bytes | Later | None:
        """Return the next piece, a wait before asking again, or `None` at the end."""
        ...

    def close(self) -> None:
        """Say that nobody reads any more, whether it has ended or not."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A response before it is put on a wire. The host adds `content-length`.

    Args:
        status: The HTTP status.
        headers: Names and values.
        body: The body; a host leaves it out for HEAD, 204 and 304.
        code: The error code that it carries, for the journal.
        stream: What is sent in place of `body`, in pieces of a length that nobody knows before.
    """

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    code: str | None = None
    stream: Stream | None = None

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or `None`."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def with_headers(self, *headers: Header) -> Reply:
        """Return a copy with these headers in place of any of the same names."""
        names = {name.lower() for name, _ in headers}
        kept = tuple(pair for pair in self.headers if pair[0].lower() not in names)
        return replace(self, headers=kept + headers)


def reason_phrase(status: int) -> str:
    """Return a status's reason phrase in the words of the platform, whichever Python this is (RFC 7231's)."""
    if status in _OLD_PHRASES:
        return _OLD_PHRASES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


_OLD_PHRASES: Final = {
    413: "Payload Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Entity",
}


def json_bytes(data: Any) -> bytes:
    """Serialise to compact JSON in UTF-8.

    Raises:
        ValueError: The data holds what JSON cannot say: NaN, an infinity or half a surrogate pair.
    """
    return _JSON.encode(data).encode()


def json_reply(status: int, data: Any, *headers: Header, code: str | None = None) -> Reply:
    """Make a reply with a JSON body."""
    return Reply(status, (("content-type", "application/json"), *headers), json_bytes(data), code)


class End(StrEnum):
    """What becomes of the connection after a reply."""

    KEEP = "keep"
    """What HTTP says: kept alive unless one side asked to close."""
    CLOSE = "close"
    """Closed without having been announced (a reply says `keep-alive`): a connection gone stale."""
    CLOSE_ON_REUSE = "close-on-reuse"
    """Kept, and closed unanswered when the next request arrives: a stale connection that loses the race."""
    HALF_CLOSE = "half-close"
    """The server's direction is closed, the client's is still read."""
    RESET = "reset"
    """Torn down with RST."""
    HANG = "hang"
    """Kept open and silent until the client goes or the server stops."""


@dataclass(frozen=True, slots=True)
class Drip:
    """How bytes trickle.

    Args:
        interval: Seconds between two pieces.
        size: Bytes in a piece.
    """

    interval: float
    size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How a reply travels.

    Args:
        delay: Seconds between the effect and the first byte.
        head: Drip of status line and headers, or `None` for all at once.
        body: Drip of the body, or `None` for all at once.
        cut_head: Bytes of the head that are sent; nothing follows them.
        cut_body: Bytes of the body that are sent, of all that the head promised.
        raw: Bytes sent instead of a reply.
        end: What becomes of the connection.
    """

    delay: float = 0.0
    head: Drip | None = None
    body: Drip | None = None
    cut_head: int | None = None
    cut_body: int | None = None
    raw: bytes | None = None
    end: End = End.KEEP


AS_USUAL: Final = Delivery()
"""Everything at once, and the connection kept."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the core decided: a reply (or none) and how it travels."""

    reply: Reply | None
    delivery: Delivery = field(default=AS_USUAL)


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing has happened yet: wait this many seconds and ask again."""

    seconds: float
