"""What to do next, in one sentence, for every error: the guide asks for messages that can be acted on."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

from llm_config_sdk.contract import IDEMPOTENCY_KEY_HEADER, ErrorCategory, ErrorCode

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
    ErrorCode.NOT_FOUND: "Check namespace, key and environment, or pass default=… to do without the entry.",
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

TlsRefusal = Literal[
    "untrusted",
    "expired",
    "not_yet_valid",
    "hostname",
    "client_certificate",
    "handshake",
    "version",
    "no_tls",
]
"""Why one of the two sides does not go on with the other by TLS: `details.tls`."""
TLS_HINTS: Final[Mapping[str, str]] = {
    "untrusted": "Pass verify='ca.pem' (or LLM_CONFIG_CA_BUNDLE) where a private authority signs servers.",
    "expired": "Have the server's operators renew its certificate, and check this machine's clock.",
    "not_yet_valid": "Check this machine's clock, and the server's certificate.",
    "hostname": "Name the server in the base URL as its certificate does, or have that name added to it.",
    "client_certificate": "Pass cert=(certificate, key), signed by an authority that the server trusts.",
    "handshake": "Check whether the server wants a client's certificate (cert=…), or another TLS version.",
    "version": "Have the server speak a newer TLS, or lower minimum_tls=… if that is safe here.",
    "no_tls": "Use http:// in the base URL, or the port on which the server speaks TLS.",
}

STATUS_HINTS: Final[Mapping[int, str]] = {
    406: "Ask for JSON: no header may forbid application/json.",
    413: "Send less: the server, or a proxy before it, limits the size of a body (2 MiB by default).",
    414: "Use a shorter namespace or key: the server, or a proxy before it, limits the length of a URL.",
    415: "Send the body as application/json, and check that no proxy rewrites Content-Type.",
    426: "Use https in the base URL, or send X-Forwarded-Proto: https (headers=…) if no proxy adds it.",
    431: "Send fewer or shorter headers: check headers=… and the length of the token.",
}

ROUTE_HINT: Final = (
    "Check the base URL: this path is unknown there (another service, version or mount point)."
)
REDIRECT_HINT: Final = (
    "Correct the base URL: it is wrong, and a redirect is never followed, since the token would go along."
)
POLICY_HINT: Final = (
    "Rename the namespace or key: the server's filter takes part of the path for SQL, a script or a command."
)
POLICY_MESSAGE: Final = "Request rejected due to security policy"  # the 0.5 server's words
NO_RETRY_AFTER_HINT: Final = (
    "Send fewer requests and cache reads: the server does not say how long to wait, and may ban who insists."
)
OWN_LIMIT: Final = {"limit": "client"}
"""Details of a rate limit that is the client's own, so that nothing was sent."""
OWN_LIMIT_HINT: Final = (
    "Allow more time (timeout=…), ask for less (cache, prefetch), or raise ResiliencePolicy(rate_limit=…)."
)
STILL_RUNNING_HINT: Final = (
    "Repeat the call later with the same idempotency_key: the first one with it is still under way."
)
MAY_HAVE_BEEN_WRITTEN_HINT: Final = (
    "Read the entry before you repeat the write, for it may have taken effect; or use an idempotency_key."
)
BROKEN_RECORD_HINT: Final = "Have an operator repair or rewrite the stored record; it cannot be read back."
UNKNOWN_HINT: Final = "Give the request id to the platform's operators."


def is_still_running(error: LLMConfigError) -> bool:
    """Whether a request with the same idempotency key has not ended yet."""
    details = error.details
    return (
        error.taxonomy_code is ErrorCode.CONFLICT
        and details.get("header") == IDEMPOTENCY_KEY_HEADER
        and details.get("reason") == "in_progress"
    )


def may_have_been_written(error: LLMConfigError) -> bool:
    """Whether a write's outcome is unknown: it may have been sent, and no answer came."""
    never_sent: bool | None = getattr(error, "never_sent", None)  # of transport errors alone
    return never_sent is False and error.operation in {"set_config", "rollback"}


def hint_for(error: LLMConfigError) -> str:
    """Choose the most specific hint there is for an error."""
    if error.is_route_problem:
        return ROUTE_HINT
    if error.category is ErrorCategory.SYSTEM and error.kind is not None:
        return KIND_HINTS.get(error.kind, UNKNOWN_HINT)
    if error.variant == "SerializationError":
        return BROKEN_RECORD_HINT
    if error.status is not None and (hint := _hint_for_status(error.status, error.message)):
        return hint
    if error.taxonomy_code is not None:
        return _hint_for_code(error.taxonomy_code, error)
    return _hint_for_class(error)


def _hint_for_class(error: LLMConfigError) -> str:
    refused = error.details.get("tls")
    if isinstance(refused, str) and refused in TLS_HINTS:
        return TLS_HINTS[refused]
    if may_have_been_written(error):
        return MAY_HAVE_BEEN_WRITTEN_HINT
    names = (cls.__name__ for cls in type(error).__mro__)
    return next((CLASS_HINTS[name] for name in names if name in CLASS_HINTS), UNKNOWN_HINT)


def _hint_for_code(code: ErrorCode, error: LLMConfigError) -> str:
    if is_still_running(error):
        return STILL_RUNNING_HINT
    if code is ErrorCode.RATE_LIMIT_EXCEEDED and error.details == OWN_LIMIT:
        return OWN_LIMIT_HINT
    if code is ErrorCode.RATE_LIMIT_EXCEEDED and error.retry_after is None:
        return NO_RETRY_AFTER_HINT
    return CODE_HINTS[code]


def _hint_for_status(status: int, message: str) -> str | None:
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return REDIRECT_HINT
    if status == HTTPStatus.BAD_REQUEST and POLICY_MESSAGE in message:
        return POLICY_HINT
    return STATUS_HINTS.get(status)
