"""Spans and metrics for OpenTelemetry, and the context of a trace in the requests that go out.

A call is an internal span named after the client's method; each of its requests is a client span below it, by
the semantic conventions for HTTP (stable since 1.23): name, attributes, status and resend count.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, ClassVar, Final

from llm_config_sdk.errors import LLMConfigError, one_line
from llm_config_sdk.observability.events import Observer
from llm_config_sdk.observability.families import code_of, error_type
from llm_config_sdk.observability.observers import call_in_hand

try:
    from opentelemetry import metrics, propagate, trace
    from opentelemetry.trace import SpanKind, Status, StatusCode
except ModuleNotFoundError as _missing:  # pragma: no cover  # tests run with every extra
    raise ModuleNotFoundError(
        "spans need opentelemetry-api: pip install 'llm-config-sdk[otel]', and an SDK to send them with"
    ) from _missing

from llm_config_sdk._version import __version__

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from llm_config_resilience import Event
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.observability.events import Answered, CallEvent, Incident, ObservedCall, Sending

_NAME: Final = "llm_config_sdk"
_CLIENT_ERROR: Final = 400  # the first status that is an error to a client

# https://opentelemetry.io/docs/specs/semconv/http/ and …/general/attributes/
_METHOD: Final = "http.request.method"
_RESEND_COUNT: Final = "http.request.resend_count"
_STATUS_CODE: Final = "http.response.status_code"
_SERVER_ADDRESS: Final = "server.address"
_SERVER_PORT: Final = "server.port"
_URL_FULL: Final = "url.full"
_URL_TEMPLATE: Final = "url.template"
_ERROR_TYPE: Final = "error.type"
_REQUEST_DURATION: Final = "http.client.request.duration"
#: Seconds: the boundaries that the conventions ask for.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_STACK_EVENTS: Final[frozenset[EventKind]] = frozenset(
    {
        "retry",
        "gave_up",
        "recovered",
        "rejected",
        "opened",
        "half_opened",
        "closed",
        "late",
        "timed_out",
        "failed_over",
        "ejected",
        "readmitted",
        "served_stale",
        "refreshing",
        "cache_failed",
    }
)
_TRANSITIONS: Final[dict[EventKind, str]] = {"opened": "open", "half_opened": "half-open", "closed": "closed"}


class OpenTelemetry(Observer):
    """Makes a span of each call and of each of its requests, records errors, and propagates the trace.

        client = ConfigClient("https://config.example.com", listeners=[OpenTelemetry()])

    What the stack does (retries, failover, circuits) are events of the call's span. An answer from the cache
    makes no span; the metric `llm_config.call.duration` counts it.

    Args:
        tracer_provider: Left out, the global one.
        meter_provider: Left out, the global one.
        propagator: Writes the trace's context into requests; left out, the global one, which is W3C Trace
            Context and Baggage unless configured otherwise.
    """

    wants: ClassVar[frozenset[EventKind] | None] = _STACK_EVENTS

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        self._propagator = propagator if propagator is not None else propagate.get_global_textmap()
        self._calls: weakref.WeakKeyDictionary[ObservedCall, Span] = weakref.WeakKeyDictionary()
        self._by_request_id: weakref.WeakValueDictionary[str, ObservedCall] = weakref.WeakValueDictionary()
        self._requests: weakref.WeakKeyDictionary[Sending, Span] = weakref.WeakKeyDictionary()
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._request_duration = meter.create_histogram(
            _REQUEST_DURATION,
            unit="s",
            description="Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._call_duration = meter.create_histogram(
            "llm_config.call.duration",
            unit="s",
            description="Duration of a whole call, retries and all.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._retries = meter.create_counter(
            "llm_config.retries", unit="{retry}", description="Attempts that were repeated."
        )
        self._failovers = meter.create_counter(
            "llm_config.failovers", unit="{failover}", description="Times the next endpoint was tried."
        )
        self._transitions = meter.create_counter(
            "llm_config.breaker.transitions", unit="{transition}", description="Changes of a circuit's state."
        )
        self._data_loss = meter.create_counter(
            "llm_config.data_loss", unit="{incident}", description="Losses of data that were noticed."
        )

    def __call__(self, event: Event) -> None:
        """Add what the stack did to the call's span, and count it."""
        call = call_in_hand()
        operation = call.operation.name if call is not None else ""
        if event.kind == "retry":
            self._retries.add(1, {"llm_config.operation": operation})
        elif event.kind == "failed_over":
            self._failovers.add(1, {"llm_config.operation": operation})
        elif event.kind in _TRANSITIONS:
            state = {"llm_config.breaker.state": _TRANSITIONS[event.kind]}
            self._transitions.add(1, {**state, **_endpoint(event)})
        observed = self._by_request_id.get(call.request_id) if call is not None else None
        span = self._calls.get(observed) if observed is not None else None
        if span is not None and span.is_recording():
            span.add_event(event.kind, _event_attributes(event))

    def began(self, call: ObservedCall) -> None:
        """Begin the call's span, below the one that is current."""
        span = self._tracer.start_span(call.operation, kind=SpanKind.INTERNAL)
        if span.is_recording():
            span.set_attributes(_call_attributes(call))
        self._calls[call] = span
        self._by_request_id[call.request_id] = call

    def sending(self, request: Sending) -> None:
        """Begin the request's span, and write its context into the request's headers."""
        call = request.call
        parent = self._calls.get(call)
        context = trace.set_span_in_context(parent) if parent is not None else None
        name = f"{call.method} {call.route}" if call.route else call.method
        span = self._tracer.start_span(name, context, kind=SpanKind.CLIENT)
        if span.is_recording():
            span.set_attributes(_request_attributes(request) | {_URL_FULL: request.url})
            if request.attempt > 1:
                span.set_attribute(_RESEND_COUNT, request.attempt - 1)
        self._requests[request] = span
        carrier: dict[str, str] = {}
        self._propagator.inject(  # pyright: ignore[reportArgumentType]  # the default setter fits any dict
            carrier, trace.set_span_in_context(span, context)
        )
        request.headers.update(carrier)

    def answered(self, answer: Answered) -> None:
        """End the request's span, and time the request."""
        request = answer.sending
        attributes = _request_attributes(request)
        if answer.status is not None:
            attributes[_STATUS_CODE] = answer.status
        kind = _error_type(answer)
        if kind is not None:
            attributes[_ERROR_TYPE] = kind
        self._request_duration.record(answer.duration, attributes)
        span = self._requests.pop(request, None)
        if span is None:
            return
        if span.is_recording():
            if answer.status is not None:
                span.set_attribute(_STATUS_CODE, answer.status)
            if kind is not None:
                span.set_attribute(_ERROR_TYPE, kind)
                # The description is left out where the status code says it.
                told = None if answer.status is not None else _message(answer.error)
                span.set_status(Status(StatusCode.ERROR, told))
            if answer.error is not None:
                span.record_exception(answer.error)
        span.end()

    def ended(self, event: CallEvent) -> None:
        """End the call's span, and time the call."""
        error = event.error if event.outcome not in {"ok", "cancelled"} else None
        attributes: dict[str, AttributeValue] = {
            "llm_config.operation": event.call.operation,
            "llm_config.outcome": event.outcome,
        }
        if event.source:
            attributes["llm_config.source"] = event.source
        if error is not None:
            attributes[_ERROR_TYPE] = error_type(error)
        self._call_duration.record(event.duration, attributes)
        span = self._calls.get(event.call)  # kept for requests that go on in the background
        if span is None or not span.is_recording():
            return
        span.set_attributes(attributes | {"llm_config.attempts": event.attempts})
        if error is not None:
            span.set_attribute("llm_config.error.code", code_of(error))
            if event.outcome != "degraded":
                span.set_status(Status(StatusCode.ERROR, _message(error)))
            span.record_exception(error)
        span.end()

    def noticed(self, incident: Incident) -> None:
        """Count lost data, and mark the call that shows it."""
        self._data_loss.add(1, {"llm_config.data_loss.kind": incident.kind})
        span = self._calls.get(incident.call) if incident.call is not None else None
        if span is not None and span.is_recording():
            span.add_event(incident.kind, {"llm_config.message": one_line(incident.message)})


