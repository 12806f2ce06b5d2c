"""What a client tells its observers."""

import logging

import pytest

from llm_config_mock_server import error
from llm_config_resilience import ManualClock
from llm_config_sdk import (
    AsyncConfigClient,
    CachePolicy,
    LLMConfigError,
    NotFoundError,
    RequestTimeoutError,
    StorageError,
)
from llm_config_sdk.observability import CallEvent, Incident, ObservedCall, Observer
from llm_config_sdk.observability.observers import Observation, Observers, call_in_hand
from llm_config_sdk.observability.versions import VersionWatch
from llm_config_sdk.transport import Endpoint

ENDPOINT = Endpoint.parse("http://config.test:8080")


class Recorder(Observer):
    """Writes down everything."""

    wants = None

    def __init__(self) -> None:
        self.heard: list[object] = []

    def __call__(self, event):
        call = call_in_hand()
        self.heard.append((event.kind, call.operation.name if call else None))

    def began(self, call):
        self.heard.append(("began", call.location))

    def sending(self, request):
        request.headers["X-Seen"] = "yes"
        self.heard.append(("sending", request.attempt))

    def answered(self, answer):
        self.heard.append(("answered", answer.status))

    def ended(self, event):
        self.heard.append(event)

    def noticed(self, incident):
        self.heard.append(incident)

    @property
    def last(self) -> CallEvent:
        return [event for event in self.heard if isinstance(event, CallEvent)][-1]


def test_a_call_is_told_from_its_beginning_to_its_end(make_client, server):
    recorder = Recorder()
    client = make_client(recorder)
    server.script("GET app/llm/model", [error("SERVICE_UNAVAILABLE")])
    client.get_str("app/llm", "model")
    aside = {"recovered", "readmitted"}
    *told, end = [item for item in recorder.heard if not isinstance(item, tuple) or item[0] not in aside]
    assert told == [
        ("began", "get_config app/llm model [development]"),
        ("sending", 1),
        ("answered", 503),
        ("retry", "get_config"),
        ("sending", 2),
        ("answered", 200),
    ]
    assert (end.outcome, end.source, end.attempts, end.version) == ("ok", "server", 2, 1)
    assert end.endpoint == server.url
    assert end.call.request_id.startswith("req_")
    assert end.call.route == "/api/v1/configs/{namespace}/{key}"


def test_what_an_observer_adds_to_the_headers_goes_along(make_client, server):
    make_client(Recorder()).get_str("app/llm", "model")
    assert dict(server.journal[-1].request.headers)["X-Seen"] == "yes"


def test_an_answer_of_the_cache_has_only_an_end(make_client):
    recorder = Recorder()
    client = make_client(recorder)
    client.get_str("app/llm", "model")
    recorder.heard.clear()
    client.get_str("app/llm", "model")
    (end,) = recorder.heard
    assert (end.outcome, end.source, end.attempts, end.duration) == ("ok", "cache", 0, 0.0)


def test_a_callers_mistake_is_refused_and_a_servers_failure_failed(make_client, server):
    recorder = Recorder()
    client = make_client(recorder)
    with pytest.raises(NotFoundError):
        client.get_str("app/llm", "absent")
    assert recorder.last.outcome == "refused"
    server.script("*", [error("STORAGE_ERROR", retriable=False)])
    with pytest.raises(StorageError):
        client.list_configs("app/llm")
    assert recorder.last.outcome == "failed"
    assert isinstance(recorder.last.error, StorageError)


def test_a_default_for_what_is_absent_is_as_it_should_be(make_client):
    recorder = Recorder()
    assert make_client(recorder).get_str("app/llm", "absent", default="x") == "x"
    assert (recorder.last.outcome, recorder.last.source) == ("ok", "default")


def test_a_fallback_and_a_stale_value_degrade_the_call(make_client, server, clock):
    recorder = Recorder()
    client = make_client(recorder, cache=CachePolicy(ttl=1.0))
    client.get_str("app/llm", "model")
    server.stop()
    clock.advance(2.0)
    assert client.get_str("app/llm", "model") == "large"
    assert (recorder.last.outcome, recorder.last.source) == ("degraded", "stale")
    assert client.get_str("app/llm", "other", fallback="x") == "x"
    assert (recorder.last.outcome, recorder.last.source) == ("degraded", "default")
    assert recorder.last.version is None
    assert recorder.last.error is not None


async def test_an_async_call_is_told_alike(server):
    recorder = Recorder()
    async with AsyncConfigClient(server.url, token=server.token("admin"), listeners=[recorder]) as client:
        await client.get_str("app/llm", "model")
    kinds = [item[0] if isinstance(item, tuple) else item.outcome for item in recorder.heard]
    assert kinds == ["began", "sending", "answered", "ok"]


def observation(*observers, clock=None):
    found = Observers.of(observers, clock or ManualClock())
    call = ObservedCall("get_config", namespace="a", key="k", request_id="req_1")
    return Observation(found, call)


def test_a_call_that_ends_in_no_way_was_cancelled_with_its_open_requests():
    recorder = Recorder()
    seen = observation(recorder)
    seen.sending(ENDPOINT, "http://config.test:8080/x")
    seen.close()
    seen.close()
    assert recorder.heard[:2] == [("sending", 1), ("answered", None)]
    assert recorder.last.outcome == "cancelled"
    assert len(recorder.heard) == 3


