"""What HTTP itself refuses: methods, media types, lengths, and what is no HTTP at all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from llm_config_sdk.contract import ErrorCode

from .refusals import RefusedError

if TYPE_CHECKING:
    from llm_config_mock_server.messages import Request

    from .routing import Route
    from .visit import Handler

TOO_LARGE: Final = 413
_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.IGNORECASE)
_JSON_ACCEPTED: Final = re.compile(r"\*/\*|application/(?:\*|json)|application/[\w.-]+\+json", re.IGNORECASE)
_HEADS: Final = {
    400: "Bad Request",
    413: "Content Too Large",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
}


def protocol_refusal(status: int, reason: str) -> RefusedError:
    """Say that the HTTP itself is wrong (400, 413, 414, 431)."""
    message = f"{_HEADS.get(status, 'Bad Request')}: {reason}"
    return RefusedError(ErrorCode.INVALID_REQUEST, message, status=status, details={"reason": reason})


def check_length(request: Request, longest: int) -> None:
    """Hold a body to its limit, as far as the head tells its length.

    Raises:
        RefusedError: It is too long (413).
    """
    length = request.header("content-length")
    if length is not None and length.isdigit() and int(length) > longest:
        raise protocol_refusal(TOO_LARGE, f"the body may have {longest} bytes")


def check_content_type(request: Request, route: Route) -> None:
    """Hold a body to the type that its route reads.

    Raises:
        RefusedError: It is no JSON where JSON is read (415).
    """
    sent = request.header("content-type")
    if request.method in route.reads_json and not _JSON_TYPE.match(sent or ""):
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"Unsupported media type: {sent}"
            if sent
            else "Content-Type is missing: expected application/json",
            status=415,
            details={"header": "Content-Type", "expected": "application/json"},
        )


def check_accept(request: Request) -> None:
    """Hold a request to what this server answers in.

    Raises:
        RefusedError: It takes no JSON (406).
    """
    accept = request.header("accept")
    if accept is not None and accept.strip() and not _JSON_ACCEPTED.search(accept):
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"Not acceptable: this server answers in application/json, not in {accept}",
            status=406,
            details={"header": "Accept", "available": ["application/json"]},
        )


def handler_of(route: Route, request: Request) -> Handler:
    """Return what carries out the request's method.

    Raises:
        RefusedError: The route does not have it (405).
    """
    handler = route.handlers.get("GET" if request.method == "HEAD" else request.method)
    if handler is None:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"Method not allowed: {request.method} {request.path}",
            status=405,
            details={"route": route.name, "method": request.method},
            headers=(("allow", route.allow),),
        )
    return handler
