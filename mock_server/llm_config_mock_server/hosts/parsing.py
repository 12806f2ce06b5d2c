"""What a server's HTTP parser takes and what it refuses: facts and pure functions, one set a profile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Request

HEAD_END: Final = b"\r\n\r\n"
_BAD_REQUEST: Final = 400
_TARGET_TOO_LONG: Final = 414
_HEADERS_TOO_LARGE: Final = 431
_FIRST_HIGH_BYTE: Final = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsing:
    """What a parser takes.

    Args:
        target_max_bytes: The longest request target, else 414.
        headers_max_count: The most headers, else 431.
        headers_max_bytes: The most bytes of all headers together, else 431; our choice.
        path_bytes: What a path may consist of, else 400; `None` for every visible ASCII character.
        needs_host: Whether a request of HTTP/1.1 must carry `Host`, else 400.
    """

    target_max_bytes: int = 65_534
    headers_max_count: int = 100
    headers_max_bytes: int = 65_536
    path_bytes: frozenset[int] | None = None
    needs_host: bool = True

    @property
    def is_lenient(self) -> bool:
        """Whether heads have to be softened before a strict parser reads them."""
        return not self.needs_host


STRICT: Final = Parsing()
UPSTREAM: Final = Parsing(
    path_bytes=frozenset(b'!="{|}~')
    | frozenset(range(ord("$"), ord(";") + 1))
    | frozenset(range(ord("@"), ord("_") + 1))
    | frozenset(range(ord("a"), ord("z") + 1))
    | frozenset(range(_FIRST_HIGH_BYTE, 256)),
    needs_host=False,
)
"""The platform's published server: raw bytes above ASCII pass in a path, `<` and `>` do not."""

_BY_PROFILE: Final = {"upstream-0.5": UPSTREAM}


def parsing_of(profile: str) -> Parsing:
    """Return how the server of a profile parses."""
    return _BY_PROFILE.get(profile, STRICT)


def head_problem(request: Request, parsing: Parsing) -> tuple[int, str] | None:
    """Return status and reason where a parser refuses a head, or `None`."""
    longest = parsing.target_max_bytes
    if len(request.target) > longest:
        return _TARGET_TOO_LONG, f"a target may have {longest} bytes"
    if len(request.headers) > parsing.headers_max_count:
        return _HEADERS_TOO_LARGE, f"there may be {parsing.headers_max_count} headers"
    if sum(len(name) + len(value) for name, value in request.headers) > parsing.headers_max_bytes:
        return _HEADERS_TOO_LARGE, f"headers may have {parsing.headers_max_bytes} bytes"
    allowed = parsing.path_bytes
    if allowed is not None and not allowed.issuperset(request.path.encode("latin-1")):
        return _BAD_REQUEST, "the path holds a byte that may not stand there"
    return None


@dataclass(frozen=True, slots=True)
class Softened:
    """A head that a strict parser reads, and what was put aside for that.

    Args:
        head: The head to parse.
        target: The target that was really asked for, where a strict parser would refuse its bytes.
        added_host: Whether the `Host` was put there by us.
    """

    head: bytes
    target: str | None = None
    added_host: bool = False

    def restored(self, request: Request) -> Request:
        """Return a request as it was sent."""
        if self.target is not None:
            request = replace(request, target=self.target)
        if self.added_host:
            request = replace(
                request, headers=tuple(pair for pair in request.headers if pair[0].lower() != "host")
            )
        return request


def soften(head: bytes) -> Softened:
    """Make a head readable to a strict parser: a `Host` where there is none, ASCII in its target."""
    line, separator, rest = head.partition(b"\r\n")
    added_host = b"\r\nhost:" not in (separator + rest).lower()
    if added_host:
        rest = b"Host: \r\n" + rest
    target: str | None = None
    words = line.split(b" ")
    if len(words) == 3 and max(words[1], default=0) >= _FIRST_HIGH_BYTE:  # noqa: PLR2004 - method, target, version
        target = words[1].decode("latin-1")
        line = b" ".join((words[0], b"/", words[2]))
    return Softened(line + separator + rest, target, added_host)
