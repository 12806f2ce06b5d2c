"""What a caller of the SDK can catch, and what each error tells.

Every error is an `LLMConfigError`. It belongs to one class by its code, and to families by what
happened: its category (who has to act) and the platform's module that it came from. Families are
real base classes of the instance, so `except` and `isinstance` both see them::

    LLMConfigError
    ├── ClientError                      the guide's first category: fix the request
    │   ├── InvalidRequestError            INVALID_REQUEST
    │   ├── UnauthorizedError              UNAUTHORIZED
    │   ├── PermissionDeniedError          PERMISSION_DENIED
    │   ├── NotFoundError                  NOT_FOUND
    │   │   └── VersionNotFoundError       VERSION_NOT_FOUND
    │   ├── ConflictError                  CONFLICT
    │   └── RateLimitExceededError         RATE_LIMIT_EXCEEDED
    ├── ValidationFailure                the third: fix the data
    │   ├── ValidationError                VALIDATION_ERROR
    │   ├── InvalidNamespaceError          INVALID_NAMESPACE
    │   ├── InvalidKeyError                INVALID_KEY
    │   └── InvalidValueError              INVALID_VALUE
    ├── ServerError                      the second: retry, or wait
    │   ├── InternalError                  INTERNAL_ERROR
    │   ├── StorageError                   STORAGE_ERROR
    │   ├── EncryptionError                ENCRYPTION_ERROR
    │   ├── DecryptionError                DECRYPTION_ERROR
    │   ├── ServiceUnavailableError        SERVICE_UNAVAILABLE
    │   ├── DatabaseError                  DATABASE_ERROR
    │   ├── TransportError                 no usable answer: born on this side of the wire
    │   │   ├── ConnectFailedError           the request was never sent
    │   │   └── RequestTimeoutError          an attempt's timeout, or the total deadline
    │   ├── ResponseDecodeError            an answer that is no answer
    │   ├── ServiceCircuitOpenError        not asked, because it failed too often
    │   └── AllEndpointsFailedError        the primary and every backup
    ├── SystemFailure                    the fourth: an administrator has to act (by instance)
    └── ConfigError, RbacError, CryptoError, AuditError, CacheError    by module (by instance)
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from llm_config_sdk.contract import (
    CODES,
    SYSTEM_KINDS,
    VARIANTS,
    ErrorCategory,
    ErrorCode,
    Module,
    VariantFacts,
)
from llm_config_sdk.hints import hint_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

_SHOWN_LENGTH: Final = 1000  # characters of a message that `str` shows
_SHOWN_PART: Final = 300  # characters of any other part; a namespace has at most 256
_SERVER_ERRORS_BEGIN: Final = 500
_CONFLICT: Final = 409
_TOO_MANY_REQUESTS: Final = 429
_TRANSIENT_STATUSES: Final = frozenset({408, 425})  # from a proxy: Request Timeout, Too Early (RFC 8470)
_RETRIABLE_BELOW_500: Final = _TRANSIENT_STATUSES | {_TOO_MANY_REQUESTS}

_NOT_FOR_LOGS: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+"
)
"""Control characters, line and direction marks, lone surrogates: what could forge or break a log's line."""
_USERINFO: Final = re.compile(r"//[^/?#]*@")


def one_line(text: str, limit: int = _SHOWN_LENGTH) -> str:
    """Make text that came from outside fit for one line of a log: bounded, and nothing but characters."""
    line = _NOT_FOR_LOGS.sub(" ", text[:limit]).strip()
    return line if len(text) <= limit else f"{line}…"


def without_credentials(url: str) -> str:
    """Take `user:password@` out of a URL."""
    return _USERINFO.sub("//", url)


