"""Log lines: how many, how loud, and with which fields."""

import logging

import pytest

from llm_config_mock_server import error
from llm_config_resilience import Event
from llm_config_sdk import CachePolicy, ConfigClient, DecryptionError, NotFoundError, ServiceUnavailableError
from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.observability import Incident, LogListener, ObservedCall
from observability.conftest import call_event

UNAVAILABLE = ServiceUnavailableError(
    "down", code=ErrorCode.SERVICE_UNAVAILABLE, status=503, request_id="req_7", endpoint="http://a"
)
LOST = DecryptionError("cannot decrypt", code=ErrorCode.DECRYPTION_ERROR, status=500)


@pytest.fixture
def lines(caplog):
    """What was written to a logger of the test's own."""
    logger = logging.getLogger("llm_config_sdk.test")
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        yield lambda: [record for record in caplog.records if record.name == logger.name]


@pytest.fixture
def listener(lines):
    now = iter(range(0, 10_000, 10))
    return LogListener(logging.getLogger("llm_config_sdk.test"), now=lambda: float(next(now)))


def event(kind, **facts):
    return Event(kind, "read", "layer", 0.0, **facts)


def test_what_may_pass_is_a_warning_and_what_will_not_an_error(listener, lines):
    listener.ended(call_event("failed", UNAVAILABLE))
    listener.ended(call_event("failed", LOST))
    assert [line.levelno for line in lines()] == [logging.WARNING, logging.ERROR]


def test_a_line_has_its_facts_as_flat_fields_of_plain_types(listener, lines):
    listener.ended(call_event("failed", UNAVAILABLE, endpoint="http://a", attempts=3, duration=0.5))
    (line,) = lines()
    fields = {
        "operation": "get_config",
        "namespace": "app/llm",
        "config_key": "model",
        "environment": "production",
        "request_id": "req_7",
        "code": "SERVICE_UNAVAILABLE",
        "error_type": "unavailable",
        "status": 503,
        "endpoint": "http://a",
        "attempts": 3,
        "duration": 0.5,
        "outcome": "failed",
        "source": None,
    }
    assert {name: getattr(line, name) for name in fields} == fields
    assert all(isinstance(value, str | int | float | None) for value in fields.values())


def test_an_incident_of_three_attempts_is_one_line(server, clock, lines, listener, caplog):
    from observability.observed import observed  # noqa: PLC0415  # the one test that needs it

    client = ConfigClient(server.url, token=server.token("admin"), listeners=[listener], clock=clock)
    server.script("*", [error("SERVICE_UNAVAILABLE")], repeat="last")
    with observed(client, listener, clock=clock), pytest.raises(ServiceUnavailableError):
        client.get_str("app/llm", "model")
    loud = [line for line in lines() if line.levelno > logging.DEBUG]
    assert len(loud) == 1
    assert loud[0].attempts == 3
    assert [line.event_kind for line in lines() if line not in loud] == ["retry", "retry", "gave_up"]
    assert {line.operation for line in lines()} == {"get_config"}


def test_a_cache_miss_is_for_debugging_on_a_healthy_path(listener, lines):
    listener.ended(call_event("ok", source="server"))
    (line,) = lines()
    assert line.levelno == logging.DEBUG
    assert "not in the cache" in line.getMessage()


def test_a_miss_that_makes_a_call_fall_back_further_is_a_warning(make_client, server, clock, lines, listener):
    client = make_client(listener, cache=CachePolicy(ttl=1.0))
    server.stop()
    client.get_str("app/llm", "model", fallback="x")
    (line,) = [line for line in lines() if line.levelno > logging.DEBUG]
    assert line.levelno == logging.WARNING
    assert "answering with the fallback" in line.getMessage()


def test_a_hit_says_nothing(listener, lines):
    listener.ended(call_event("ok", source="cache"))
    assert lines() == []


def test_successes_are_not_even_built_unless_debugging(listener, caplog, lines):
    assert listener.wants_successes
    with caplog.at_level(logging.INFO, logger="llm_config_sdk.test"):
        assert not listener.wants_successes


def test_a_failing_cache_is_an_error_once_an_incident(caplog):
    logger, times = logging.getLogger("llm_config_sdk.test"), iter([0.0, 10.0, 65.0, 130.0])
    listener = LogListener(logger, now=lambda: next(times))
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        for _ in range(4):
            listener(event("cache_failed", error=OSError("disk")))
    # Ten seconds, then 55: the same incident; 65 without a failure: a new one.
    assert [record.levelno for record in caplog.records] == [
        logging.ERROR,
        logging.DEBUG,
        logging.DEBUG,
        logging.ERROR,
    ]


@pytest.mark.parametrize(
    ("kind", "level"),
    [
        ("opened", logging.WARNING),
        ("half_opened", logging.INFO),
        ("closed", logging.INFO),
        ("ejected", logging.WARNING),
        ("readmitted", logging.INFO),
        ("late", logging.WARNING),
        ("background_failed", logging.WARNING),
        ("retry", logging.DEBUG),
        ("failed_over", logging.DEBUG),
        ("rejected", logging.DEBUG),
    ],
)
def test_the_stacks_events_have_the_level_they_deserve(listener, lines, kind, level):
    listener(event(kind, error=UNAVAILABLE, details={"breaker": "http://a"}))
    (line,) = lines()
    assert (line.levelno, line.event_kind, line.endpoint) == (level, kind, "http://a")


def test_the_listener_hears_of_nothing_it_has_no_line_for(listener, lines):
    assert "succeeded" not in LogListener.wants
    listener(event("succeeded"))
    assert lines() == []


def test_lost_data_is_an_error(listener, lines):
    listener.noticed(Incident("audit_gap", "versions 4 to 6 are missing", ObservedCall("get_history")))
    (line,) = lines()
    assert (line.levelno, line.incident, line.operation) == (logging.ERROR, "audit_gap", "get_history")


def test_a_cancelled_call_and_a_default_for_what_is_absent_are_quiet(listener, lines):
    listener.ended(call_event("cancelled"))
    listener.ended(call_event("ok", NotFoundError("x"), source="default"))
    assert [line.levelno for line in lines()] == [logging.DEBUG]


def test_messages_from_outside_cannot_forge_a_line(listener, lines):
    listener.ended(call_event("failed", ServiceUnavailableError("down\nERROR forged", status=503)))
    listener(event("opened", error=OSError("a\nb"), details={"breaker": "http://u:p@a"}))
    assert all("\n" not in line.getMessage() for line in lines())
    assert "u:p" not in lines()[1].getMessage()
