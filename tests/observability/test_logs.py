"""Log lines: how many, how loud, and with which fields."""

import io
import json
import logging
import subprocess
import sys

import pytest
import structlog

from llm_config_mock_server import error
from llm_config_resilience import Event, ManualClock
from llm_config_sdk import (
    CachePolicy,
    ConnectFailedError,
    DecryptionError,
    LLMConfigError,
    NotFoundError,
    RateLimitExceededError,
    ResiliencePolicy,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
    StorageError,
    UnauthorizedError,
)
from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.observability import CallEvent, Incident, LogListener, ObservedCall
from llm_config_sdk.observability.streaks import Streaks
from observability.conftest import call_event, in_threads

UNAVAILABLE = ServiceUnavailableError(
    "down", code=ErrorCode.SERVICE_UNAVAILABLE, status=503, request_id="req_7", endpoint="http://a"
)
NO_RETRIES = ResiliencePolicy(retry=None)
LOST = DecryptionError("cannot decrypt", code=ErrorCode.DECRYPTION_ERROR, status=500)


@pytest.fixture
def lines(caplog):
    """What was written to a logger of the test's own."""
    logger = logging.getLogger("llm_config_sdk.test")
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        yield lambda: [record for record in caplog.records if record.name == logger.name]


@pytest.fixture
def listener(lines):
    return LogListener(logging.getLogger("llm_config_sdk.test"))


def event(kind, at=0.0, **facts):
    return Event(kind, "read", "layer", at, **facts)


def test_what_may_pass_is_a_warning_and_what_will_not_an_error(listener, lines):
    listener.ended(call_event("failed", UNAVAILABLE))
    listener.ended(call_event("failed", LOST))
    assert [line.levelno for line in lines()] == [logging.WARNING, logging.ERROR]


def test_failures_that_are_alike_are_one_line_and_one_a_minute(listener, lines):
    clock = ManualClock()
    for _ in range(1000):
        listener.ended(call_event("failed", UNAVAILABLE, clock=clock))
        clock.advance(0.25)
    loud = [line for line in lines() if line.levelno > logging.DEBUG]
    assert [line.calls for line in loud] == [1, 240, 240, 240, 240]
    assert "[and 239 more like it since the last line]" in loud[1].getMessage()
    assert len(lines()) == 1000, "each of them is there for debugging"


def test_one_outage_is_one_incident_whatever_its_errors_are(listener, lines):
    for found in (UNAVAILABLE, ConnectFailedError("refused"), ServiceCircuitOpenError("not asked")):
        listener.ended(call_event("failed", found))
    assert [line.levelno for line in lines()] == [logging.WARNING, logging.DEBUG, logging.DEBUG]


def test_what_is_worse_or_elsewhere_is_an_incident_of_its_own(listener, lines):
    listener.ended(call_event("failed", UNAVAILABLE))
    listener.ended(call_event("degraded", UNAVAILABLE, source="stale"))
    listener.ended(call_event("failed", UNAVAILABLE, operation="set_config"))
    listener.ended(call_event("failed", RateLimitExceededError("wait", status=429)))
    listener.ended(call_event("failed", StorageError("the disk is full", status=500, retriable=False)))
    listener.ended(call_event("failed", LOST))
    listener.ended(call_event("refused", NotFoundError("no such entry")))
    listener.ended(call_event("refused", UnauthorizedError("who are you?")))
    assert all(line.levelno > logging.DEBUG for line in lines())
    assert len(lines()) == 8


def test_entries_that_are_not_there_are_told_one_by_one(listener, lines):
    for key in ("a", "b", "a"):
        call = ObservedCall("get_config", namespace="app", key=key)
        listener.ended(CallEvent(call, "refused", 0.0, error=NotFoundError(f"no {key}")))
    assert [line.levelno for line in lines()] == [logging.ERROR, logging.ERROR, logging.DEBUG]


def test_the_first_success_after_a_calm_says_how_the_outage_ended(caplog):
    logger, clock = logging.getLogger("llm_config_sdk.test"), ManualClock()
    listener = LogListener(logger)
    with caplog.at_level(logging.INFO, logger=logger.name):
        assert not listener.wants_successes
        for _ in range(30):
            listener.ended(call_event("failed", UNAVAILABLE, clock=clock))
            clock.advance(1)
        assert listener.wants_successes
        listener.ended(call_event("ok", source="server", clock=clock))  # a second later: it may go on
        assert listener.wants_successes
        clock.advance(10)
        listener.ended(call_event("ok", source="server", clock=clock))
        listener.ended(call_event("ok", source="server", clock=clock))
        assert not listener.wants_successes
    begin, end = caplog.records
    assert (begin.levelno, end.levelno, end.calls) == (logging.WARNING, logging.INFO, 30)
    assert end.getMessage() == "get_config: no answer, failed: over after 30 calls within 29 s"


