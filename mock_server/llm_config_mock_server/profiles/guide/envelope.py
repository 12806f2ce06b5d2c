"""The guide's error format: one envelope on every error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_config_mock_server.messages import Header, Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_config_mock_server.core import Call
    from llm_config_sdk.contract import ErrorEnvelope

    from .refusals import RefusedError


def refusal_reply(error: RefusedError, call: Call) -> Reply:
    """Say a refusal."""
    return envelope(
        error.status,
        str(error.code),
        error.message,
        error.details,
        call,
        retriable=error.retriable,
        headers=error.headers,
    )


def envelope(
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any],
    call: Call,
    *,
    retriable: bool,
    headers: tuple[Header, ...] = (),
) -> Reply:
    """Put an error into the envelope."""
    body: ErrorEnvelope = {
        "error": {
            "code": code,
            "message": message,
            "details": dict(details),
            "timestamp": call.at.rfc3339("Z"),
            "request_id": call.request_id,
            "retriable": retriable,
        }
    }
    return json_reply(status, body, *headers, code=code)
