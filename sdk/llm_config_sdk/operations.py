"""Every call of the platform's API, once, as data: method, path, what may be repeated, how to read the reply.

The sync and the async client are faces on these declarations. Nothing here does I/O.
"""

from __future__ import annotations

import json
import random
import re
import string
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import unquote, urlencode

from pydantic import SecretStr

from llm_config_sdk import decoding, errors
from llm_config_sdk.contract import (
    API_PREFIX,
    HEALTH_PATH,
    IDEMPOTENCY_KEY_HEADER,
    REQUEST_ID_HEADER,
    USER_ID_HEADER,
    AuditRecord,
    Environment,
    Health,
    Module,
    SetBody,
    key_problem,
    namespace_problem,
)
from llm_config_sdk.entries import ConfigEntry, HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.observability.observers import Observation

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Operation(Generic[T_co]):
    """One call of the API.

    Attributes:
        name: The client's method.
        method: The HTTP method.
        path: The path, with `{namespace}`, `{key}` and `{version}` where they belong.
        read: From a 2xx reply to what the method returns.
        repeatable: Whether the server may see it twice. Set and rollback make a version each time.
        is_read: Whether it changes nothing, so that another endpoint may answer it.
    """

    name: str
    method: str
    path: str
    read: Callable[[Reply], T_co]
    repeatable: bool
    is_read: bool


def _read_acknowledgement(reply: Reply) -> None:
    """Read a reply whose status says it all; a page in its place comes from another program."""
    decoding.read_json(reply)


_ENTRY_PATH: Final = f"{API_PREFIX}/configs/{{namespace}}/{{key}}"

GET_CONFIG: Final[Operation[ConfigEntry]] = Operation(
    "get_config", "GET", _ENTRY_PATH, decoding.read_entry, repeatable=True, is_read=True
)
SET_CONFIG: Final[Operation[ConfigEntry]] = Operation(
    "set_config", "POST", _ENTRY_PATH, decoding.read_entry, repeatable=False, is_read=False
)
DELETE_CONFIG: Final[Operation[None]] = Operation(
    "delete_config", "DELETE", _ENTRY_PATH, _read_acknowledgement, repeatable=True, is_read=False
)
LIST_CONFIGS: Final[Operation[list[ConfigEntry]]] = Operation(
    "list_configs",
    "GET",
    f"{API_PREFIX}/configs/{{namespace}}",
    decoding.read_entries,
    repeatable=True,
    is_read=True,
)
GET_HISTORY: Final[Operation[list[HistoryEntry]]] = Operation(
    "get_history", "GET", f"{_ENTRY_PATH}/history", decoding.read_history, repeatable=True, is_read=True
)
ROLLBACK: Final[Operation[ConfigEntry]] = Operation(
    "rollback",
    "POST",
    f"{_ENTRY_PATH}/rollback/{{version}}",
    decoding.read_entry,
    repeatable=False,
    is_read=False,
)
READ_AUDIT: Final[Operation[list[AuditRecord]]] = Operation(
    "check_audit", "GET", f"{API_PREFIX}/audit/events", decoding.read_audit, repeatable=True, is_read=True
)
HEALTH_CHECK: Final[Operation[Health]] = Operation(
    "health_check", "GET", HEALTH_PATH, decoding.read_health, repeatable=True, is_read=True
)


class Held(NamedTuple):
    """An answer that its owner has already, so that a server need not send it again.

    Attributes:
        value: The answer: an entry, or a list of them.
        endpoint: The base URL of the server that sent it; its tag means nothing to another one.
        validator: The entity tag that it was sent with.
    """

    value: Any
    endpoint: str | None
    validator: str


@dataclass(slots=True)
class Progress:
    """What has become of a call so far.

    Attributes:
        attempts: How many requests were made.
        began: When the call began, in seconds on the client's clock.
        may_have_arrived: Whether one of them failed in a way that leaves its effect open.
        held: The answer, where it came with an entity tag.
        following: Where the next page of the answer is; `None` behind the last one.
        acknowledged: When a server said that a write is done, by its own clock.
        observation: Who is told of it; `None` where nobody listens.
        authorization: The headers that its token or scheme added last; never in `repr`.
    """

    attempts: int = 0
    began: float = 0.0
    may_have_arrived: bool = False
    held: Held | None = None
    following: str | None = None
    acknowledged: datetime | None = None
    observation: Observation | None = None
    authorization: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


