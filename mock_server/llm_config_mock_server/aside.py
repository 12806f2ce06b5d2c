"""What the server answers beside the platform: its OpenAPI document, the admin interface, the console."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from llm_config_sdk.contract import REQUEST_ID_HEADER

from . import console, openapi
from .admin import Admin
from .messages import Reply, json_bytes

if TYPE_CHECKING:
    from .core import Aside as Answerer, Call, Core
    from .messages import Request
    from .server import MockServer

_READS: Final = frozenset({"GET", "HEAD"})


class Aside:
    """Finds what answers a request that is about the server itself.

    Args:
        server: The server.
        core: Its core.
        admin: Whether there are an admin interface and a console.
    """

    def __init__(self, server: MockServer, core: Core, *, admin: bool) -> None:
        """Put together what there is."""
        self._profile = core.profile.name
        self._admin = Admin(server, core) if admin else None

    def answerer(self, request: Request) -> Answerer | None:
        """Return what answers a request, or `None` for a request to the platform."""
        if request.path == openapi.PATH and self._profile == openapi.PROFILE and request.method in _READS:
            return _document
        if self._admin is None:
            return None
        if request.method in _READS and console.asset(request.path) is not None:
            return _console
        return self._admin.answerer(request)


def _document(call: Call) -> Reply:
    headers = (("content-type", "application/json"), ("cache-control", "no-cache"))
    return _dated(Reply(200, headers, json_bytes(openapi.document())), call)


def _console(call: Call) -> Reply:
    asset = console.asset(call.request.path)
    if asset is None:
        raise LookupError(call.request.path)
    return _dated(Reply(200, asset.headers, asset.data), call)


def _dated(reply: Reply, call: Call) -> Reply:
    return reply.with_headers(
        (REQUEST_ID_HEADER.lower(), call.request_id),
        ("date", formatdate(call.at.wall, usegmt=True)),
        ("x-content-type-options", "nosniff"),
    )
