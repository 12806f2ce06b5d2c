"""From a response to a value or an exception: the ladder.

Servers, older servers and the proxies before them answer in half a dozen shapes. Each rung below
reads one of them; whatever the bytes are, what comes out is an error of this SDK. Nothing here
does I/O.
"""

from __future__ import annotations

import codecs
import email.utils
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic
import pydantic_core
from pydantic import ConfigDict, TypeAdapter

from llm_config_sdk.contract import (
    OS_ERROR_KINDS,
    REQUEST_ID_HEADER,
    ROUTE_DETAIL,
    AuditRecord,
    ErrorCode,
    Health,
    Module,
)
from llm_config_sdk.entries import ConfigEntry, HistoryEntry, json_object
from llm_config_sdk.errors import (
    CODE_CLASSES,
    LLMConfigError,
    ResponseDecodeError,
    ResponseFacts,
    one_line,
    without_credentials,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")

MESSAGE_LIMIT: Final = 1000  # characters kept of a server's message
SNIPPET_LIMIT: Final = 500  # characters kept of a body that cannot be read
ERROR_BODY_LIMIT: Final = (
    256 * 1024
)  # bytes; an error's body that is longer is not parsed, its beginning is kept
_ERRORS_SHOWN: Final = 3  # of a body's faults, in a decode error's message
_RETRY_AFTER_LIMIT: Final = 366 * 24 * 3600.0  # seconds; what is longer is as good as never
_PLAIN_TEXT: Final = "text/plain"
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_SAFE_HEADERS: Final = frozenset(
    {
        "allow",
        "content-length",
        "content-type",
        "date",
        "etag",
        "location",
        "ratelimit",
        "ratelimit-policy",
        "retry-after",
        "server",
        "via",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "x-request-id",
    }
)


@dataclass(slots=True)
class Reply:
    """A response, whichever library brought it.

    Attributes:
        status: The HTTP status.
        headers: The headers, names in lower case.
        body: The body, decompressed.
        raw_headers: The headers as they came, one by one, where they are known so.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)  # a server may say back what it was sent
    body: bytes = field(repr=False)
    raw_headers: Sequence[tuple[bytes, bytes]] = field(default=(), repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


# --- Successes ----------------------------------------------------------------------------------

# A list's own faults ("not JSON") would show its text, secrets and all; a model has this setting itself.
_WITHOUT_INPUT: Final = ConfigDict(hide_input_in_errors=True)
_ENTRY: Final = TypeAdapter(ConfigEntry)
_ENTRIES: Final = TypeAdapter(list[ConfigEntry], config=_WITHOUT_INPUT)
_HISTORY: Final = TypeAdapter(list[HistoryEntry], config=_WITHOUT_INPUT)
_HEALTH: Final = TypeAdapter(Health)
_AUDIT: Final = TypeAdapter(list[AuditRecord], config=_WITHOUT_INPUT)


def read_entry(reply: Reply) -> ConfigEntry:
    """Read an entry from a 2xx reply."""
    return _read(_ENTRY, reply, "a config entry")


def read_entries(reply: Reply) -> list[ConfigEntry]:
    """Read a list of entries from a 2xx reply, in the server's order."""
    return _read(_ENTRIES, reply, "a list of config entries")


def read_history(reply: Reply) -> list[HistoryEntry]:
    """Read a config's versions from a 2xx reply, newest first."""
    history = _read(_HISTORY, reply, "a list of versions")
    return sorted(history, key=lambda item: -item.version)


def read_health(reply: Reply) -> Health:
    """Read a health report."""
    return _read(_HEALTH, reply, "a health report")


def read_audit(reply: Reply) -> list[AuditRecord]:
    """Read a page of the audit log, in the log's order."""
    return _read(_AUDIT, reply, "a list of audit records")


def read_moment(reply: Reply) -> datetime | None:
    """Read when a reply was made, by the server's clock; `None` where it does not say."""
    return _parse_http_date(reply.headers.get("date"))


def read_nothing(reply: Reply) -> None:
    """Read a reply whose status says it all."""
    del reply


def read_json(reply: Reply) -> Any:
    """Read any JSON; an empty 2xx is `None`."""
    if not reply.body:
        return None
    try:
        return pydantic_core.from_json(reply.body)
    except ValueError as error:
        raise _undecodable(reply, "JSON", "the body is not JSON") from error


def _read(adapter: TypeAdapter[T], reply: Reply, expected: str) -> T:
    try:
        return adapter.validate_json(reply.body)
    except pydantic.ValidationError as error:
        if not reply.body:
            what = "the body is empty"
        elif _looks_like_html(reply):
            what = "the body is an HTML page"
        else:
            faults = error.errors(include_url=False, include_input=False, include_context=False)
            what = "; ".join(
                f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}"
                for fault in faults[:_ERRORS_SHOWN]
            )
        raise _undecodable(reply, expected, what) from error


