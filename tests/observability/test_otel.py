"""Spans and metrics for OpenTelemetry, read back from the SDK's in-memory exporters."""

import gc
import re

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv.attributes import (
    error_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.trace import SpanKind, StatusCode

from llm_config_mock_server import error
from llm_config_resilience import ManualClock
from llm_config_sdk import AsyncConfigClient, NotFoundError, ResiliencePolicy, StorageError
from llm_config_sdk.observability import Incident, ObservedCall, OpenTelemetry, otel
from llm_config_sdk.observability.observers import Observation, Observers
from llm_config_sdk.transport import Endpoint
from observability.conftest import call_event

ENDPOINT = Endpoint.parse("http://config.test:8080")
SAMPLED = 0x01  # of the trace's flags (W3C Trace Context, section 3.2.2.5)
ROUTE = "/api/v1/configs/{namespace}/{key}"


class Telescope:
    """Providers with exporters in memory."""

    def __init__(self, **options):
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider(**options)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.observer = OpenTelemetry(self.tracers, self.meters)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def points(self, name):
        data = self.reader.get_metrics_data()
        scopes = data.resource_metrics[0].scope_metrics if data else []
        found = [metric for scope in scopes for metric in scope.metrics if metric.name == name]
        return [point for metric in found for point in metric.data.data_points]


@pytest.fixture
def telescope():
    made = Telescope()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


def test_the_names_are_those_of_the_conventions():
    assert otel._METHOD == http_attributes.HTTP_REQUEST_METHOD
    assert otel._RESEND_COUNT == http_attributes.HTTP_REQUEST_RESEND_COUNT
    assert otel._STATUS_CODE == http_attributes.HTTP_RESPONSE_STATUS_CODE
    assert otel._SERVER_ADDRESS == server_attributes.SERVER_ADDRESS
    assert otel._SERVER_PORT == server_attributes.SERVER_PORT
    assert otel._URL_FULL == url_attributes.URL_FULL
    assert otel._ERROR_TYPE == error_attributes.ERROR_TYPE


def test_a_call_is_a_span_with_one_below_it_for_each_request(make_client, telescope, server):
    client = make_client(telescope.observer)
    server.script("*", [error("SERVICE_UNAVAILABLE")])
    client.get_str("app/llm", "model")
    (call,) = telescope.named("get_config")
    first, second = telescope.named(f"GET {ROUTE}")
    assert call.kind is SpanKind.INTERNAL
    assert call.status.status_code is StatusCode.UNSET
    assert {span.kind for span in (first, second)} == {SpanKind.CLIENT}
    assert {span.parent.span_id for span in (first, second)} == {call.context.span_id}
    assert {span.context.trace_id for span in telescope.spans} == {call.context.trace_id}
    assert call.attributes["llm_config.namespace"] == "app/llm"
    assert call.attributes["llm_config.attempts"] == 2
    assert call.attributes["llm_config.source"] == "server"
    assert "retry" in [event.name for event in call.events]


def test_a_request_has_the_attributes_of_the_conventions(make_client, telescope, server):
    client = make_client(telescope.observer)
    server.script("*", [error("SERVICE_UNAVAILABLE")])
    client.get_str("app/llm", "model")
    first, second = telescope.named(f"GET {ROUTE}")
    port = int(server.url.rpartition(":")[2])
    common = {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{server.url}/api/v1/configs/app%2Fllm/model?env=development",
        "url.template": ROUTE,
    }
    assert dict(first.attributes) == common | {"http.response.status_code": 503, "error.type": "503"}
    assert dict(second.attributes) == common | {
        "http.response.status_code": 200,
        "http.request.resend_count": 1,
    }
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description is None
    assert second.status.status_code is StatusCode.UNSET


def test_errors_are_recorded_on_the_request_and_on_the_call(make_client, telescope, server):
    client = make_client(telescope.observer, resilience=None)
    server.script("*", [error("STORAGE_ERROR")])
    with pytest.raises(StorageError):
        client.get_str("app/llm", "model")
    (call,) = telescope.named("get_config")
    assert call.status.status_code is StatusCode.ERROR
    assert call.status.description
    assert call.attributes["error.type"] == "storage"
    assert call.attributes["llm_config.error.code"] == "STORAGE_ERROR"
    for span in telescope.spans:
        (recorded,) = [event for event in span.events if event.name == "exception"]
        assert recorded.attributes["exception.type"].endswith("StorageError")


def test_what_never_arrived_has_the_class_of_its_error(make_client, telescope, server):
    client = make_client(telescope.observer, resilience=None)
    server.stop()
    assert client.get_str("app/llm", "model", fallback="x") == "x"
    (request,) = telescope.named(f"GET {ROUTE}")
    assert request.attributes["error.type"] == "ConnectFailedError"
    assert "http.response.status_code" not in request.attributes
    assert "Connection refused" in request.status.description
    (call,) = telescope.named("get_config")
    assert call.attributes["llm_config.outcome"] == "degraded"
    assert call.status.status_code is StatusCode.UNSET


def test_the_context_travels_in_the_requests_headers(make_client, telescope, server):
    client = make_client(telescope.observer)
    with telescope.tracers.get_tracer("app").start_as_current_span("startup") as outer:
        client.get_str("app/llm", "model")
    sent = dict(server.journal[-1].request.headers)["traceparent"]
    (request,) = telescope.named(f"GET {ROUTE}")
    (call,) = telescope.named("get_config")
    found = re.fullmatch(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", sent)
    assert found is not None
    assert int(found[3], 16) & SAMPLED
    assert int(found[1], 16) == outer.get_span_context().trace_id
    assert int(found[2], 16) == request.context.span_id
    assert call.parent.span_id == outer.get_span_context().span_id


async def test_an_async_call_makes_the_same_spans(telescope, server):
    options = {"token": server.token("admin"), "listeners": [telescope.observer]}
    async with AsyncConfigClient(server.url, **options) as client:
        with pytest.raises(NotFoundError):
            await client.get_str("app/llm", "absent")
    (call,) = telescope.named("get_config")
    (request,) = telescope.named(f"GET {ROUTE}")
    assert request.parent.span_id == call.context.span_id
    assert call.attributes["llm_config.outcome"] == "refused"
    assert request.attributes["error.type"] == "404"


def test_durations_are_metrics_with_the_conventions_buckets(make_client, telescope, server):
    client = make_client(telescope.observer)
    server.script("*", [error("SERVICE_UNAVAILABLE")])
    client.get_str("app/llm", "model")
    client.get_str("app/llm", "model")
    points = telescope.points("http.client.request.duration")
    assert {point.attributes["http.response.status_code"] for point in points} == {503, 200}
    assert all("url.full" not in point.attributes for point in points)
    assert points[0].explicit_bounds == otel._BUCKETS
    calls = telescope.points("llm_config.call.duration")
    assert {point.attributes["llm_config.source"]: point.count for point in calls} == {
        "server": 1,
        "cache": 1,
    }
    (retries,) = telescope.points("llm_config.retries")
    assert (retries.value, dict(retries.attributes)) == (1, {"llm_config.operation": "get_config"})


def test_failover_and_circuits_are_metrics(make_client, telescope, server, backup):
    client = make_client(telescope.observer, backups=[backup.url], resilience=ResiliencePolicy())
    server.stop()
    client.get_str("app/llm", "model")
    (failovers,) = telescope.points("llm_config.failovers")
    assert failovers.value == 1
    (call,) = telescope.named("get_config")
    assert "failed_over" in [event.name for event in call.events]


def test_an_answer_of_the_cache_makes_no_span(make_client, telescope):
    client = make_client(telescope.observer)
    client.get_str("app/llm", "model")
    telescope.exporter.clear()
    client.get_str("app/llm", "model")
    assert telescope.spans == ()


def observation(observer, request_id="req_1"):
    observers = Observers.of([observer], ManualClock())
    call = ObservedCall("get_config", "GET", ROUTE, request_id=request_id)
    observer.began(call)
    return Observation(observers, call)


def test_cancellation_is_no_error(telescope):
    seen = observation(telescope.observer)
    seen.sending(ENDPOINT, "http://config.test:8080/x")
    seen.close()
    assert {span.status.status_code for span in telescope.spans} == {StatusCode.UNSET}
    assert len(telescope.spans) == 2
    assert all("error.type" not in span.attributes for span in telescope.spans)


def test_a_request_in_the_background_stays_below_its_call(telescope):
    seen = observation(telescope.observer)
    seen.succeeded(None, source="stale")
    request = seen.sending(ENDPOINT, "http://config.test:8080/x")
    seen.answered(request, 200)
    call, background = telescope.spans
    assert background.parent.span_id == call.context.span_id


def test_nothing_is_kept_of_calls_that_are_over(telescope):
    seen = observation(telescope.observer)
    request = seen.sending(ENDPOINT, "http://config.test:8080/x")
    seen.answered(request, 200)
    seen.succeeded(None)
    del seen, request
    gc.collect()
    observer = telescope.observer
    assert (len(observer._calls), len(observer._requests), len(observer._by_request_id)) == (0, 0, 0)


def test_lost_data_is_an_event_of_the_call_that_shows_it(telescope):
    seen = observation(telescope.observer)
    telescope.observer.noticed(Incident("version_went_back", "a write is gone", seen.call))
    seen.succeeded(None)
    (call,) = telescope.spans
    assert [event.name for event in call.events] == ["version_went_back"]
    (point,) = telescope.points("llm_config.data_loss")
    assert point.value == 1


def test_a_trace_that_is_not_sampled_is_propagated_as_such(make_client, server):
    telescope = Telescope(sampler=ALWAYS_OFF)
    make_client(telescope.observer).get_str("app/llm", "model")
    flags = dict(server.journal[-1].request.headers)["traceparent"].rpartition("-")[2]
    assert not int(flags, 16) & SAMPLED
    assert telescope.spans == ()


def test_without_an_sdk_nothing_is_sent_and_nothing_breaks(make_client, server):
    make_client(OpenTelemetry()).get_str("app/llm", "model")
    assert "traceparent" not in dict(server.journal[-1].request.headers)
    assert not trace.get_current_span().is_recording()


def test_a_call_that_was_not_seen_to_begin_breaks_nothing(telescope):
    telescope.observer.ended(call_event("failed", StorageError("x", code="STORAGE_ERROR", status=500)))
    assert telescope.spans == ()
