"""The wire: what a client and a server of the platform agree on.

Everything here is data or a pure function, shared with the reference server, so that both
sides are held to one table. The codes, statuses and variants are those of the platform's Error
Handling Guide; environments, patterns and headers are those of its HTTP interface.
"""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple, NotRequired, Self, TypedDict

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Mapping

API_PREFIX: Final = "/api/v1"
HEALTH_PATH: Final = "/health"  # at the root, not under API_PREFIX

REQUEST_ID_HEADER: Final = "X-Request-ID"
USER_ID_HEADER: Final = "X-User-ID"
IDEMPOTENCY_KEY_HEADER: Final = "Idempotency-Key"  # IETF draft-ietf-httpapi-idempotency-key-header
IDEMPOTENCY_REPLAYED_HEADER: Final = "Idempotency-Replayed"  # set on a reply that was kept, not made anew
ROUTE_DETAIL: Final = "route"  # in `details`, without a module: the path is unknown, not the config

WRITTEN_PLACEHOLDER: Final = "<encrypted>"  # what a write's reply shows of a secret
REDACTED_PLACEHOLDER: Final = "[ENCRYPTED]"  # what a history shows of one
ENCRYPTED_PLACEHOLDERS: Final = frozenset({WRITTEN_PLACEHOLDER, REDACTED_PLACEHOLDER})
CIPHERTEXT_FIELDS: Final = frozenset({"algorithm", "nonce", "ciphertext", "key_version"})


# --- Environments -----------------------------------------------------------------------------


class Environment(StrEnum):
    """Where a value applies. Values are the canonical names that servers send back."""

    BASE = "base"
    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"
    EDGE = "edge"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read an environment's name, alias (`dev`, `stage`, `prod`) or any letter case of them.

        Raises:
            ValueError: The name is none of the platform's environments.
        """
        found = _ENVIRONMENT_NAMES.get(str(name).lower())
        if found is None:
            expected = ", ".join(sorted(_ENVIRONMENT_NAMES))
            raise ValueError(f"unknown environment {str(name)[:64]!r}: expected one of {expected}")
        return cls(found)

    @property
    def overrides(self) -> tuple[Environment, ...]:
        """The environments that a value is looked up in, lowest first: the last one found wins."""
        return _OVERRIDES[self]


_ENVIRONMENT_NAMES: Final[Mapping[str, str]] = {
    **{environment.value: environment.value for environment in Environment},
    "dev": "development",
    "stage": "staging",
    "prod": "production",
}
_OVERRIDES: Final[Mapping[Environment, tuple[Environment, ...]]] = {
    Environment.BASE: (Environment.BASE,),
    Environment.DEVELOPMENT: (Environment.BASE, Environment.DEVELOPMENT),
    Environment.STAGING: (Environment.BASE, Environment.DEVELOPMENT, Environment.STAGING),
    Environment.PRODUCTION: (
        Environment.BASE,
        Environment.DEVELOPMENT,
        Environment.STAGING,
        Environment.PRODUCTION,
    ),
    Environment.EDGE: (Environment.BASE, Environment.EDGE),
}


# --- Names of configs ---------------------------------------------------------------------------

NAMESPACE_PATTERN: Final = re.compile(r"[a-zA-Z0-9/_-]+")
NAMESPACE_MAX_LENGTH: Final = 256  # characters
KEY_PATTERN: Final = re.compile(r"[a-zA-Z0-9_.-]+")
KEY_MAX_LENGTH: Final = 128  # characters


def namespace_problem(namespace: object) -> str | None:
    """Say what is wrong with a namespace, or `None` where nothing is."""
    return _name_problem("namespace", namespace, NAMESPACE_PATTERN, NAMESPACE_MAX_LENGTH)


def key_problem(key: object) -> str | None:
    """Say what is wrong with a config's key, or `None` where nothing is."""
    return _name_problem("key", key, KEY_PATTERN, KEY_MAX_LENGTH)


def _name_problem(what: str, name: object, pattern: re.Pattern[str], longest: int) -> str | None:
    if not isinstance(name, str):
        return f"{what} must be a string, not {type(name).__name__}"
    if not name:
        return f"{what} must not be empty"
    if len(name) > longest:
        return f"{what} must have at most {longest} characters, not {len(name)}"
    if pattern.fullmatch(name) is None:
        return f"{what} must match pattern: {pattern.pattern}"
    return None


# --- Errors -------------------------------------------------------------------------------------


class ErrorCategory(StrEnum):
    """The guide's four kinds of errors: who has to act."""

    CLIENT = "client"
    SERVER = "server"
    VALIDATION = "validation"
    SYSTEM = "system"


