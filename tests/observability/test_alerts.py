"""The guide's four alerts, in process."""

import dataclasses
import logging

import pytest

from llm_config_resilience import ManualClock
from llm_config_sdk import (
    DecryptionError,
    InternalError,
    NotFoundError,
    RateLimitExceededError,
    ServiceUnavailableError,
    StorageError,
)
from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.observability import AlertMonitor, AlertRules, Incident
from observability.conftest import call_event, in_threads

DOWN = ServiceUnavailableError("down", code=ErrorCode.SERVICE_UNAVAILABLE, status=503)
ABSENT = NotFoundError("absent", code=ErrorCode.NOT_FOUND, status=404)
SEALED = DecryptionError("sealed", code=ErrorCode.DECRYPTION_ERROR, status=500)
FULL = StorageError(
    "no space", code=ErrorCode.STORAGE_ERROR, status=500, details={"module": "config", "kind": "StorageFull"}
)

#: Too many to be reached where a test is about another rule.
MANY = 10_000


class Pager:
    """A monitor on a virtual clock, with all that it said."""

    def __init__(self, clock, **rules):
        self.said = []
        self.clock = clock
        self.monitor = AlertMonitor(self.said.append, rules=AlertRules(**rules), clock=clock)

    def calls(self, count, outcome="ok", error=None, *, operation="get_config", source="server", every=0.0):
        for _ in range(count):
            event = call_event(outcome, error, operation=operation, clock=self.clock, source=source)
            self.monitor.ended(event)
            self.clock.advance(every)

    @property
    def names(self):
        return [(alert.rule, alert.is_firing) for alert in self.said]


@pytest.fixture
def pager(clock):
    return Pager(clock)


@pytest.fixture
def rates(clock):
    """A pager for the rate alone."""
    return Pager(clock, repetitions=MANY)


def test_more_than_five_percent_of_twenty_calls_is_an_alert(rates):
    rates.calls(18)
    rates.calls(1, "failed", DOWN)
    assert rates.names == []
    rates.calls(1, "failed", DOWN)
    assert rates.names == [("high_error_rate", True)]
    (alert,) = rates.said
    assert (alert.value, alert.threshold, alert.severity) == (0.1, 0.05, "critical")
    assert "10.0% of 20 calls failed within 5 minutes" in alert.summary
    assert rates.monitor.active == (alert,)


def test_five_percent_are_not_more_than_five_percent(rates):
    rates.calls(19)
    rates.calls(1, "failed", DOWN)
    assert rates.names == []


def test_nineteen_failures_are_too_few_to_judge_a_rate(rates):
    rates.calls(19, "failed", DOWN)
    assert rates.names == []
    rates.calls(1, "failed", DOWN)
    assert rates.names == [("high_error_rate", True)]


def test_a_callers_mistakes_are_left_out_and_reported_beside_it(rates):
    rates.calls(100, "refused", ABSENT)
    assert rates.names == []
    rates.calls(18)
    rates.calls(2, "failed", DOWN)
    (alert,) = rates.said
    assert alert.value == 0.1
    assert alert.callers_mistakes == 100
    assert "caller's mistakes beside it: 100" in alert.summary


def test_a_call_that_something_stood_in_for_has_failed(rates):
    rates.calls(20, "degraded", DOWN, source="stale")
    assert rates.names == [("high_error_rate", True)]


def test_answers_of_the_cache_and_cancelled_calls_say_nothing(rates):
    rates.calls(1000, source="cache")
    rates.calls(1000, "cancelled", source="")
    rates.calls(20, "failed", DOWN)
    assert rates.said[0].value == 1.0


def test_a_rate_limit_is_not_the_callers_mistake(rates):
    rates.calls(
        20, "failed", RateLimitExceededError("slow down", code=ErrorCode.RATE_LIMIT_EXCEEDED, status=429)
    )
    assert rates.names == [("high_error_rate", True)]


def test_an_alert_is_said_once_while_it_lasts(rates):
    rates.calls(500, "failed", DOWN)
    assert rates.names == [("high_error_rate", True)]


def test_a_recovery_is_said_when_the_rate_has_come_down_to_half_the_limit(rates):
    rates.calls(20, "failed", DOWN)
    rates.calls(20 * 39 - 1)  # 20 of 799 are just above 2.5 %
    assert len(rates.said) == 1
    rates.calls(1)
    assert rates.names == [("high_error_rate", True), ("high_error_rate", False)]
    assert rates.monitor.active == ()


def test_what_is_older_than_the_window_counts_no_more(rates):
    rates.calls(19, "failed", DOWN)
    rates.clock.advance(301)
    rates.calls(19, "failed", DOWN)
    assert rates.names == []


def test_a_rate_is_over_when_no_call_is_left_in_the_window(rates):
    rates.calls(20, "failed", DOWN)
    rates.clock.advance(299 - 5)
    assert len(rates.monitor.check()) == 1
    rates.clock.advance(6)
    assert rates.monitor.check() == ()
    assert rates.names[-1] == ("high_error_rate", False)
    assert "Over after 0:05:00" in rates.said[-1].summary


def test_ten_failures_of_one_operation_and_code_within_five_minutes_are_an_alert(pager):
    pager.calls(9, "failed", DOWN, every=30)
    assert pager.names == []
    pager.calls(1, "failed", DOWN)
    (alert,) = pager.said
    assert (alert.rule, alert.subject) == ("repeated_failures", "get_config SERVICE_UNAVAILABLE")
    assert alert.severity == "warning"
    assert DOWN.hint in alert.summary


