"""The profile: the order in which a request is checked, carried out and answered."""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.conditions import ComponentFailureError
from llm_config_mock_server.messages import Header, Reply, json_reply
from llm_config_mock_server.rbac import ANYBODY, Principal, RbacError
from llm_config_mock_server.server_cache import CacheError
from llm_config_mock_server.store import BrokenRecordError, Record
from llm_config_mock_server.vault import CryptoError
from llm_config_sdk.contract import HEALTH_PATH, IDEMPOTENCY_REPLAYED_HEADER, REQUEST_ID_HEADER, ErrorCode

from . import audit, cache, configs, rbac, vault
from .envelope import envelope, refusal_reply
from .framework import check_accept, check_content_type, check_length, handler_of, protocol_refusal
from .idempotency import claim, idempotency_key
from .limits import spend
from .refusals import RefusedError, as_refusal, log_refusal
from .routing import Route, decode, find_route
from .visit import Visit

if TYPE_CHECKING:
    from llm_config_mock_server.core import Call, Platform
    from llm_config_mock_server.faults import ErrorSpec
    from llm_config_mock_server.limiter import Limits
    from llm_config_mock_server.storage import Address

    from .visit import Handler

SERVICE: Final = "llm-config-manager"
VERSION: Final = "0.5.0"  # of the platform whose interface this is


def _health(_: Visit) -> Reply:
    return json_reply(200, {"status": "healthy", "service": SERVICE, "version": VERSION})


_HEALTH: Final = Route("health", (HEALTH_PATH.strip("/"),), {"GET": _health})

PLATFORM_FAILURES: Final = (
    RefusedError,
    CacheError,
    RbacError,
    CryptoError,
    BrokenRecordError,
    ComponentFailureError,
)
"""What `as_refusal` can say; everything else is a defect of this server."""

ROUTES: Final = (_HEALTH, *configs.ROUTES, *rbac.ROUTES, *vault.ROUTES, *audit.ROUTES, *cache.ROUTES)
"""Every route; a request without a body of JSON needs no content type."""


class GuideProfile:
    """The platform as its guide describes it."""

    name = "guide"
    default_limits: Limits | None = None  # the guide has the code 429, and no figures

    def reset(self) -> None:
        """Do nothing: this profile keeps nothing of its own."""

    def entry(self, address: Address, record: Record, value: Any) -> dict[str, Any]:
        """Say a record as an entry of the wire."""
        return configs.entry_body(address, record, value)

    def answer_head(self, platform: Platform, call: Call) -> Reply | None:
        """Refuse by the head alone: a body that is too long, or no JSON where JSON is read."""
        try:
            check_length(call.request, platform.options.body_max_bytes)
        except RefusedError as error:
            return refusal_reply(error, call)
        try:
            route, _ = find_route(ROUTES, call.request)
        except RefusedError:
            return None  # said by `answer`, which every request without a route reaches
        try:
            check_content_type(call.request, route)
        except RefusedError as error:
            return refusal_reply(error, call)
        return None

    def reserve(self, platform: Platform, call: Call) -> None:
        """Take the idempotency key of a request that is made to wait."""
        try:
            route, _ = find_route(ROUTES, call.request)
            claim(platform, call, route, self._principal(platform, call))
        except (RefusedError, ComponentFailureError):
            return  # it will be said when the wait is over

    def answer(self, platform: Platform, call: Call) -> Reply:
        """Carry a request out, in one transaction: nothing is said that was not kept."""
        try:
            with platform.store.storage.transaction():
                try:
                    return self._answer(platform, call)
                except PLATFORM_FAILURES as error:
                    # Said in here: what was recorded of a failure or a denial is kept.
                    return _refused(error, call)
        except ComponentFailureError as error:
            return _refused(error, call)

    def error(self, spec: ErrorSpec, call: Call) -> Reply:
        """Say a scripted error."""
        details = dict(spec.details)
        headers: tuple[Header, ...] = ()
        if spec.retry_after is not None:
            headers = (("retry-after", spec.retry_after),)
            details.setdefault("retry_after", spec.retry_after)
        return envelope(
            spec.status, spec.code, spec.message, details, call, retriable=spec.retriable, headers=headers
        )

    def refuse(self, status: int, reason: str, call: Call) -> Reply:
        """Say that the HTTP itself is wrong."""
        return refusal_reply(protocol_refusal(status, reason), call)

    def finish(self, reply: Reply, call: Call) -> Reply:
        """Add the request's id and the date."""
        return reply.with_headers(
            (REQUEST_ID_HEADER.lower(), call.request_id), ("date", formatdate(call.at.wall, usegmt=True))
        )

    def _answer(self, platform: Platform, call: Call) -> Reply:
        request = call.request
        route, raw = find_route(ROUTES, request)
        handler = handler_of(route, request)
        check_accept(request)
        arguments = tuple(decode(segment) for segment in raw)
        if route is _HEALTH:
            platform.conditions.check("service")
            return handler(Visit(platform, call, ANYBODY, arguments))
        principal = self._principal(platform, call)
        limited = spend(platform, call, principal)
        try:
            reply = self._carry_out(Visit(platform, call, principal, arguments), route, handler)
        except PLATFORM_FAILURES as error:
            refusal = as_refusal(error, request)
            refusal.headers += limited
            raise refusal from error
        return reply.with_headers(*limited)

    def _carry_out(self, visit: Visit, route: Route, handler: Handler) -> Reply:
        platform, call, principal = visit.platform, visit.call, visit.principal
        platform.conditions.check("service")
        replayed = claim(platform, call, route, principal)
        if replayed is not None:
            return replayed.with_headers((IDEMPOTENCY_REPLAYED_HEADER.lower(), "true"))
        reply = handler(visit)
        key = idempotency_key(route, call.request, principal)
        if key is not None:
            platform.idempotency.settle(key, reply)
        return reply

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


def _refused(error: Exception, call: Call) -> Reply:
    refusal = as_refusal(error, call.request)
    log_refusal(refusal, call)
    return refusal_reply(refusal, call)