@dataclass(slots=True)
class Call(Generic[T_co]):
    """One call as it will be sent, as often as it takes: validated, encoded, and with one request id.

    Attributes:
        operation: What is asked for.
        target: The path and the query, percent-encoded, to be appended to an endpoint's base URL.
        namespace: As the caller gave it.
        key: As the caller gave it.
        environment: Where the value applies.
        body: The JSON body, if there is one; never in `repr`.
        headers: Headers of this call alone.
        held: The answer to the same call before, which the server may say is still the newest.
        request_id: Sent with every attempt, so that they can be found together.
        entry_key: The entry that it is about, in plain strings: namespace, key, environment.
        progress: What has become of it so far.
    """

    operation: Operation[T_co]
    target: str
    namespace: str | None = None
    key: str | None = None
    environment: Environment | None = None
    body: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    held: Held | None = field(default=None, repr=False, compare=False)
    request_id: str = field(default_factory=lambda: f"req_{random.getrandbits(64):016x}")
    entry_key: tuple[str, str, str] | None = None
    progress: Progress = field(default_factory=Progress, repr=False, compare=False)

    @property
    def expected_version(self) -> int | None:
        """The version that a conditional write builds on, where its If-Match names one."""
        number = self.headers.get(IF_MATCH_HEADER, "").strip('"').rpartition(".")[2]
        return int(number) if number.isdecimal() else None

    @property
    def is_repeatable(self) -> bool:
        """Whether the server may see it twice, by its nature or by its idempotency key."""
        return self.operation.repeatable or IDEMPOTENCY_KEY_HEADER in self.headers

    @property
    def location(self) -> str:
        """The call as it was made, for a line of a log."""
        environment = f"[{self.environment.value}]" if self.environment else None
        return " ".join(part for part in (self.operation.name, self.namespace, self.key, environment) if part)

    def locate(self, error: errors.LLMConfigError) -> None:
        """Tell an error what was being asked for, where it does not know."""
        error.operation = error.operation or self.operation.name
        error.namespace = error.namespace or self.namespace
        error.key = error.key or self.key
        error.environment = error.environment or self.environment
        error.request_id = error.request_id or self.request_id


# --- Preparing calls ----------------------------------------------------------------------------


