"""Writes with an idempotency key, whose own first attempt may be what they are in conflict with."""

import pytest

from llm_config_mock_server import error
from llm_config_sdk import ConflictError

NAMESPACE = "app/llm"
LOST = error("SERVICE_UNAVAILABLE")
RUNNING = error("CONFLICT", details={"header": "Idempotency-Key", "reason": "in_progress"})
KEY = {"idempotency_key": "key-1"}


def test_a_conflict_with_ones_own_first_attempt_is_waited_out(connect, server, clock):
    server.script("POST /api/*", [LOST, RUNNING])
    began = clock.monotonic()
    written = connect().set_config(NAMESPACE, "model", "gpt-4", **KEY)
    assert (written.version, written.attempts) == (1, 3)
    assert clock.monotonic() > began
    assert [entry.status for entry in server.journal] == [503, 409, 200]
    assert {entry.request.header("idempotency-key") for entry in server.journal} == {"key-1"}


def test_an_attempt_that_does_not_end_in_time_is_told_with_what_to_do(connect, server):
    server.script("POST /api/*", [LOST, RUNNING], repeat="last")
    with pytest.raises(ConflictError) as caught:
        connect().set_config(NAMESPACE, "model", "gpt-4", **KEY)
    assert "with the same idempotency_key" in caught.value.hint
    server.journal.assert_count(3)


def test_a_conflict_with_somebody_elses_request_is_raised_at_once(connect, server):
    server.script("POST /api/*", RUNNING)
    with pytest.raises(ConflictError) as caught:
        connect().set_config(NAMESPACE, "model", "gpt-4", **KEY)
    assert "with the same idempotency_key" in caught.value.hint
    server.journal.assert_count(1)


def test_a_conflict_of_versions_is_never_retried(connect, server):
    server.script("POST /api/*", [LOST, error("CONFLICT", retriable=True)])
    with pytest.raises(ConflictError) as caught:
        connect().set_config(NAMESPACE, "model", "gpt-4", **KEY)
    assert "Read the entry again" in caught.value.hint
    server.journal.assert_count(2)