def test_a_single_failure_needs_no_line_for_its_end(caplog):
    logger, clock = logging.getLogger("llm_config_sdk.test"), ManualClock()
    listener = LogListener(logger)
    with caplog.at_level(logging.INFO, logger=logger.name):
        listener.ended(call_event("failed", UNAVAILABLE, clock=clock))
        clock.advance(60)
        listener.ended(call_event("ok", source="server", clock=clock))
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_what_had_no_line_has_one_when_the_client_is_closed(listener, lines):
    for _ in range(5):
        listener.ended(call_event("failed", UNAVAILABLE))
    listener.detached()
    listener.detached()
    assert lines()[-1].getMessage().endswith("4 more like it until the client was closed")
    assert len(lines()) == 6


def test_incidents_are_bounded_and_shared_by_threads():
    streaks, untold = Streaks(capacity=2), []
    for number in range(5):
        streaks.failed(number, 0.0, name="x", level=0)
    assert len(streaks) == 2

    def fail():
        for _ in range(100):
            untold.append(streaks.failed("same", 1.0, name="x", level=0))  # noqa: PERF401  # as a thread would

    in_threads(8, fail)
    assert [told for told in untold if told is not None] == [0]
    assert [streak.count for streak in streaks.end()] == [800]


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
        "calls": 1,
    }
    assert {name: getattr(line, name) for name in fields} == fields
    assert all(isinstance(value, str | int | float | None) for value in fields.values())


def test_an_incident_of_three_attempts_is_one_line(make_client, server, lines, listener):
    client = make_client(listener)
    server.script("*", [error("SERVICE_UNAVAILABLE")], repeat="last")
    with pytest.raises(ServiceUnavailableError):
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
    logger = logging.getLogger("llm_config_sdk.test")
    listener = LogListener(logger)
    with caplog.at_level(logging.DEBUG, logger=logger.name):
        for at in (0.0, 10.0, 65.0, 130.0):
            listener(event("cache_failed", at, error=OSError("disk")))
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
        ("opened", logging.INFO),
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


def test_an_outage_of_a_thousand_calls_is_one_warning_and_its_end_a_line(face, server, clock, caplog):
    client = face.client(server.url, token=server.token("admin"), clock=clock, resilience=NO_RETRIES)
    server.stop()
    with caplog.at_level(logging.INFO, logger="llm_config_sdk"):
        for _ in range(1000):
            with pytest.raises(LLMConfigError):
                client.get_str("app/llm", "model")
        server.start()
        clock.advance(90)  # the circuit admits a probe
        client.get_str("app/llm", "model")
    told = [(record.levelname, getattr(record, "calls", None)) for record in caplog.records]
    assert [line for line in told if line[0] != "INFO"] == [("WARNING", 1)]
    assert told[-1] == ("INFO", 1000)


SILENT = """
import sys
from llm_config_sdk import ConfigClient, LLMConfigError

with ConfigClient(sys.argv[1], token=sys.argv[2]) as client:
    assert client.get_str("app/llm", "absent", default="x") == "x"
    {also}
"""
FAILS = """try:
        client.get_str("app/llm", "absent")
    except LLMConfigError as error:
        print(type(error).__name__)"""


@pytest.mark.parametrize(
    ("setup", "also", "lines"),
    [
        ("", FAILS, 0),  # Python's own last resort would print it
        ("import logging; logging.basicConfig()\n", "pass", 0),  # answered by its default, it is no error
        ("import logging; logging.basicConfig()\n", FAILS, 1),
    ],
    ids=["not set up", "answered by default=", "raised"],
)
def test_a_program_prints_what_it_set_logging_up_for_and_no_more(server, setup, also, lines):
    program = setup + SILENT.format(also=also)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, server.url, server.token("admin")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert len(done.stderr.splitlines()) == lines, done.stderr
    assert done.stdout.split() == (["NotFoundError"] if also == FAILS else [])


def test_structlog_takes_the_fields_over(server, listener, lines):
    listener.ended(call_event("failed", UNAVAILABLE, endpoint="http://a", attempts=3))
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.handle(lines()[0])
    document = json.loads(shown.getvalue())
    assert (document["level"], document["code"], document["attempts"]) == (
        "warning",
        "SERVICE_UNAVAILABLE",
        3,
    )
    assert "down" in document["event"]
