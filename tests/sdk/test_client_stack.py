"""What a client does when servers fail: who is asked, how often, and what the caller is told."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_config_mock_server import close, error, html, malformed, ok, reset, respond, stale, truncate
from llm_config_resilience import CircuitOpenError, RetryPolicy
from llm_config_sdk import (
    AllEndpointsFailedError,
    BreakerPolicy,
    CachePolicy,
    ConflictError,
    ConnectFailedError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitExceededError,
    ResiliencePolicy,
    ResponseDecodeError,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
    TransportError,
    UnauthorizedError,
    ValidationError,
)

GET = "GET /api/*"
WITHOUT_BREAKER = ResiliencePolicy(breaker=None)


@pytest.fixture
def entry(server):
    return server.put("app/llm", "model", "gpt-4", env="production")


def test_a_read_is_tried_three_times_and_the_third_may_succeed(connect_any, server, entry):
    server.script(GET, [error("SERVICE_UNAVAILABLE"), error("DATABASE_ERROR")])
    found = connect_any().get_config("app/llm", "model")
    assert (found.value, found.attempts) == ("gpt-4", 3)
    ids = {seen.request_id for seen in server.journal.assert_count(3)}
    assert len(ids) == 1, "the attempts of one call share its request id"


def test_after_three_failures_the_last_error_is_raised_as_it_is(connect_any, server, entry):
    server.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")
    with pytest.raises(ServiceUnavailableError) as caught:
        connect_any().get_config("app/llm", "model")
    assert (caught.value.attempts, caught.value.status) == (3, 503)
    assert caught.value.endpoint == server.url
    assert caught.value.request_id == server.journal[0].request_id
    server.journal.assert_count(3)


@pytest.mark.parametrize(
    ("step", "expected", "requests"),
    [
        pytest.param(error("INTERNAL_ERROR", retriable=False), InternalError, 1, id="500, not retriable"),
        pytest.param(error("INTERNAL_ERROR"), InternalError, 3, id="500"),
        pytest.param(error("INVALID_REQUEST", retriable=True), InvalidRequestError, 3, id="400, retriable"),
        pytest.param(error("INVALID_REQUEST"), InvalidRequestError, 1, id="400"),
        pytest.param(error("UNAUTHORIZED"), UnauthorizedError, 1, id="401"),
        pytest.param(error("PERMISSION_DENIED"), PermissionDeniedError, 1, id="403"),
        pytest.param(error("NOT_FOUND"), NotFoundError, 1, id="404"),
        pytest.param(error("CONFLICT"), ConflictError, 1, id="409"),
        pytest.param(error("CONFLICT", retriable=True), ConflictError, 1, id="409, retriable"),
        pytest.param(error("VALIDATION_ERROR"), ValidationError, 1, id="422"),
        pytest.param(html(502), ServiceUnavailableError, 3, id="a proxy's page"),
        pytest.param(reset(), TransportError, 3, id="reset"),
        pytest.param(close(), TransportError, 3, id="closed"),
        pytest.param(truncate(), TransportError, 3, id="cut off"),
        pytest.param(html(200), ResponseDecodeError, 1, id="200 with a page"),
        pytest.param(respond(200), ResponseDecodeError, 1, id="200 with nothing"),
        pytest.param(malformed(), ResponseDecodeError, 1, id="half of the JSON"),
        pytest.param(respond(302, headers={"location": "/x"}), InvalidRequestError, 1, id="redirect"),
    ],
)
@pytest.mark.usefixtures("entry")
def test_a_read_is_repeated_if_and_only_if_that_may_help(connect_any, server, step, expected, requests):
    server.script(GET, step, repeat="last")
    with pytest.raises(expected) as caught:
        connect_any().get_config("app/llm", "model")
    server.journal.assert_count(requests)
    assert "<" not in caught.value.message, "no markup in a message"
    assert caught.value.operation == "get_config"


@pytest.mark.parametrize("step", [reset(), close(), truncate(), stale(on_reuse=True)], ids=repr)
def test_a_read_survives_a_broken_connection(connect_any, server, entry, step):
    client = connect_any(cache=None)
    server.script(GET, [step, ok()])
    assert client.get_str("app/llm", "model") == "gpt-4"
    assert client.get_str("app/llm", "model") == "gpt-4"


def test_a_refused_connection_is_tried_again_for_reads_and_writes(connect_any, server, entry, clock):
    client = connect_any(cache=None, resilience=WITHOUT_BREAKER)
    server.stop()
    calls = (
        lambda: client.get_config("app/llm", "model"),
        lambda: client.set_config("app/llm", "model", 1),
        lambda: client.rollback("app/llm", "model", 1),
        lambda: client.delete_config("app/llm", "model"),
    )
    for call in calls:
        with pytest.raises(ConnectFailedError) as caught:
            call()
        assert caught.value.never_sent
        assert caught.value.attempts == 3
    assert len(clock.sleeps) == 2 * len(calls)


def test_a_write_gets_through_once_the_server_is_there(connect_any, server, clock, monkeypatch):
    client = connect_any()
    server.stop()
    monkeypatch.setattr(clock, "sleep", lambda seconds: server.start())
    assert client.set_config("app", "n", 1).version == 1
    server.journal.assert_count(1)


@pytest.mark.parametrize(
    "step",
    [error("SERVICE_UNAVAILABLE"), reset(), close(), html(502), error("INTERNAL_ERROR").after_effect()],
    ids=repr,
)
@pytest.mark.parametrize("write", ["set_config", "rollback"])
def test_a_write_that_may_have_been_seen_is_never_repeated(connect_any, server, entry, step, write):
    server.script("POST /api/*", step, repeat="last")
    client = connect_any()
    with pytest.raises((ServiceUnavailableError, TransportError, InternalError)):
        getattr(client, write)("app/llm", "model", 1)
    server.journal.assert_count(1)


def test_with_an_idempotency_key_a_write_is_repeated_under_one_key(connect_any, server):
    server.script("POST /api/*", [error("SERVICE_UNAVAILABLE"), reset()])
    written = connect_any().set_config("app", "n", 1, idempotency_key="k-1")
    assert (written.version, written.attempts) == (1, 3)
    server.journal.assert_count(3, headers={"idempotency-key": "k-1"})


def test_an_answer_that_was_lost_is_given_again_for_the_same_idempotency_key(connect_any, server):
    server.script("POST /api/*", error("INTERNAL_ERROR").after_effect())
    written = connect_any().set_config("app", "n", 1, idempotency_key="k-1")
    assert written.version == 1
    assert server.entry("app", "n", env="production")["version"] == 1
    server.journal.assert_count(2)


def test_writes_never_fail_over(face, server, backup, clock):
    backup.put("app", "n", 1, env="production")
    client = face.client(
        server.url,
        token=server.token("admin"),
        backups=[backup.url],
        clock=clock,
        resilience=WITHOUT_BREAKER,
    )
    server.stop()
    with pytest.raises(ConnectFailedError):
        client.set_config("app", "n", 2, env="production")
    with pytest.raises(ConnectFailedError):
        client.delete_config("app", "n", env="production")
    assert len(backup.journal) == 0


def test_a_deletion_is_repeated_and_a_404_on_the_repeat_counts_as_done(connect_any, server, entry):
    server.script("DELETE /api/*", error("INTERNAL_ERROR").after_effect())
    assert connect_any().delete_config("app/llm", "model") is None
    server.journal.assert_count(2, method="DELETE")


def test_a_404_on_the_first_deletion_is_told(connect_any, server):
    with pytest.raises(NotFoundError) as caught:
        connect_any().delete_config("app", "nothing")
    assert caught.value.is_not_found
    server.journal.assert_count(1)


def test_a_404_after_a_deletion_that_was_never_sent_is_told(connect, server, clock, monkeypatch):
    client = connect()
    server.stop()
    monkeypatch.setattr(clock, "sleep", lambda seconds: server.start())
    with pytest.raises(NotFoundError):
        client.delete_config("app", "nothing")


# --- Rate limits and Retry-After ----------------------------------------------------------------


@pytest.mark.parametrize("code", ["RATE_LIMIT_EXCEEDED", "SERVICE_UNAVAILABLE"])
def test_retry_after_is_waited_for(connect_any, server, entry, clock, code):
    server.script(GET, error(code, retry_after=2))
    assert connect_any().get_str("app/llm", "model") == "gpt-4"
    assert len(clock.sleeps) == 1
    assert 2.0 <= clock.sleeps[0] <= 2.1, "what was asked for, and a little jitter"


def test_retry_after_may_be_a_date(connect_any, server, entry, clock):
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.script(GET, error("RATE_LIMIT_EXCEEDED", retry_after=soon))
    assert connect_any().get_str("app/llm", "model") == "gpt-4"
    assert 1.0 <= clock.sleeps[0] <= 3.1, "a date has whole seconds"


def test_a_retry_after_above_a_minute_is_raised_at_once(connect_any, server, entry, clock):
    server.script(GET, error("RATE_LIMIT_EXCEEDED", retry_after=3600), repeat="last")
    with pytest.raises(RateLimitExceededError) as caught:
        connect_any(timeout=7200).get_config("app/llm", "model")
    assert caught.value.retry_after == 3600
    assert clock.sleeps == []
    server.journal.assert_count(1)


def test_a_retry_after_beyond_the_deadline_is_raised_at_once(connect, server, entry, clock):
    server.script(GET, error("RATE_LIMIT_EXCEEDED", retry_after=30), repeat="last")
    with pytest.raises(RateLimitExceededError) as caught:
        connect(timeout=5).get_config("app/llm", "model")
    assert caught.value.retry_after == 30
    assert clock.sleeps == []


def test_a_rate_limit_neither_fails_over_nor_counts_in_breakers(face, server, backup, clock):
    client = face.client(
        server.url,
        token=server.token("admin"),
        backups=[backup.url],
        clock=clock,
        resilience=ResiliencePolicy(retry=None, breaker=BreakerPolicy(failure_threshold=1)),
    )
    server.script(GET, error("RATE_LIMIT_EXCEEDED"), repeat="last")
    for _ in range(3):
        with pytest.raises(RateLimitExceededError):
            client.get_config("app", "n")
    server.journal.assert_count(3)
    assert len(backup.journal) == 0


# --- Breakers -----------------------------------------------------------------------------------


def test_a_breaker_opens_after_five_failures_and_says_when_to_come_back(connect, server, entry, clock):
    client = connect(resilience=ResiliencePolicy(retry=None))
    server.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")
    for _ in range(5):
        with pytest.raises(ServiceUnavailableError):
            client.get_config("app/llm", "model")
    with pytest.raises(ServiceCircuitOpenError) as caught:
        client.get_config("app/llm", "model")
    server.journal.assert_count(5)
    assert caught.value.retry_after == pytest.approx(60.0)
    assert caught.value.endpoint == server.url
    assert isinstance(caught.value.__cause__, CircuitOpenError), "the toolkit's own error is the cause"


@pytest.mark.parametrize(
    "code", ["UNAUTHORIZED", "PERMISSION_DENIED", "NOT_FOUND", "VALIDATION_ERROR", "CONFLICT"]
)
def test_an_answer_that_the_caller_does_not_like_trips_no_breaker(connect, server, code):
    client = connect(resilience=ResiliencePolicy(breaker=BreakerPolicy(failure_threshold=1)))
    server.script(GET, error(code), repeat="last")
    for _ in range(3):
        with pytest.raises(Exception, match=code):
            client.get_config("app", "n")
    server.journal.assert_count(3)


# --- Failover -----------------------------------------------------------------------------------


def test_a_read_fails_over_and_says_who_answered(any_face, server, backup, clock):
    backup.put("app", "n", "from the backup", env="production")
    client = any_face.client(
        server.url, token=server.token("admin"), environment="production", backups=[backup.url], clock=clock
    )
    server.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")
    found = client.get_config("app", "n")
    assert (found.value, found.endpoint, found.attempts, found.source) == (
        "from the backup",
        backup.url,
        2,
        "server",
    )
    assert clock.sleeps == [], "there is no wait before asking somebody else"


@pytest.mark.parametrize("code", ["UNAUTHORIZED", "PERMISSION_DENIED", "NOT_FOUND", "VALIDATION_ERROR"])
def test_what_a_backup_would_say_too_does_not_fail_over(face, server, backup, clock, code):
    client = face.client(server.url, token=server.token("admin"), backups=[backup.url], clock=clock)
    server.script(GET, error(code), repeat="last")
    with pytest.raises(Exception, match=code):
        client.get_config("app", "n")
    assert len(backup.journal) == 0


def test_when_everybody_fails_each_failure_is_told(any_face, server, backup, clock):
    client = any_face.client(server.url, token=server.token("admin"), backups=[backup.url], clock=clock)
    server.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")
    backup.stop()
    with pytest.raises(AllEndpointsFailedError) as caught:
        client.get_config("app", "n")
    assert {each.endpoint: type(each).__name__ for each in caught.value.errors} == {
        server.url: "ServiceUnavailableError",
        backup.url: "ConnectFailedError",
    }
    assert caught.value.attempts == 6
    assert caught.value.is_retriable


def test_without_backups_one_endpoint_raises_its_own_error(connect, server):
    server.stop()
    with pytest.raises(ConnectFailedError):
        connect().get_config("app", "n")


# --- Without the stack --------------------------------------------------------------------------


def test_resilience_none_makes_one_plain_call(connect_any, server, entry):
    server.script(GET, error("SERVICE_UNAVAILABLE"))
    client = connect_any(resilience=None, backups=["http://127.0.0.1:9"])
    with pytest.raises(ServiceUnavailableError):
        client.get_config("app/llm", "model")
    server.journal.assert_count(1)
    assert client.get_str("app/llm", "model") == "gpt-4"


def test_a_retry_policy_is_kept_to(connect, server, entry, clock):
    policy = RetryPolicy(max_attempts=5, initial_backoff=1.0, max_backoff=3.0, jitter="none")
    server.script(GET, error("SERVICE_UNAVAILABLE"), repeat="last")
    with pytest.raises(ServiceUnavailableError):
        connect(resilience=ResiliencePolicy(retry=policy, breaker=None), timeout=60).get_config("a", "n")
    assert clock.sleeps == [1.0, 2.0, 3.0, 3.0]


def test_a_health_check_asks_the_primary_once_and_honestly(connect_any, server):
    client = connect_any()
    assert client.health_check().is_healthy
    server.script("GET /health", error("SERVICE_UNAVAILABLE"), repeat="last")
    with pytest.raises(ServiceUnavailableError):
        client.health_check()
    server.journal.assert_count(2, path="/health")


def test_a_cached_entry_is_served_while_the_circuit_is_open(connect, server, entry, clock):
    client = connect(cache=CachePolicy(ttl=10))
    client.get_config("app/llm", "model")
    server.stop()
    clock.advance(11)
    for _ in range(3):
        assert client.get_config("app/llm", "model").source == "stale"
    found = client.get_config("app/llm", "model")
    assert isinstance(found.error, ServiceCircuitOpenError)
    assert found.is_stale
    assert found.value == "gpt-4"