def _undecodable(reply: Reply, expected: str, what: str) -> ResponseDecodeError:
    # A snippet only of a page: what should have been an entry may hold a secret.
    snippet = _beginning(reply.body) if _looks_like_html(reply) else None
    return ResponseDecodeError(
        f"expected {expected}, and cannot read what came with HTTP {reply.status}: {what}",
        response=_facts(reply, snippet=snippet),
        request_id=_request_id(reply),
    )


_ENTITY_TAG: Final = re.compile(r'(?:W/)?"[!#-~]{0,200}"')  # RFC 9110, section 8.8.3; ASCII, and bounded


def read_validator(reply: Reply) -> str | None:
    """Read the entity tag of a reply; `None` where there is none that could be sent back."""
    return check_validator(reply.headers.get("etag", "").strip())


def check_validator(tag: object) -> str | None:
    """Narrow what came from outside to an entity tag; `None` for what could not be sent back."""
    return tag if isinstance(tag, str) and _ENTITY_TAG.fullmatch(tag) else None


def refuse_not_modified(reply: Reply) -> ResponseDecodeError:
    """Say that a 304 answers no question of ours: nothing was asked by an entity tag."""
    return _undecodable(reply, "a whole answer", "nothing is held that could be unmodified")


# --- Errors: the ladder -------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """What a rung could read."""

    message: str = ""
    code: str | None = None
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    timestamp: datetime | None = None
    request_id: str | None = None
    retriable: bool | None = None
    retry_after: float | None = None
    module: Module | None = None
    body: Any = None
    snippet: str | None = None
    is_route_problem: bool = False


def decode_error(reply: Reply, *, now: datetime | None = None) -> LLMConfigError:
    """Turn any response that is no success into the exception that it means.

    Args:
        reply: The response.
        now: The time that an HTTP date in Retry-After is compared with, where the response has no date.

    Returns:
        The error, to be raised by the caller; context (operation, namespace, key) is the caller's to add.
    """
    found = _climb(reply)
    if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _refine(found, reply.status)
    by_status = _code_from(reply.status, found.message)
    code = _CODES_BY_NAME.get(found.code, found.code) if found.code else by_status
    retry_after = parse_retry_after(
        reply.headers.get("retry-after"), now=_parse_http_date(reply.headers.get("date")) or now
    )
    return CODE_CLASSES[code if isinstance(code, ErrorCode) else by_status](
        found.message or _phrase(reply),
        code=code,
        status=reply.status,
        details=found.details,
        timestamp=found.timestamp,
        request_id=found.request_id or _request_id(reply),
        retriable=found.retriable,
        retry_after=retry_after if retry_after is not None else found.retry_after,
        module=found.module,
        response=_facts(reply, body=found.body, snippet=found.snippet),
        is_route_problem=found.is_route_problem or reply.status == HTTPStatus.METHOD_NOT_ALLOWED,
    )


def _climb(reply: Reply) -> _Found:
    body = reply.body.removeprefix(_BYTE_ORDER_MARK)
    if len(body) > ERROR_BODY_LIMIT:
        return _read_unstructured(reply, body)
    if not body.strip():
        return _read_empty(reply)
    if _looks_like_html(reply):
        return _read_unstructured(reply, body)
    if reply.media_type == _PLAIN_TEXT and not body.lstrip().startswith((b"{", b"[")):
        return _read_unstructured(reply, body)  # a text that happens to be a number is a text
    try:
        document: object = pydantic_core.from_json(body)
    except ValueError:
        return _read_unstructured(reply, body)
    return _read_json(document, reply.status)


def _read_json(document: object, status: int) -> _Found:
    body = json_object(document)
    if body is None:
        return _Found(body=document, is_route_problem=_is_missing_route(status, ""))
    error = body.get("error")
    envelope = json_object(error)
    if envelope is not None:
        return _read_envelope(envelope)
    if isinstance(error, str):
        return _read_flat(body, error)
    return _read_other_json(body, status)


def _read_envelope(error: dict[str, Any]) -> _Found:
    """Rung 1: the guide's envelope, any field of which may be missing or of the wrong type."""
    found = _read_fields(error)
    found.code = _clean(error.get("code")) or None
    found.is_route_problem = ROUTE_DETAIL in found.details and "module" not in found.details
    if found.retry_after is None:
        found.retry_after = _parse_seconds(found.details.get("retry_after"))
    return found


_CODE_SHAPE: Final = re.compile(r"[A-Z_]+")