@dataclass(frozen=True, slots=True)
class ResponseFacts:
    """What is kept of an error's response and is safe to show: no header that could carry a secret.

    Attributes:
        status: The HTTP status.
        headers: Headers of an allow-list, names in lower case.
        content_type: The media type without parameters, or the empty string.
        body: Decoded JSON that is no error body (a health report, say); never in `repr`.
        snippet: The first characters of a body that could not be read, markup and all; never in `repr`.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content_type: str = ""
    body: Any = field(default=None, repr=False)
    snippet: str | None = field(default=None, repr=False)


class LLMConfigError(Exception):
    """The root of everything that this SDK raises.

    Args:
        message: What happened, for people.
        code: The platform's code, or `None` for an error born on this side of the wire. A code that
            this version does not know is kept as it was sent.
        status: The HTTP status, or `None` for an error born on this side.
        details: The envelope's details.
        timestamp: When the server says it happened.
        request_id: What to tell the platform's operators.
        retriable: The server's word, which beats the table; `None` where it gave none.
        retry_after: Seconds to wait before the next try, where the server says so.
        category: Who has to act; left out, code, details and class decide.
        module: The platform's module; left out, `details` decide.
        hint: What to do next; left out, the table of hints decides.
        response: What is safe to show of the response.
        operation: The client's method (`get_config`).
        namespace: The namespace that was asked for.
        key: The key that was asked for.
        environment: The environment that was asked for.
        endpoint: The base URL that answered, or did not.
        attempts: How often the request was tried.
        is_route_problem: The server does not know the path, which says nothing of the config.
    """

    taxonomy_code: ClassVar[ErrorCode | None] = None
    """The code that this class stands for."""
    _default_category: ClassVar[ErrorCategory] = ErrorCategory.SERVER

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | str | None = None,
        status: int | None = None,
        details: Mapping[str, Any] | None = None,
        timestamp: datetime | None = None,
        request_id: str | None = None,
        retriable: bool | None = None,
        retry_after: float | None = None,
        category: ErrorCategory | None = None,
        module: Module | str | None = None,
        hint: str | None = None,
        response: ResponseFacts | None = None,
        operation: str | None = None,
        namespace: str | None = None,
        key: str | None = None,
        environment: str | None = None,
        endpoint: str | None = None,
        attempts: int | None = None,
        is_route_problem: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.details: dict[str, Any] = dict(details or {})
        self.timestamp = timestamp
        self.request_id = request_id
        self.server_retriable = retriable
        self.retry_after = retry_after
        self.response = response
        self.operation = operation
        self.namespace = namespace
        self.key = key
        self.environment = environment
        self.endpoint = endpoint
        self.attempts = attempts
        self.is_route_problem = is_route_problem
        named_module = module if module is not None else self.details.get("module")
        self.module: Module | None = None if is_route_problem else _known_module(named_module)
        self.category: ErrorCategory = category or self._judge_category()
        self._hint = hint
        self.__class__ = _with_families(type(self), self.category, self.module)

    # --- what it is ---

    @property
    def variant(self) -> str | None:
        """The variant of the module's error enum (`details.variant`), where the server names it."""
        named = self.details.get("variant")
        return named if isinstance(named, str) else None

    @property
    def kind(self) -> str | None:
        """The kind of an I/O error (`details.kind`, as in `StorageFull`), where it is known."""
        named = self.details.get("kind")
        return named if isinstance(named, str) else None

    @property
    def retriable(self) -> bool:
        """Whether the failure may pass: the server's word where it gave one, else the table."""
        if self.server_retriable is not None:
            return self.server_retriable
        if self.category is ErrorCategory.SYSTEM:
            return False
        if self.status is not None and self.status < _SERVER_ERRORS_BEGIN:
            return self.status in _RETRIABLE_BELOW_500
        facts = self._variant_facts()
        if facts is not None:
            return facts.retriable
        return CODES[self.taxonomy_code].retriable if self.taxonomy_code else False

    @property
    def is_retriable(self) -> bool:
        """Whether the same call may be repeated to the same server, after `retry_after` where it is set.

        A conflict never, whatever the server says. Nor does it say whether repeating is *safe*: that
        depends on the operation.
        """
        return self.retriable and not self.is_conflict and self.status != _CONFLICT

    @property
    def is_transient(self) -> bool:
        """Whether trying again, or elsewhere, is worth it: transport, 5xx that are retriable, 408 and 425."""
        if self.status is None or self.is_rate_limited:
            return False
        may_pass = self.status >= _SERVER_ERRORS_BEGIN or self.status in _TRANSIENT_STATUSES
        return may_pass and self.is_retriable

    @property
    def is_not_found(self) -> bool:
        """Whether the thing asked for does not exist; never true of a missing route."""
        return isinstance(self, NotFoundError) and not self.is_route_problem

    @property
    def is_permission_denied(self) -> bool:
        """Whether the caller is known, and may not do this."""
        return isinstance(self, PermissionDeniedError)

    @property
    def is_unauthorized(self) -> bool:
        """Whether the token is missing, wrong or expired."""
        return isinstance(self, UnauthorizedError)

    @property
    def is_validation(self) -> bool:
        """Whether the data broke a rule."""
        return isinstance(self, ValidationFailure)

    @property
    def is_conflict(self) -> bool:
        """Whether somebody else was faster; read again before writing."""
        return isinstance(self, ConflictError)

    @property
    def is_rate_limited(self) -> bool:
        """Whether there were too many requests; see `retry_after`."""
        return isinstance(self, RateLimitExceededError) or self.status == _TOO_MANY_REQUESTS

    @property
    def is_critical(self) -> bool:
        """Whether somebody should be woken: encryption, decryption and records that cannot be read."""
        facts = self._variant_facts()
        if facts is not None:
            return facts.critical
        return CODES[self.taxonomy_code].critical if self.taxonomy_code else False

    @property
    def hint(self) -> str:
        """What to do next, in one sentence."""
        return self._hint or hint_for(self)

    def _variant_facts(self) -> VariantFacts | None:
        if self.module is None or self.variant is None:
            return None
        return VARIANTS.get((self.module, self.variant))

    def _judge_category(self) -> ErrorCategory:
        if self.kind in SYSTEM_KINDS and (self.status is None or self.status >= _SERVER_ERRORS_BEGIN):
            return ErrorCategory.SYSTEM
        if self.code is None and self.status is None:
            is_callers = isinstance(self, (ClientError, ValidationFailure))
            return ErrorCategory.CLIENT if is_callers else ErrorCategory.SERVER
        facts = self._variant_facts()
        if facts is not None:
            return facts.category
        return self._default_category

    # --- context ---

    def add_context(self, context: str) -> Self:
        """Add what was being done ("while loading the settings of tenant 7"), as a note on the error.

        Returns:
            The error itself, so that `raise error.add_context(…)` reads well.
        """
        self.add_note(context)
        return self

    @property
    def location(self) -> str:
        """The call as it was made: `get_config app/llm model [production]`."""
        environment = f"[{self.environment}]" if self.environment else None
        parts = (self.operation, self.namespace, self.key, environment)
        return " ".join(one_line(part, _SHOWN_PART) for part in parts if part)

    def __str__(self) -> str:
        where, message, facts = self.location, one_line(self.message), ", ".join(self._facts())
        text = f"{where}: {message}" if where else message
        text = f"{text} ({facts})" if facts else text
        return f"{text}{'' if text.endswith(('.', '!', '?', '…')) else '.'} {one_line(self.hint)}"

    def _facts(self) -> Iterator[str]:
        if self.code:
            yield one_line(self.code, _SHOWN_PART)
        if self.status is not None:
            yield f"HTTP {self.status}"
        if self.request_id:
            yield f"request {one_line(self.request_id, _SHOWN_PART)}"
        if self.endpoint:
            yield f"at {one_line(without_credentials(self.endpoint), _SHOWN_PART)}"
        if self.attempts and self.attempts > 1:
            yield f"after {self.attempts} attempts"

    def __repr__(self) -> str:
        endpoint = without_credentials(self.endpoint) if self.endpoint else None
        facts: dict[str, str | None] = {"code": self.code, "operation": self.operation}
        facts |= {"namespace": self.namespace, "key": self.key, "environment": self.environment}
        facts |= {"request_id": self.request_id, "endpoint": endpoint, "hint": self.hint}
        shown = [f"{name}={one_line(fact, _SHOWN_PART)!r}" for name, fact in facts.items() if fact]
        status = [f"status={self.status}"] if self.status is not None else []
        return f"{type(self).__name__}({', '.join([repr(one_line(self.message)), *status, *shown])})"

    # --- copies ---

    def __reduce__(self) -> tuple[Any, ...]:
        state = self.__dict__.copy()
        if "__notes__" in state:
            state["__notes__"] = list(state["__notes__"])  # a copy gets notes of its own
        return _restore, (_public_class(type(self)), self.args, state)