def test_ten_failures_spread_over_more_than_five_minutes_are_none(pager):
    pager.calls(30, "failed", DOWN, every=34)
    assert pager.names == []


def test_other_operations_and_codes_are_counted_apart(pager):
    for operation in ("get_config", "list_configs"):
        for error in (DOWN, ABSENT):
            pager.calls(9, "failed", error, operation=operation)
    assert [alert for alert in pager.said if alert.rule == "repeated_failures"] == []


def test_a_callers_mistake_repeated_ten_times_is_an_alert_too(pager):
    pager.calls(10, "refused", ABSENT)
    assert pager.names == [("repeated_failures", True)]


def test_repeated_failures_are_over_when_half_of_them_are_left(pager):
    pager.calls(10, "failed", DOWN, every=10)
    pager.clock.advance(239)  # 299 s after the sixth failure from the end
    pager.monitor.check()
    assert len(pager.monitor.active) == 1
    pager.clock.advance(2)
    pager.monitor.check()
    assert pager.names == [("repeated_failures", True), ("repeated_failures", False)]


def test_one_critical_error_is_an_alert_and_over_after_a_quiet_window(pager):
    pager.calls(1, "failed", SEALED)
    pager.clock.advance(200)
    pager.calls(1, "failed", SEALED)
    pager.clock.advance(299)
    assert [alert.subject for alert in pager.monitor.check()] == ["DECRYPTION_ERROR"]
    pager.clock.advance(1)
    assert pager.monitor.check() == ()
    assert pager.names == [("critical_error", True), ("critical_error", False)]
    assert pager.said[0].severity == "critical"


def test_a_record_that_cannot_be_read_is_critical(pager):
    broken = InternalError(
        "unreadable",
        code="INTERNAL_ERROR",
        status=500,
        details={"module": "config", "variant": "SerializationError"},
    )
    pager.calls(1, "failed", broken)
    assert pager.names == [("critical_error", True)]


@pytest.mark.parametrize("kind", ["corrupted_snapshot", "version_went_back", "audit_gap"])
def test_lost_data_is_critical_and_says_what_to_do(pager, kind):
    pager.monitor.noticed(Incident(kind, "something is gone"))
    (alert,) = pager.said
    assert (alert.rule, alert.subject, alert.severity) == ("critical_error", kind, "critical")
    assert "something is gone" in alert.summary
    assert len(alert.summary.split(". ")) == 2


def test_a_resource_that_is_used_up_is_an_alert(pager):
    pager.calls(1, "failed", FULL)
    (alert,) = pager.said
    assert (alert.rule, alert.subject) == ("resource_error", "StorageFull")
    assert "administrator" in alert.summary


def test_alerts_are_frozen_and_dated(pager, clock):
    pager.calls(1, "failed", SEALED)
    (alert,) = pager.said
    assert alert.since.timestamp() == clock.time()
    assert alert.since.utcoffset().total_seconds() == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        alert.value = 2


def test_a_callback_that_raises_does_not_keep_others_from_hearing(clock, caplog):
    heard = []

    def broken(alert):
        raise RuntimeError("pager is broken")

    monitor = AlertMonitor(broken, heard.append, clock=clock)
    monitor.ended(call_event("failed", SEALED))
    assert len(heard) == 1
    assert [(record.name, record.levelno) for record in caplog.records] == [
        ("llm_config_sdk.alerts", logging.ERROR)
    ]


def test_a_callback_may_ask_the_monitor(clock):
    seen = []
    monitor = AlertMonitor(lambda alert: seen.append(monitor.active), clock=clock)
    monitor.ended(call_event("failed", SEALED))
    assert len(seen[0]) == 1


def test_memory_is_bounded_in_time_and_in_subjects(pager):
    for number in range(1500):
        error = StorageError("x", code=f"NEW_{number}", status=500)
        pager.calls(11, "failed", error, every=0.1)
    assert len(pager.monitor._repeated) == 1000
    assert len(pager.monitor._firing) <= 1000
    assert len(pager.monitor._slots) <= 60


@pytest.mark.parametrize(
    "rules", [{"error_rate": 0}, {"error_rate": 1}, {"minimum_calls": 0}, {"repetitions": 0}, {"window": 0}]
)
def test_limits_that_make_no_sense_are_refused(rules):
    with pytest.raises(ValueError, match=f"{next(iter(rules))} must be"):
        AlertRules(**rules)


def test_threads_make_one_alert(clock):
    said = []
    monitor = AlertMonitor(said.append, clock=ManualClock())
    in_threads(8, lambda: [monitor.ended(call_event("failed", DOWN)) for _ in range(100)])
    assert sorted(alert.rule for alert in said) == ["high_error_rate", "repeated_failures"]
    assert repr(monitor) == "AlertMonitor(2 firing)"


def test_a_real_outage_alerts_and_a_real_recovery_is_said(make_client, server, clock):
    said = []
    monitor = AlertMonitor(said.append, clock=clock)
    client = make_client(monitor, cache=None, resilience=None)
    server.stop()
    for _ in range(20):
        assert client.get_str("app/llm", "model", fallback="x") == "x"
    assert {alert.rule for alert in said} == {"high_error_rate", "repeated_failures"}
    server.start()
    clock.advance(301)
    assert client.get_str("app/llm", "model") == "large"
    assert [alert.is_firing for alert in said] == [True, True, False, False]


def test_what_could_never_be_told_is_refused():
    with pytest.raises(TypeError, match="callback must be a function, not 'pager'"):
        AlertMonitor("pager")
    with pytest.raises(TypeError, match="rules must be an AlertRules, not 5"):
        AlertMonitor(print, rules=5)