def test_a_request_that_the_calls_deadline_ended_is_told_with_the_calls_error():
    answers = []

    class Witness(Observer):
        def answered(self, answer):
            answers.append((answer.status, answer.error, answer.cancelled))

    seen = observation(Witness())
    request = seen.sending(ENDPOINT, "http://config.test:8080/x")
    late = RequestTimeoutError("no answer within 1 s")
    seen.failed(late)
    seen.answered(request, 200)
    assert answers == [(None, late, False)]


def test_a_call_ends_once():
    recorder = Recorder()
    seen = observation(recorder)
    seen.succeeded(None)
    seen.failed(StorageError("too late"))
    seen.close()
    assert [event.outcome for event in recorder.heard] == ["ok"]


def test_a_request_in_the_background_may_outlive_its_call():
    recorder = Recorder()
    seen = observation(recorder)
    request = seen.sending(ENDPOINT, "http://config.test:8080/x")
    seen.succeeded(None, source="stale")
    seen.close()
    seen.answered(request, 200)
    assert recorder.heard[-1] == ("answered", 200)


def test_durations_are_measured_on_the_clients_clock():
    clock, answers = ManualClock(), []

    class Timer(Observer):
        def answered(self, answer):
            answers.append(answer.duration)

        def ended(self, event):
            answers.append(event.duration)

    observers = Observers.of([Timer()], clock)
    seen = Observation(observers, ObservedCall("get_config", began=clock.monotonic()))
    request = seen.sending(ENDPOINT, "http://config.test:8080/x")
    clock.advance(0.5)
    seen.answered(request, 200)
    clock.advance(0.25)
    seen.succeeded(None)
    assert answers == [0.5, 0.75]


def test_who_listens_to_the_stack_alone_costs_calls_nothing():
    assert not Observers.of([print, lambda event: None], ManualClock()).follows
    assert Observers.of([print, Recorder()], ManualClock()).follows


def test_a_client_that_nobody_listens_to_has_a_log_and_follows_no_call(make_client):
    assert not make_client()._core.observers.follows
    assert not make_client()._core.observers.wants_hits


def test_an_observer_hears_of_clients_with_their_endpoints_and_budget(make_client, server):
    class Registry(Observer):
        def __init__(self):
            self.heard = []

        def attached(self, client):
            self.heard.append((client.endpoints, client.budget and client.budget.tokens))

        def detached(self):
            self.heard.append("closed")

    registry = Registry()
    client = make_client(registry, backups=["http://backup.test"])
    client.with_options(timeout=3.0).close()  # shares all of it
    client.with_options(resilience=None).close()
    client.close()
    client.close()
    endpoints = (server.url, "http://backup.test")
    assert registry.heard == [(endpoints, 500), (endpoints, None), "closed"]


def test_an_observer_that_raises_is_logged_and_breaks_nothing(make_client, caplog):
    class Broken(Observer):
        def began(self, call):
            raise RuntimeError("broken")

        ended = sending = answered = began

    recorder = Recorder()
    assert make_client(Broken(), recorder).get_str("app/llm", "model") == "large"
    assert recorder.last.outcome == "ok"
    lines = [record for record in caplog.records if record.name == "llm_config_sdk.observability"]
    assert len(lines) == 4
    assert {record.levelno for record in lines} == {logging.ERROR}


def test_successes_are_told_to_those_only_who_want_them():
    heard = []

    class Unhappy(Observer):
        wants_successes = False

        def ended(self, event):
            heard.append(event.outcome)

    seen = Observers.of([Unhappy()], ManualClock())
    seen.end(CallEvent(ObservedCall("get_config"), "ok", 0.0))
    seen.end(CallEvent(ObservedCall("get_config"), "failed", 0.0, error=LLMConfigError("x")))
    assert heard == ["failed"]


def read(version, *, time, duration=0.1, entry_id="id", endpoint="http://a", source="server"):
    call = ObservedCall("get_config", namespace="app", key="k", environment="production")
    return CallEvent(call, "ok", time, duration, source, endpoint, entry_id=entry_id, version=version)


def test_a_version_that_went_back_is_noticed_once():
    watch = VersionWatch()
    assert watch.check(read(3, time=1.0)) is None
    lost = watch.check(read(2, time=2.0))
    assert lost is not None
    assert "version 2 after it had shown version 3" in lost
    assert watch.check(read(2, time=3.0)) is None


@pytest.mark.parametrize(
    "later",
    [
        read(2, time=1.05),  # it was under way when the write came
        read(2, time=2.0, entry_id="new"),  # deleted, and made anew
        read(2, time=2.0, endpoint="http://backup"),  # may lag behind
        read(2, time=2.0, source="stale"),
        read(3, time=2.0),
        read(4, time=2.0),
    ],
)
def test_what_explains_itself_is_no_lost_write(later):
    watch = VersionWatch()
    watch.check(read(3, time=1.0))
    assert watch.check(later) is None


def test_the_watch_remembers_no_more_than_its_capacity():
    watch = VersionWatch(capacity=2)
    for number in range(5):
        watch.check(read(1, time=1.0, entry_id=f"id{number}"))
    assert len(watch._seen) == 2


def test_lost_writes_are_told_to_those_who_notice():
    recorder = Recorder()
    observers = Observers.of([recorder], ManualClock())
    observers.end(read(3, time=1.0))
    observers.end(read(1, time=2.0))
    (incident,) = [item for item in recorder.heard if isinstance(item, Incident)]
    assert incident.kind == "version_went_back"
