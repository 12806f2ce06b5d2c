"""Routing: paths split at their slashes before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from llm_config_sdk.contract import API_PREFIX, ROUTE_DETAIL, ErrorCode

from .refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llm_config_mock_server.messages import Request

    from .visit import Handler

API: Final = tuple(API_PREFIX.strip("/").split("/"))
POST: Final = frozenset({"POST"})
PUT: Final = frozenset({"PUT"})


@dataclass(frozen=True, slots=True)
class Route:
    """A path, split at its slashes (`None` stands for any segment), and its handlers by method.

    Args:
        name: What it is about.
        segments: The path.
        handlers: What carries a request out, by method.
        reads_json: The methods whose requests have a body of JSON.
        honours_idempotency_keys: Whether a POST under an `Idempotency-Key` has its reply kept. Not where
            repeating it changes nothing, and its reply is a secret that must lie nowhere.
    """

    name: str
    segments: tuple[str | None, ...]
    handlers: Mapping[str, Handler]
    reads_json: frozenset[str] = frozenset()
    honours_idempotency_keys: bool = True

    def arguments(self, segments: list[str]) -> list[str] | None:
        """Return the raw segments that fill the gaps, or `None` where the path is another."""
        if len(segments) != len(self.segments):
            return None
        pairs = list(zip(self.segments, segments, strict=True))
        if any(wanted is not None and wanted != given for wanted, given in pairs):
            return None
        return [given for wanted, given in pairs if wanted is None]

    @property
    def allow(self) -> str:
        """The header `Allow`."""
        return ", ".join(
            ["GET", "HEAD", *sorted(self.handlers.keys() - {"GET"})]
            if "GET" in self.handlers
            else sorted(self.handlers)
        )


def find_route(routes: Iterable[Route], request: Request) -> tuple[Route, list[str]]:
    """Return the route of a path and the raw segments that fill its gaps.

    Raises:
        RefusedError: There is none.
    """
    segments = request.path.split("/")[1:]
    for route in routes:
        arguments = route.arguments(segments)
        if arguments is not None:
            return route, arguments
    # No `module`: a route that does not exist is a wrong base URL, not a config that is not there.
    raise RefusedError(
        ErrorCode.NOT_FOUND,
        f"No such route: {request.method} {request.path}",
        details={ROUTE_DETAIL: request.path},
    )


def decode(segment: str) -> str:
    """Decode one segment of a path.

    Raises:
        RefusedError: It is no UTF-8.
    """
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST, "Invalid URL: the path is no UTF-8", details={"segment": segment}
        ) from error