class ErrorCode(StrEnum):
    """The guide's seventeen error codes."""

    INVALID_REQUEST = "INVALID_REQUEST"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    INVALID_NAMESPACE = "INVALID_NAMESPACE"
    INVALID_KEY = "INVALID_KEY"
    INVALID_VALUE = "INVALID_VALUE"
    UNAUTHORIZED = "UNAUTHORIZED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    NOT_FOUND = "NOT_FOUND"
    VERSION_NOT_FOUND = "VERSION_NOT_FOUND"
    CONFLICT = "CONFLICT"
    RATE_LIMIT_EXCEEDED = "RATE_LIMIT_EXCEEDED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    STORAGE_ERROR = "STORAGE_ERROR"
    ENCRYPTION_ERROR = "ENCRYPTION_ERROR"
    DECRYPTION_ERROR = "DECRYPTION_ERROR"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    DATABASE_ERROR = "DATABASE_ERROR"


class Module(StrEnum):
    """The platform's modules, each with an error enum of its own."""

    CONFIG = "config"
    RBAC = "rbac"
    CRYPTO = "crypto"
    AUDIT = "audit"
    CACHE = "cache"


class CodeFacts(NamedTuple):
    """What the guide's tables say of one code."""

    status: int
    retriable: bool
    category: ErrorCategory
    description: str
    critical: bool = False


class VariantFacts(NamedTuple):
    """What is settled of one variant of a module's error enum."""

    module: Module
    variant: str
    code: ErrorCode
    retriable: bool
    category: ErrorCategory
    critical: bool = False

    @property
    def status(self) -> int:
        """The HTTP status, which follows from the code."""
        return CODES[self.code].status


def _codes() -> Mapping[ErrorCode, CodeFacts]:
    client, server, validation = ErrorCategory.CLIENT, ErrorCategory.SERVER, ErrorCategory.VALIDATION
    c = ErrorCode
    return {
        c.INVALID_REQUEST: CodeFacts(400, False, client, "Malformed request"),
        c.VALIDATION_ERROR: CodeFacts(422, False, validation, "Validation failure"),
        c.INVALID_NAMESPACE: CodeFacts(422, False, validation, "Invalid namespace format"),
        c.INVALID_KEY: CodeFacts(422, False, validation, "Invalid key format"),
        c.INVALID_VALUE: CodeFacts(422, False, validation, "Invalid value format"),
        c.UNAUTHORIZED: CodeFacts(401, False, client, "Authentication required"),
        c.PERMISSION_DENIED: CodeFacts(403, False, client, "Insufficient permissions"),
        c.NOT_FOUND: CodeFacts(404, False, client, "Resource not found"),
        c.VERSION_NOT_FOUND: CodeFacts(404, False, client, "Version not found"),
        c.CONFLICT: CodeFacts(409, False, client, "Version conflict"),
        c.RATE_LIMIT_EXCEEDED: CodeFacts(429, True, client, "Too many requests"),
        c.INTERNAL_ERROR: CodeFacts(500, True, server, "Internal server error"),
        c.STORAGE_ERROR: CodeFacts(500, True, server, "Storage operation failed"),
        c.ENCRYPTION_ERROR: CodeFacts(500, False, server, "Encryption failed", critical=True),
        c.DECRYPTION_ERROR: CodeFacts(500, False, server, "Decryption failed", critical=True),
        c.SERVICE_UNAVAILABLE: CodeFacts(503, True, server, "Service temporarily unavailable"),
        c.DATABASE_ERROR: CodeFacts(503, True, server, "Database connection error"),
    }


CODES: Final[Mapping[ErrorCode, CodeFacts]] = MappingProxyType(dict(_codes()))
"""The guide's tables of codes."""

_VARIANTS_BY_MODULE: Final[Mapping[Module, Mapping[str, ErrorCode]]] = {
    Module.CONFIG: {
        "ValidationError": ErrorCode.VALIDATION_ERROR,
        "InvalidNamespace": ErrorCode.INVALID_NAMESPACE,
        "InvalidKey": ErrorCode.INVALID_KEY,
        "InvalidValue": ErrorCode.INVALID_VALUE,
        "NotFound": ErrorCode.NOT_FOUND,
        "VersionNotFound": ErrorCode.VERSION_NOT_FOUND,
        "PermissionDenied": ErrorCode.PERMISSION_DENIED,
        "StorageError": ErrorCode.STORAGE_ERROR,
        "IoError": ErrorCode.STORAGE_ERROR,
        "SerializationError": ErrorCode.INTERNAL_ERROR,
        "EncryptionError": ErrorCode.ENCRYPTION_ERROR,
        "DecryptionError": ErrorCode.DECRYPTION_ERROR,
        "InternalError": ErrorCode.INTERNAL_ERROR,
    },
    Module.RBAC: {
        "AccessDenied": ErrorCode.PERMISSION_DENIED,
        "UserNotFound": ErrorCode.NOT_FOUND,
        "RoleNotFound": ErrorCode.NOT_FOUND,
        "InvalidRole": ErrorCode.VALIDATION_ERROR,
        "InvalidScope": ErrorCode.VALIDATION_ERROR,
        "InternalError": ErrorCode.INTERNAL_ERROR,
    },
    Module.CRYPTO: {
        "InvalidKey": ErrorCode.VALIDATION_ERROR,  # not the code INVALID_KEY, which is about a config's key
        "InvalidAlgorithm": ErrorCode.VALIDATION_ERROR,
        "EncryptionFailed": ErrorCode.ENCRYPTION_ERROR,
        "DecryptionFailed": ErrorCode.DECRYPTION_ERROR,
        "KeyGenerationFailed": ErrorCode.ENCRYPTION_ERROR,
        "InternalError": ErrorCode.INTERNAL_ERROR,
    },
    Module.AUDIT: {
        "Storage": ErrorCode.STORAGE_ERROR,
        "IoError": ErrorCode.STORAGE_ERROR,
        "InvalidQuery": ErrorCode.INVALID_REQUEST,
        "InvalidTimeRange": ErrorCode.VALIDATION_ERROR,
        "InternalError": ErrorCode.INTERNAL_ERROR,
    },
    Module.CACHE: {
        "CacheMiss": ErrorCode.NOT_FOUND,
        "InvalidKey": ErrorCode.INVALID_KEY,
        "StorageError": ErrorCode.STORAGE_ERROR,
        "IoError": ErrorCode.STORAGE_ERROR,
        "SerializationError": ErrorCode.INTERNAL_ERROR,
        "InternalError": ErrorCode.INTERNAL_ERROR,
    },
}


