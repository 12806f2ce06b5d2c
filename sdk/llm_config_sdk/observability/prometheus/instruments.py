"""The metrics that there are, with bounded labels, and at 0 before there is anything to count."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Final

from llm_config_resilience.locks import new_lock
from llm_config_sdk.contract import CODES, SYSTEM_KINDS
from llm_config_sdk.errors import (
    AllEndpointsFailedError,
    ConnectFailedError,
    RequestTimeoutError,
    ResponseDecodeError,
    ServiceCircuitOpenError,
    without_credentials,
)
from llm_config_sdk.observability.families import ERROR_TYPES

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

    from llm_config_resilience import RetryBudget

_ENDPOINTS: Final = 16  # label values; a client has a primary and a few backups
_OPERATIONS: Final = 32  # label values; the API has seven operations, and the client some of its own
_CODES: Final = 64  # label values: the guide's 17, the classes born on this side, and what servers invent
OTHER: Final = "other"  # what a label says beyond these bounds

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
_SOURCES: Final = ("server", "cache", "stale", "snapshot", "default")
_RESULTS: Final = ("ok", "cancelled", *ERROR_TYPES)
_LOSSES: Final = ("corrupted_snapshot", "version_went_back", "audit_gap")
_CACHE_RESULTS: Final = ("hit", "miss", "stale", "refresh", "failure")
_REASONS: Final = ("attempts", "deadline", "budget", "retry-after")
_REFUSING_LAYERS: Final = ("breaker", "retry")  # an open circuit; a limit that another call has met
_KNOWN_CODES: Final = (
    *map(str, CODES),
    *(
        cls.__name__
        for cls in (
            AllEndpointsFailedError,
            ConnectFailedError,
            RequestTimeoutError,
            ResponseDecodeError,
            ServiceCircuitOpenError,
        )
    ),
)
STATES: Final = ("closed", "open", "half-open")


class _Labels:
    """At most so many values of a label; what comes later is counted as one."""

    def __init__(self, limit: int, known: Sequence[str] = ()) -> None:
        self._limit = limit
        self._known = set(known)

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._limit:
            return OTHER
        self._known.add(value)
        return value


class Instruments(Collector):
    """All metrics of one registry, behind one collector: `Counter` would append `_total` to every name.

    A counter that appears with its first event has no step from 0 to 1 that a rate could see. So whatever is
    bounded begins at 0: what alerts are made of, and all of `get_config`, at once; all of an endpoint with
    the client that has it; all of another operation with its first call.
    """

    def __init__(self) -> None:
        self._lock = new_lock()
        self._operation = _Labels(_OPERATIONS, _KNOWN_OPERATIONS)
        self._endpoint = _Labels(_ENDPOINTS)
        self.code: _Labels = _Labels(_CODES, sorted(_KNOWN_CODES))
        self.kind: _Labels = _Labels(_CODES, sorted(SYSTEM_KINDS))
        self._seen: set[tuple[str, str]] = set()
        self._budgets: weakref.WeakSet[RetryBudget] = weakref.WeakSet()
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

        self.errors: Counter = counter("errors", "Total number of errors.")
        self.by_type: Counter = counter("errors_by_type", "Errors by type.", "error_type")
        self.requests: Counter = counter(
            "llm_config_requests",
            "Calls by outcome: ok, cached (answered without asking), degraded (something stood in), failed, "
            "refused (the caller's mistake), cancelled.",
            "operation",
            "outcome",
        )
        self.answers: Counter = counter(
            "llm_config_answers", "Calls by where their answer came from.", "operation", "source"
        )
        self.request_duration: Histogram = histogram(
            "llm_config_request_duration_seconds",
            "Time of a call past the cache, retries and all.",
            "operation",
        )
        self.attempts: Counter = counter(
            "llm_config_attempts",
            "Requests by result: ok, cancelled or the type of the error.",
            "operation",
            "endpoint",
            "result",
        )
        self.attempt_duration: Histogram = histogram(
            "llm_config_attempt_duration_seconds", "Time of one request.", "operation", "endpoint"
        )
        self.failures: Counter = counter(
            "llm_config_failures", "Errors by operation and code.", "operation", "code"
        )
        self.critical: Counter = counter(
            "llm_config_critical_errors", "Errors that should wake somebody.", "code"
        )
        self.data_loss: Counter = counter("llm_config_data_loss", "Losses of data that were noticed.", "kind")
        self.resource: Counter = counter(
            "llm_config_resource_errors", "The platform's host is out of something.", "kind"
        )
        self.retries: Counter = counter("llm_config_retries", "Attempts that were repeated.", "operation")
        self.given_up: Counter = counter(
            "llm_config_retries_given_up", "Retriable errors that were not repeated.", "operation", "reason"
        )
        self.rejections: Counter = counter(
            "llm_config_rejections",
            "Calls turned away on this side, without a request.",
            "operation",
            "layer",
        )
        self.breaker: Gauge = gauge(
            "llm_config_breaker_state", "1 for the state an endpoint's circuit is in.", "endpoint", "state"
        )
        self.transitions: Counter = counter(
            "llm_config_breaker_transitions", "Changes of a circuit's state.", "endpoint", "state"
        )
        self.cache: Counter = counter(
            "llm_config_cache", "What the cache did for reads of one entry.", "result"
        )
        self.failovers: Counter = counter(
            "llm_config_failovers", "Times the next endpoint was tried.", "operation", "endpoint"
        )
        self.ejected: Gauge = gauge(
            "llm_config_endpoint_ejected", "Whether an endpoint is passed over because it failed.", "endpoint"
        )
        self.budget: Gauge = Gauge(
            "llm_config_retry_budget_tokens",
            "What is left in the emptiest retry budget.",
            registry=None,
        )
        self._begin_at_zero()

    # --- Beginning at 0 ---

    def _begin_at_zero(self) -> None:
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
        self.operation("get_config")

    def operation(self, name: str) -> str:
        """Make a label of an operation."""
        operation = self._operation(name)
        if self._is_new(operation, ""):
            self.request_duration.labels(operation)
            self.retries.labels(operation)
            for source in _SOURCES if operation == "get_config" else ("server",):
                self.answers.labels(operation, source)
            for code in _KNOWN_CODES:
                self.failures.labels(operation, code)
            for reason in _REASONS:
                self.given_up.labels(operation, reason)
            for layer in _REFUSING_LAYERS:
                self.rejections.labels(operation, layer)
        return operation

    def endpoint(self, url: str) -> str:
        """Make a label of an endpoint, whose circuit is closed until it is said to be open."""
        endpoint = self._endpoint(without_credentials(url))
        if self._is_new("", endpoint):
            self.ejected.labels(endpoint).set(0)
            self.set_state(endpoint, "closed")
            for state in STATES:
                self.transitions.labels(endpoint, state)
        return endpoint

    def operation_at(self, name: str, url: str) -> tuple[str, str]:
        """Make labels of an operation and the endpoint that it is sent to."""
        operation, endpoint = self.operation(name), self.endpoint(url)
        if self._is_new(operation, endpoint):
            self.attempt_duration.labels(operation, endpoint)
            self.failovers.labels(operation, endpoint)
            for result in _RESULTS:
                self.attempts.labels(operation, endpoint, result)
        return operation, endpoint

    def _is_new(self, operation: str, endpoint: str) -> bool:
        pair = operation, endpoint
        if pair in self._seen:  # of nearly every call; the lock is for the others
            return False
        with self._lock:
            is_new = pair not in self._seen
            self._seen.add(pair)
        return is_new

    # --- What is set rather than counted ---

    def set_state(self, endpoint: str, state: str) -> None:
        """Say which state an endpoint's circuit is in."""
        with self._lock:
            for each in STATES:
                self.breaker.labels(endpoint, each).set(each == state)

    def watch_budget(self, budget: RetryBudget) -> None:
        """Show what is left in a retry budget, as long as somebody uses it."""
        self._budgets.add(budget)

    # --- Being scraped ---

    def describe(self) -> Iterator[Metric]:
        """Name the metrics, so that a registry refuses a second one of a name."""
        yield from self.collect()
        yield from self.budget.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is."""
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


_made: Final[weakref.WeakKeyDictionary[CollectorRegistry, Instruments]] = weakref.WeakKeyDictionary()
_making: Final = new_lock()


def instruments_of(registry: CollectorRegistry | None = None) -> Instruments:
    """Return the one set of metrics that a registry has; left out, `prometheus_client`'s own."""
    if registry is None:
        registry = REGISTRY
    with _making:
        instruments = _made.get(registry)
        if instruments is None:
            instruments = Instruments()
            registry.register(instruments)
            _made[registry] = instruments
        return instruments
