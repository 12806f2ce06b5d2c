"""The profile `guide`: the routes of the platform, and its Error Handling Guide's envelope on every error."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import unquote_to_bytes

from llm_config_mock_server.audit import EVENT_TYPES, AuditEvent, AuditSubject
from llm_config_mock_server.conditions import DISCONNECTED, PANIC, ComponentFailureError
from llm_config_mock_server.idempotency import REPLAYED_HEADER, KeyInUseError, KeyMismatchError
from llm_config_mock_server.messages import NANOSECONDS, At, Header, Reply, Request, json_bytes, json_reply
from llm_config_mock_server.rbac import (
    ANYBODY,
    BUILT_IN_ROLES,
    PERMISSIONS,
    Grant,
    Principal,
    RbacError,
    check_scope,
)
from llm_config_mock_server.store import Address, BrokenRecordError, Record
from llm_config_mock_server.vault import CryptoError
from llm_config_sdk.contract import (
    API_PREFIX,
    CIPHERTEXT_FIELDS,
    CODES,
    HEALTH_PATH,
    IDEMPOTENCY_KEY_HEADER,
    REQUEST_ID_HEADER,
    SYSTEM_KINDS,
    USER_ID_HEADER,
    VARIANTS,
    Environment,
    ErrorCode,
    ErrorEnvelope,
    Module,
    key_problem,
    namespace_problem,
)

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call, Platform, Profile
    from llm_config_mock_server.faults import ErrorSpec
    from llm_config_mock_server.limiter import Limits

SERVICE: Final = "llm-config-manager"
VERSION: Final = "0.5.0"  # of the platform whose interface this is
PLACEHOLDER: Final = "<encrypted>"  # what the reply to a write says in place of a secret
REDACTED: Final = "[ENCRYPTED]"  # what a history says in place of a secret
DEFAULT_ENVIRONMENT: Final = Environment.DEVELOPMENT
MAINTENANCE_SECONDS: Final = 1  # the Retry-After of a service that is not well; our choice
HTTP_HEADS: Final = {
    400: "Bad Request",
    413: "Content Too Large",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
}
_TOO_LARGE: Final = 413
_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.IGNORECASE)
_JSON_ACCEPTED: Final = re.compile(r"\*/\*|application/(?:\*|json)|application/[\w.-]+\+json", re.IGNORECASE)
_VERSION_NUMBER: Final = re.compile(r"[0-9]{1,20}")
_VERSION_MAX: Final = 2**64 - 1  # the platform's u64


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
        self.status = CODES[code].status if status is None else status
        self.details = dict(details or {})
        self.retriable = CODES[code].retriable if retriable is None else retriable
        self.headers = headers


def variant_error(module: Module, variant: str, message: str, **details: Any) -> RefusedError:
    """Make the error of a variant of a module's enum; its code follows from the guide."""
    facts = VARIANTS[module, variant]
    told = {"module": str(module), "variant": variant, **details}
    return RefusedError(facts.code, message, details=told, retriable=facts.retriable)


def config_error(variant: str, message: str, **details: Any) -> RefusedError:
    """Make the error of a variant of `ConfigError`."""
    return variant_error(Module.CONFIG, variant, message, **details)


