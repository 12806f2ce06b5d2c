"""Telling changes apart, without asking anybody."""

import pytest

from llm_config_sdk import (
    ConfigEntry,
    ConnectFailedError,
    InvalidRequestError,
    PermissionDeniedError,
    RequestTimeoutError,
)
from llm_config_sdk.watching import JITTER, Tracker

METADATA = {
    "created_at": "2024-01-15T10:30:00Z",
    "created_by": "ann",
    "updated_at": "2024-01-15T10:30:00Z",
    "updated_by": "ann",
}


def entry(key, version=1, *, value="v", entry_id=None):
    return ConfigEntry.model_validate(
        {
            "id": entry_id or key,
            "namespace": "app/llm",
            "key": key,
            "value": value,
            "environment": "production",
            "version": version,
            "metadata": METADATA,
        }
    )


@pytest.fixture
def tracker():
    return Tracker("app/llm", None, 30.0)


def told(changes):
    return [
        (change.kind, change.key, change.old and change.old.version, change.new and change.new.version)
        for change in changes
    ]


def test_the_first_answer_is_no_change(tracker):
    assert tracker.saw([entry("a"), entry("b")]) == []


def test_the_first_answer_is_told_where_that_is_asked_for():
    tracker = Tracker("app/llm", None, 30.0, initial=True)
    assert told(tracker.saw([entry("b"), entry("a", 3)])) == [
        ("created", "a", None, 3),
        ("created", "b", None, 1),
    ]
    assert tracker.saw([entry("b"), entry("a", 3)]) == []


def test_the_same_answer_is_no_change(tracker):
    tracker.saw([entry("a")])
    assert tracker.saw([entry("a")]) == []


def test_created_updated_and_deleted_are_told_with_old_and_new(tracker):
    tracker.saw([entry("a"), entry("b")])
    changes = tracker.saw([entry("b", 2), entry("c")])
    assert told(changes) == [("deleted", "a", 1, None), ("updated", "b", 1, 2), ("created", "c", None, 1)]


def test_an_entry_made_anew_with_the_same_version_is_updated(tracker):
    tracker.saw([entry("a", 1, entry_id="one")])
    assert told(tracker.saw([entry("a", 1, entry_id="two")])) == [("updated", "a", 1, 1)]


def test_a_value_that_changed_under_the_same_version_is_updated(tracker):
    tracker.saw([entry("a", value="x")])
    assert told(tracker.saw([entry("a", value="y")])) == [("updated", "a", 1, 1)]


def test_an_outage_is_told_once_and_its_end_too(tracker):
    tracker.saw([entry("a")])
    [outage] = tracker.failed(ConnectFailedError("refused"))
    assert (outage.kind, outage.error.message) == ("unavailable", "refused")
    assert tracker.failed(RequestTimeoutError("late")) == []
    assert told(tracker.saw([entry("a", 2)])) == [("recovered", None, None, None), ("updated", "a", 1, 2)]
    assert [change.kind for change in tracker.failed(ConnectFailedError("again"))] == ["unavailable"]


def test_what_will_not_pass_by_waiting_is_raised(tracker):
    with pytest.raises(PermissionDeniedError):
        tracker.failed(PermissionDeniedError("no"))


def test_polls_are_spread_around_the_interval(tracker):
    delays = {tracker.delay() for _ in range(200)}
    assert len(delays) > 100
    assert 30 * (1 - JITTER) <= min(delays) <= max(delays) <= 30 * (1 + JITTER)


@pytest.mark.parametrize("interval", [0, -1.0])
def test_an_interval_that_would_be_a_hot_loop_is_refused(interval):
    with pytest.raises(InvalidRequestError, match="interval must be more than 0 seconds"):
        Tracker("app/llm", None, interval)
