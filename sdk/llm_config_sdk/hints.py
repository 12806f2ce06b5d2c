"""What to do next, in one sentence, for every error: the guide asks for messages that can be acted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llm_config_sdk.contract import ErrorCategory, ErrorCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_config_sdk.errors import LLMConfigError

CODE_HINTS: Final[Mapping[ErrorCode, str]] = {
    ErrorCode.INVALID_REQUEST: "Correct the request as the message says; unchanged it cannot succeed.",
    ErrorCode.VALIDATION_ERROR: "Correct the data as the message and `details` say, then send it again.",
    ErrorCode.INVALID_NAMESPACE: "Use 1 to 256 letters, digits, '_', '-' and '/' for the namespace.",
    ErrorCode.INVALID_KEY: "Use 1 to 128 letters, digits, '_', '.' and '-' for the key.",
    ErrorCode.INVALID_VALUE: "Correct the value: JSON within the size limit, and a string for a secret.",
    ErrorCode.UNAUTHORIZED: "Pass a valid token: token=… or LLM_CONFIG_TOKEN.",
    ErrorCode.PERMISSION_DENIED: "Ask an administrator for a role or scope that allows this.",
    ErrorCode.NOT_FOUND: "Check namespace, key and environment, create the entry, or pass default=…",
    ErrorCode.VERSION_NOT_FOUND: "List the versions that exist with get_history(…) and choose one of them.",
    ErrorCode.CONFLICT: "Read the entry again, and apply the change to its newest version.",
    ErrorCode.RATE_LIMIT_EXCEEDED: "Wait for `retry_after` seconds, then send fewer requests: cache reads.",
    ErrorCode.INTERNAL_ERROR: "Try again later; if it stays, give the request id to the operators.",
    ErrorCode.STORAGE_ERROR: "Try again later; if it stays, the platform's storage needs its operators.",
    ErrorCode.ENCRYPTION_ERROR: "Have an operator check that the vault has an active encryption key.",
    ErrorCode.DECRYPTION_ERROR: "Have an operator check the platform's keys, or write the secret again.",
    ErrorCode.SERVICE_UNAVAILABLE: "Try again later; backups=… and fallback=… bridge an outage.",
    ErrorCode.DATABASE_ERROR: "Try again later; if it stays, the platform's database needs its operators.",
}

KIND_HINTS: Final[Mapping[str, str]] = {
    "StorageFull": "An administrator has to free disk space on the platform's host.",
    "QuotaExceeded": "An administrator has to free space or raise the disk quota of the platform.",
    "OutOfMemory": "An administrator has to give the platform's host more memory.",
    "PermissionDenied": "An administrator has to give the platform's process access to its files.",
    "ReadOnlyFilesystem": "An administrator has to make the platform's file system writable again.",
    "TooManyOpenFiles": "An administrator has to raise the platform's limit of open files.",
    "InputOutput": "An administrator has to check the platform's disk: it reports input/output errors.",
    "InvalidFilename": "Use a shorter namespace or key: the platform's file system refuses the name.",
}

CLASS_HINTS: Final[Mapping[str, str]] = {
    "ConnectFailedError": "Check the base URL, that the server runs, and that a network path leads to it.",
    "RequestTimeoutError": "Allow more time (timeout=…), or find out why the server is slow.",
    "TransportError": "Try again later; check what stands between this machine and the server.",
    "ResponseDecodeError": "Check that the base URL names the platform, not a login page or proxy.",
    "ServiceCircuitOpenError": "Wait for `retry_after` seconds; the endpoint is spared while it recovers.",
    "AllEndpointsFailedError": "Look at `.errors` for each endpoint's failure; fallback=… bridges an outage.",
}

ROUTE_HINT: Final = (
    "Check the base URL: this path is unknown there (another service, version or mount point)."
)
BROKEN_RECORD_HINT: Final = "Have an operator repair or rewrite the stored record; it cannot be read back."
UNKNOWN_HINT: Final = "Give the request id to the platform's operators."


def hint_for(error: LLMConfigError) -> str:
    """Choose the most specific hint there is for an error."""
    if error.is_route_problem:
        return ROUTE_HINT
    if error.category is ErrorCategory.SYSTEM and error.kind is not None:
        return KIND_HINTS.get(error.kind, UNKNOWN_HINT)
    if error.variant == "SerializationError":
        return BROKEN_RECORD_HINT
    if error.taxonomy_code is not None:
        return CODE_HINTS[error.taxonomy_code]
    return CLASS_HINTS.get(type(error).__name__, UNKNOWN_HINT)