def _call_attributes(call: ObservedCall) -> dict[str, AttributeValue]:
    found = {
        "llm_config.operation": call.operation,
        "llm_config.namespace": call.namespace,
        "llm_config.key": call.key,
        "llm_config.environment": call.environment,
        "llm_config.request_id": call.request_id,
    }
    return {name: value for name, value in found.items() if value}


def _request_attributes(request: Sending) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        _METHOD: request.call.method,
        _SERVER_ADDRESS: request.host,
        _SERVER_PORT: request.port,
    }
    if request.call.route:
        found[_URL_TEMPLATE] = request.call.route
    return found


def _error_type(answer: Answered) -> str | None:
    if answer.cancelled:
        return None
    if answer.status is not None and answer.status >= _CLIENT_ERROR:
        return str(answer.status)
    return type(answer.error).__name__ if answer.error is not None else None


def _message(error: BaseException | None) -> str | None:
    if isinstance(error, LLMConfigError):
        return one_line(error.message)
    return one_line(str(error)) if error is not None else None


def _endpoint(event: Event) -> dict[str, AttributeValue]:
    found = event.details.get("breaker") or getattr(event.target, "url", None)
    return {"llm_config.endpoint": found} if isinstance(found, str) and found else {}


def _event_attributes(event: Event) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {"llm_config.attempt": event.attempt, **_endpoint(event)}
    if event.delay is not None:
        attributes["llm_config.delay"] = event.delay
    if event.error is not None:
        attributes[_ERROR_TYPE] = error_type(event.error)
    if event.details.get("reason"):
        attributes["llm_config.reason"] = str(event.details["reason"])
    return attributes
