"""The server's cache: in front of the store, never in the way of an answer."""

import logging

import pytest

from llm_config_mock_server import MockServer
from llm_config_mock_server.conditions import ComponentFailureError, Conditions
from llm_config_mock_server.server_cache import FIRST_TIER_RECORDS, CacheError, ServerCache
from llm_config_mock_server.storage import Address, MemoryStorage
from llm_config_mock_server.store import Record, Store
from llm_config_sdk.contract import Environment
from mock_server.envelopes import variant_of

ITEM = "/api/v1/configs/app%2Fllm/model"
CACHED = "/api/v1/cache/entries/app%2Fllm/model"
BODY = {"value": 1, "env": "dev"}


def test_a_read_fills_both_tiers_and_the_entry_can_be_looked_at(server, client):
    server.put("app/llm", "model", "gpt-4")
    variant_of(client.get(CACHED), 404, "NOT_FOUND", "cache", "CacheMiss")
    etag = client.get(ITEM).headers["etag"]
    assert client.get(CACHED).json() == {
        "key": "app/llm:model:development",
        "tier": "l1",
        "version": 1,
        "etag": etag,
        "secret": False,
        "value": "gpt-4",
    }


def test_environments_are_cached_apart(server, client):
    server.put("app/llm", "model", "p", env="prod")
    client.get(ITEM, params={"env": "prod"})
    assert client.get(CACHED, params={"env": "prod"}).json()["value"] == "p"
    variant_of(client.get(CACHED), 404, "NOT_FOUND", "cache", "CacheMiss")


def test_a_secret_in_the_cache_is_shown_to_nobody(server, client):
    server.put("app/llm", "model", "s3cr3t", secret=True)
    assert client.get(ITEM).json()["value"] == "s3cr3t"
    assert client.get(CACHED).json()["value"] == "[ENCRYPTED]"


@pytest.mark.parametrize("change", ["set", "rollback", "delete", "put", "raw"])
def test_a_change_is_seen_at_once(client_as, change):
    with MockServer(admin=True) as server:
        client = client_as(of=server)
        client.post(ITEM, json={"value": "old", "env": "dev"})
        before = client.get(ITEM)
        match change:
            case "set":
                client.post(ITEM, json=BODY)
            case "rollback":
                client.post(f"{ITEM}/rollback/1")
            case "delete":
                client.delete(ITEM)
            case "put":
                server.put("app/llm", "model", 2)
            case _:
                client.put("/api/v1/admin/records/app%2Fllm/model", content=b"no record")
        after = client.get(ITEM)
        assert (after.status_code, after.content) != (before.status_code, before.content)
        variant_of(
            client.get(CACHED), 404, "NOT_FOUND", "cache", "CacheMiss"
        ) if after.status_code != 200 else None


@pytest.mark.parametrize("kind", ["unavailable", "StorageFull", "panic"])
def test_a_read_goes_past_a_cache_that_fails_and_says_so_once_an_incident(server, client, caplog, kind):
    server.put("app/llm", "model", 1)
    with caplog.at_level(logging.DEBUG, "llm_config_mock_server"):
        for _ in range(2):
            server.conditions["cache"] = kind
            assert [client.get(ITEM).json()["value"] for _ in range(3)] == [1, 1, 1]
            server.conditions.clear()
            assert client.get(ITEM).status_code == 200
    bypasses = [record for record in caplog.records if "bypassing" in record.message]
    assert [record.levelname for record in bypasses] == ["ERROR", "ERROR"]


def test_a_miss_is_worth_a_debug_line_and_no_more(server, client, caplog):
    server.put("app/llm", "model", 1)
    with caplog.at_level(logging.DEBUG, "llm_config_mock_server"):
        client.get(ITEM)
    assert [(record.levelname, "Cache miss" in record.message) for record in caplog.records] == [
        ("DEBUG", True)
    ]


