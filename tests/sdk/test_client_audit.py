"""Writes that were acknowledged, and an audit log that does not know them."""

from functools import partial

import pytest

from client_faces import SteppingClock
from llm_config_mock_server import Condition, MockServer
from llm_config_sdk import NotFoundError, PermissionDeniedError, StorageError
from llm_config_sdk.auditing import Comparison, Ledger
from llm_config_sdk.contract import AuditRecord
from llm_config_sdk.observability import AlertMonitor, Observer
from llm_config_sdk.operations import SET_CONFIG, Call

NAMESPACE = "app/llm"


class Noticing(Observer):
    def __init__(self) -> None:
        self.incidents = []

    def noticed(self, incident):
        self.incidents.append(incident)


@pytest.fixture
def connect(face, server):
    return partial(face.client, server.url, token=server.token("admin"), clock=SteppingClock())


def test_what_the_log_knows_is_no_gap(connect):
    client = connect()
    client.set_config(NAMESPACE, "model", "large")
    client.set_config(NAMESPACE, "model", "small")
    client.rollback(NAMESPACE, "model", 1)
    client.delete_config(NAMESPACE, "model")
    assert client.check_audit() == []


def test_a_write_that_the_log_lost_is_told_once_to_caller_and_observers(connect, server):
    noticing, alerts = Noticing(), []
    client = connect(listeners=[noticing, AlertMonitor(alerts.append)])
    client.set_config(NAMESPACE, "model", "large")
    server.conditions["audit"] = Condition("lossy", count=1)
    client.set_config(NAMESPACE, "model", "small")
    client.set_config(NAMESPACE, "temperature", 0.5)
    (gap,) = client.check_audit()
    assert gap.kind == "audit_gap"
    assert gap.call.location == "set_config app/llm model [development]"
    assert gap.call.request_id in gap.message
    assert noticing.incidents == [gap]
    assert [(alert.rule, alert.subject) for alert in alerts] == [("critical_error", "audit_gap")]
    assert client.check_audit() == [], "it was told"


def test_a_copy_with_another_token_compares_what_its_original_wrote(connect, server):
    writer = connect(token=server.token("editor"))
    server.conditions["audit"] = "lossy"
    writer.set_config(NAMESPACE, "model", "small")
    del server.conditions["audit"]
    with pytest.raises(PermissionDeniedError):
        writer.check_audit()
    auditor = writer.with_options(headers={"Authorization": f"Bearer {server.token('auditor')}"})
    assert len(auditor.check_audit()) == 1, "the question that was refused has forgotten nothing"


def test_a_log_that_cannot_be_read_is_no_gap(connect, server):
    client = connect()
    client.set_config(NAMESPACE, "model", "small")
    server.conditions["audit"] = "StorageFull"
    with pytest.raises(StorageError):
        client.check_audit()
    del server.conditions["audit"]
    assert client.check_audit() == []


def test_only_the_primarys_log_is_asked_and_only_if_something_was_written(connect, server, backup):
    client = connect(backups=[backup.url])
    assert client.check_audit() == []
    assert not server.journal
    client.set_config(NAMESPACE, "model", "small")
    assert client.check_audit() == []
    assert [entry.method for entry in server.journal] == ["POST", "GET"]
    assert not backup.journal


def test_a_reply_that_is_repeated_under_its_key_is_left_out(connect):
    client = connect()
    for _ in range(2):
        client.set_config(NAMESPACE, "model", "small", idempotency_key="once")
    assert client.check_audit() == []


def test_a_server_without_an_audit_log_says_so(face):
    with MockServer(profile="upstream-0.5") as server:
        client = face.client(server.url, headers={"X-Forwarded-Proto": "https"})
        client.set_config(NAMESPACE, "model", "small")
        with pytest.raises(NotFoundError):
            client.check_audit()


def test_the_log_is_read_page_by_page_and_no_further_than_needed():
    ledger = Ledger()
    calls = [Call(SET_CONFIG, "/x", "app", "k") for _ in range(2)]
    for call in calls:
        ledger.note(call)
    comparison = ledger.compare()
    assert comparison.target.endswith("limit=1000&offset=0")
    comparison.take([AuditRecord(request_id="somebody's", outcome="done")] * 1000)
    comparison.take([AuditRecord(request_id=call.request_id, outcome="failed") for call in calls] * 500)
    assert comparison.target.endswith("limit=1000&offset=2000")
    assert not comparison.is_over
    comparison.take([AuditRecord(request_id=call.request_id, outcome="done") for call in calls])
    assert comparison.is_over
    assert ledger.settle(comparison) == []
    assert Comparison([]).is_over


def test_writes_that_are_not_compared_are_bounded():
    ledger = Ledger()
    for _ in range(2000):
        ledger.note(Call(SET_CONFIG, "/x", "app", "k"))
    assert len(ledger.compare().writes) == 1000