@dataclass(frozen=True, slots=True)
class Visit:
    """A call that found its route: who it is from and what the path says."""

    platform: Platform
    call: Call
    principal: Principal
    arguments: tuple[str, ...]

    @property
    def request(self) -> Request:
        """The request."""
        return self.call.request

    def parameter(self, name: str) -> str | None:
        """Return a query parameter, or `None`.

        Raises:
            RefusedError: It is given twice.
        """
        values = self.request.parameters.get(name)
        if values is None:
            return None
        if len(values) > 1:
            raise RefusedError(
                ErrorCode.INVALID_REQUEST, f"Query parameter given twice: {name}", details={"field": name}
            )
        return values[0]

    def body(self) -> dict[str, Any]:
        """Return the body, a JSON object.

        Raises:
            RefusedError: It is none.
        """
        data = parse_json(self.request.body)
        if not isinstance(data, dict):
            raise config_error("ValidationError", "The body must be a JSON object", field="body")
        return cast("dict[str, Any]", data)

    def need(self, permission: str, what: str) -> None:
        """Check that one of the caller's roles permits this.

        Raises:
            RefusedError: None does (`rbac.AccessDenied`).
        """
        if not self.platform.rbac.allows(self.principal, permission):
            self.record_denial(what, None)
            roles = ", ".join(sorted({grant.role for grant in self.principal.grants})) or "none"
            raise variant_error(
                Module.RBAC,
                "AccessDenied",
                f"Access denied: {self.principal.user!r} (roles: {roles}) needs the permission {permission}",
                user=self.principal.user,
                permission=permission,
            )

    def need_in(self, permission: str, namespace: str, environment: Environment | None = None) -> None:
        """Check that a role of the caller permits this, and that its scope reaches the namespace.

        Raises:
            RefusedError: No role permits it (`rbac.AccessDenied`), or none that reaches so far
                (`config.PermissionDenied`).
        """
        self.need(permission, namespace)
        if not self.platform.rbac.allows_in(self.principal, permission, namespace):
            self.record_denial(namespace, environment)
            raise config_error(
                "PermissionDenied",
                f"Permission denied: {self.principal.user!r} may not {permission} in namespace {namespace!r}",
                user=self.principal.user,
                operation=permission,
                namespace=namespace,
            )

    def subject(self, kind: str, resource: str, environment: Environment | None = None) -> AuditSubject:
        """Say who does what to what, for the audit log."""
        return AuditSubject(
            type=kind,
            user=self.principal.user,
            user_id=self.request.header(USER_ID_HEADER),
            resource=resource,
            environment=None if environment is None else str(environment),
            request_id=self.call.request_id,
        )

    def record_denial(self, resource: str, environment: Environment | None) -> None:
        """Write a denied request down."""
        subject = self.subject("access.denied", resource, environment)
        self.platform.audit.append(subject, self.call.at, "denied")


