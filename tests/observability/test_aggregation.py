"""Similar errors, counted together."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from llm_config_resilience import ManualClock
from llm_config_sdk import ConnectFailedError, InternalError, NotFoundError, StorageError
from llm_config_sdk.contract import ErrorCode
from llm_config_sdk.observability import ErrorAggregator
from observability.conftest import call_event, in_threads


def storage(message, **facts):
    return StorageError(message, code=ErrorCode.STORAGE_ERROR, status=500, **facts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("failed after 3 tries", "failed after 12 tries"),
        ("took 0.5 s", "took 17.25 s"),
        ("took 5ms", "took 17ms"),
        ("user 'ann' is unknown", "user 'bob' is unknown"),
        ('value "a b" refused', 'value "c" refused'),
        ("request req_00af12 failed", "request req_91bc34 failed"),
        (
            "entry db6a4b5d-6fc0-424b-99ea-0bd93c60c381 is broken",
            "entry 11111111-2222-3333-4444-555555555555 is broken",
        ),
        ("cannot reach http://10.0.0.1:80/x", "cannot reach https://config.example.com/y"),
        ("no route to 10.0.0.1:8080", "no route to 192.168.1.7"),
        ("since 2024-01-15T10:30:00Z", "since 2026-11-23 08:00:01.5+01:00"),
        ("cannot open /var/lib/a.db", "cannot open /tmp/b"),
        ("object 9f86d081884c is gone", "object 60303ae22b99 is gone"),
    ],
)
def test_messages_that_differ_in_ids_numbers_and_names_are_one_group(one, other):
    errors = ErrorAggregator()
    errors.record(storage(one))
    errors.record(storage(other))
    assert [row.count for row in errors.rows()] == [2]


def test_the_names_that_a_call_was_about_do_not_tell_groups_apart():
    errors = ErrorAggregator()
    for namespace, key in (("app/llm", "model"), ("team", "max_tokens")):
        message = f"Configuration not found: {namespace}:{key}"
        errors.record(NotFoundError(message, code="NOT_FOUND", namespace=namespace, key=key))
    (row,) = errors.rows()
    assert row.count == 2
    assert "model" not in row.pattern


def test_errors_that_say_something_else_are_groups_of_their_own():
    errors = ErrorAggregator()
    errors.record(storage("disk full"))
    errors.record(storage("disk broken"))
    errors.record(InternalError("disk full", code=ErrorCode.INTERNAL_ERROR))
    errors.record(storage("disk full"), operation="set_config")
    assert len(errors) == 4


def test_a_group_knows_how_often_since_when_and_an_example(clock):
    errors = ErrorAggregator(clock=clock)
    begin = datetime.fromtimestamp(clock.time(), UTC)
    errors.record(storage("disk 1 full", operation="set_config"))
    clock.advance(90)
    errors.record(storage("disk 2 full", operation="set_config"))
    (row,) = errors.rows()
    assert (row.error_type, row.code, row.operation) == ("storage", "STORAGE_ERROR", "set_config")
    assert (row.count, row.pattern, row.sample_message) == (2, "disk <n> full", "disk 2 full")
    assert (row.first_seen, row.last_seen) == (begin, begin + timedelta(seconds=90))
    assert row.first_seen.tzinfo is UTC


def test_a_clock_that_is_stepped_back_does_not_turn_a_group_around(clock):
    errors = ErrorAggregator(clock=clock)
    errors.record(storage("x"))
    clock.step_wall(-3600)
    errors.record(storage("x"))
    (row,) = errors.rows()
    assert row.first_seen <= row.last_seen


def test_the_group_last_seen_longest_ago_makes_room():
    errors = ErrorAggregator(max_groups=2)
    for message in ("a", "b", "a", "c"):
        errors.record(storage(message))
    assert {row.pattern for row in errors.rows()} == {"a", "c"}
    assert errors.dropped == 1
    with pytest.raises(ValueError, match="max_groups"):
        ErrorAggregator(max_groups=0)


def test_a_thousand_different_messages_take_no_more_than_their_bound():
    errors = ErrorAggregator(max_groups=10)
    for number in range(1000):
        errors.record(storage(f"{chr(97 + number % 26) * (1 + number // 26)} failed"))
    assert len(errors) == 10


def test_calls_that_fail_or_are_bridged_are_counted_and_successes_are_not():
    errors = ErrorAggregator()
    errors.ended(call_event("failed", storage("x")))
    errors.ended(call_event("degraded", storage("x"), source="stale"))
    errors.ended(call_event("ok", source="server"))
    assert [(row.operation, row.count) for row in errors.rows()] == [("get_config", 2)]
    assert not ErrorAggregator.wants_successes


def test_any_exception_can_be_recorded():
    errors = ErrorAggregator()
    errors.record(OSError(28, "No space left on device"))
    (row,) = errors.rows()
    assert (row.error_type, row.code, row.operation) == ("internal", "OSError", "")


def test_json_has_one_object_a_group_the_largest_first():
    errors = ErrorAggregator()
    errors.record(storage("rare"))
    errors.record(ConnectFailedError("often"))
    errors.record(ConnectFailedError("often"))
    listed = json.loads(errors.to_json(indent=2))
    assert [item["count"] for item in listed] == [2, 1]
    assert set(listed[0]) == {
        "error_type",
        "code",
        "operation",
        "pattern",
        "count",
        "first_seen",
        "last_seen",
        "sample_message",
    }
    assert datetime.fromisoformat(listed[0]["first_seen"]).tzinfo is not None


def test_the_table_has_a_line_a_group_under_its_heading():
    errors = ErrorAggregator()
    errors.record(storage("disk\nfull"))
    heading, line = errors.table().splitlines()
    assert heading.split()[:4] == ["count", "type", "code", "operation"]
    assert line.endswith("disk full")


def test_the_groups_can_be_scraped():
    errors, registry = ErrorAggregator(), CollectorRegistry()
    registry.register(errors.collector())
    errors.record(storage("disk 7 full"), operation="set_config")
    text = generate_latest(registry).decode()
    labels = 'code="STORAGE_ERROR",error_type="storage",operation="set_config",pattern="disk <n> full"'
    assert f"llm_config_error_group_size{{{labels}}} 1.0" in text


def test_patterns_that_begin_alike_are_one_series():
    errors, registry = ErrorAggregator(), CollectorRegistry()
    registry.register(errors.collector())
    for ending in ("a", "b"):
        errors.record(storage("long " * 40 + ending))
    lines = [line for line in generate_latest(registry).decode().splitlines() if line[0] != "#"]
    assert len(lines) == 1
    assert lines[0].endswith(" 2.0")


def test_what_was_counted_can_be_forgotten():
    errors = ErrorAggregator()
    errors.record(storage("x"))
    assert repr(errors) == "ErrorAggregator(1 of 256 groups)"
    errors.clear()
    assert len(errors) == 0


def test_threads_lose_no_count():
    errors = ErrorAggregator(clock=ManualClock())
    in_threads(8, lambda: [errors.record(storage(f"disk {number} full")) for number in range(200)])
    assert [row.count for row in errors.rows()] == [1600]
