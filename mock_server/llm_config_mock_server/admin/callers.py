"""Callers: who may use the interface."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llm_config_mock_server.rbac import EVERYWHERE
from llm_config_sdk.contract import ErrorCode

from .refusals import RefusedError

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Request
    from llm_config_mock_server.rbac import Rbac


def check_caller(request: Request, rbac: Rbac, *, is_vouched_for: bool = False) -> None:
    """Let in the loopback and admins, and no page of another origin.

    Args:
        request: The request.
        rbac: Who is an admin.
        is_vouched_for: Whether something else stands for an admin's token.

    Raises:
        RefusedError: The caller is neither, or a page of another origin asks.
    """
    origin, host = request.header("origin"), request.header("host") or ""
    is_foreign = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if is_foreign or request.header("sec-fetch-site") in {"cross-site", "same-site"}:
        raise RefusedError(
            "The admin interface answers no pages of another origin",
            code=ErrorCode.PERMISSION_DENIED,
            header="Origin",
        )
    if is_vouched_for:
        return
    token = request.token
    principal = None if token is None else rbac.authenticate(token)
    if principal is not None and any(
        grant.role == "admin" and grant.scope == EVERYWHERE for grant in principal.grants
    ):
        return
    # A name that is not the loopback's, from the loopback: a page may have bent its name to here.
    if _is_loopback(request.peer) and _is_loopback_host(host):
        return
    raise RefusedError(
        "The admin interface is for the loopback, or for the token of an admin",
        code=ErrorCode.UNAUTHORIZED if token is None else ErrorCode.PERMISSION_DENIED,
        headers=(("www-authenticate", 'Bearer realm="admin"'),) if token is None else (),
    )


def _is_loopback(peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_loopback_host(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or _is_loopback(name)