# --- Families -----------------------------------------------------------------------------------


class ClientError(LLMConfigError):
    """The request has to change: the guide's first category."""

    _default_category = ErrorCategory.CLIENT


class ServerError(LLMConfigError):
    """The platform failed, or could not be reached: the guide's second category."""

    _default_category = ErrorCategory.SERVER


class ValidationFailure(LLMConfigError):  # noqa: N818  # the contract's name
    """The data broke a rule: the guide's third category."""

    _default_category = ErrorCategory.VALIDATION


class SystemFailure(LLMConfigError):  # noqa: N818  # the contract's name, beside ValidationFailure
    """The platform's machine failed (disk full, out of memory, permissions): an administrator has to act."""


class ConfigError(LLMConfigError):
    """An error of the platform's core module."""


class RbacError(LLMConfigError):
    """An error of the platform's access control."""


class CryptoError(LLMConfigError):
    """An error of the platform's encryption."""


class AuditError(LLMConfigError):
    """An error of the platform's audit log."""


class CacheError(LLMConfigError):
    """An error of the platform's own cache."""


_CATEGORY_FAMILIES: Final[Mapping[ErrorCategory, type[LLMConfigError]]] = {
    ErrorCategory.CLIENT: ClientError,
    ErrorCategory.SERVER: ServerError,
    ErrorCategory.VALIDATION: ValidationFailure,
    ErrorCategory.SYSTEM: SystemFailure,
}
_MODULE_FAMILIES: Final[Mapping[Module, type[LLMConfigError]]] = {
    Module.CONFIG: ConfigError,
    Module.RBAC: RbacError,
    Module.CRYPTO: CryptoError,
    Module.AUDIT: AuditError,
    Module.CACHE: CacheError,
}


