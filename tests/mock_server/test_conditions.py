"""Conditions: a component fails by itself, and everything above it reacts for real."""

import pytest

from llm_config_mock_server import Condition, MockServer
from llm_config_mock_server.conditions import Conditions
from llm_config_mock_server.storage import Address, MemoryStorage
from llm_config_sdk.contract import SYSTEM_KINDS, VARIANTS, Environment, Module
from mock_server.envelopes import error_of, variant_of

ITEM = "/api/v1/configs/app%2Fllm/model"
BODY = {"value": 1, "env": "dev"}


@pytest.mark.parametrize("kind", [*sorted(SYSTEM_KINDS), "Interrupted"])
def test_an_io_error_of_the_store_tells_its_kind(server, client, kind):
    server.conditions["store"] = kind
    reply = client.get(ITEM)
    assert variant_of(reply, 500, "STORAGE_ERROR", "config", "IoError")["kind"] == kind
    assert reply.json()["error"]["retriable"] is (kind == "Interrupted")


@pytest.mark.parametrize(
    ("component", "kind", "module", "variant"),
    [
        ("store", "unavailable", "config", "StorageError"),
        ("store", "panic", "config", "InternalError"),
        ("rbac", "panic", "rbac", "InternalError"),
        ("audit", "unavailable", "audit", "Storage"),
        ("audit", "StorageFull", "audit", "IoError"),
        ("audit", "panic", "audit", "InternalError"),
    ],
)
def test_a_component_fails_as_its_own_module(server, client, component, kind, module, variant):  # noqa: PLR0917 - fixtures and a row
    server.conditions[component] = kind
    facts = VARIANTS[Module(module), variant]
    variant_of(client.post(ITEM, json=BODY), facts.status, facts.code, module, variant)
    server.conditions.clear()
    assert server.entry("app/llm", "model") is None, "what failed took no effect"
    assert client.post(ITEM, json=BODY).status_code == 200


def test_a_lost_database_connection_is_a_database_error(server, client):
    server.conditions["store"] = "disconnected"
    assert error_of(client.get(ITEM), 503, "DATABASE_ERROR")["retriable"] is True


def test_a_service_under_maintenance_says_when_to_come_back(server, client):
    server.conditions["service"] = "unavailable"
    for path in (ITEM, "/health"):
        reply = client.get(path)
        error_of(reply, 503, "SERVICE_UNAVAILABLE")
        assert reply.headers["retry-after"] == "1"


def test_a_condition_can_pass_by_itself(server, client):
    server.put("app/llm", "model", 1)
    server.conditions["store"] = Condition("unavailable", count=2)
    assert [client.get(ITEM).status_code for _ in range(3)] == [500, 500, 200]
    assert len(server.conditions) == 0


def test_an_audit_that_fails_stops_every_write_before_it_takes_effect(server, client):
    server.put("app/llm", "model", "old")
    server.conditions["audit"] = "unavailable"
    for reply in (
        client.post(ITEM, json=BODY),
        client.post(f"{ITEM}/rollback/1"),
        client.delete(ITEM),
        client.put("/api/v1/rbac/users/ann/roles", json={"role": "viewer"}),
    ):
        variant_of(reply, 500, "STORAGE_ERROR", "audit", "Storage")
    assert client.get(ITEM).json()["value"] == "old"
    assert client.get(ITEM).json()["version"] == 1


def test_a_store_that_fails_under_a_write_leaves_a_failed_event(client_as):
    with MockServer(disk_bytes=1_500) as full:
        client = client_as(of=full)
        assert client.post(ITEM, json=BODY).status_code == 200
        reply = client.post(ITEM, json={"value": "x" * 2_000, "env": "dev"})
        assert variant_of(reply, 500, "STORAGE_ERROR", "config", "IoError")["kind"] == "StorageFull"
        assert client.get(ITEM).json()["version"] == 1
        events = client.get("/api/v1/audit/events?type=config.set").json()
        assert [event["outcome"] for event in events] == ["done", "failed"]


def test_a_record_that_is_none_is_a_serialization_error(client_as):
    storage = MemoryStorage()
    with MockServer(storage=storage) as server:
        client = client_as(of=server)
        for broken in (b"\x00\xff", b"{}", b"[]", b'{"tags": 5}', b'{"tags": [], "colour": "red"}'):
            storage.write(Address("app/llm", "model", Environment.DEVELOPMENT), broken, snapshot=True)
            for path in (ITEM, f"{ITEM}/history", "/api/v1/configs/app%2Fllm"):
                reply = client.get(path)
                variant_of(reply, 500, "INTERNAL_ERROR", "config", "SerializationError")
                assert reply.json()["error"]["retriable"] is False


def test_a_component_or_kind_that_there_is_not_is_refused():
    conditions = Conditions()
    with pytest.raises(KeyError, match="unknown component"):
        conditions["engine"] = "panic"
    with pytest.raises(ValueError, match="unknown condition"):
        conditions["store"] = "on fire"
    with pytest.raises(ValueError, match="count must be"):
        Condition("panic", count=0)


def test_conditions_are_a_mapping():
    conditions = Conditions()
    conditions["store"] = "panic"
    assert dict(conditions) == {"store": Condition("panic")}
    del conditions["store"]
    assert "store" not in conditions


def test_an_audit_log_may_lose_what_it_acknowledges(server, client):
    server.conditions["audit"] = Condition("lossy", count=1)
    assert client.post(ITEM, json={"value": 1, "env": "dev"}).status_code == 200
    assert client.post(ITEM, json={"value": 2, "env": "dev"}).status_code == 200
    assert "audit" not in server.conditions
    known = client.get("/api/v1/audit/events", params={"type": "config.set"}).json()
    assert len(known) == 1
    with pytest.raises(ValueError, match="for audit, not for store"):
        server.conditions["store"] = "lossy"