def prepare(
    operation: Operation[T_co],
    namespace: str,
    key: str | None = None,
    environment: Environment | None = None,
    *,
    version: int | None = None,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[T_co]:
    """Validate and encode a call about configs.

    Raises:
        InvalidNamespaceError: The namespace breaks the platform's rule.
        InvalidKeyError: The key breaks the platform's rule.
        ValidationError: The version is none.
    """
    applies_to = None if environment is None else environment.value
    # One parameter and no more: the 0.5 server refuses a query with an `&`.
    query = applies_to if body is None else None
    try:
        target = _known_target(operation.name, operation.path, namespace, key, version, query)
    except TypeError:  # a name that cannot be hashed is no name
        target = _target(operation.name, operation.path, namespace, key, version, query)
    entry_key = None if key is None or applies_to is None else (namespace, key, applies_to)
    return Call(operation, target, namespace, key, environment, body, headers or {}, entry_key=entry_key)


def _target(  # noqa: PLR0917  # a memo's arguments are quickest by position
    operation: str, path: str, namespace: str, key: str | None, version: int | None, query: str | None
) -> str:
    """Validate names, and encode them into a path and its query; raises as `prepare`."""
    problem = namespace_problem(namespace)
    if problem is not None:
        raise errors.InvalidNamespaceError(
            f"invalid namespace {_shown(namespace)}: {problem}",
            module=Module.CONFIG,
            details={"field": "namespace", "reason": problem},
            operation=operation,
        )
    if key is not None or "{key}" in path:
        problem = key_problem(key)
        if problem is not None:
            raise errors.InvalidKeyError(
                f"invalid key {_shown(key)}: {problem}",
                module=Module.CONFIG,
                details={"field": "key", "reason": problem},
                operation=operation,
                namespace=namespace,
            )
    if version is not None and not _is_whole(version, at_least=1):
        raise errors.ValidationError(
            f"invalid version {version!r}: versions are whole numbers from 1",
            module=Module.CONFIG,
            details={"field": "version"},
            operation=operation,
            namespace=namespace,
            key=key,
        )
    target = path.format(
        namespace=encode_segment(namespace),
        key=encode_segment(key) if key is not None else "",
        version=version,
    )
    return target if query is None else f"{target}?env={query}"


#: What is valid is remembered; an error never is. Typed, because `True` is no version and equals 1.
_known_target: Final = lru_cache(maxsize=4096, typed=True)(_target)


def paged(call: Call[T_co], page_size: int) -> Call[T_co]:
    """Ask for a list in pages of so many items, of a server that has pages.

    Raises:
        ValidationError: It is no number of items.
    """
    if not _is_whole(page_size, at_least=1):
        raise errors.ValidationError(
            f"invalid page_size {page_size!r}: pages have at least 1 entry",
            details={"field": "page_size"},
            operation=call.operation.name,
            namespace=call.namespace,
        )
    return replace(call, target=f"{call.target}&limit={page_size}")


_REPEATABLE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_READ_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_METHODS: Final = _REPEATABLE_METHODS | {"POST", "PUT", "PATCH"}
_PATH: Final = re.compile(r"/(?![/\\])[!$-;=?-Z\[\]_a-z~]*")  # RFC 3986's characters but `#`; no second slash


def prepare_request(method: str, path: str, params: Mapping[str, Any] | None, body: object) -> Call[Any]:
    """Encode a call to a path of the caller's own.

    Raises:
        InvalidRequestError: The method or the path cannot be sent.
        InvalidValueError: The body is not JSON.
    """
    method = str(method).upper()
    if method not in _METHODS:
        raise errors.InvalidRequestError(
            f"method must be one of {', '.join(sorted(_METHODS))}, not {method!r}"
        )
    if not _PATH.fullmatch(str(path)):
        raise errors.InvalidRequestError(
            f"path must begin with one '/', be percent-encoded and have no fragment: {_shown(path)}"
        )
    if {".", ".."} & set(unquote(path.partition("?")[0]).split("/")):
        raise errors.InvalidRequestError(f"path must have no dot segments: {_shown(path)}")
    operation: Operation[Any] = Operation(
        "request",
        method,
        path,
        decoding.read_json,
        repeatable=method in _REPEATABLE_METHODS,
        is_read=method in _READ_METHODS,
    )
    try:
        query = urlencode(params, doseq=True) if params else ""
    except (UnicodeEncodeError, TypeError):
        raise errors.InvalidRequestError("params must be names and values that are Unicode") from None
    target = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
    return Call(operation, target, body=None if body is None else encode_json(body, operation="request"))


ENVIRONMENTS: Final[Mapping[Any, Environment]] = {
    name: Environment.parse(name) for name in (*Environment, "dev", "stage", "prod")
}
"""Environments by the names in common use: a quick look-up, which `parse_environment` completes."""


def parse_environment(env: Environment | str, operation: str) -> Environment:
    """Read an environment as a caller gave it.

    Raises:
        ValidationError: It is none of the platform's.
    """
    try:
        return Environment.parse(env)
    except ValueError as error:
        raise errors.ValidationError(
            str(error), module=Module.CONFIG, details={"field": "env"}, operation=operation
        ) from error


def encode_set_body(
    value: object, environment: Environment, *, user: str | None, secret: bool, operation: str = "set_config"
) -> bytes:
    """Write the body of a set.

    Raises:
        InvalidValueError: The value is not JSON, or is a secret and not a string.
    """
    if isinstance(value, SecretStr):
        secret, value = True, value.get_secret_value()
    if secret and not isinstance(value, str):
        raise errors.InvalidValueError(
            f"a secret must be a string, not {type(value).__name__}",
            module=Module.CONFIG,
            details={"field": "value"},
            operation=operation,
        )
    body: SetBody = {"value": value, "env": environment.value}
    if user is not None:
        body["user"] = user
    if secret:
        body["secret"] = True
    return encode_json(body, operation=operation)


#: In our words: the library's own can show the value.
_REASONS: Final[Mapping[type[Exception], str]] = {
    RecursionError: "it is nested too deeply",
    UnicodeEncodeError: "a string of it is no valid Unicode",
    ValueError: "it has a number that is not finite (NaN, Infinity), or refers to itself",
}


def encode_json(body: object, *, operation: str) -> bytes:
    """Write a JSON body: exact integers, no NaN, UTF-8.

    Raises:
        InvalidValueError: It is not JSON. The message names the type at fault, never a value.
    """
    try:
        return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        reason = (
            str(error) if isinstance(error, TypeError) else _REASONS.get(type(error), type(error).__name__)
        )
        raise errors.InvalidValueError(
            f"the value cannot be written as JSON: {reason}",
            module=Module.CONFIG,
            details={"field": "value"},
            operation=operation,
        ) from None


def precondition(expected_version: int | ConfigEntry | str | None) -> dict[str, str]:
    """Write the If-Match header for a version, an entry or an entity tag.

    Raises:
        ValidationError: It is none of these.
    """
    if expected_version is None:
        return {}
    if isinstance(expected_version, ConfigEntry):
        return {IF_MATCH_HEADER: expected_version.etag}
    if isinstance(expected_version, str) and expected_version:
        tag = expected_version if expected_version.startswith('"') else f'"{expected_version}"'
        return {IF_MATCH_HEADER: check_header(IF_MATCH_HEADER, tag)}
    if not _is_whole(expected_version, at_least=0):
        raise errors.ValidationError(
            f"expected_version must be a version, an entry or an entity tag, not {_shown(expected_version)}",
            module=Module.CONFIG,
            details={"field": "expected_version"},
            operation=SET_CONFIG.name,
        )
    return {IF_MATCH_HEADER: f'"{expected_version}"'}


def _is_whole(number: object, *, at_least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= at_least


def encode_segment(name: str) -> str:
    """Percent-encode every byte that is no letter or digit, in upper-case hexadecimal.

    More than RFC 3986 asks for: the 0.5 server checks the raw path for marks such as `--` and `..`,
    and a namespace's slashes have to stay inside one segment.
    """
    return "".join(map(_ENCODED.__getitem__, name.encode()))


_LETTERS_AND_DIGITS: Final = frozenset(f"{string.ascii_letters}{string.digits}".encode())
_ENCODED: Final = tuple(chr(byte) if byte in _LETTERS_AND_DIGITS else f"%{byte:02X}" for byte in range(256))
_SHOWN_LENGTH: Final = 80  # characters of a bad name that a message shows


def _shown(name: object) -> str:
    text = repr(name)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


# --- Headers ------------------------------------------------------------------------------------

IF_MATCH_HEADER: Final = "If-Match"
IF_NONE_MATCH_HEADER: Final = "If-None-Match"
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of RFC 9110, section 5.6.2
_OWN_HEADERS: Final = {
    name.lower(): name
    for name in ("Accept", "Authorization", "Content-Type", "User-Agent", REQUEST_ID_HEADER, USER_ID_HEADER)
}
_OF_ONE_CALL: Final = {
    IDEMPOTENCY_KEY_HEADER.lower(): "idempotency_key",
    IF_MATCH_HEADER.lower(): "expected_version",
}
_OF_EACH_REQUEST: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "if-none-match",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def check_header(name: str, value: object) -> str:
    """Refuse a header value that could smuggle in another header.

    Raises:
        InvalidRequestError: It is not printable ASCII. It is not shown, for it may be a token.
    """
    if not isinstance(value, str) or not value.isprintable() or not value.isascii() or value != value.strip():
        raise errors.InvalidRequestError(
            f"the header {name!r} must be printable ASCII without spaces around it (its value is not shown)"
        )
    return value


def client_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Check headers that go with every request, and give those of the SDK's own their usual names.

    Raises:
        InvalidRequestError: A name or a value cannot be sent, or is not for a caller to choose.
    """
    checked: dict[str, str] = {}
    for name, value in headers.items():
        lowered = str(name).lower()
        if not _HEADER_NAME.fullmatch(lowered):
            raise errors.InvalidRequestError(f"{_shown(name)} cannot be the name of a header")
        if lowered in _OF_EACH_REQUEST:
            raise errors.InvalidRequestError(
                f"the header {name!r} is made for each request, by the client or by the connection"
            )
        if lowered in _OF_ONE_CALL:
            raise errors.InvalidRequestError(
                f"the header {name!r} belongs to one call: pass {_OF_ONE_CALL[lowered]}=… to it"
            )
        checked[_OWN_HEADERS.get(lowered, str(name))] = check_header(str(name), value)
    return checked


def call_headers(*, user: str | None = None, idempotency_key: str | None = None) -> dict[str, str]:
    """Collect the headers that one call adds.

    Raises:
        InvalidRequestError: One of them cannot be sent.
    """
    headers: dict[str, str] = {}
    if user is not None:
        headers[USER_ID_HEADER] = check_header(USER_ID_HEADER, user)
    if idempotency_key is not None:
        if idempotency_key == "":
            raise errors.InvalidRequestError("idempotency_key must not be empty")
        headers[IDEMPOTENCY_KEY_HEADER] = check_header(IDEMPOTENCY_KEY_HEADER, idempotency_key)
    return headers