_families: dict[tuple[Any, ...], type[Any]] = {}
"""Classes derived so far; what an instance can be is a small, closed set."""


def _with_families(cls: type[LLMConfigError], category: ErrorCategory, module: Module | None) -> type[Any]:
    """Derive from `cls` the class that has this instance's families among its bases.

    `except` looks at real base classes only, so a virtual one (`__instancecheck__`) would not be caught.
    """
    cls = _public_class(cls)
    derived: type[Any] | None = _families.get((cls, category, module))
    if derived is None:
        wanted = [_CATEGORY_FAMILIES[category], *([_MODULE_FAMILIES[module]] if module else [])]
        derived = _derive(cls, [family for family in wanted if not issubclass(cls, family)])
        derived = _families.setdefault((cls, category, module), derived)
    return derived


def _derive(cls: type[LLMConfigError], families: list[type[LLMConfigError]]) -> type[Any]:
    if not families:
        return cls
    looks = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    bases = families if cls is LLMConfigError else [cls, *families]  # a class cannot stand before its own
    return type(cls.__name__, tuple(bases), {**looks, "_derived_from": cls})


def _public_class(cls: type[LLMConfigError]) -> type[LLMConfigError]:
    public: type[LLMConfigError] = cls.__dict__.get("_derived_from", cls)
    return public


def _restore(cls: type[LLMConfigError], args: tuple[Any, ...], state: dict[str, Any]) -> LLMConfigError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    error.__class__ = _with_families(cls, error.category, error.module)
    return error


def _known_module(name: object) -> Module | None:
    return _MODULES.get(name) if isinstance(name, str) else None


_MODULES: Final[Mapping[str, Module]] = {module.value: module for module in Module}


# --- One class a code ---------------------------------------------------------------------------


class InvalidRequestError(ClientError):
    """INVALID_REQUEST: the request is malformed, or the server is not what the base URL promises."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.INVALID_REQUEST


class UnauthorizedError(ClientError):
    """UNAUTHORIZED: no token, or one that the platform does not accept."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.UNAUTHORIZED


class PermissionDeniedError(ClientError):
    """PERMISSION_DENIED: the token is good, and does not allow this."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.PERMISSION_DENIED


class NotFoundError(ClientError):
    """NOT_FOUND: the thing asked for does not exist, or (`is_route_problem`) the path does not."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.NOT_FOUND


class VersionNotFoundError(NotFoundError):
    """VERSION_NOT_FOUND: the config exists, and this version of it does not."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.VERSION_NOT_FOUND


class ConflictError(ClientError):
    """CONFLICT: the config changed since it was read. Never retried: read it again first."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.CONFLICT


class RateLimitExceededError(ClientError):
    """RATE_LIMIT_EXCEEDED: too many requests; `retry_after` says how long to wait, where it is known."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.RATE_LIMIT_EXCEEDED


class ValidationError(ValidationFailure):
    """VALIDATION_ERROR: the data broke a rule that has no code of its own."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.VALIDATION_ERROR


class InvalidNamespaceError(ValidationFailure):
    """INVALID_NAMESPACE: not a namespace the platform accepts."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.INVALID_NAMESPACE


class InvalidKeyError(ValidationFailure):
    """INVALID_KEY: not a config's key the platform accepts."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.INVALID_KEY


