"""What a client does, as metrics for Prometheus."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar, Final

from llm_config_resilience import current
from llm_config_sdk.contract import CODES, SYSTEM_KINDS, ErrorCategory
from llm_config_sdk.errors import without_credentials
from llm_config_sdk.observability.events import Observer
from llm_config_sdk.observability.families import ERROR_TYPES, code_of, error_type
from llm_config_sdk.observability.observers import call_in_hand

try:
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
    from prometheus_client.core import Metric
    from prometheus_client.registry import Collector
except ModuleNotFoundError as _missing:  # pragma: no cover  # tests run with every extra
    raise ModuleNotFoundError(
        "metrics for Prometheus need prometheus_client: pip install 'llm-config-sdk[prometheus]'"
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics import MetricWrapperBase

    from llm_config_resilience import Event
    from llm_config_resilience.events import EventKind
    from llm_config_sdk.errors import LLMConfigError
    from llm_config_sdk.observability.events import Answered, CallEvent, Incident, Sending

_ENDPOINTS: Final = 16  # label values; a client has a primary and a few backups
_OPERATIONS: Final = 32  # label values; the API has seven operations, and the client some of its own
_CODES: Final = 64  # label values: the guide's 17, the classes born on this side, and what servers invent
_OTHER: Final = "other"  # what a label says beyond these bounds

#: Seconds: OpenTelemetry's boundaries for HTTP durations.
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_KNOWN_OPERATIONS: Final = (
    "get_config",
    "set_config",
    "delete_config",
    "list_configs",
    "get_history",
    "rollback",
    "health_check",
    "request",
)
_OUTCOMES: Final = ("ok", "cached", "degraded", "failed", "refused", "cancelled")
_LOSSES: Final = ("corrupted_snapshot", "version_went_back", "audit_gap")
_CACHE_RESULTS: Final = ("hit", "miss", "stale", "refresh", "failure")
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
            "recovered",
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
        self._metrics = _instruments_of(registry if registry is not None else REGISTRY)

    def __call__(self, event: Event) -> None:
        """Count what the stack did."""
        self._metrics.heard(event)

    def sending(self, request: Sending) -> None:
        """Know the endpoint, whose circuit is closed until it is said to be open."""
        self._metrics.know(request.endpoint)

    def answered(self, answer: Answered) -> None:
        """Count a request, and how long it took."""
        self._metrics.answered(answer)

    def ended(self, event: CallEvent) -> None:
        """Count a call, and how long it took."""
        self._metrics.ended(event)

    def noticed(self, incident: Incident) -> None:
        """Count lost data."""
        self._metrics.data_loss.labels(incident.kind).inc()


class _Labels:
    """At most so many values of a label; what comes later is counted as one."""

    def __init__(self, limit: int, known: Sequence[str] = ()) -> None:
        self._limit = limit
        self._known = set(known)

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._limit:
            return _OTHER
        self._known.add(value)
        return value


class _Instruments(Collector):
    """All metrics of one registry, behind one collector: `Counter` would append `_total` to every name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._operation = _Labels(_OPERATIONS, _KNOWN_OPERATIONS)
        self._endpoint = _Labels(_ENDPOINTS)
        self._code = _Labels(_CODES, sorted(CODES))
        self._kind = _Labels(_CODES, sorted(SYSTEM_KINDS))
        self._endpoints_known: set[str] = set()
        self._budgets: weakref.WeakSet[Any] = weakref.WeakSet()
        self._all: list[MetricWrapperBase] = []

        def counter(name: str, documentation: str, *labels: str) -> Counter:
            made = Counter(name, documentation, labels, registry=None)
            self._all.append(made)
            return made

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            made = Gauge(name, documentation, labels, registry=None)
            self._all.append(made)
            return made

        def histogram(name: str, documentation: str, *labels: str) -> Histogram:
            made = Histogram(name, documentation, labels, registry=None, buckets=_BUCKETS)
            self._all.append(made)
            return made

        self.errors = counter("errors", "Total number of errors.")
        self.by_type = counter("errors_by_type", "Errors by type.", "error_type")
        self.requests = counter(
            "llm_config_requests",
            "Calls by outcome: ok, cached (answered without asking), degraded (something stood in), failed, "
            "refused (the caller's mistake), cancelled.",
            "operation",
            "outcome",
        )
        self.answers = counter(
            "llm_config_answers", "Calls by where their answer came from.", "operation", "source"
        )
        self.request_duration = histogram(
            "llm_config_request_duration_seconds",
            "Time of a call past the cache, retries and all.",
            "operation",
        )
        self.attempts = counter(
            "llm_config_attempts",
            "Requests by result: ok, cancelled or the type of the error.",
            "operation",
            "endpoint",
            "result",
        )
        self.attempt_duration = histogram(
            "llm_config_attempt_duration_seconds", "Time of one request.", "operation", "endpoint"
        )
        self.failures = counter("llm_config_failures", "Errors by operation and code.", "operation", "code")
        self.critical = counter("llm_config_critical_errors", "Errors that should wake somebody.", "code")
        self.data_loss = counter("llm_config_data_loss", "Losses of data that were noticed.", "kind")
        self.resource = counter(
            "llm_config_resource_errors", "The platform's host is out of something.", "kind"
        )
        self.retries = counter("llm_config_retries", "Attempts that were repeated.", "operation")
        self.given_up = counter(
            "llm_config_retries_given_up", "Retriable errors that were not repeated.", "operation", "reason"
        )
        self.rejections = counter(
            "llm_config_rejections",
            "Calls turned away on this side, without a request.",
            "operation",
            "layer",
        )
        self.breaker = gauge(
            "llm_config_breaker_state", "1 for the state an endpoint's circuit is in.", "endpoint", "state"
        )
        self.transitions = counter(
            "llm_config_breaker_transitions", "Changes of a circuit's state.", "endpoint", "state"
        )
        self.cache = counter("llm_config_cache", "What the cache did for reads of one entry.", "result")
        self.failovers = counter(
            "llm_config_failovers", "Times the next endpoint was tried.", "operation", "endpoint"
        )
        self.ejected = gauge(
            "llm_config_endpoint_ejected", "Whether an endpoint is passed over because it failed.", "endpoint"
        )
        self.budget = Gauge(
            "llm_config_retry_budget_tokens",
            "What is left in the emptiest retry budget, once there was a retry.",
            registry=None,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Show what alerts are made of from the start: the step from nothing to one is no rate."""
        for family in ERROR_TYPES:
            self.by_type.labels(family)
        for operation in _KNOWN_OPERATIONS:
            for outcome in _OUTCOMES:
                self.requests.labels(operation, outcome)
        for code, facts in CODES.items():
            if facts.critical:
                self.critical.labels(str(code))
        for kind in SYSTEM_KINDS:
            self.resource.labels(kind)
        for kind in _LOSSES:
            self.data_loss.labels(kind)
        for result in _CACHE_RESULTS:
            self.cache.labels(result)

    # --- Counting ---

    def ended(self, event: CallEvent) -> None:
        operation = self._operation(event.call.operation)
        is_hit = event.source == "cache"
        self.requests.labels(operation, "cached" if is_hit else event.outcome).inc()
        if event.source:
            self.answers.labels(operation, event.source).inc()
        if not is_hit:
            self.request_duration.labels(operation).observe(event.duration)
        if event.call.operation == "get_config":
            self._ask_cache(event)
        if event.error is not None and event.outcome != "ok":
            self._count_error(operation, event.error)

    def _ask_cache(self, event: CallEvent) -> None:
        if event.source == "cache":
            self.cache.labels("hit").inc()
        elif event.source == "stale":
            self.cache.labels("stale").inc()
        elif event.outcome != "cancelled":
            self.cache.labels("miss").inc()

    def _count_error(self, operation: str, error: LLMConfigError) -> None:
        code = self._code(code_of(error))
        self.errors.inc()
        self.by_type.labels(error_type(error)).inc()
        self.failures.labels(operation, code).inc()
        if error.is_critical:
            self.critical.labels(code).inc()
        if error.category is ErrorCategory.SYSTEM:
            self.resource.labels(self._kind(error.kind or "unknown")).inc()

    def answered(self, answer: Answered) -> None:
        operation = self._operation(answer.sending.call.operation)
        endpoint = self.know(answer.sending.endpoint)
        if answer.cancelled:
            result = "cancelled"
        else:
            result = "ok" if answer.error is None else error_type(answer.error)
        self.attempts.labels(operation, endpoint, result).inc()
        self.attempt_duration.labels(operation, endpoint).observe(answer.duration)

    def know(self, url: str) -> str:
        endpoint = self._endpoint(without_credentials(url))
        if endpoint not in self._endpoints_known:
            with self._lock:
                if endpoint not in self._endpoints_known:
                    self._endpoints_known.add(endpoint)
                    self.ejected.labels(endpoint).set(0)
                    self._set_state(endpoint, "closed")
        return endpoint

    def heard(self, event: Event) -> None:
        call = call_in_hand()
        operation = self._operation(call.operation.name) if call is not None else _OTHER
        target = str(getattr(event.target, "url", "")) or "none"
        match event.kind:
            case "retry":
                self.retries.labels(operation).inc()
            case "gave_up":
                self.given_up.labels(operation, str(event.details.get("reason", _OTHER))).inc()
            case "rejected":
                self.rejections.labels(operation, event.layer).inc()
            case "failed_over":
                self.failovers.labels(operation, self.know(target)).inc()
            case "ejected" | "readmitted":
                self.ejected.labels(self.know(target)).set(event.kind == "ejected")
            case "opened" | "half_opened" | "closed":
                endpoint = self.know(str(event.details.get("breaker") or target))
                state = _STATES[event.kind]
                self.transitions.labels(endpoint, state).inc()
                with self._lock:
                    self._set_state(endpoint, state)
            case "refreshing":
                self.cache.labels("refresh").inc()
            case "cache_failed":
                self.cache.labels("failure").inc()
            case _:
                pass
        if event.kind in {"retry", "gave_up", "recovered"}:
            self._find_budget()

    def _set_state(self, endpoint: str, state: str) -> None:
        for each in _STATES.values():
            self.breaker.labels(endpoint, each).set(each == state)

    def _find_budget(self) -> None:
        context = current()
        for layer in context.pipeline.layers if context is not None else ():
            budget = getattr(layer, "budget", None)
            if hasattr(budget, "tokens"):
                self._budgets.add(budget)

    # --- Being scraped ---

    def describe(self) -> Iterator[Metric]:
        yield from self.collect()
        yield from self.budget.collect()

    def collect(self) -> Iterator[Metric]:
        for instrument in self._all:
            for metric in instrument.collect():
                yield _as_named(metric)
        levels = [float(budget.tokens) for budget in list(self._budgets)]
        if levels:
            self.budget.set(min(levels))
            yield from self.budget.collect()


def _as_named(metric: Metric) -> Metric:
    """Name the samples as the guide does, without `_created`, which is no metric of its own."""
    guides_own = metric.name == "errors_by_type"
    # OpenMetrics asks that a counter's samples end in `_total`, so this one has no type.
    shown = Metric(metric.name, metric.documentation, "unknown" if guides_own else metric.type)
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            name = metric.name if guides_own else sample.name
            shown.samples.append(sample._replace(name=name))
    return shown


_made: Final[weakref.WeakKeyDictionary[CollectorRegistry, _Instruments]] = weakref.WeakKeyDictionary()
_making: Final = threading.Lock()


def _instruments_of(registry: CollectorRegistry) -> _Instruments:
    with _making:
        instruments = _made.get(registry)
        if instruments is None:
            instruments = _Instruments()
            registry.register(instruments)
            _made[registry] = instruments
        return instruments
