"""Refusals: requests to the interface that cannot be carried out, and which field is to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_config_sdk.contract import CODES, ErrorCode

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Header, Request


class RefusedError(Exception):
    """A request to the admin interface that cannot be carried out; says which field is to blame."""

    def __init__(
        self,
        message: str,
        field: str | None = None,
        *,
        code: ErrorCode = ErrorCode.VALIDATION_ERROR,
        status: int | None = None,
        headers: tuple[Header, ...] = (),
        **details: Any,
    ) -> None:
        """Remember what the envelope will say."""
        super().__init__(message)
        self.code = code
        self.status: int = CODES[code].status if status is None else status
        self.headers = headers
        self.details: dict[str, Any] = ({} if field is None else {"field": field}) | details


def no_route(request: Request) -> RefusedError:
    """Say that there is no such path."""
    return RefusedError(
        f"No such route: {request.method} {request.path}", code=ErrorCode.NOT_FOUND, route=request.path
    )


def no_method(request: Request, allow: str) -> RefusedError:
    """Say that a path has no such method."""
    return RefusedError(
        f"Method not allowed: {request.method} {request.path}",
        code=ErrorCode.INVALID_REQUEST,
        status=405,
        headers=(("allow", allow),),
        method=request.method,
    )
