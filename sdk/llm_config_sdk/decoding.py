"""From a response to a value or an exception: the ladder.

Servers, older servers and the proxies before them answer in half a dozen shapes. Each rung below
reads one of them; whatever the bytes are, what comes out is an error of this SDK. Nothing here
does I/O.
"""

from __future__ import annotations

import email.utils
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pydantic
import pydantic_core
from pydantic import TypeAdapter

from llm_config_sdk.contract import OS_ERROR_KINDS, REQUEST_ID_HEADER, ErrorCode, Health, Module
from llm_config_sdk.entries import ConfigEntry, HistoryEntry, json_object
from llm_config_sdk.errors import CODE_CLASSES, LLMConfigError, ResponseDecodeError, ResponseFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

MESSAGE_LIMIT: Final = 1000  # characters kept of a server's message
SNIPPET_LIMIT: Final = 500  # characters kept of a body that cannot be read
_ERRORS_SHOWN: Final = 3  # of a body's faults, in a decode error's message
_RETRY_AFTER_LIMIT: Final = 366 * 24 * 3600.0  # seconds; what is longer is as good as never
_SAFE_HEADERS: Final = frozenset(
    {
        "allow",
        "content-length",
        "content-type",
        "date",
        "etag",
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


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, whichever library brought it.

    Attributes:
        status: The HTTP status.
        headers: The headers, names in lower case.
        body: The body, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether the status is a 2xx."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def media_type(self) -> str:
        """The content type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


# --- Successes ----------------------------------------------------------------------------------

_ENTRY: Final = TypeAdapter(ConfigEntry)
_ENTRIES: Final = TypeAdapter(list[ConfigEntry])
_HISTORY: Final = TypeAdapter(list[HistoryEntry])
_HEALTH: Final = TypeAdapter(Health)


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
    snippet = _text(reply.body)[:SNIPPET_LIMIT] if _looks_like_html(reply) else None
    return ResponseDecodeError(
        f"expected {expected}, and cannot read what came with HTTP {reply.status}: {what}",
        response=_facts(reply, snippet=snippet),
        request_id=reply.headers.get(REQUEST_ID_HEADER.lower()),
    )


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
    if found.code is None:
        found.code = _code_from(reply.status, found)
    known = _CODES_BY_NAME.get(found.code)
    cls = CODE_CLASSES[known if known is not None else _code_from(reply.status, found)]
    retry_after = parse_retry_after(
        reply.headers.get("retry-after"), now=_parse_http_date(reply.headers.get("date")) or now
    )
    return cls(
        found.message or _phrase(reply.status),
        code=known if known is not None else found.code,
        status=reply.status,
        details=found.details,
        timestamp=found.timestamp,
        request_id=found.request_id or reply.headers.get(REQUEST_ID_HEADER.lower()) or None,
        retriable=found.retriable,
        retry_after=retry_after if retry_after is not None else found.retry_after,
        module=found.module,
        response=_facts(reply, body=found.body, snippet=found.snippet),
        is_route_problem=found.is_route_problem or reply.status == HTTPStatus.METHOD_NOT_ALLOWED,
    )


def _climb(reply: Reply) -> _Found:
    if not reply.body.strip():
        return _read_empty(reply)
    if _looks_like_html(reply):
        is_route_problem = reply.status == HTTPStatus.NOT_FOUND
        return _Found(snippet=_text(reply.body)[:SNIPPET_LIMIT], is_route_problem=is_route_problem)
    try:
        document: object = pydantic_core.from_json(reply.body)
    except ValueError:
        return _read_text(reply)
    return _read_json(document, reply.status)


def _read_json(document: object, status: int) -> _Found:
    body = json_object(document)
    if body is None:
        return _Found(body=document)
    error = body.get("error")
    envelope = json_object(error)
    if envelope is not None:
        return _read_envelope(envelope)
    if isinstance(error, str):
        return _read_flat(body, error, status)
    return _read_other_json(body)


def _read_envelope(error: dict[str, Any]) -> _Found:
    """Rung 1: the guide's envelope, any field of which may be missing or of the wrong type."""
    details = json_object(error.get("details")) or {}
    retriable = error.get("retriable")
    is_route_problem = "route" in details and "module" not in details
    return _Found(
        message=_clean(error.get("message")),
        code=_clean(error.get("code")) or None,
        details=details,
        timestamp=_parse_timestamp(error.get("timestamp")),
        request_id=_clean(error.get("request_id")) or None,
        retriable=retriable if isinstance(retriable, bool) else None,
        retry_after=_parse_seconds(details.get("retry_after")),
        module=None if is_route_problem or "module" in details else Module.CONFIG,
        is_route_problem=is_route_problem,
    )


_CODE_SHAPE: Final = re.compile(r"[A-Z_]+")
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")
_PREFIXES: Final[tuple[tuple[str, ErrorCode, dict[str, str]], ...]] = (
    # The 0.5 server answers 500 to all of these; the beginning of the message is the only hint.
    ("Storage error", ErrorCode.STORAGE_ERROR, {}),
    ("Crypto error: Encryption failed", ErrorCode.ENCRYPTION_ERROR, {}),
    ("Crypto error: Decryption failed", ErrorCode.DECRYPTION_ERROR, {}),
    ("Validation error: Encryption key not configured", ErrorCode.ENCRYPTION_ERROR, {}),
    ("Serialization error", ErrorCode.INTERNAL_ERROR, {"module": "config", "variant": "SerializationError"}),
)


def _read_flat(document: dict[str, Any], error: str, status: int) -> _Found:
    """Rung 2: `error` is a string, as the 0.5 server and older documents of the platform have it."""
    code = document.get("code")
    details = document.get("details")
    described = {"description": _clean(details)} if isinstance(details, str) else {}
    retriable = document.get("retriable")
    found = _Found(
        message=_clean(document.get("message")) or _clean(error),
        code=code if isinstance(code, str) and _CODE_SHAPE.fullmatch(code) else None,
        details=json_object(details) or described,
        timestamp=_parse_timestamp(document.get("timestamp")),
        request_id=_clean(document.get("request_id")) or None,
        retriable=retriable if isinstance(retriable, bool) else None,
        retry_after=_parse_seconds(document.get("retry_after")),
    )
    if found.code is None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _refine(found)
    if "module" not in found.details:
        found.module = Module.CONFIG
    return found


def _refine(found: _Found) -> None:
    for prefix, code, details in _PREFIXES:
        if found.message.startswith(prefix):
            found.code = code
            found.details = {**found.details, **details}
    number = _OS_ERROR.search(found.message)
    kind = OS_ERROR_KINDS.get(int(number[1])) if number else None
    if kind is not None:
        found.details = {**found.details, "kind": kind}


def _read_other_json(document: dict[str, Any]) -> _Found:
    """Rung 3: JSON that is no error body. RFC 9457 problem documents have a title and a detail."""
    parts = (_clean(document.get(name)) for name in ("title", "detail"))
    return _Found(body=document, message=": ".join(part for part in parts if part))


def _read_text(reply: Reply) -> _Found:
    """Rung 4: plain text is the message; rung 6: what cannot be read as text is kept aside."""
    try:
        text = reply.body.decode()
    except UnicodeDecodeError:
        return _Found(snippet=_text(reply.body)[:SNIPPET_LIMIT])
    if reply.media_type in {"", "text/plain"}:
        found = _Found(message=_clean(text))
        if reply.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            _refine(found)
        return found
    return _Found(snippet=text[:SNIPPET_LIMIT])


def _read_empty(reply: Reply) -> _Found:
    """Rung 5: nothing. From the platform, an empty 404 means that there is no such route."""
    route = reply.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
    what = "no such route, the body is empty" if route else "the body is empty"
    return _Found(message=f"{_phrase(reply.status)}: {what}", is_route_problem=route)


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


def _code_from(status: int, found: _Found) -> ErrorCode:
    """The code that a status stands for, where the server sent none (or none that is known)."""
    if status == HTTPStatus.NOT_FOUND and _VERSION_NOT_FOUND.search(found.message):
        return ErrorCode.VERSION_NOT_FOUND
    if status in _STATUS_CODES:
        return _STATUS_CODES[status]
    return (
        ErrorCode.INTERNAL_ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else ErrorCode.INVALID_REQUEST
    )


def _phrase(status: int) -> str:
    try:
        return f"HTTP {status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"HTTP {status}"


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


def _parse_seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    if math.isnan(seconds) or seconds < 0:
        return None
    return min(seconds, _RETRY_AFTER_LIMIT)


def _parse_http_date(value: str | None) -> datetime | None:
    if value is None:
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


_NOT_PRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def _clean(value: object) -> str:
    """Make a server's text fit for one line of a log: bounded, and without control characters."""
    if not isinstance(value, str):
        return ""
    text = _NOT_PRINTABLE.sub(" ", value[: MESSAGE_LIMIT + 1]).strip()
    return text if len(text) <= MESSAGE_LIMIT else f"{text[:MESSAGE_LIMIT]}…"


def _text(body: bytes) -> str:
    return body[: SNIPPET_LIMIT * 4].decode(errors="replace")


def _looks_like_html(reply: Reply) -> bool:
    return reply.media_type in {"text/html", "application/xhtml+xml"} or reply.body.lstrip()[:1] == b"<"


def _facts(reply: Reply, *, body: Any = None, snippet: str | None = None) -> ResponseFacts:
    return ResponseFacts(
        status=reply.status,
        headers={name: value for name, value in reply.headers.items() if name in _SAFE_HEADERS},
        content_type=reply.media_type,
        body=body,
        snippet=snippet,
    )
