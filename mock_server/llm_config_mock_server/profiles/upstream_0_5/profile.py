"""The profile: the order of all checks, from a parsed head to a reply.

CORS, route, limiter, `X-Forwarded-Proto`, validator (path, then query), method, path, then query
(get, list, history, delete, rollback) or content type, size and JSON (set), environment, handler.
From the limiter on, only what has a route under `/api/v1` is checked.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.conditions import ComponentFailureError
from llm_config_mock_server.messages import Reply, json_reply
from llm_config_mock_server.storage import Address
from llm_config_mock_server.store import BrokenRecordError, Record
from llm_config_mock_server.vault import CryptoError
from llm_config_sdk.contract import API_PREFIX, ErrorCode

from . import configs
from .gate import DOCUMENTED, Gate
from .routing import (
    HEALTH,
    HISTORY,
    ITEM,
    LIST,
    ROLLBACK,
    Route,
    decode,
    find_route,
    read_query,
    read_version,
)
from .set_body import read_set_body
from .validator import validate
from .words import NO_JSON_TYPE, TOO_LONG, RefusedError, empty, flat, from_proxy, text

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call, Platform
    from llm_config_mock_server.faults import ErrorSpec
    from llm_config_mock_server.messages import Request

SERVICE: Final = "llm-config-manager"
VERSION: Final = "0.5.0"
CORS: Final = (
    ("access-control-allow-origin", "*"),
    ("vary", "origin, access-control-request-method, access-control-request-headers"),
)
PREFLIGHT: Final = (("access-control-allow-methods", "*"), ("access-control-allow-headers", "*"))
DEFAULT_ENVIRONMENT: Final = "development"
_PARSER_REFUSALS: Final = frozenset({400, 414, 431})  # empty, and from below everything that adds headers
_TOO_LARGE: Final = 413
_JSON_TYPE: Final = re.compile(r"application/(?:json|[\w!#$&^.+-]*\+json)\s*(?:;.*)?", re.IGNORECASE)
_PREFIXES: Final = {
    ErrorCode.STORAGE_ERROR: "Storage error: ",
    ErrorCode.DATABASE_ERROR: "Storage error: ",
    ErrorCode.ENCRYPTION_ERROR: "Crypto error: Encryption failed: ",
    ErrorCode.DECRYPTION_ERROR: "Crypto error: Decryption failed: ",
}
_CRYPTO_WORDS: Final = {
    "EncryptionFailed": "Encryption failed: ",
    "DecryptionFailed": "Decryption failed: ",
    "KeyGenerationFailed": "Key generation failed: ",
}


class UpstreamProfile:
    """The platform's published server, 0.5."""

    name = "upstream-0.5"
    default_limits = DOCUMENTED

    def __init__(self) -> None:
        """Begin with nobody limited or banned."""
        self._gate: Gate | None = None

    def reset(self) -> None:
        """Forget who came how often, and who is banned."""
        self._gate = None

    def entry(self, address: Address, record: Record, value: Any) -> dict[str, Any]:
        """Say a record as an entry of the wire."""
        return configs.entry_body(address, record, value)

    def answer_head(self, platform: Platform, call: Call) -> Reply | None:
        """Refuse a set by its head: what is no JSON (415), or says that it is too long (413)."""
        request = call.request
        found = find_route(request.path)
        if request.method != "POST" or found is None or found[0] is not ITEM:
            return None
        if _is_json(request) and not _is_too_long(request, platform.options.body_max_bytes):
            return None
        return self.answer(platform, call)

    def reserve(self, platform: Platform, call: Call) -> None:
        """Do nothing: this server knows no idempotency keys."""

    def answer(self, platform: Platform, call: Call) -> Reply:
        """Carry a request out. Every failure of the platform's own is a 500."""
        try:
            return self._answer(platform, call)
        except RefusedError as error:
            return error.reply
        except CryptoError as error:
            words = _CRYPTO_WORDS.get(error.variant, "")
            return flat(500, f"Crypto error: {words}{error.message.removeprefix(words)}")
        except BrokenRecordError as error:
            return flat(500, f"Storage error: Serialization error: {error}")
        except ComponentFailureError as error:
            if error.component == "service":
                return from_proxy(503)
            return flat(500, f"Storage error: IO error: {error.message}")

    def error(self, spec: ErrorSpec, call: Call) -> Reply:  # noqa: ARG002 - this server's errors carry nothing of the call
        """Say a scripted error: its status, and of the rest what this server has words for."""
        headers = () if spec.retry_after is None else (("retry-after", spec.retry_after),)
        prefix = next((words for code, words in _PREFIXES.items() if code == spec.code), "")
        # "Encryption failed" is what the prefix says already.
        message = prefix.removesuffix(": ") if spec.message in prefix else f"{prefix}{spec.message}"
        return flat(spec.status, message, *headers)

    def refuse(self, status: int, reason: str, call: Call) -> Reply:  # noqa: ARG002 - this server says no reasons
        """Say that the HTTP itself is wrong: in a sentence where the framework found out, else not at all."""
        return text(status, TOO_LONG) if status == _TOO_LARGE else empty(status)

    def finish(self, reply: Reply, call: Call) -> Reply:
        """Add the date, and the headers of CORS unless the parser itself refused."""
        date = ("date", formatdate(call.at.wall, usegmt=True))
        if reply.status in _PARSER_REFUSALS and not reply.body:
            return reply.with_headers(date)
        return reply.with_headers(*CORS, date)

    def _answer(self, platform: Platform, call: Call) -> Reply:
        request = call.request
        platform.conditions.check("service")
        if request.method == "OPTIONS":
            return empty(200, *PREFLIGHT)
        found = find_route(request.path)
        if found is None:
            return empty(404)
        route, raw = found
        if route is not HEALTH:
            self._check(platform, call)
        if not route.allows(request.method):
            return empty(405, ("allow", route.allow))
        if route is HEALTH:
            return json_reply(200, {"service": SERVICE, "status": "healthy", "version": VERSION})
        if route is ITEM and request.method == "POST":
            return self._set(platform, call, decode(raw))
        return self._carry_out(platform, call, route, decode(raw))

    def _check(self, platform: Platform, call: Call) -> None:
        request = call.request
        if platform.limiter is not None:
            if self._gate is None:
                self._gate = Gate(platform.limiter.limits)
            authenticated = request.header("authorization") is not None
            self._gate.pass_through(request.peer, call.at, authenticated=authenticated)
        if request.header("x-forwarded-proto") != "https":
            raise RefusedError(flat(426, "Insecure protocol: TLS is required"))
        validate(request.path.removeprefix(API_PREFIX))
        validate(request.query)

    def _set(self, platform: Platform, call: Call, names: list[str]) -> Reply:
        request = call.request
        if not _is_json(request):
            raise RefusedError(text(415, NO_JSON_TYPE))
        if _is_too_long(request, platform.options.body_max_bytes):
            raise RefusedError(text(_TOO_LARGE, TOO_LONG))
        body = read_set_body(request.body)
        namespace, key = names
        address = Address(namespace, key, configs.parse_environment(body.env))
        return configs.set_value(platform, call, address, body)

    def _carry_out(self, platform: Platform, call: Call, route: Route, names: list[str]) -> Reply:
        version = read_version(names[2]) if route is ROLLBACK else 0
        named = read_query(call.request, has_overrides=route is not ROLLBACK)
        environment = configs.parse_environment(DEFAULT_ENVIRONMENT if named is None else named)
        if route is LIST:
            return configs.listing(platform, names[0], environment)
        address = Address(names[0], names[1], environment)
        if route is HISTORY:
            return configs.history(platform, address)
        if route is ROLLBACK:
            return configs.rollback(platform, call, address, version)
        if call.request.method == "DELETE":
            return configs.delete(platform, address)
        return configs.get(platform, address)


def _is_json(request: Request) -> bool:
    return _JSON_TYPE.fullmatch(request.header("content-type") or "") is not None


def _is_too_long(request: Request, longest: int) -> bool:
    declared = request.header("content-length")
    return len(request.body) > longest or (
        declared is not None and declared.isdigit() and int(declared) > longest
    )
