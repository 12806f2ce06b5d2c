"""Bodies: JSON in, and its fields by type."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn

from llm_config_mock_server.messages import json_bytes
from llm_config_sdk.contract import ErrorCode

from .refusals import RefusedError, config_error

if TYPE_CHECKING:
    from collections.abc import Mapping


def parse_json(body: bytes) -> Any:
    """Decode a JSON body.

    Raises:
        RefusedError: It is no JSON (400), or JSON that no value can be made of.
    """
    try:
        data = json.loads(body, parse_constant=_no_constant)
        json_bytes(data)
    except (ValueError, RecursionError) as error:
        message = f"Malformed JSON in the body: {error}"
        raise RefusedError(ErrorCode.INVALID_REQUEST, message, details={"field": "body"}) from error
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def json_type(value: object) -> str:
    """Name a JSON value's type for people."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def optional(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """Return a field of a body, or its default where it is missing or null.

    Raises:
        RefusedError: It has another type (`config.ValidationError`).
    """
    value = body.get(name, default)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise config_error("ValidationError", f"{name} must not be {json_type(value)}", field=name)
    return value
