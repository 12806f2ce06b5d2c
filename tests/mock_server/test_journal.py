"""The journal: what it tells and how its assertions read."""

import threading

import httpx
import pytest

from llm_config_mock_server import At, Journal, MockServer, error, reset
from llm_config_mock_server.messages import Outcome, Request

ITEM = "/api/v1/configs/app%2Fllm/model"


def test_every_request_is_there_with_its_outcome(server, client):
    server.put("app/llm", "model", 1)
    server.script(f"DELETE {ITEM}", [error("SERVICE_UNAVAILABLE"), reset()])
    client.get(ITEM, params={"env": "prod"})
    client.get(ITEM)
    client.delete(ITEM)
    with pytest.raises(httpx.ReadError):
        client.delete(ITEM)
    assert [entry.outcome for entry in server.journal] == [
        "404 NOT_FOUND",
        "200",
        "503 SERVICE_UNAVAILABLE (error SERVICE_UNAVAILABLE)",
        "reset",
    ]
    first = server.journal[0]
    assert (first.method, first.namespace, first.key, first.env) == ("GET", "app/llm", "model", "production")
    assert first.path == "/api/v1/configs/app/llm/model"
    assert first.is_done
    assert first.request_id.startswith("req_")


def test_requests_are_found_by_any_field(server, client, client_as):
    server.put("app/llm", "model", 1)
    client.get(ITEM)
    client.get("/health", headers={"x-tenant": "blue"})
    client_as("viewer").post(ITEM, json={"value": 1, "env": "staging"})
    journal = server.journal
    assert journal.count() == 3
    assert journal.count(method="GET") == 2
    assert journal.count(path="/health") == 1
    assert journal.count(namespace="app/llm", key="model") == 2
    assert journal.count(env="staging") == 1
    assert journal.count(headers={"x-tenant": "*"}) == 1
    assert journal.count(token=server.token("viewer")) == 1
    assert journal.count(status=403) == 1
    assert [entry.status for entry in journal.requests(key="model")] == [200, 403]


def test_a_failed_assertion_says_what_was_expected_and_what_was_seen(server, client):
    for env in ("dev", "prod", "edge"):
        client.get(ITEM, params={"env": env})
    with pytest.raises(AssertionError) as failure:
        server.journal.assert_count(1, method="GET", namespace="app/llm", key="model")
    assert str(failure.value) == (
        "expected 1 GET of app/llm/model, saw 3:\n"
        f"  #1 GET {ITEM}?env=dev -> 404 NOT_FOUND\n"
        f"  #2 GET {ITEM}?env=prod -> 404 NOT_FOUND\n"
        f"  #3 GET {ITEM}?env=edge -> 404 NOT_FOUND"
    )


def test_a_request_that_never_came_is_told_beside_those_that_did(server, client):
    journal = server.journal
    with pytest.raises(AssertionError, match="expected at least 1 POST, saw 0; there were no requests"):
        journal.assert_requested(method="POST")
    client.get("/health")
    with pytest.raises(AssertionError) as failure:
        journal.assert_requested(method="POST", path="/x", status=200)
    assert str(failure.value) == (
        "expected at least 1 POST to /x answered 200, saw 0; the only request:\n  #1 GET /health -> 200"
    )
    with pytest.raises(AssertionError, match="expected 0 GET, saw 1"):
        journal.assert_not_requested(method="GET")
    assert len(journal.assert_requested(method="GET")) == 1
    journal.assert_not_requested(method="POST")


def test_a_long_list_is_cut(server, client):
    for _ in range(23):
        client.get("/health")
    with pytest.raises(AssertionError, match="… and 3 more"):
        server.journal.assert_count(1)


def test_waiting_ends_when_the_requests_are_there(server):
    def ask() -> None:
        httpx.get(f"{server.url}/health", trust_env=False)

    thread = threading.Thread(target=ask)
    thread.start()
    assert len(server.journal.wait_for(1, path="/health")) == 1
    thread.join()


