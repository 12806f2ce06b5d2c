"""What a client does, as metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from llm_config_sdk.contract import ErrorCategory
from llm_config_sdk.observability.events import Observer
from llm_config_sdk.observability.families import code_of, error_type
from llm_config_sdk.observability.observers import call_in_hand
from llm_config_sdk.observability.prometheus.instruments import OTHER, instruments_of

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from llm_config_resilience import Event
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.errors import LLMConfigError
    from llm_config_sdk.observability.events import (
        Answered,
        CallEvent,
        Incident,
        ObservedClient,
        Sending,
    )

_STATES: Final[dict[EventKind, str]] = {"opened": "open", "half_opened": "half-open", "closed": "closed"}


class PrometheusMetrics(Observer):
    """Counts and times calls for Prometheus.

        from prometheus_client import start_http_server

        start_http_server(9100)
        client = ConfigClient("https://config.example.com", listeners=[PrometheusMetrics()])

    One may serve several clients. Several on one registry share their metrics, so clients never collide.

    Args:
        registry: Where the metrics are found; left out, `prometheus_client`'s own.
    """

    wants: ClassVar[frozenset[EventKind] | None] = frozenset(
        {
            "retry",
            "gave_up",
            "rejected",
            "opened",
            "half_opened",
            "closed",
            "failed_over",
            "ejected",
            "readmitted",
            "refreshing",
            "cache_failed",
        }
    )

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self._metrics = instruments_of(registry)

    def attached(self, client: ObservedClient) -> None:
        """Show a client's endpoints and its retry budget before anything happens to them."""
        for url in client.endpoints:
            self._metrics.operation_at("get_config", url)
        if client.budget is not None:
            self._metrics.watch_budget(client.budget)

    def sending(self, request: Sending) -> None:
        """Show what may become of the request."""
        self._metrics.operation_at(request.call.operation, request.endpoint)

    def answered(self, answer: Answered) -> None:
        """Count a request, and how long it took."""
        metrics, request = self._metrics, answer.sending
        operation, endpoint = metrics.operation_at(request.call.operation, request.endpoint)
        if answer.cancelled:
            result = "cancelled"
        else:
            result = "ok" if answer.error is None else error_type(answer.error)
        metrics.attempts.labels(operation, endpoint, result).inc()
        metrics.attempt_duration.labels(operation, endpoint).observe(answer.duration)

    def ended(self, event: CallEvent) -> None:
        """Count a call, and how long it took."""
        metrics = self._metrics
        operation = metrics.operation(event.call.operation)
        is_hit = event.source == "cache"
        metrics.requests.labels(operation, "cached" if is_hit else event.outcome).inc()
        if event.source:
            metrics.answers.labels(operation, event.source).inc()
        if not is_hit:
            metrics.request_duration.labels(operation).observe(event.duration)
        if event.call.operation == "get_config":
            self._count_read(event)
        if event.error is not None and event.outcome != "ok":
            self._count_error(operation, event.error)

    def _count_read(self, event: CallEvent) -> None:
        if event.source == "cache":
            self._metrics.cache.labels("hit").inc()
        elif event.source == "stale":
            self._metrics.cache.labels("stale").inc()
        elif event.outcome != "cancelled":
            self._metrics.cache.labels("miss").inc()

    def _count_error(self, operation: str, error: LLMConfigError) -> None:
        metrics = self._metrics
        code = metrics.code(code_of(error))
        metrics.errors.inc()
        metrics.by_type.labels(error_type(error)).inc()
        metrics.failures.labels(operation, code).inc()
        if error.is_critical:
            metrics.critical.labels(code).inc()
        if error.category is ErrorCategory.SYSTEM:
            metrics.resource.labels(metrics.kind(error.kind or "unknown")).inc()

    def noticed(self, incident: Incident) -> None:
        """Count lost data."""
        self._metrics.data_loss.labels(incident.kind).inc()

    def __call__(self, event: Event) -> None:
        """Count what the stack did."""
        metrics, call = self._metrics, call_in_hand()
        operation = metrics.operation(call.operation.name) if call is not None else OTHER
        target = str(getattr(event.target, "url", "")) or "none"
        match event.kind:
            case "retry":
                metrics.retries.labels(operation).inc()
            case "gave_up":
                metrics.given_up.labels(operation, str(event.details.get("reason", OTHER))).inc()
            case "rejected":
                metrics.rejections.labels(operation, event.layer).inc()
            case "failed_over":
                metrics.failovers.labels(operation, metrics.endpoint(target)).inc()
            case "ejected" | "readmitted":
                metrics.ejected.labels(metrics.endpoint(target)).set(event.kind == "ejected")
            case "opened" | "half_opened" | "closed":
                endpoint = metrics.endpoint(str(event.details.get("breaker") or target))
                metrics.transitions.labels(endpoint, _STATES[event.kind]).inc()
                metrics.set_state(endpoint, _STATES[event.kind])
            case "refreshing":
                metrics.cache.labels("refresh").inc()
            case "cache_failed":
                metrics.cache.labels("failure").inc()
            case _:
                pass