Handler = Callable[[Visit], Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """A path, split at its slashes (`None` stands for any segment), and its handlers by method."""

    name: str
    segments: tuple[str | None, ...]
    handlers: Mapping[str, Handler]
    reads_json: frozenset[str] = frozenset()

    def arguments(self, segments: list[str]) -> list[str] | None:
        """Return the raw segments that fill the gaps, or `None` where the path is another."""
        if len(segments) != len(self.segments):
            return None
        pairs = list(zip(self.segments, segments, strict=True))
        if any(wanted is not None and wanted != given for wanted, given in pairs):
            return None
        return [given for wanted, given in pairs if wanted is None]

    @property
    def allow(self) -> str:
        """The header `Allow`."""
        return ", ".join(
            ["GET", "HEAD", *sorted(self.handlers.keys() - {"GET"})]
            if "GET" in self.handlers
            else sorted(self.handlers)
        )


# --- Reading ------------------------------------------------------------------------------------


def parse_json(body: bytes) -> Any:
    """Decode a JSON body.

    Raises:
        RefusedError: It is no JSON (400), or JSON that no value can be made of.
    """
    try:
        data = json.loads(body, parse_constant=_no_constant)
        json_bytes(data)
    except (ValueError, RecursionError) as error:
        message = f"Malformed JSON in the body: {error}"
        raise RefusedError(ErrorCode.INVALID_REQUEST, message, details={"field": "body"}) from error
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def parse_environment(name: object, *, source: str) -> Environment:
    """Read an environment's name.

    Raises:
        RefusedError: There is none of that name (`config.ValidationError`).
    """
    if not isinstance(name, str):
        raise config_error("ValidationError", f"env must be a string, not {_json_type(name)}", field="env")
    try:
        return Environment.parse(name)
    except ValueError as error:
        raise config_error(
            "ValidationError", f"Unknown environment: {name}", field="env", source=source
        ) from error


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _optional(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = body.get(name, default)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise config_error("ValidationError", f"{name} must not be {_json_type(value)}", field=name)
    return value


def _namespace(visit: Visit) -> str:
    namespace = visit.arguments[0]
    problem = namespace_problem(namespace)
    if problem is not None:
        raise config_error(
            "InvalidNamespace", f"Invalid namespace: {problem}", field="namespace", reason=problem
        )
    return namespace


def _address(visit: Visit, environment: Environment) -> Address:
    namespace, key = _namespace(visit), visit.arguments[1]
    problem = key_problem(key)
    if problem is not None:
        raise config_error("InvalidKey", f"Invalid key: {problem}", field="key", reason=problem)
    return Address(namespace, key, environment)


def _environment(visit: Visit) -> Environment:
    name = visit.parameter("env")
    return DEFAULT_ENVIRONMENT if name is None else parse_environment(name, source="query")


def _flag(visit: Visit, name: str) -> bool:
    value = visit.parameter(name)
    if value not in {None, "true", "false"}:
        raise config_error("ValidationError", f"{name} must be true or false, not {value!r}", field=name)
    return value == "true"


# --- Configs ------------------------------------------------------------------------------------


def entry_body(address: Address, record: Record, value: Any) -> dict[str, Any]:
    """Say a record as an entry of the wire."""
    return {
        "id": record.id,
        "namespace": address.namespace,
        "key": address.key,
        "value": value,
        "environment": str(address.environment),
        "version": record.version,
        "secret": record.secret,
        "metadata": {
            "created_at": record.created_at,
            "created_by": record.created_by,
            "updated_at": record.updated_at,
            "updated_by": record.updated_by,
            "tags": list(record.tags),
            "description": record.description,
        },
    }


def plain_value(platform: Platform, address: Address, record: Record) -> Any:
    """Return a record's value, opened where it is a secret.

    Raises:
        RefusedError: It cannot be opened (`config.DecryptionError`).
    """
    if not record.secret:
        return record.value
    try:
        return platform.vault.open(record.value)
    except CryptoError as error:
        raise config_error(
            "DecryptionError",
            f"Failed to decrypt {address}: {error.message}",
            namespace=address.namespace,
            key=address.key,
            cause=error.variant,
        ) from error


def _not_found(address: Address) -> RefusedError:
    return config_error(
        "NotFound",
        f"Configuration not found: {address.namespace}:{address.key}",
        namespace=address.namespace,
        key=address.key,
        env=str(address.environment),
    )


def _get(visit: Visit) -> Reply:
    asked = _address(visit, _environment(visit))
    visit.need_in("config:read", asked.namespace, asked.environment)
    with_overrides = _flag(visit, "with_overrides")
    for environment in reversed(asked.environment.overrides) if with_overrides else (asked.environment,):
        address = replace(asked, environment=environment)
        record = visit.platform.store.get(address)
        if record is not None:
            if _is_current(visit.request, record.etag):
                return Reply(304, (("etag", record.etag),))
            body = entry_body(address, record, plain_value(visit.platform, address, record))
            return json_reply(200, body, ("etag", record.etag))
    raise _not_found(asked)


def _list(visit: Visit) -> Reply:
    environment, namespace = _environment(visit), _namespace(visit)
    visit.need_in("config:read", namespace, environment)
    found = visit.platform.store.entries(namespace, environment)
    versions = "\n".join(f"{address.key} {record.etag}" for address, record in found)
    etag = f'"{hashlib.sha256(versions.encode()).hexdigest()[:32]}"'
    if _is_current(visit.request, etag):
        return Reply(304, (("etag", etag),))
    entries = [
        entry_body(address, record, plain_value(visit.platform, address, record)) for address, record in found
    ]
    return json_reply(200, entries, ("etag", etag))


def _history(visit: Visit) -> Reply:
    address = _address(visit, _environment(visit))
    visit.need_in("config:read", address.namespace, address.environment)
    return json_reply(
        200,
        [
            {
                "id": record.id,
                "version": record.version,
                "value": REDACTED if record.secret else record.value,
                "secret": record.secret,
                "created_at": record.updated_at,
                "created_by": record.updated_by,
                "change_description": record.change_description,
            }
            for record in visit.platform.store.history(address)
        ],
    )


def _set(visit: Visit) -> Reply:
    body = visit.body()
    for name in ("value", "env"):
        if name not in body:
            raise config_error("ValidationError", f"missing field `{name}`", field=name)
    address = _address(visit, parse_environment(body["env"], source="body"))
    visit.need_in("config:write", address.namespace, address.environment)
    named, secret = _optional(body, "user", str, None), _optional(body, "secret", bool, default=False)
    tags, description = _optional(body, "tags", list, []), _optional(body, "description", str, None)
    if not all(isinstance(tag, str) for tag in tags):
        raise config_error("ValidationError", "tags must be strings", field="tags")
    value = body["value"]
    _check_value(visit, value, secret=secret)
    author = _author(visit, named, address.namespace)
    before = visit.platform.store.get(address)
    _check_preconditions(visit.request, before)
    now = visit.call.at.rfc3339()
    stored = _sealed(visit, address, value) if secret else value
    record = Record(
        id=before.id if before else visit.platform.randomness.entry_id(),
        version=before.version + 1 if before else 1,
        value=stored,
        secret=secret,
        created_at=before.created_at if before else now,
        created_by=before.created_by if before else author,
        updated_at=now,
        updated_by=author,
        tags=tuple(tags) if "tags" in body else before.tags if before else (),
        description=description if "description" in body else before.description if before else None,
        change_description="Configuration updated",
    )
    return _written(visit, address, record, "config.set", PLACEHOLDER if secret else value)


def _rollback(visit: Visit) -> Reply:
    address, version = _address(visit, _environment(visit)), _version(visit.arguments[2])
    visit.need_in("config:write", address.namespace, address.environment)
    history = visit.platform.store.history(address)
    if not history:
        raise _not_found(address)
    wanted = next((record for record in history if record.version == version), None)
    if wanted is None:
        raise config_error(
            "VersionNotFound",
            f"Version {version} not found",
            version=version,
            namespace=address.namespace,
            key=address.key,
        )
    before = visit.platform.store.get(address)
    _check_preconditions(visit.request, before)
    now, author = visit.call.at.rfc3339(), visit.principal.user
    record = replace(
        wanted,
        id=before.id if before else visit.platform.randomness.entry_id(),
        # Above every version there ever was: a rollback never makes a version go back.
        version=max(record.version for record in history) + 1,
        created_at=before.created_at if before else now,
        created_by=before.created_by if before else author,
        updated_at=now,
        updated_by=author,
        change_description=f"Rollback to version {version}",
    )
    return _written(visit, address, record, "config.rollback", PLACEHOLDER if record.secret else record.value)


def _delete(visit: Visit) -> Reply:
    address = _address(visit, _environment(visit))
    visit.need_in("config:delete", address.namespace, address.environment)
    before = visit.platform.store.get(address)
    if before is None:
        raise _not_found(address)
    _check_preconditions(visit.request, before)
    subject = visit.subject("config.delete", f"{address.namespace}/{address.key}", address.environment)
    with visit.platform.audit.recording(subject, visit.call.at):
        visit.platform.store.delete(address)
    return Reply(204)


def _written(visit: Visit, address: Address, record: Record, kind: str, shown: Any) -> Reply:
    subject = visit.subject(kind, f"{address.namespace}/{address.key}", address.environment)
    with visit.platform.audit.recording(subject, visit.call.at):
        visit.platform.store.put(address, record)
    return json_reply(200, entry_body(address, record, shown), ("etag", record.etag))


def _check_value(visit: Visit, value: Any, *, secret: bool) -> None:
    if secret and not isinstance(value, str):
        raise config_error(
            "InvalidValue",
            "Secret value must be a string",
            field="value",
            reason=f"it is {_json_type(value)}",
        )
    size, longest = len(json_bytes(value)), visit.platform.options.value_max_bytes
    if size > longest:
        reason = f"{size} bytes of JSON, where {longest} are allowed"
        raise config_error("InvalidValue", f"Value too large: {reason}", field="value", reason=reason)


def _author(visit: Visit, named: str | None, namespace: str) -> str:
    if named is not None and visit.platform.rbac.allows_in(visit.principal, "user:impersonate", namespace):
        return named
    return visit.principal.user


def _sealed(visit: Visit, address: Address, value: str) -> Mapping[str, Any]:
    try:
        return visit.platform.vault.seal(value)
    except CryptoError as error:
        raise config_error(
            "EncryptionError",
            f"Failed to encrypt {address}: {error.message}",
            namespace=address.namespace,
            key=address.key,
            cause=error.variant,
        ) from error


def _version(segment: str) -> int:
    if not _VERSION_NUMBER.fullmatch(segment) or int(segment) > _VERSION_MAX:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"Invalid version: {segment!r} is no number",
            details={"field": "version"},
        )
    return int(segment)


# --- Conditional requests (RFC 9110, section 13) ----------------------------------------------------


def _tags(header: str) -> list[str]:
    return [tag.strip() for tag in header.split(",") if tag.strip()]


def _is_current(request: Request, etag: str) -> bool:
    header = request.header("if-none-match")
    return header is not None and any(tag == "*" or tag.removeprefix("W/") == etag for tag in _tags(header))


def _check_preconditions(request: Request, before: Record | None) -> None:
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


# --- Roles and users ------------------------------------------------------------------------------


def _principal_body(principal: Principal) -> dict[str, Any]:
    roles = [{"role": grant.role, "scope": grant.scope} for grant in principal.grants]
    return {"user": principal.user, "roles": roles}


def _users(visit: Visit) -> Reply:
    visit.need("rbac:read", "users")
    return json_reply(200, [_principal_body(user) for _, user in sorted(visit.platform.rbac.users.items())])


def _user(visit: Visit) -> Reply:
    visit.need("rbac:read", f"users/{visit.arguments[0]}")
    return json_reply(200, _principal_body(visit.platform.rbac.user(visit.arguments[0])))


def _grant(visit: Visit) -> Reply:
    user = visit.arguments[0]
    visit.need("rbac:write", f"users/{user}")
    body = visit.body()
    wanted = body.get("role")
    if isinstance(wanted, dict):
        role: Any = cast("dict[str, Any]", wanted).get("custom")
        if not isinstance(role, str):
            raise RbacError("InvalidRole", "Invalid role: custom must name a role")
    elif isinstance(wanted, str) and wanted in BUILT_IN_ROLES:
        role = wanted
    else:
        raise RbacError(
            "InvalidRole", f"Invalid role: {wanted!r} is none of {', '.join(sorted(BUILT_IN_ROLES))}"
        )
    grant = Grant(role, check_scope(body.get("scope", "**")))
    visit.platform.rbac.role(role)
    with visit.platform.audit.recording(visit.subject("rbac.grant", f"users/{user}"), visit.call.at):
        principal = visit.platform.rbac.grant(user, grant)
    return json_reply(200, _principal_body(principal))


def _issue_token(visit: Visit) -> Reply:
    user = visit.arguments[0]
    visit.need("rbac:write", f"users/{user}")
    with visit.platform.audit.recording(visit.subject("rbac.grant", f"users/{user}/tokens"), visit.call.at):
        token = visit.platform.rbac.token(user)
    return json_reply(200, {"user": user, "token": token})


def _roles(visit: Visit) -> Reply:
    visit.need("rbac:read", "roles")
    built_in = [
        {"role": name, "permissions": sorted(held), "built_in": True} for name, held in BUILT_IN_ROLES.items()
    ]
    custom = [
        {
            "role": name,
            "permissions": sorted(role.permissions),
            "inherits": list(role.inherits),
            "built_in": False,
        }
        for name, role in sorted(visit.platform.rbac.roles.items())
    ]
    return json_reply(200, built_in + custom)


def _role(visit: Visit) -> Reply:
    name = visit.arguments[0]
    visit.need("rbac:read", f"roles/{name}")
    return json_reply(200, {"role": name, "permissions": sorted(visit.platform.rbac.permissions(name))})


def _define_role(visit: Visit) -> Reply:
    name = visit.arguments[0]
    visit.need("rbac:write", f"roles/{name}")
    body = visit.body()
    permissions, inherits = _optional(body, "permissions", list, []), _optional(body, "inherits", list, [])
    if not permissions and not inherits:
        raise RbacError(
            "InvalidRole",
            f"Invalid role {name!r}: no permissions; there are {', '.join(sorted(PERMISSIONS))}",
        )
    with visit.platform.audit.recording(visit.subject("rbac.role", f"roles/{name}"), visit.call.at):
        role = visit.platform.rbac.define_role(name, permissions, inherits)
    shown = {"role": name, "permissions": sorted(role.permissions), "inherits": list(role.inherits)}
    return json_reply(200, shown)


# --- Vault ----------------------------------------------------------------------------------------


def _keys(visit: Visit) -> Reply:
    visit.need("vault:manage", "vault/keys")
    return json_reply(
        200,
        [
            {"version": key.version, "algorithm": key.algorithm, "active": key.active}
            for key in visit.platform.vault.keys
        ],
    )


def _add_key(visit: Visit) -> Reply:
    visit.need("vault:manage", "vault/keys")
    body = visit.body()
    material, algorithm = (
        _optional(body, "material", str, None),
        _optional(body, "algorithm", str, "aes-256-gcm"),
    )
    with visit.platform.audit.recording(visit.subject("vault.key", "vault/keys"), visit.call.at):
        key = visit.platform.vault.add_key(material=material, algorithm=algorithm)
    return json_reply(200, {"version": key.version, "algorithm": key.algorithm, "active": key.active})


def _remove_key(visit: Visit) -> Reply:
    name = visit.arguments[0]
    visit.need("vault:manage", f"vault/keys/{name}")
    version = None if name == "active" else _version(name)
    with visit.platform.audit.recording(visit.subject("vault.key", f"vault/keys/{name}"), visit.call.at):
        found = visit.platform.vault.remove_key(version)
    if not found:
        raise RefusedError(
            ErrorCode.NOT_FOUND, f"Vault key not found: {name}", details={"resource": f"vault/keys/{name}"}
        )
    return Reply(204)


def _rotate(visit: Visit) -> Reply:
    visit.need("vault:manage", "vault/rotate")
    reencrypt = _optional(visit.body(), "reencrypt", bool, default=True)
    platform = visit.platform
    with platform.audit.recording(visit.subject("vault.rotate", "vault"), visit.call.at):
        key = platform.vault.add_key()
        changed = 0
        for address in platform.store.storage.addresses() if reencrypt else ():
            record = platform.store.get(address)
            if record is not None and record.secret:
                sealed = _sealed(visit, address, plain_value(platform, address, record))
                platform.store.replace(address, replace(record, value=sealed))
                changed += 1
    return json_reply(200, {"version": key.version, "algorithm": key.algorithm, "reencrypted": changed})


def _encrypt(visit: Visit) -> Reply:
    visit.need("vault:use", "vault/encrypt")
    plaintext = visit.body().get("plaintext")
    if not isinstance(plaintext, str):
        raise config_error("ValidationError", "plaintext must be a string", field="plaintext")
    return json_reply(200, visit.platform.vault.seal(plaintext))


def _decrypt(visit: Visit) -> Reply:
    visit.need("vault:use", "vault/decrypt")
    body = visit.body()
    missing = sorted(CIPHERTEXT_FIELDS - body.keys())
    if missing:
        raise config_error("ValidationError", f"missing field `{missing[0]}`", field=missing[0])
    return json_reply(200, {"plaintext": visit.platform.vault.open(body)})


# --- Audit ----------------------------------------------------------------------------------------


def _events(visit: Visit) -> Reply:
    visit.need("audit:read", "audit/events")
    known = {"type", "user", "from", "to"}
    unknown = sorted(visit.request.parameters.keys() - known)
    if unknown:
        raise variant_error(
            Module.AUDIT, "InvalidQuery", f"Invalid query: unknown parameter {unknown[0]}", field=unknown[0]
        )
    kind = visit.parameter("type")
    if kind is not None and kind not in EVENT_TYPES:
        reason = f"unknown event type {kind!r}: expected one of {', '.join(sorted(EVENT_TYPES))}"
        raise variant_error(Module.AUDIT, "InvalidQuery", f"Invalid query: {reason}", field="type")
    since, until = _moment(visit, "from"), _moment(visit, "to")
    if since is not None and until is not None and since > until:
        raise variant_error(
            Module.AUDIT, "InvalidTimeRange", "Invalid time range: it ends before it begins", field="to"
        )
    events = visit.platform.audit.events(type=kind, user=visit.parameter("user"), since=since, until=until)
    return json_reply(200, [_event_body(event) for event in events])


def _moment(visit: Visit, name: str) -> int | None:
    text = visit.parameter(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise variant_error(
            Module.AUDIT, "InvalidTimeRange", f"Invalid time range: {text!r} is no time", field=name
        ) from error
    # In whole microseconds: a float's seconds are too coarse for a boundary.
    passed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    return passed // timedelta(microseconds=1) * (NANOSECONDS // 1_000_000)


def _event_body(event: AuditEvent) -> dict[str, Any]:
    return {
        "number": event.number,
        "at": At(event.at, 0.0).rfc3339(),
        "type": event.type,
        "user": event.user,
        "user_id": event.user_id,
        "resource": event.resource,
        "environment": event.environment,
        "request_id": event.request_id,
        "outcome": event.outcome,
    }


# --- The profile ----------------------------------------------------------------------------------


def _health(_: Visit) -> Reply:
    return json_reply(200, {"status": "healthy", "service": SERVICE, "version": VERSION})


_CONFIGS: Final = (*API_PREFIX.strip("/").split("/"), "configs")
_RBAC: Final = (*API_PREFIX.strip("/").split("/"), "rbac")
_VAULT: Final = (*API_PREFIX.strip("/").split("/"), "vault")
_AUDIT: Final = (*API_PREFIX.strip("/").split("/"), "audit")
_POST: Final = frozenset({"POST"})
_PUT: Final = frozenset({"PUT"})
_HEALTH: Final = Route("health", (HEALTH_PATH.strip("/"),), {"GET": _health})

ROUTES: Final = (
    _HEALTH,
    Route("list", (*_CONFIGS, None), {"GET": _list}),
    Route("item", (*_CONFIGS, None, None), {"GET": _get, "POST": _set, "DELETE": _delete}, _POST),
    Route("history", (*_CONFIGS, None, None, "history"), {"GET": _history}),
    Route("rollback", (*_CONFIGS, None, None, "rollback", None), {"POST": _rollback}),
    Route("users", (*_RBAC, "users"), {"GET": _users}),
    Route("user", (*_RBAC, "users", None), {"GET": _user}),
    Route("user roles", (*_RBAC, "users", None, "roles"), {"PUT": _grant}, _PUT),
    Route("user tokens", (*_RBAC, "users", None, "tokens"), {"POST": _issue_token}),
    Route("roles", (*_RBAC, "roles"), {"GET": _roles}),
    Route("role", (*_RBAC, "roles", None), {"GET": _role, "PUT": _define_role}, _PUT),
    Route("vault keys", (*_VAULT, "keys"), {"GET": _keys, "POST": _add_key}, _POST),
    Route("vault key", (*_VAULT, "keys", None), {"DELETE": _remove_key}),
    Route("vault rotation", (*_VAULT, "rotate"), {"POST": _rotate}, _POST),
    Route("encryption", (*_VAULT, "encrypt"), {"POST": _encrypt}, _POST),
    Route("decryption", (*_VAULT, "decrypt"), {"POST": _decrypt}, _POST),
    Route("audit events", (*_AUDIT, "events"), {"GET": _events}),
)
"""Every route; a request without a body of JSON needs no content type."""


class GuideProfile:
    """The platform as its guide describes it."""

    name = "guide"
    default_limits: Limits | None = None  # the guide has the code 429, and no figures

    def answer_head(self, platform: Platform, call: Call) -> Reply | None:
        """Refuse by the head alone: a body that is too long, or no JSON where JSON is read."""
        request = call.request
        length = request.header("content-length")
        if length is not None and length.isdigit() and int(length) > platform.options.body_max_bytes:
            return self.refuse(_TOO_LARGE, f"the body may have {platform.options.body_max_bytes} bytes", call)
        try:
            route, _ = _find_route(request)
        except RefusedError:
            return None  # said by `answer`, which every request without a route reaches
        if request.method in route.reads_json and not _JSON_TYPE.match(request.header("content-type") or ""):
            sent = request.header("content-type")
            error = RefusedError(
                ErrorCode.INVALID_REQUEST,
                f"Unsupported media type: {sent}"
                if sent
                else "Content-Type is missing: expected application/json",
                status=415,
                details={"header": "Content-Type", "expected": "application/json"},
            )
            return _envelope(error, call)
        return None

    def reserve(self, platform: Platform, call: Call) -> None:
        """Take the idempotency key of a request that is made to wait."""
        try:
            self._claim(platform, call, self._principal(platform, call))
        except (RefusedError, ComponentFailureError):
            return  # it will be said when the wait is over

    def answer(self, platform: Platform, call: Call) -> Reply:
        """Carry a request out."""
        try:
            return self._answer(platform, call)
        except (RefusedError, RbacError, CryptoError, BrokenRecordError, ComponentFailureError) as error:
            return _envelope(_as_refusal(error, call.request), call)

    def error(self, spec: ErrorSpec, call: Call) -> Reply:
        """Say a scripted error."""
        details = dict(spec.details)
        headers: tuple[Header, ...] = ()
        if spec.retry_after is not None:
            headers = (("retry-after", spec.retry_after),)
            details.setdefault("retry_after", spec.retry_after)
        return _envelope_of(
            spec.status, spec.code, spec.message, details, call, retriable=spec.retriable, headers=headers
        )

    def refuse(self, status: int, reason: str, call: Call) -> Reply:
        """Say that the HTTP itself is wrong."""
        message = f"{HTTP_HEADS.get(status, 'Bad Request')}: {reason}"
        details = {"reason": reason}
        return _envelope_of(status, str(ErrorCode.INVALID_REQUEST), message, details, call, retriable=False)

    def finish(self, reply: Reply, call: Call) -> Reply:
        """Add the request's id and the date."""
        return reply.with_headers(
            (REQUEST_ID_HEADER.lower(), call.request_id), ("date", formatdate(call.at.wall, usegmt=True))
        )

    def _answer(self, platform: Platform, call: Call) -> Reply:
        request = call.request
        route, raw = _find_route(request)
        method = "GET" if request.method == "HEAD" else request.method
        handler = route.handlers.get(method)
        if handler is None:
            raise RefusedError(
                ErrorCode.INVALID_REQUEST,
                f"Method not allowed: {request.method} {request.path}",
                status=405,
                details={"route": route.name, "method": request.method},
                headers=(("allow", route.allow),),
            )
        _check_accept(request)
        arguments = tuple(_decode(segment) for segment in raw)
        if route is _HEALTH:
            platform.conditions.check("service")
            return handler(Visit(platform, call, ANYBODY, arguments))
        principal = self._principal(platform, call)
        limited = _limit(platform, call, principal)
        platform.conditions.check("service")
        replayed = self._claim(platform, call, principal)
        if replayed is not None:
            return replayed.with_headers((REPLAYED_HEADER, "true"))
        reply = handler(Visit(platform, call, principal, arguments))
        key = _idempotency_key(request, principal)
        if key is not None:
            platform.idempotency.settle(key, reply)
        return reply.with_headers(*limited)

    def _principal(self, platform: Platform, call: Call) -> Principal:
        if not platform.options.auth:
            return ANYBODY
        token = call.request.token
        principal = None if token is None else platform.rbac.authenticate(token)
        if principal is None:
            raise RefusedError(
                ErrorCode.UNAUTHORIZED,
                "Authentication required: send a bearer token"
                if token is None
                else "Authentication failed: the token is not known",
                details={"reason": "missing_token" if token is None else "unknown_token"},
                headers=(("www-authenticate", f'Bearer realm="{SERVICE}"'),),
            )
        return principal

    def _claim(self, platform: Platform, call: Call, principal: Principal) -> Reply | None:
        key = _idempotency_key(call.request, principal)
        if key is None:
            return None
        request = call.request
        fingerprint = hashlib.sha256(
            b"\0".join((request.method.encode(), request.target.encode(), request.body))
        )
        try:
            return platform.idempotency.claim(key, fingerprint.digest(), call.owner, call.at)
        except KeyMismatchError as error:
            raise RefusedError(
                ErrorCode.VALIDATION_ERROR,
                "The idempotency key was used for another request",
                details={"header": IDEMPOTENCY_KEY_HEADER, "reason": "reused"},
            ) from error
        except KeyInUseError as error:
            raise RefusedError(
                ErrorCode.CONFLICT,
                "A request with this idempotency key is still running",
                details={"header": IDEMPOTENCY_KEY_HEADER, "reason": "in_progress"},
            ) from error


def _find_route(request: Request) -> tuple[Route, list[str]]:
    segments = request.path.split("/")[1:]
    for route in ROUTES:
        arguments = route.arguments(segments)
        if arguments is not None:
            return route, arguments
    # No `module`: a route that does not exist is a wrong base URL, not a config that is not there.
    raise RefusedError(
        ErrorCode.NOT_FOUND,
        f"No such route: {request.method} {request.path}",
        details={"route": request.path},
    )


def _decode(segment: str) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError as error:
        raise RefusedError(
            ErrorCode.INVALID_REQUEST, "Invalid URL: the path is no UTF-8", details={"segment": segment}
        ) from error


def _check_accept(request: Request) -> None:
    accept = request.header("accept")
    if accept is not None and accept.strip() and not _JSON_ACCEPTED.search(accept):
        raise RefusedError(
            ErrorCode.INVALID_REQUEST,
            f"Not acceptable: this server answers in application/json, not in {accept}",
            status=406,
            details={"header": "Accept", "available": ["application/json"]},
        )


def _idempotency_key(request: Request, principal: Principal) -> tuple[str, str] | None:
    key = request.header(IDEMPOTENCY_KEY_HEADER)
    return (principal.user, key) if key and request.method == "POST" else None


def _limit(platform: Platform, call: Call, principal: Principal) -> Iterable[Header]:
    if platform.limiter is None:
        return ()
    verdict = platform.limiter.take(principal.user, call.at.monotonic)
    headers = (
        ("x-ratelimit-limit", str(platform.limiter.limits.burst)),
        ("x-ratelimit-remaining", str(verdict.remaining)),
        ("x-ratelimit-reset", str(math.ceil(call.at.wall + verdict.reset_after))),
    )
    if verdict.allowed:
        return headers
    seconds = max(1, math.ceil(verdict.retry_after))
    raise RefusedError(
        ErrorCode.RATE_LIMIT_EXCEEDED,
        "Rate limit exceeded. Please try again later",
        details={"retry_after": seconds, "limit": platform.limiter.limits.burst},
        headers=(*headers, ("retry-after", str(seconds))),
    )


def _as_refusal(error: Exception, request: Request) -> RefusedError:
    """Say a component's failure as the module above it does."""
    match error:
        case RefusedError():
            return error
        case RbacError():
            return variant_error(Module.RBAC, error.variant, error.message)
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


def _envelope(error: RefusedError, call: Call) -> Reply:
    return _envelope_of(
        error.status,
        str(error.code),
        error.message,
        error.details,
        call,
        retriable=error.retriable,
        headers=error.headers,
    )


def _envelope_of(
    status: int,
    code: str,
    message: str,
    details: Mapping[str, Any],
    call: Call,
    *,
    retriable: bool,
    headers: tuple[Header, ...] = (),
) -> Reply:
    body: ErrorEnvelope = {
        "error": {
            "code": code,
            "message": message,
            "details": dict(details),
            "timestamp": call.at.rfc3339("Z"),
            "request_id": call.request_id,
            "retriable": retriable,
        }
    }
    return json_reply(status, body, *headers, code=code)


PROFILE: Final[Profile] = GuideProfile()
