"""Conditional requests (RFC 9110, section 13), in the guide's codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_config_sdk.contract import ErrorCode

from .refusals import RefusedError

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Request
    from llm_config_mock_server.store import Record


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",") if tag.strip()]


def is_current(request: Request, etag: str) -> bool:
    """Say whether the client has this version already."""
    header = request.header("if-none-match")
    return header is not None and any(tag == "*" or tag.removeprefix("W/") == etag for tag in _tags(header))


def check_preconditions(request: Request, before: Record | None) -> None:
    """Hold a write to its `If-Match` (an ETag, or a bare version) and `If-None-Match: *`.

    The guide has 409 CONFLICT where RFC 9110 has 412.
    """
    actual = (
        {"actual_version": before.version, "actual_etag": before.etag} if before else {"actual_version": None}
    )
    expected = request.header("if-match")
    if expected is not None:
        accepted = {"*", before.etag, str(before.version), f'"{before.version}"'} if before else set[str]()
        if accepted.isdisjoint(_tags(expected)):
            current = f"the current version is {before.version}" if before else "there is no such entry"
            raise RefusedError(
                ErrorCode.CONFLICT,
                f"Version conflict: expected {expected}, but {current}",
                details={"reason": "version_mismatch", "expected": expected, **actual},
            )
    if request.header("if-none-match") == "*" and before is not None:
        raise RefusedError(
            ErrorCode.CONFLICT,
            f"Version conflict: the entry exists already, at version {before.version}",
            details={"reason": "exists", **actual},
        )
