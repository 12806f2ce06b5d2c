"""Views: how the interface shows requests and entries, without what must not be shown."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from llm_config_mock_server.messages import json_bytes
from llm_config_sdk.contract import REDACTED_PLACEHOLDER

if TYPE_CHECKING:
    from llm_config_mock_server.journal import Entry
    from llm_config_mock_server.storage import Address

VALUE_SHOWN_BYTES: Final = 4096  # of JSON; a longer value is told by its size


def request_body(entry: Entry) -> dict[str, Any]:
    """Say a request of the journal, without headers and bodies: those carry tokens and secrets."""
    return {
        "number": entry.number,
        "at": entry.at.rfc3339(),
        "method": entry.method,
        "path": entry.path,
        "query": entry.request.query,
        "namespace": entry.namespace,
        "key": entry.key,
        "env": entry.env,
        "request_id": entry.request_id,
        "status": entry.status,
        "code": entry.code,
        "fault": entry.fault,
        "outcome": entry.outcome,
        "is_done": entry.is_done,
    }


def stored_body(address: Address, stored: bytes | None) -> dict[str, Any]:
    """Say a stored record, broken or not; no secret is shown, and no long value."""
    shown: dict[str, Any] = {
        "namespace": address.namespace,
        "key": address.key,
        "environment": str(address.environment),
        "bytes": len(stored or b""),
    }
    try:
        record = cast("dict[str, Any]", json.loads(stored or b""))
        secret, value = bool(record["secret"]), record["value"]
        is_long = len(json_bytes(value)) > VALUE_SHOWN_BYTES
        return shown | {
            "version": record["version"],
            "secret": secret,
            "value": REDACTED_PLACEHOLDER if secret else None if is_long else value,
            "is_shortened": is_long and not secret,
            "updated_at": record["updated_at"],
            "updated_by": record["updated_by"],
            "is_broken": False,
        }
    except (ValueError, TypeError, KeyError, RecursionError):
        return shown | {"is_broken": True}