def test_writes_do_not_need_the_cache_and_nothing_stale_is_left_behind(server, client):
    server.put("app/llm", "model", "old")
    assert client.get(ITEM).json()["value"] == "old"
    server.conditions["cache"] = "unavailable"
    assert client.post(ITEM, json=BODY).status_code == 200
    server.conditions.clear()
    assert client.get(ITEM).json()["value"] == 1


def test_a_blob_that_is_no_record_is_read_past_and_mended(client_as):
    with MockServer(admin=True) as server:
        client = client_as(of=server)
        server.put("app/llm", "model", 1)
        client.put("/api/v1/admin/records/app%2Fllm/model?tier=l2", content=b"broken")
        variant_of(client.get(CACHED), 500, "INTERNAL_ERROR", "cache", "SerializationError")
        assert client.get(ITEM).json()["value"] == 1
        assert client.get(CACHED).json()["tier"] == "l1"


def test_a_store_that_fails_is_not_hidden_by_the_cache(server, client):
    server.put("app/llm", "model", 1)
    assert client.get(ITEM).status_code == 200
    server.conditions["store"] = "unavailable"
    variant_of(client.get(ITEM), 500, "STORAGE_ERROR", "config", "StorageError")


def test_who_brings_a_storage_may_write_to_it_behind_the_server(client_as):
    storage = MemoryStorage()
    with MockServer(storage=storage) as one, MockServer(storage=storage) as other:
        one.put("app/llm", "model", "old")
        assert client_as(of=other).get(ITEM).json()["value"] == "old"
        one.put("app/llm", "model", "new")
        assert client_as(of=other).get(ITEM).json()["value"] == "new"


def test_the_cache_is_emptied_by_whoever_may_and_that_is_recorded(server, client, client_as):
    server.put("app/llm", "model", 1)
    client.get(ITEM)
    variant_of(client_as("editor").delete("/api/v1/cache"), 403, "PERMISSION_DENIED", "rbac", "AccessDenied")
    assert client.delete("/api/v1/cache").json() == {"cleared": 1}
    assert client.delete("/api/v1/cache").json() == {"cleared": 0}
    events = client.get("/api/v1/audit/events", params={"type": "cache.clear"}).json()
    assert [event["outcome"] for event in events] == ["done", "done"]


@pytest.mark.parametrize("names", ["a%3Ab/k", "a/k%3A", "a%20b/k", "a/k%20"])
def test_a_name_that_is_none_is_an_invalid_key_of_the_cache(client, names):
    variant_of(client.get(f"/api/v1/cache/entries/{names}"), 422, "INVALID_KEY", "cache", "InvalidKey")


# --- The tiers, by themselves -------------------------------------------------------------------------

RECORD = Record(
    id="1", version=1, value=1, secret=False, created_at="t", created_by="a", updated_at="t", updated_by="a"
)


def address(key: str) -> Address:
    return Address("app", key, Environment.BASE)


@pytest.fixture
def store() -> Store:
    return Store(MemoryStorage(), Conditions())


def test_what_falls_out_of_the_first_tier_is_found_in_the_second_and_moves_up(store):
    cache = ServerCache(Conditions(), store)
    for number in range(FIRST_TIER_RECORDS + 1):
        cache.put(address(f"k{number}"), RECORD)
    assert cache.get(address("k0")).tier == "l2"
    assert cache.get(address("k0")).tier == "l1"
    assert cache.clear() == FIRST_TIER_RECORDS + 1


def test_whatever_changes_in_the_store_empties_the_cache(store):
    cache = ServerCache(Conditions(), store)
    cache.put(address("a"), RECORD)
    store.put(address("b"), RECORD)
    with pytest.raises(CacheError, match="Cache miss") as caught:
        cache.get(address("a"))
    assert caught.value.variant == "CacheMiss"


def test_every_operation_of_a_failing_cache_fails(store):
    conditions = Conditions()
    cache = ServerCache(conditions, store)
    conditions["cache"] = "unavailable"
    for operation in (
        lambda: cache.get(address("a")),
        lambda: cache.put(address("a"), RECORD),
        lambda: cache.put_blob(address("a"), b""),
        cache.clear,
    ):
        with pytest.raises(ComponentFailureError):
            operation()