def test_waiting_in_vain_ends_with_a_complaint():
    with pytest.raises(AssertionError, match=r"expected 2 GET within 0\.01 s, saw 0"):
        Journal().wait_for(2, timeout=0.01, method="GET")


def test_a_cleared_journal_begins_anew(server, client):
    client.get("/health")
    server.journal.clear()
    assert len(server.journal) == 0
    client.get("/nope")
    assert [entry.outcome for entry in server.journal] == ["404 NOT_FOUND"]


def test_neither_tokens_nor_bodies_show(server, client):
    client.post(ITEM, json={"value": "s3cr3t", "env": "dev", "secret": True})
    shown = f"{server.journal!r} {list(server.journal)!r} {server.journal[0]}"
    assert "s3cr3t" not in shown
    assert server.token() not in shown


def test_a_request_that_breaks_off_is_abandoned(server, wire):
    connection = wire()
    connection.get(ITEM, "Content-Type: application/json", "Content-Length: 100", method="POST")
    server.journal.wait_for(1, method="POST")
    connection.send(b"{")
    connection.socket.close()
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        client.get("/health")
    entry = server.journal.requests(method="POST")[0]
    assert entry.outcome in {"abandoned", "undecided"}


def test_requests_are_found_by_what_became_of_them(server, client):
    server.put("app/llm", "model", 1)
    server.script("GET app/llm/model", [error("SERVICE_UNAVAILABLE"), reset()])
    client.get(ITEM)
    with pytest.raises(httpx.ReadError):
        client.get(ITEM)
    client.get(ITEM)
    journal = server.journal
    assert journal.count(match="GET app/llm/*") == 3
    assert journal.count(match="GET app/llm/*", method="POST") == 0
    assert journal.count(code="SERVICE_UNAVAILABLE") == 1
    assert journal.count(fault="*") == 2
    assert journal.count(fault="reset") == 1
    with pytest.raises(
        AssertionError, match=r"expected 2 GET of app/llm/model answered 503 that met \*, saw 1"
    ):
        journal.assert_count(2, match="GET app/llm/model", status=503, fault="*")
    with pytest.raises(AssertionError, match="expected 1 GET of app/other and request with x-a: b, saw 0"):
        journal.assert_count(1, match="GET app/other", headers={"x-a": "b"})


def test_a_table_is_for_people(server, client):
    assert server.journal.table() == "no requests"
    client.get("/health")
    client.get(ITEM)
    rows = [line.split() for line in server.journal.table().splitlines()]
    assert rows[0] == ["#", "s", "method", "target", "outcome"]
    assert rows[1] == ["1", "0.000", "GET", "/health", "200"]
    assert [rows[2][0], *rows[2][2:]] == ["2", "GET", ITEM, "404", "NOT_FOUND"]
    assert server.journal.table(last=1, method="GET").splitlines()[0] == "… and 1 before"


def test_memory_is_bounded_and_what_is_forgotten_is_counted():
    journal = Journal(kept=2)
    for _ in range(5):
        entry = journal.opened(Request("GET", "/health"), "req", At(0, 0.0))
        journal.settled(entry, entry.request, Outcome(None), None)
    assert [entry.number for entry in journal] == [4, 5]
    assert all(entry.is_done for entry in journal)
    assert journal.forgotten == 3
    journal.clear()
    assert (len(journal), journal.forgotten) == (0, 0)


def test_a_server_is_told_how_much_to_remember():
    with MockServer(journal_size=1) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        for path in ("/health", "/nope"):
            client.get(path)
        assert [entry.path for entry in server.journal] == ["/nope"]
    with pytest.raises(ValueError, match="at least 1 request"):
        MockServer(journal_size=0)


def test_what_was_expected_is_counted_in_good_english():
    journal = Journal()
    with pytest.raises(AssertionError, match="expected 2 requests of app/llm/model, saw 0"):
        journal.assert_count(2, namespace="app/llm", key="model")
    with pytest.raises(AssertionError, match="expected 2 GET, saw 0"):
        journal.assert_count(2, method="GET")