def _read_flat(document: dict[str, Any], error: str) -> _Found:
    """Rung 2: `error` is a string, as the 0.5 server and older documents of the platform have it."""
    found = _read_fields(document)
    code = document.get("code")
    if isinstance(code, str) and _CODE_SHAPE.fullmatch(code):
        found.code = _clean(code)
    elif error in _CODES_BY_NAME:
        found.code = error
    found.message = found.message or _clean(error)
    return found


def _read_fields(fields: dict[str, Any]) -> _Found:
    """Read what both families of the platform's errors have in common."""
    details = fields.get("details")
    described = {} if details is None else {"description": _clean(details) or details}
    known = json_object(details)
    retriable = fields.get("retriable")
    found = _Found(
        message=_clean(fields.get("message")),
        details=described if known is None else known,
        timestamp=_parse_timestamp(fields.get("timestamp")),
        request_id=_clean(fields.get("request_id")) or None,
        retriable=retriable if isinstance(retriable, bool) else None,
        retry_after=_parse_seconds(fields.get("retry_after")),
    )
    if not isinstance(found.details.get("module"), str):
        found.module = Module.CONFIG
    return found


def _read_other_json(document: dict[str, Any], status: int) -> _Found:
    """Rung 3: JSON that is no error body. RFC 9457 problem documents have a title and a detail."""
    parts = (_clean(document.get(name)) for name in ("title", "detail"))
    message = ": ".join(part for part in parts if part)
    return _Found(body=document, message=message, is_route_problem=_is_missing_route(status, message))


def _read_unstructured(reply: Reply, body: bytes) -> _Found:
    """Rung 4: plain text is the message. Rung 6: a page, or what cannot be read, is kept aside."""
    is_text = reply.media_type in {"", _PLAIN_TEXT} and not _looks_like_html(reply)
    text = _decoded(body) if is_text else None
    if text is None:
        return _Found(snippet=_beginning(body), is_route_problem=_is_missing_route(reply.status, ""))
    message = _clean(text)
    lost = _is_missing_route(reply.status, message)
    return _Found(message=message, module=Module.CONFIG, is_route_problem=lost)


def _beginning(body: bytes) -> str:
    return body[: SNIPPET_LIMIT * 4].decode(errors="replace")[:SNIPPET_LIMIT]


def _decoded(body: bytes) -> str | None:
    """Decode the beginning of a text, which may be cut in the middle of a character."""
    head = body[: MESSAGE_LIMIT * 4]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) == len(body))
    except UnicodeDecodeError:
        return None


def _read_empty(reply: Reply) -> _Found:
    """Rung 5: nothing. From the platform, an empty 404 means that there is no such route."""
    is_route_problem = reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    what = "no such route, the body is empty" if is_route_problem else "the body is empty"
    return _Found(message=f"{_phrase(reply)}: {what}", is_route_problem=is_route_problem)


_PLATFORMS_NOT_FOUND: Final = re.compile(
    r"\b(?:config|configuration|entry|key|version)\b.*\bnot found\b", re.IGNORECASE
)


def _is_missing_route(status: int, message: str) -> bool:
    """Whether a 404 that is none of the platform's error bodies says nothing of the config.

    Another service's or a proxy's "not found" taken for "no such config" would hide an outage.
    """
    return status == HTTPStatus.NOT_FOUND and _PLATFORMS_NOT_FOUND.search(message) is None


_OS_ERROR: Final = re.compile(r"\(os error ([0-9]{1,5})\)")
_PREFIXES: Final[tuple[tuple[str, ErrorCode, dict[str, str]], ...]] = (
    # The 0.5 server answers 500 to all of these; the beginning of the message is the only hint.
    ("Storage error", ErrorCode.STORAGE_ERROR, {}),
    ("Crypto error: Encryption failed", ErrorCode.ENCRYPTION_ERROR, {}),
    ("Crypto error: Decryption failed", ErrorCode.DECRYPTION_ERROR, {}),
    ("Validation error: Encryption key not configured", ErrorCode.ENCRYPTION_ERROR, {}),
    ("Serialization error", ErrorCode.INTERNAL_ERROR, {"module": "config", "variant": "SerializationError"}),
)


def _refine(found: _Found, status: int) -> None:
    """Read from the message of a 5xx what a server did not say in a field of its own."""
    if found.code is None and status not in _STATUS_CODES:
        for prefix, code, details in _PREFIXES:
            if found.message.startswith(prefix):
                found.code = code
                found.details = {**found.details, **details}
    number = _OS_ERROR.search(found.message)
    kind = OS_ERROR_KINDS.get(int(number[1])) if number else None
    if kind is not None and not isinstance(found.details.get("kind"), str):
        found.details = {**found.details, "kind": kind}


# --- Codes from statuses ------------------------------------------------------------------------

