"""Routing: the raw path, split at its slashes before anything is decoded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus, unquote_to_bytes

from llm_config_sdk.contract import API_PREFIX, HEALTH_PATH

from .words import INVALID_URL, NO_QUERY, RefusedError, text

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Request

_VERSION: Final = re.compile(r"\+?[0-9]+")
_VERSION_MAX: Final = 2**64 - 1  # the platform's u64
_PARAMETERS: Final = ("namespace", "key", "version")


@dataclass(frozen=True, slots=True)
class Route:
    """A path under `/api/v1`, or `/health`.

    Args:
        name: What it is called here.
        segments: Its segments; `None` stands for a parameter.
        allow: The header `Allow` of a 405.
    """

    name: str
    segments: tuple[str | None, ...]
    allow: str

    def arguments(self, segments: list[str]) -> list[str] | None:
        """Return the raw parameters, or `None` where the path is another.

        A parameter may be empty (`configs//key`) unless it comes last.
        """
        if len(segments) != len(self.segments) or not segments[-1]:
            return None
        pairs = list(zip(self.segments, segments, strict=True))
        if any(wanted is not None and wanted != given for wanted, given in pairs):
            return None
        return [given for wanted, given in pairs if wanted is None]

    def allows(self, method: str) -> bool:
        """Say whether the route has a method."""
        return method in self.allow.split(",")


_CONFIGS: Final = (*API_PREFIX.strip("/").split("/"), "configs")
HEALTH: Final = Route("health", (HEALTH_PATH.strip("/"),), "GET,HEAD")
LIST: Final = Route("list", (*_CONFIGS, None), "GET,HEAD")
ITEM: Final = Route("item", (*_CONFIGS, None, None), "GET,HEAD,POST,DELETE")
HISTORY: Final = Route("history", (*_CONFIGS, None, None, "history"), "GET,HEAD")
ROLLBACK: Final = Route("rollback", (*_CONFIGS, None, None, "rollback", None), "POST")
ROUTES: Final = (HEALTH, LIST, ITEM, HISTORY, ROLLBACK)


def find_route(path: str) -> tuple[Route, list[str]] | None:
    """Return the route of a raw path and its raw parameters, or `None`."""
    segments = path.split("/")[1:]
    for route in ROUTES:
        arguments = route.arguments(segments) if segments else None
        if arguments is not None:
            return route, arguments
    return None


def decode(raw: list[str]) -> list[str]:
    """Decode the parameters of a path.

    Raises:
        RefusedError: One of them is no UTF-8.
    """
    decoded: list[str] = []
    for name, segment in zip(_PARAMETERS, raw, strict=False):
        try:
            decoded.append(unquote_to_bytes(segment.encode("latin-1")).decode())
        except UnicodeDecodeError as error:
            raise RefusedError(text(400, f"{INVALID_URL}Invalid UTF-8 in `{name}`")) from error
    return decoded


def read_version(segment: str) -> int:
    """Read a version.

    Raises:
        RefusedError: It is no `u64`.
    """
    if not _VERSION.fullmatch(segment) or int(segment) > _VERSION_MAX:
        raise RefusedError(
            text(400, f'{INVALID_URL}Cannot parse value at index 2 with value `"{segment}"` to a `u64`')
        )
    return int(segment)


def read_query(request: Request, *, has_overrides: bool) -> str | None:
    """Return the environment's name that the query gives, or `None`.

    A query of more than one parameter has been refused before; `with_overrides` is read, and ignored.

    Raises:
        RefusedError: `with_overrides` is neither `true` nor `false`.
    """
    name, _, value = (unquote_plus(part) for part in request.query.partition("="))
    if has_overrides and name == "with_overrides" and value not in {"true", "false"}:
        raise RefusedError(text(400, f"{NO_QUERY}provided string was not `true` or `false`"))
    return value if name == "env" else None
