"""Which proxy leads to a server, by the environment's word."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import unquote, urlsplit

from llm_config_sdk.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_config_sdk.transport.exchange import Endpoint

# Typed nowhere; unlike `proxy_bypass`, it asks no desktop for its settings.
_bypassed: Final = cast(
    "Callable[[str, dict[str, str]], bool]", vars(urllib.request)["proxy_bypass_environment"]
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        url: Scheme, host and port.
        auth: User and password, where the environment gives them; never in `repr`.
        is_tls: Whether it is spoken to by TLS.
    """

    url: str
    auth: tuple[str, str] | None = field(repr=False)
    is_tls: bool


def proxy_for(endpoint: Endpoint, environment: Mapping[str, str]) -> Proxy | None:
    """Choose the proxy for a server.

    Args:
        endpoint: The server.
        environment: Proxies by scheme, with `all` and `no`, as `urllib.request.getproxies_environment` reads
            them.

    Raises:
        InvalidRequestError: The proxy cannot be used. Its URL is not shown, for it may hold a password.
    """
    named = environment.get(endpoint.scheme) or environment.get("all")
    if not named:
        return None
    if _bypassed(f"{endpoint.host}:{endpoint.port}", dict(environment)):
        return None
    try:
        parts = urlsplit(named if "://" in named else f"http://{named}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if host is None or parts.scheme not in {"http", "https"}:
        raise InvalidRequestError(
            f"the environment's proxy for {endpoint.scheme}:// cannot be used: it must be http:// or "
            "https:// with a host; pass http_client=… for a SOCKS proxy, or trust_env=False for none"
        )
    shown = f"[{host}]" if ":" in host else host
    auth = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    default = 443 if parts.scheme == "https" else 80
    return Proxy(f"{parts.scheme}://{shown}:{port or default}", auth, parts.scheme == "https")
