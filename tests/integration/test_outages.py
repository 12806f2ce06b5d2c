"""Whole stories of an outage, told from the caller's chair, on real sockets and stepping time."""

import pytest

from llm_config_mock_server import error, reset
from llm_config_sdk import (
    AllEndpointsFailedError,
    BreakerPolicy,
    CachePolicy,
    ConnectFailedError,
    InternalError,
    NotFoundError,
    ResiliencePolicy,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
    StorageError,
)

GET = "GET /api/*"


@pytest.fixture(autouse=True)
def entries(primary, backup):
    for server in (primary, backup):
        server.put("app/llm", "model", "gpt-4", env="production")


def kinds(events):
    return [event.kind for event in events]


def test_an_outage_is_bridged_step_by_step_and_ends(connect, primary, backup, clock):
    client = connect(
        backups=[backup.url],
        cache=CachePolicy(ttl=10, stale_if_error=600),
        fallback={("app/llm", "limit"): 5},
    )

    def read(key="model"):
        found = client.get_config("app/llm", key)
        return found.value, found.source, found.endpoint

    assert read() == ("gpt-4", "server", primary.url)
    assert read() == ("gpt-4", "cache", primary.url)

    primary.stop()
    clock.advance(11)
    assert read() == ("gpt-4", "server", backup.url), "the backup answers"

    backup.stop()
    clock.advance(11)
    assert read() == ("gpt-4", "stale", backup.url), "the last known value stands in"
    assert read("limit") == (5, "default", None), "then the client's own fallback"
    with pytest.raises((AllEndpointsFailedError, ServiceCircuitOpenError)):
        read("other")

    clock.advance(700)
    with pytest.raises((AllEndpointsFailedError, ServiceCircuitOpenError)):
        read()

    primary.start()
    backup.start()
    clock.advance(600)
    assert read() == ("gpt-4", "server", primary.url), "and the primary is preferred again"
    with pytest.raises(NotFoundError):
        read("limit")


def test_reads_fail_over_stay_there_and_go_back(connect, primary, backup, clock, events):
    client = connect(
        backups=[backup.url],
        cache=None,
        resilience=ResiliencePolicy(breaker=None, failback_after=30),
    )
    primary.script(GET, error("SERVICE_UNAVAILABLE"))
    assert client.get_config("app/llm", "model").endpoint == backup.url
    clock.advance(29)
    assert client.get_config("app/llm", "model").endpoint == backup.url
    primary.journal.assert_count(1)
    clock.advance(2)
    for _ in range(2):  # two probes have to succeed
        assert client.get_config("app/llm", "model").endpoint == primary.url
    assert kinds(events) == ["ejected", "failed_over", "readmitted"]
    backup.journal.assert_count(2)


def test_a_circuit_opens_lets_a_probe_through_and_closes(connect, primary, clock, events):
    policy = ResiliencePolicy(
        retry=None, breaker=BreakerPolicy(failure_threshold=3, success_threshold=2, timeout=60)
    )
    client = connect(cache=None, resilience=policy)
    outage = primary.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")

    def state():
        (breaker,) = client.client._core.stack.breakers.strategies.values()
        return breaker.state

    for _ in range(3):
        with pytest.raises(ServiceUnavailableError):
            client.get_config("app/llm", "model")
    assert state() == "open"

    for _ in range(5):
        with pytest.raises(ServiceCircuitOpenError):
            client.get_config("app/llm", "model")
    primary.journal.assert_count(3)

    clock.advance(60)
    with pytest.raises(ServiceUnavailableError):
        client.get_config("app/llm", "model")
    assert state() == "open", "the probe failed"
    primary.journal.assert_count(4)

    outage.remove()
    clock.advance(200)
    assert client.get_str("app/llm", "model") == "gpt-4"
    assert state() == "half-open"
    assert client.get_str("app/llm", "model") == "gpt-4"
    assert state() == "closed"
    changes = [kind for kind in kinds(events) if kind in {"opened", "half_opened", "closed"}]
    assert changes == ["opened", "half_opened", "opened", "half_opened", "closed"]


def test_reads_go_on_at_the_backup_while_the_primarys_circuit_is_open(connect, primary, backup):
    client = connect(
        backups=[backup.url],
        cache=None,
        resilience=ResiliencePolicy(breaker=BreakerPolicy(failure_threshold=1), failback_after=0),
    )
    primary.stop()
    for _ in range(4):
        assert client.get_config("app/llm", "model").endpoint == backup.url
    with pytest.raises(ServiceCircuitOpenError) as caught:
        client.set_config("app/llm", "model", "never sent")
    assert caught.value.endpoint == primary.url
    assert caught.value.retry_after > 0
    backup.journal.assert_count(0, method="POST")


def test_every_retry_is_counted_and_told(connect, primary, clock, events):
    client = connect(cache=None)
    primary.script(GET, [error("SERVICE_UNAVAILABLE"), reset()])
    assert client.get_config("app/llm", "model").attempts == 3
    assert kinds(events) == ["retry", "retry", "recovered"]
    assert [event.delay for event in events[:2]] == clock.sleeps
    assert [type(event.error).__name__ for event in events[:2]] == [
        "ServiceUnavailableError",
        "TransportError",
    ]
    primary.journal.assert_count(3)


def test_retries_that_do_not_help_are_given_up_for_all_calls_together(connect, primary):
    client = connect(cache=None, resilience=ResiliencePolicy(breaker=None))
    primary.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")
    calls = 120
    for _ in range(calls):
        with pytest.raises(ServiceUnavailableError) as caught:
            client.get_config("app/llm", "model")
    primary.journal.assert_count(calls + 100)  # a quota of 500 tokens, 5 a retry
    assert caught.value.__notes__ == ["not retried: the retry budget is spent"]


def test_a_full_disk_is_an_administrators_and_is_not_hammered(connect, primary):
    client = connect()
    primary.conditions["store"] = "StorageFull"
    with pytest.raises(StorageError) as caught:
        client.set_config("app/llm", "model", "x")
    assert caught.value.category == "system"
    primary.journal.assert_count(1)
    del primary.conditions["store"]
    assert client.set_config("app/llm", "model", "x").version == 2


def test_a_defect_of_the_server_is_told_with_its_request_id(connect, primary):
    primary.script(GET, error("INTERNAL_ERROR", retriable=False))
    with pytest.raises(InternalError) as caught:
        connect().get_config("app/llm", "model")
    assert caught.value.request_id == primary.journal[-1].request_id
    assert caught.value.request_id in str(caught.value)


def test_an_application_starts_on_its_fallbacks_and_moves_to_the_truth(connect, primary, clock):
    primary.stop()
    client = connect(fallback={("app/llm", "model"): "gpt-3.5"}, resilience=ResiliencePolicy(breaker=None))
    started = client.get_config("app/llm", "model")
    assert (started.value, started.source) == ("gpt-3.5", "default")
    assert isinstance(started.error, ConnectFailedError)
    primary.start()
    assert client.get_config("app/llm", "model").value == "gpt-4"
    assert client.get_config("app/llm", "model").source == "cache"
