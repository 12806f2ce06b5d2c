"""`Idempotency-Key` of a caller: what it stands for, and what becomes of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from llm_config_mock_server.idempotency import KeyInUseError, KeyMismatchError
from llm_config_sdk.contract import IDEMPOTENCY_KEY_HEADER, ErrorCode

from .refusals import RefusedError

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call, Platform
    from llm_config_mock_server.messages import Reply, Request
    from llm_config_mock_server.rbac import Principal

    from .routing import Route


def idempotency_key(route: Route, request: Request, principal: Principal) -> tuple[str, str] | None:
    """Return the key that a request carries, or `None`: keys of different users are apart."""
    key = request.header(IDEMPOTENCY_KEY_HEADER)
    honoured = route.honours_idempotency_keys and request.method == "POST"
    return (principal.user, key) if key and honoured else None


def claim(platform: Platform, call: Call, route: Route, principal: Principal) -> Reply | None:
    """Take the key of a request, or return the reply of the request that had it.

    Raises:
        RefusedError: It stands for another request, or for one that still runs.
    """
    request = call.request
    key = idempotency_key(route, request, principal)
    if key is None:
        return None
    fingerprint = hashlib.sha256(b"\0".join((request.method.encode(), request.target.encode(), request.body)))
    try:
        return platform.idempotency.claim(key, fingerprint.hexdigest(), call.owner, call.at)
    except KeyMismatchError as error:
        raise RefusedError(
            ErrorCode.VALIDATION_ERROR,
            "The idempotency key was used for another request",
            details={"header": IDEMPOTENCY_KEY_HEADER, "reason": "reused"},
        ) from error
    except KeyInUseError as error:
        raise RefusedError(
            ErrorCode.CONFLICT,
            "A request with this idempotency key is still running",
            details={"header": IDEMPOTENCY_KEY_HEADER, "reason": "in_progress"},
        ) from error
