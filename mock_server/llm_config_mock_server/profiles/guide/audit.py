"""The audit log, by type, user and time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.audit import EVENT_TYPES, AuditEvent
from llm_config_mock_server.messages import NANOSECONDS, At, Reply, json_reply
from llm_config_sdk.contract import Module

from .pages import PARAMETERS, page_headers, page_of
from .refusals import RefusedError, variant_error
from .routing import API, Route

if TYPE_CHECKING:
    from .visit import Visit


def _events(visit: Visit) -> Reply:
    visit.need("audit:read", "audit/events")
    known = {"type", "user", "from", "to"} | PARAMETERS
    unknown = sorted(visit.request.parameters.keys() - known)
    if unknown:
        raise variant_error(
            Module.AUDIT, "InvalidQuery", f"Invalid query: unknown parameter {unknown[0]}", field=unknown[0]
        )
    kind = visit.parameter("type")
    if kind is not None and kind not in EVENT_TYPES:
        reason = f"unknown event type {kind!r}: expected one of {', '.join(sorted(EVENT_TYPES))}"
        raise variant_error(Module.AUDIT, "InvalidQuery", f"Invalid query: {reason}", field="type")
    page = page_of(visit, _no_page)
    since, until = _moment(visit, "from"), _moment(visit, "to")
    if since is not None and until is not None and since > until:
        raise variant_error(
            Module.AUDIT, "InvalidTimeRange", "Invalid time range: it ends before it begins", field="to"
        )
    events = visit.platform.audit.events(type=kind, user=visit.parameter("user"), since=since, until=until)
    shown = [_event_body(event) for event in (events if page is None else page.cut(events))]
    return json_reply(200, shown, *page_headers(visit, page, len(events)))


def _no_page(message: str, name: str) -> RefusedError:
    return variant_error(Module.AUDIT, "InvalidQuery", f"Invalid query: {message}", field=name)


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


ROUTES: Final = (Route("audit events", (*API, "audit", "events"), {"GET": _events}),)
