"""The console: one web page that shows the server at work and switches its faults.

Three files without a build step, served below `PATH`. They hold no data: what the page shows comes
from the admin interface.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Header

PATH: Final = "/console"
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_FILES: Final = {
    PATH: ("page.html", "text/html; charset=utf-8"),
    f"{PATH}/console.css": ("console.css", "text/css; charset=utf-8"),
    f"{PATH}/console.js": ("console.js", "text/javascript; charset=utf-8"),
    f"{PATH}/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, and the headers that it is sent with."""

    data: bytes
    headers: tuple[Header, ...]


@cache
def asset(path: str) -> Asset | None:
    """Return the file at a path, or `None`."""
    found = _FILES.get(path.removesuffix("/"))
    if found is None:
        return None
    name, content_type = found
    return Asset(
        (files(__name__) / name).read_bytes(),
        (
            ("content-type", content_type),
            ("cache-control", "no-cache"),
            ("content-security-policy", CONTENT_SECURITY_POLICY),
            ("referrer-policy", "no-referrer"),
        ),
    )
