"""Refusals: what the envelope will say, from a variant of a module or from a component that failed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.conditions import DISCONNECTED, PANIC, ComponentFailureError
from llm_config_mock_server.rbac import RbacError
from llm_config_mock_server.server_cache import CacheError
from llm_config_mock_server.store import BrokenRecordError
from llm_config_mock_server.vault import CryptoError
from llm_config_sdk.contract import CODES, SYSTEM_KINDS, VARIANTS, ErrorCode, Module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_config_mock_server.core import Call
    from llm_config_mock_server.messages import Header, Request

_LOGGER: Final = logging.getLogger("llm_config_mock_server")
_SERVER_ERROR: Final = 500
MAINTENANCE_SECONDS: Final = 1  # the Retry-After of a service that is not well; our choice


class RefusedError(Exception):
    """A request was refused, or failed: what the envelope will say."""

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        retriable: bool | None = None,
        headers: tuple[Header, ...] = (),
    ) -> None:
        """Remember what the envelope will say."""
        super().__init__(message)
        self.code = code
        self.message = message
        self.status: int = CODES[code].status if status is None else status
        self.details: dict[str, Any] = dict(details or {})
        self.retriable: bool = CODES[code].retriable if retriable is None else retriable
        self.headers = headers


def variant_error(module: Module, variant: str, message: str, **details: Any) -> RefusedError:
    """Make the error of a variant of a module's enum; its code follows from the guide."""
    facts = VARIANTS[module, variant]
    told = {"module": str(module), "variant": variant, **details}
    return RefusedError(facts.code, message, details=told, retriable=facts.retriable)


def config_error(variant: str, message: str, **details: Any) -> RefusedError:
    """Make the error of a variant of `ConfigError`."""
    return variant_error(Module.CONFIG, variant, message, **details)


def as_refusal(error: Exception, request: Request) -> RefusedError:
    """Say a component's failure as the module above it does."""
    match error:
        case RefusedError():
            return error
        case RbacError():
            return variant_error(Module.RBAC, error.variant, error.message)
        case CacheError():
            return variant_error(Module.CACHE, error.variant, error.message)
        case CryptoError():
            return variant_error(Module.CRYPTO, error.variant, error.message)
        case BrokenRecordError():
            return config_error(
                "SerializationError", f"Serialization error: {error}", resource=request.decoded_path
            )
        case ComponentFailureError():
            return _component_refusal(error)
        case _:
            raise error


def log_refusal(refusal: RefusedError, call: Call) -> None:
    """Log a failure with its request's id: a server's as the guide says, a caller's for whoever debugs."""
    level = logging.DEBUG
    if refusal.status >= _SERVER_ERROR:
        level = logging.WARNING if refusal.retriable else logging.ERROR
    if not _LOGGER.isEnabledFor(level):
        return
    _LOGGER.log(
        level,
        "%s %s failed: %s (%s, request %s)",
        call.request.method,
        call.request.path,
        refusal.message,
        refusal.code,
        call.request_id,
        extra={
            "request_id": call.request_id,
            "code": str(refusal.code),
            "status": refusal.status,
            "retriable": refusal.retriable,
            "method": call.request.method,
            "path": call.request.path,
        },
    )


def _component_refusal(error: ComponentFailureError) -> RefusedError:
    module = _MODULES[error.component]
    if error.component == "service":
        return RefusedError(
            ErrorCode.SERVICE_UNAVAILABLE,
            f"Service unavailable: {error.message}",
            details={"retry_after": MAINTENANCE_SECONDS},
            headers=(("retry-after", str(MAINTENANCE_SECONDS)),),
        )
    if error.kind == DISCONNECTED:
        return RefusedError(
            ErrorCode.DATABASE_ERROR, f"Database error: {error.message}", details={"module": str(module)}
        )
    if error.kind == PANIC or module not in _STORAGE_VARIANTS:
        return variant_error(module, "InternalError", f"Internal error: {error.component}: {error.message}")
    if error.is_io:
        refusal = variant_error(module, "IoError", f"IO error: {error.message}", kind=error.kind)
        # A full disk stays full: System errors wait for an administrator, not for a retry.
        refusal.retriable = error.kind not in SYSTEM_KINDS
        return refusal
    return variant_error(
        module, _STORAGE_VARIANTS[module], f"Storage error: {error.component} {error.message}"
    )


_MODULES: Final = {
    "service": Module.CONFIG,
    "store": Module.CONFIG,
    "audit": Module.AUDIT,
    "cache": Module.CACHE,
    "vault": Module.CRYPTO,
    "entropy": Module.CRYPTO,
    "rbac": Module.RBAC,
}
_STORAGE_VARIANTS: Final = {
    Module.CONFIG: "StorageError",
    Module.AUDIT: "Storage",
    Module.CACHE: "StorageError",
}