_CODES_BY_NAME: Final[Mapping[str, ErrorCode]] = {code.value: code for code in ErrorCode}
_VERSION_NOT_FOUND: Final = re.compile(r"\bversion\b.*\bnot found\b", re.IGNORECASE)
_STATUS_CODES: Final[Mapping[int, ErrorCode]] = {
    401: ErrorCode.UNAUTHORIZED,
    403: ErrorCode.PERMISSION_DENIED,
    404: ErrorCode.NOT_FOUND,
    408: ErrorCode.SERVICE_UNAVAILABLE,
    409: ErrorCode.CONFLICT,
    412: ErrorCode.CONFLICT,
    422: ErrorCode.VALIDATION_ERROR,
    425: ErrorCode.SERVICE_UNAVAILABLE,
    429: ErrorCode.RATE_LIMIT_EXCEEDED,
    502: ErrorCode.SERVICE_UNAVAILABLE,
    503: ErrorCode.SERVICE_UNAVAILABLE,
    504: ErrorCode.SERVICE_UNAVAILABLE,
}


def _code_from(status: int, message: str) -> ErrorCode:
    """The code that a status stands for, where the server sent none (or none that is known)."""
    if status == HTTPStatus.NOT_FOUND and _VERSION_NOT_FOUND.search(message):
        return ErrorCode.VERSION_NOT_FOUND
    is_server_error = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    otherwise = ErrorCode.INTERNAL_ERROR if is_server_error else ErrorCode.INVALID_REQUEST
    return _STATUS_CODES.get(status, otherwise)


def _phrase(reply: Reply) -> str:
    """Say in words what the status says, where the body says nothing."""
    try:
        phrase = f"HTTP {reply.status} {HTTPStatus(reply.status).phrase}"
    except ValueError:
        phrase = f"HTTP {reply.status}"
    location = _shown_header("location", reply.headers.get("location", ""))
    is_redirect = HTTPStatus.MULTIPLE_CHOICES <= reply.status < HTTPStatus.BAD_REQUEST
    return f"{phrase}, to {location}" if is_redirect and location else phrase


# --- Pieces -------------------------------------------------------------------------------------


def parse_retry_after(value: str | None, *, now: datetime | None = None) -> float | None:
    """Read a Retry-After header: seconds, or an HTTP date (RFC 9110, section 10.2.3).

    Args:
        value: The header, or `None`.
        now: What a date is compared with; left out, the present.

    Returns:
        Seconds from now, never negative; `None` for a header that is missing or makes no sense.
    """
    if value is None:
        return None
    seconds = _parse_seconds(value.strip())
    if seconds is not None:
        return seconds
    date = _parse_http_date(value)
    if date is None:
        return None
    return min(max(0.0, (date - (now or datetime.now(UTC))).total_seconds()), _RETRY_AFTER_LIMIT)


_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_HEADER_LIMIT: Final = 200  # characters kept, or read, of a header


def _parse_seconds(value: object) -> float | None:
    if isinstance(value, str) and len(value) <= _HEADER_LIMIT and _SECONDS.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:  # not NaN either
        return None
    return float(min(value, _RETRY_AFTER_LIMIT))


def _parse_http_date(value: str | None) -> datetime | None:
    if value is None or len(value) > _HEADER_LIMIT:
        return None
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


_TIMESTAMP: Final = TypeAdapter(datetime)


def _parse_timestamp(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        timestamp = _TIMESTAMP.validate_python(value)
    except pydantic.ValidationError:
        return None
    return timestamp if timestamp.tzinfo is not None else timestamp.replace(tzinfo=UTC)


def _clean(value: object) -> str:
    return one_line(value, MESSAGE_LIMIT) if isinstance(value, str) else ""


def _request_id(reply: Reply) -> str | None:
    return one_line(reply.headers.get(REQUEST_ID_HEADER.lower(), ""), _HEADER_LIMIT) or None


def _looks_like_html(reply: Reply) -> bool:
    beginning = reply.body[:MESSAGE_LIMIT].removeprefix(_BYTE_ORDER_MARK).lstrip()[:1]
    return beginning == b"<" or (reply.media_type in _PAGES and beginning != b"{")


def _facts(reply: Reply, *, body: Any = None, snippet: str | None = None) -> ResponseFacts:
    return ResponseFacts(
        status=reply.status,
        headers={
            name: _shown_header(name, value) for name, value in reply.headers.items() if name in _SAFE_HEADERS
        },
        content_type=one_line(reply.media_type, _HEADER_LIMIT),
        body=body,
        snippet=snippet,
    )


def _shown_header(name: str, value: str) -> str:
    if name == "location":  # a query or a user's name in it may be a secret
        value = without_credentials(re.split("[?#]", value, maxsplit=1)[0])
    return one_line(value, _HEADER_LIMIT)