def _variant_facts(module: Module, variant: str, code: ErrorCode) -> VariantFacts:
    facts = CODES[code]
    # A record that cannot be read back will not be readable the next time either.
    broken_record = variant == "SerializationError"
    return VariantFacts(
        module,
        variant,
        code,
        retriable=facts.retriable and not broken_record,
        category=facts.category,
        critical=facts.critical or broken_record,
    )


VARIANTS: Final[Mapping[tuple[Module, str], VariantFacts]] = MappingProxyType(
    {
        (module, variant): _variant_facts(module, variant, code)
        for module, variants in _VARIANTS_BY_MODULE.items()
        for variant, code in variants.items()
    }
)
"""The thirty-six variants of the five error enums, by module and name."""

SYSTEM_KINDS: Final = frozenset(
    {
        "StorageFull",
        "QuotaExceeded",
        "OutOfMemory",
        "PermissionDenied",
        "ReadOnlyFilesystem",
        "TooManyOpenFiles",
        "InputOutput",
        "InvalidFilename",
    }
)
"""Kinds of an I/O error (`details.kind`) that an administrator has to mend: System, not retriable."""

TRANSIENT_KINDS: Final = frozenset({"Interrupted", "TimedOut", "WouldBlock"})
"""Kinds of an I/O error that may have passed by the next try."""

OS_ERROR_KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "PermissionDenied",  # EPERM
        5: "InputOutput",  # EIO
        12: "OutOfMemory",  # ENOMEM
        13: "PermissionDenied",  # EACCES
        24: "TooManyOpenFiles",  # EMFILE
        28: "StorageFull",  # ENOSPC
        30: "ReadOnlyFilesystem",  # EROFS
        36: "InvalidFilename",  # ENAMETOOLONG
        122: "QuotaExceeded",  # EDQUOT
    }
)
"""Linux error numbers, as a server's messages name them (`os error 28`), and the kind each stands for."""


class ErrorBody(TypedDict):
    """What an error envelope holds. A server sends all of it; a client relies on none of it."""

    code: str
    message: str
    details: dict[str, Any]
    timestamp: str
    request_id: str
    retriable: bool


class ErrorEnvelope(TypedDict):
    """The guide's error format: the body of every error of a server that speaks it."""

    error: ErrorBody


def entity_tag(entry_id: str, version: int) -> str:
    """Write the strong validator (RFC 9110, section 8.8.3) of one exact value."""
    return f'"{entry_id}.{version}"'


# --- Bodies -------------------------------------------------------------------------------------


class SetBody(TypedDict):
    """The body of a POST to an entry."""

    value: Any
    env: str
    user: NotRequired[str]
    secret: NotRequired[bool]
    tags: NotRequired[list[str]]
    description: NotRequired[str | None]


class WireModel(BaseModel):
    """A body as a server sends it: frozen; fields that this version does not know are ignored."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class AuditRecord(WireModel):
    """What the audit log says of one request, as far as it is compared."""

    request_id: str
    outcome: str


class Metadata(WireModel):
    """Who made an entry and who changed it last."""

    created_at: datetime
    created_by: str
    updated_at: datetime
    updated_by: str
    tags: tuple[str, ...] = ()
    description: str | None = None


class Health(WireModel):
    """A server's own report of its health."""

    status: str
    service: str = ""
    version: str = ""

    @property
    def is_healthy(self) -> bool:
        """Whether the server calls itself healthy."""
        return self.status.lower() in {"healthy", "ok", "up"}


Source = Literal["server", "cache", "stale", "snapshot", "default"]
"""Where a value came from, best first."""