class InvalidValueError(ValidationFailure):
    """INVALID_VALUE: the value has the wrong type, size or form."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.INVALID_VALUE


class InternalError(ServerError):
    """INTERNAL_ERROR: the platform failed in a way that it does not explain."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.INTERNAL_ERROR


class StorageError(ServerError):
    """STORAGE_ERROR: the platform's storage failed; a `SystemFailure` too where the host is to blame."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.STORAGE_ERROR


class EncryptionError(ServerError):
    """ENCRYPTION_ERROR: the platform could not encrypt. Critical, and not retriable."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.ENCRYPTION_ERROR


class DecryptionError(ServerError):
    """DECRYPTION_ERROR: a secret could not be had in plain text. Critical, and not retriable."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.DECRYPTION_ERROR


class ServiceUnavailableError(ServerError):
    """SERVICE_UNAVAILABLE: the platform, or a proxy before it, cannot answer now."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.SERVICE_UNAVAILABLE


class DatabaseError(ServerError):
    """DATABASE_ERROR: the platform cannot reach its database."""

    taxonomy_code: ClassVar[ErrorCode | None] = ErrorCode.DATABASE_ERROR


# --- Born on this side of the wire --------------------------------------------------------------


class TransportError(ServerError):
    """No usable answer came over the wire.

    Args:
        message: What happened, for people.
        never_sent: The request provably did not reach the server, so that even a write may be repeated.
        **facts: See `LLMConfigError`.
    """

    def __init__(self, message: str, *, never_sent: bool = False, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.never_sent = never_sent

    @property
    def retriable(self) -> bool:
        """Unless TLS was refused: the next connection may be better, and the next handshake is the same."""
        return "tls" not in self.details

    @property
    def is_transient(self) -> bool:
        """Always: another endpoint may answer."""
        return True


class ConnectFailedError(TransportError):
    """No connection: refused, unreachable, an unknown host, or a TLS handshake that failed.

    Args:
        message: What happened, for people.
        never_sent: True, since without a connection nothing was sent.
        **facts: See `LLMConfigError`.
    """

    def __init__(self, message: str, *, never_sent: bool = True, **facts: Any) -> None:
        super().__init__(message, never_sent=never_sent, **facts)


class RequestTimeoutError(TransportError):
    """An attempt took longer than its timeout, or the call longer than its total deadline."""


class ResponseDecodeError(ServerError):
    """A success that cannot be read: cut off, the wrong shape, or another program's page."""

    @property
    def retriable(self) -> bool:
        """Never: the server would send the same again."""
        return False


class ServiceCircuitOpenError(ServerError):
    """Not asked: the endpoint failed too often, and is given until `retry_after` seconds from now."""

    @property
    def retriable(self) -> bool:
        """Always: after `retry_after`."""
        return True

    @property
    def is_transient(self) -> bool:
        """Always: another endpoint may answer."""
        return True


class AllEndpointsFailedError(ServerError):
    """The primary failed, and so did every backup.

    Args:
        message: What happened, for people.
        errors: Each endpoint's last failure, in the order they were tried.
        **facts: See `LLMConfigError`.
    """

    def __init__(self, message: str, *, errors: Sequence[Exception] = (), **facts: Any) -> None:
        super().__init__(message, **facts)
        self.errors: tuple[Exception, ...] = tuple(errors)

    @property
    def retriable(self) -> bool:
        """Whether any endpoint's failure may pass."""
        return any(getattr(error, "is_retriable", False) for error in self.errors)

    @property
    def is_transient(self) -> bool:
        """As `retriable`."""
        return self.retriable


def _by_code(*classes: type[LLMConfigError]) -> Mapping[ErrorCode, type[LLMConfigError]]:
    return {code: cls for cls in classes if (code := cls.taxonomy_code) is not None}


CODE_CLASSES: Final = _by_code(
    InvalidRequestError,
    ValidationError,
    InvalidNamespaceError,
    InvalidKeyError,
    InvalidValueError,
    UnauthorizedError,
    PermissionDeniedError,
    NotFoundError,
    VersionNotFoundError,
    ConflictError,
    RateLimitExceededError,
    InternalError,
    StorageError,
    EncryptionError,
    DecryptionError,
    ServiceUnavailableError,
    DatabaseError,
)
"""The class that each of the guide's codes becomes."""
