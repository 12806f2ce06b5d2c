"""Metrics for Prometheus."""

import gc

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from llm_config_mock_server import error
from llm_config_resilience import Event
from llm_config_sdk import (
    BreakerPolicy,
    ConfigClient,
    DecryptionError,
    LLMConfigError,
    NotFoundError,
    ResiliencePolicy,
    ServiceUnavailableError,
    StorageError,
)
from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.observability import CallEvent, Incident, ObservedCall, PrometheusMetrics
from llm_config_sdk.observability.families import ERROR_TYPES
from observability.conftest import call_event, in_threads

DOWN = ServiceUnavailableError("down", code=ErrorCode.SERVICE_UNAVAILABLE, status=503)


def key(sample):
    return sample.name, *sorted(sample.labels.items())


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return PrometheusMetrics(registry)


@pytest.fixture
def value(registry):
    """Reads a sample; `None` where there is none."""
    return lambda name, **labels: registry.get_sample_value(name, labels)


def test_the_guides_two_metrics_have_exactly_the_guides_names(metrics, registry):
    metrics.ended(call_event("failed", DOWN))
    lines = generate_latest(registry).decode().splitlines()
    assert "errors_total 1.0" in lines
    assert 'errors_by_type{error_type="unavailable"} 1.0' in lines
    assert not [line for line in lines if "_total_total" in line or "_created" in line]
    assert not [line for line in lines if line.startswith("errors_by_type_total")]


def test_the_ten_types_of_errors_are_there_from_the_start(metrics, value):
    assert [value("errors_by_type", error_type=family) for family in ERROR_TYPES] == [0.0] * 10


def test_whatever_may_happen_to_reads_is_there_at_zero_before_it_happens(
    make_client, metrics, registry, server
):
    client = make_client(metrics, backups=["http://backup.test"])
    before = {key(sample) for family in registry.collect() for sample in family.samples}
    server.script("*", [error("SERVICE_UNAVAILABLE"), error("STORAGE_ERROR")])
    client.get_str("app/llm", "model")
    with pytest.raises(NotFoundError):
        client.get_str("app/llm", "absent")
    after = {key(sample) for family in registry.collect() for sample in family.samples}
    assert after == before


def test_another_operation_is_there_with_its_first_call(make_client, metrics, value, server):
    client = make_client(metrics)
    assert value("llm_config_failures_total", operation="set_config", code="CONFLICT") is None
    client.set_config("app/llm", "model", "small")
    assert value("llm_config_failures_total", operation="set_config", code="CONFLICT") == 0
    assert value("llm_config_retries_total", operation="set_config") == 0
    attempts = {"operation": "set_config", "endpoint": server.url}
    assert value("llm_config_attempts_total", **attempts, result="transport") == 0


def test_the_budget_goes_with_the_last_client_that_pays_from_it(registry, metrics, value, server):
    client = ConfigClient(server.url, listeners=[metrics])
    assert value("llm_config_retry_budget_tokens") == 500
    client.close()
    del client
    gc.collect()
    assert value("llm_config_retry_budget_tokens") is None


def test_both_formats_can_be_read_back(metrics, registry):
    metrics.ended(call_event("failed", DOWN))
    classic = {family.name for family in parse(generate_latest(registry).decode())}
    modern = {family.name for family in parse_openmetrics(generate_openmetrics(registry).decode())}
    assert {"errors", "errors_by_type"} <= modern
    assert {"errors", "errors_by_type"} <= classic


def test_calls_are_counted_by_outcome_and_timed(metrics, value):
    for outcome in ("ok", "failed", "refused", "degraded", "cancelled"):
        metrics.ended(call_event(outcome, duration=0.02))
    for outcome in ("ok", "failed", "refused", "degraded", "cancelled"):
        assert value("llm_config_requests_total", operation="get_config", outcome=outcome) == 1
    assert value("llm_config_request_duration_seconds_count", operation="get_config") == 5
    assert value("llm_config_request_duration_seconds_bucket", operation="get_config", le="0.025") == 5
    assert value("llm_config_request_duration_seconds_bucket", operation="get_config", le="0.01") == 0


def test_answers_of_the_cache_are_an_outcome_of_their_own_and_not_timed(metrics, value):
    metrics.ended(call_event("ok", source="cache"))
    assert value("llm_config_requests_total", operation="get_config", outcome="cached") == 1
    assert value("llm_config_requests_total", operation="get_config", outcome="ok") == 0
    assert value("llm_config_request_duration_seconds_count", operation="get_config") == 0
    assert value("llm_config_answers_total", operation="get_config", source="cache") == 1


def test_a_bridged_outage_is_an_error_and_a_default_for_what_is_absent_is_none(metrics, value):
    metrics.ended(call_event("degraded", DOWN, source="stale"))
    metrics.ended(call_event("ok", NotFoundError("x", code=ErrorCode.NOT_FOUND), source="default"))
    assert value("errors_total") == 1


def test_critical_and_resource_errors_begin_at_zero(metrics, value):
    assert value("llm_config_critical_errors_total", code="DECRYPTION_ERROR") == 0
    assert value("llm_config_resource_errors_total", kind="StorageFull") == 0
    assert value("llm_config_data_loss_total", kind="audit_gap") == 0
    full = StorageError("x", code=ErrorCode.STORAGE_ERROR, status=500, details={"kind": "StorageFull"})
    metrics.ended(call_event("failed", DecryptionError("x", code=ErrorCode.DECRYPTION_ERROR, status=500)))
    metrics.ended(call_event("failed", full))
    metrics.noticed(Incident("audit_gap", "gone"))
    assert value("llm_config_critical_errors_total", code="DECRYPTION_ERROR") == 1
    assert value("llm_config_resource_errors_total", kind="StorageFull") == 1
    assert value("llm_config_data_loss_total", kind="audit_gap") == 1
    assert value("llm_config_failures_total", operation="get_config", code="STORAGE_ERROR") == 1


