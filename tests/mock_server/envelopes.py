"""Checks of the guide's envelope, shared by the tests of its routes."""

from datetime import datetime

import httpx


def error_of(reply: httpx.Response, status: int, code: str) -> dict:
    """Check that a reply is the guide's envelope, whole, and return what it holds."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    error = reply.json()["error"]
    assert set(error) == {"code", "message", "details", "timestamp", "request_id", "retriable"}
    assert error["code"] == code
    assert error["request_id"] == reply.headers["x-request-id"]
    assert datetime.fromisoformat(error["timestamp"]).tzinfo is not None
    assert isinstance(error["retriable"], bool)
    return error


def variant_of(reply: httpx.Response, status: int, code: str, module: str, variant: str) -> dict:
    """Check that a reply is the envelope of a variant, and return its details."""
    details = error_of(reply, status, code)["details"]
    assert (details["module"], details["variant"]) == (module, variant)
    return details
