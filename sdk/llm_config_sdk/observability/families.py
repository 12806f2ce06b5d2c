"""Ten families of errors: the `error_type` of the guide's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.errors import (
    AllEndpointsFailedError,
    LLMConfigError,
    ResponseDecodeError,
    ServiceCircuitOpenError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ErrorType: TypeAlias = Literal[
    "validation",
    "not_found",
    "permission",
    "rate_limit",
    "storage",
    "crypto",
    "unavailable",
    "internal",
    "transport",
    "decode",
]
ERROR_TYPES: Final[tuple[ErrorType, ...]] = get_args(ErrorType)

_BY_CODE: Final[Mapping[str, ErrorType]] = {
    ErrorCode.INVALID_REQUEST: "validation",
    ErrorCode.VALIDATION_ERROR: "validation",
    ErrorCode.INVALID_NAMESPACE: "validation",
    ErrorCode.INVALID_KEY: "validation",
    ErrorCode.INVALID_VALUE: "validation",
    ErrorCode.CONFLICT: "validation",  # the version that the caller expects holds no more
    ErrorCode.UNAUTHORIZED: "permission",
    ErrorCode.PERMISSION_DENIED: "permission",
    ErrorCode.NOT_FOUND: "not_found",
    ErrorCode.VERSION_NOT_FOUND: "not_found",
    ErrorCode.RATE_LIMIT_EXCEEDED: "rate_limit",
    ErrorCode.INTERNAL_ERROR: "internal",
    ErrorCode.STORAGE_ERROR: "storage",
    ErrorCode.DATABASE_ERROR: "storage",
    ErrorCode.ENCRYPTION_ERROR: "crypto",
    ErrorCode.DECRYPTION_ERROR: "crypto",
    ErrorCode.SERVICE_UNAVAILABLE: "unavailable",
}
_BY_CLASS: Final[tuple[tuple[type[LLMConfigError], ErrorType], ...]] = (
    (TransportError, "transport"),
    (ResponseDecodeError, "decode"),
    (ServiceCircuitOpenError, "unavailable"),
    (AllEndpointsFailedError, "unavailable"),
)
_BY_STATUS: Final[Mapping[int, ErrorType]] = {
    401: "permission",
    403: "permission",
    404: "not_found",
    429: "rate_limit",
    502: "unavailable",
    503: "unavailable",
    504: "unavailable",
}
_CALLERS: Final = frozenset[ErrorType]({"validation", "not_found", "permission"})
_CLIENT_ERRORS: Final = range(400, 500)


def error_type(error: BaseException) -> ErrorType:
    """Name the family of an error: its code's, or what its class says of one that has no code.

    Args:
        error: Any error; one that is not the SDK's is internal.
    """
    if not isinstance(error, LLMConfigError):
        return "internal"
    for code in (error.code, type(error).taxonomy_code):
        if code is not None and code in _BY_CODE:
            return _BY_CODE[code]
    for cls, family in _BY_CLASS:
        if isinstance(error, cls):
            return family
    status = error.status or 0
    return _BY_STATUS.get(status, "validation" if status in _CLIENT_ERRORS else "internal")


def code_of(error: BaseException) -> str:
    """Name an error for grouping: the platform's code, or the class of one born on this side."""
    code = error.code if isinstance(error, LLMConfigError) else None
    return str(code) if code else type(error).__name__


def is_callers_mistake(error: BaseException) -> bool:
    """Whether the caller has to act: something is not found, invalid or denied, and the platform is well."""
    return error_type(error) in _CALLERS