def test_a_client_that_fails_over_is_seen(make_client, metrics, value, server, backup):
    client = make_client(metrics, backups=[backup.url], resilience=ResiliencePolicy())
    server.script("*", [error("SERVICE_UNAVAILABLE")], repeat="last")
    assert client.get_str("app/llm", "model") == "large"
    failed = {"operation": "get_config", "endpoint": server.url, "result": "unavailable"}
    assert value("llm_config_attempts_total", **failed) == 1
    assert value("llm_config_attempts_total", operation="get_config", endpoint=backup.url, result="ok") == 1
    assert value("llm_config_failovers_total", operation="get_config", endpoint=backup.url) == 1
    assert value("llm_config_endpoint_ejected", endpoint=server.url) == 1
    assert value("llm_config_endpoint_ejected", endpoint=backup.url) == 0
    assert value("llm_config_requests_total", operation="get_config", outcome="ok") == 1


def test_retries_and_the_budget_they_are_paid_from_are_seen(make_client, metrics, value, server):
    client = make_client(metrics)
    assert value("llm_config_retry_budget_tokens") == 500, "full, and there before anything is paid from it"
    server.script("*", [error("SERVICE_UNAVAILABLE")], repeat="last")
    with pytest.raises(ServiceUnavailableError):
        client.get_str("app/llm", "model")
    assert value("llm_config_retries_total", operation="get_config") == 2
    assert value("llm_config_retries_given_up_total", operation="get_config", reason="attempts") == 1
    assert value("llm_config_retry_budget_tokens") == 490


def test_a_circuit_is_closed_until_it_opens_and_rejections_are_counted(
    make_client, metrics, value, server, clock
):
    policy = ResiliencePolicy(
        retry=None, breaker=BreakerPolicy(failure_threshold=2, success_threshold=1, timeout=30.0)
    )
    client = make_client(metrics, resilience=policy, cache=None)

    def states():
        return {
            state: value("llm_config_breaker_state", endpoint=server.url, state=state)
            for state in ("closed", "open", "half-open")
        }

    client.get_str("app/llm", "model")
    assert states() == {"closed": 1, "open": 0, "half-open": 0}
    server.script("*", [error("SERVICE_UNAVAILABLE")] * 2)
    for _ in range(3):
        assert client.get_str("app/llm", "model", fallback="x") == "x"
    assert states() == {"closed": 0, "open": 1, "half-open": 0}
    assert value("llm_config_rejections_total", operation="get_config", layer="breaker") == 1
    clock.advance(31)
    client.get_str("app/llm", "model")
    assert states() == {"closed": 1, "open": 0, "half-open": 0}
    for state in ("open", "half-open", "closed"):
        assert value("llm_config_breaker_transitions_total", endpoint=server.url, state=state) == 1


def test_what_the_cache_does_is_counted(make_client, metrics, value, server):
    client = make_client(metrics)
    client.get_str("app/llm", "model")
    client.get_str("app/llm", "model")
    metrics.ended(call_event("degraded", DOWN, source="stale"))
    metrics(Event("refreshing", "read", "cache", 0.0))
    metrics(Event("cache_failed", "read", "cache", 0.0))
    results = {"miss": 1, "hit": 1, "stale": 1, "refresh": 1, "failure": 1}
    assert {result: value("llm_config_cache_total", result=result) for result in results} == results


def test_several_clients_on_one_registry_do_not_collide(registry, value):
    for _ in range(3):
        PrometheusMetrics(registry).ended(call_event("failed", DOWN))
    assert value("errors_total") == 3


def test_registries_are_apart():
    one, other = CollectorRegistry(), CollectorRegistry()
    PrometheusMetrics(one).ended(call_event("failed", DOWN))
    PrometheusMetrics(other)
    assert (one.get_sample_value("errors_total"), other.get_sample_value("errors_total")) == (1, 0)


def test_an_errors_total_of_somebody_else_is_not_taken_over(registry):
    Counter("errors", "Another library's.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusMetrics(registry)


def test_label_values_are_bounded_whatever_servers_and_callers_invent(metrics, registry):
    for number in range(500):
        invented = LLMConfigError("x", code=f"NEW_{number}", status=500, details={"kind": f"Kind{number}"})
        metrics.ended(CallEvent(ObservedCall(f"operation_{number}"), "failed", 0.0, error=invented))
        metrics(Event("opened", "read", "b", 0.0, details={"breaker": f"http://host{number}"}))
    values: dict[tuple[str, str], set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            for name, label in sample.labels.items():
                values.setdefault((family.name, name), set()).add(label)
    assert max(len(found) for found in values.values()) <= 65
    assert "other" in values["llm_config_requests", "operation"]
    assert "other" in values["llm_config_breaker_state", "endpoint"]
    assert len(values["llm_config_failures", "code"]) <= 65


def test_credentials_never_become_a_label(metrics, registry):
    metrics(Event("opened", "read", "b", 0.0, details={"breaker": "http://ann:secret@config.test"}))
    assert "secret" not in generate_latest(registry).decode()


def test_threads_lose_no_count(metrics, value):
    in_threads(8, lambda: [metrics.ended(call_event("failed", DOWN)) for _ in range(200)])
    assert value("errors_total") == 1600
