"""What a server with a database keeps: all that was acknowledged, through restarts and being killed."""

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import httpx
import pytest

from llm_config_mock_server import MockServer, error, reset
from llm_config_mock_server.conditions import ComponentFailureError
from llm_config_mock_server.sqlite_storage import SqliteStorage
from llm_config_mock_server.storage import Address, MemoryStorage, Storage
from llm_config_mock_server.tables import Table
from llm_config_sdk.contract import Environment
from mock_server.envelopes import variant_of

ITEM = "/api/v1/configs/app%2Fllm/model"
AUDIT = "/api/v1/audit/events"
ADDRESS = Address("a", "k", Environment.DEVELOPMENT)
OWN_KEY = bytes(range(32))


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "configs.db"


@pytest.fixture
def serve(db_path: Path) -> Iterator[Callable[..., tuple[MockServer, httpx.Client]]]:
    """Ends the server that ran before and starts another one on the same database."""
    with ExitStack() as stack:

        def make(**options) -> tuple[MockServer, httpx.Client]:
            stack.close()
            server = stack.enter_context(MockServer(storage=db_path, **options))
            headers = {"authorization": f"Bearer {server.token()}"}
            client = httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=30)
            return server, stack.enter_context(client)

        yield make


# --- Restarts -------------------------------------------------------------------------------------


def test_audit_events_survive_a_restart_and_are_numbered_on(serve):
    server, client = serve()
    client.post(ITEM, json={"value": 1, "env": "dev"})
    viewer = {"authorization": f"Bearer {server.token('viewer')}"}
    client.post(ITEM, json={"value": 2, "env": "dev"}, headers=viewer)
    before = client.get(AUDIT).json()
    assert [(event["type"], event["outcome"]) for event in before] == [
        ("config.set", "done"),
        ("access.denied", "denied"),
    ]
    _, client = serve()
    assert client.get(AUDIT).json() == before
    client.delete(ITEM)
    assert [event["number"] for event in client.get(AUDIT).json()] == [1, 2, 3]


def test_users_roles_and_tokens_survive_a_restart(serve):
    _, client = serve()
    role = {"permissions": ["config:read", "config:write"], "inherits": ["auditor"]}
    client.put("/api/v1/rbac/roles/deployer", json=role)
    client.put("/api/v1/rbac/users/ann/roles", json={"role": {"custom": "deployer"}, "scope": "app/**"})
    token = client.post("/api/v1/rbac/users/ann/tokens").json()["token"]
    roles, users = client.get("/api/v1/rbac/roles").json(), client.get("/api/v1/rbac/users").json()
    _, client = serve()
    assert client.get("/api/v1/rbac/roles").json() == roles
    assert client.get("/api/v1/rbac/users").json() == users
    ann = {"authorization": f"Bearer {token}"}
    assert client.post(ITEM, json={"value": 1, "env": "dev"}, headers=ann).status_code == 200
    assert client.delete(ITEM, headers=ann).status_code == 403
    assert client.post("/api/v1/rbac/users/ann/tokens").json()["token"] == token


def test_a_user_who_never_had_a_token_has_none_after_a_restart(serve):
    server, client = serve()
    client.put("/api/v1/rbac/users/bob/roles", json={"role": "viewer"})
    token = server._core.platform.randomness.token("bob")
    server, client = serve()
    assert client.get(ITEM, headers={"authorization": f"Bearer {token}"}).status_code == 401
    assert server.token("viewer", user="bob") == token


def test_the_vault_s_keys_survive_a_restart_and_lie_there_sealed(serve, db_path):
    material = bytes(range(100, 132))
    _, client = serve(encryption_key=OWN_KEY)
    client.post(ITEM, json={"value": "sk-1", "env": "dev", "secret": True})
    client.post("/api/v1/vault/keys", json={"material": base64.b64encode(material).decode()})
    client.post(ITEM, json={"value": "sk-2", "env": "dev", "secret": True})
    sealed = client.post("/api/v1/vault/encrypt", json={"plaintext": "note"}).json()
    assert sealed["key_version"] == 2
    _, client = serve(encryption_key=OWN_KEY)
    assert client.get(ITEM).json()["value"] == "sk-2"
    assert client.post("/api/v1/vault/decrypt", json=sealed).json() == {"plaintext": "note"}
    assert [key["active"] for key in client.get("/api/v1/vault/keys").json()] == [False, True]
    on_disk = b"".join(file.read_bytes() for file in db_path.parent.iterdir())
    for secret in (material, OWN_KEY, b"sk-1", b"sk-2"):
        assert secret not in on_disk
        assert secret.hex().encode() not in on_disk
        assert base64.b64encode(secret) not in on_disk


def test_a_key_that_was_destroyed_does_not_come_back(serve):
    _, client = serve()
    client.post(ITEM, json={"value": "sk-1", "env": "dev", "secret": True})
    assert client.delete("/api/v1/vault/keys/1").status_code == 204
    _, client = serve()
    assert client.get("/api/v1/vault/keys").json() == []
    variant_of(client.get(ITEM), 500, "DECRYPTION_ERROR", "config", "DecryptionError")
    assert client.post("/api/v1/vault/keys", json={}).json()["version"] == 2  # no number is given twice


def test_keys_that_were_sealed_under_another_key_are_refused_at_the_start(serve, db_path):
    _, client = serve(encryption_key=OWN_KEY)
    client.post("/api/v1/vault/keys", json={})
    with pytest.raises(ValueError, match="encryption_key does not fit the storage"):
        MockServer(storage=db_path, encryption_key=bytes(32))
    _, client = serve(encryption_key=OWN_KEY)
    assert len(client.get("/api/v1/vault/keys").json()) == 2


def test_a_wrapped_key_cannot_pass_for_another_version(serve, db_path):
    _, client = serve()
    for _ in range(2):
        client.post("/api/v1/vault/keys", json={})
    with closing(sqlite3.connect(db_path)) as database:
        (document,) = database.execute("SELECT document FROM documents WHERE kind = 'vault'").fetchone()
        ring = json.loads(document)
        ring["keys"]["2"], ring["keys"]["3"] = ring["keys"]["3"], ring["keys"]["2"]
        database.execute(
            "UPDATE documents SET document = ? WHERE kind = 'vault'", (json.dumps(ring).encode(),)
        )
        database.commit()
    with pytest.raises(ValueError, match="does not fit"):
        MockServer(storage=db_path)


def test_a_reply_under_an_idempotency_key_is_replayed_after_a_restart(serve):
    headers = {"idempotency-key": "once"}
    _, client = serve()
    first = client.post(ITEM, json={"value": "grün", "env": "dev"}, headers=headers)
    _, client = serve()
    again = client.post(ITEM, json={"value": "grün", "env": "dev"}, headers=headers)
    assert (again.status_code, again.content, again.headers["etag"]) == (
        200,
        first.content,
        first.headers["etag"],
    )
    assert again.headers["idempotency-replayed"] == "true"
    assert client.get(ITEM).json()["version"] == 1
    other = client.post(ITEM, json={"value": 2, "env": "dev"}, headers=headers)
    assert (other.status_code, other.json()["error"]["details"]["reason"]) == (422, "reused")


def test_what_reveals_a_secret_is_kept_under_no_key(serve, db_path):
    server, client = serve(encryption_key=OWN_KEY)
    sealed = client.post("/api/v1/vault/encrypt", json={"plaintext": "sk-plain"}).json()
    headers = {"idempotency-key": "k"}
    for _ in range(2):
        opened = client.post("/api/v1/vault/decrypt", json=sealed, headers=headers)
        assert opened.json() == {"plaintext": "sk-plain"}
        assert "idempotency-replayed" not in opened.headers
    token = client.post("/api/v1/rbac/users/admin/tokens", headers=headers).json()["token"]
    assert token == server.token()
    on_disk = b"".join(file.read_bytes() for file in db_path.parent.iterdir())
    assert b"sk-plain" not in on_disk
    assert token.encode() not in on_disk


def test_a_reset_forgets_all_but_users_and_their_tokens_for_good(serve):
    server, client = serve()
    token = server.token("viewer", user="ann")
    client.post(ITEM, json={"value": 1, "env": "dev"}, headers={"idempotency-key": "k"})
    client.post("/api/v1/vault/keys", json={})
    client.put("/api/v1/rbac/roles/deployer", json={"permissions": ["config:read"]})
    server.reset()
    for _ in range(2):
        assert client.get(AUDIT).json() == []
        assert all(role["built_in"] for role in client.get("/api/v1/rbac/roles").json())
        assert len(client.get("/api/v1/vault/keys").json()) == 1
        assert client.get(ITEM, headers={"authorization": f"Bearer {token}"}).status_code == 404
        server, client = serve()


def test_a_database_from_before_there_were_documents_is_taken_over(db_path, serve):
    server, _ = serve()
    server.put("app", "k", 1)
    server.close()
    with closing(sqlite3.connect(db_path)) as database:
        database.execute("DROP TABLE documents")
        database.execute("PRAGMA user_version = 1")
    server, client = serve()
    assert server.entry("app", "k")["value"] == 1
    assert client.post(ITEM, json={"value": 1, "env": "dev"}).status_code == 200
    assert len(client.get(AUDIT).json()) == 1


def test_what_another_program_changes_is_seen_at_once(serve, db_path):
    _, client = serve()
    client.put("/api/v1/rbac/roles/deployer", json={"permissions": ["config:read"]})
    with closing(sqlite3.connect(db_path)) as database:
        database.execute("DELETE FROM documents WHERE kind = 'roles'")
        database.commit()
    assert client.get("/api/v1/rbac/roles/deployer").status_code == 404


# --- Together or not at all -------------------------------------------------------------------------


def test_a_change_that_fails_leaves_its_audit_event_and_nothing_else(serve):
    server, client = serve()
    client.post(ITEM, json={"value": "sk-1", "env": "dev", "secret": True})
    storage = server._core.platform.store.storage
    storage.write(Address("z", "broken", Environment.DEVELOPMENT), b"no record", snapshot=False)
    before = client.get(ITEM).json()
    reply = client.post("/api/v1/vault/rotate", json={}, headers={"idempotency-key": "k"})
    assert reply.status_code == 500
    assert [key["version"] for key in client.get("/api/v1/vault/keys").json()] == [1]
    assert client.get(ITEM).json() == before
    assert storage.read(Address("app/llm", "model", Environment.DEVELOPMENT)).find(b'"key_version":1') > 0
    events = client.get(AUDIT, params={"type": "vault.rotate"}).json()
    assert [(event["number"], event["outcome"]) for event in events] == [(2, "failed")]
    storage.remove(Address("z", "broken", Environment.DEVELOPMENT))
    again = client.post("/api/v1/vault/rotate", json={}, headers={"idempotency-key": "k"})
    assert (again.json()["version"], again.json()["reencrypted"]) == (2, 1)


def test_in_memory_too_a_change_that_fails_leaves_nothing(server, client):
    client.post(ITEM, json={"value": "sk-1", "env": "dev", "secret": True})
    storage = server._core.platform.store.storage
    storage.write(Address("z", "broken", Environment.DEVELOPMENT), b"no record", snapshot=False)
    before = client.get(ITEM).json()
    assert client.post("/api/v1/vault/rotate", json={}).status_code == 500
    assert client.get(ITEM).json() == before
    assert [key["version"] for key in client.get("/api/v1/vault/keys").json()] == [1]


@pytest.fixture(params=["memory", "sqlite"])
def storage(request, db_path) -> Iterator[Storage]:
    made = MemoryStorage(capacity=1000) if request.param == "memory" else SqliteStorage(db_path)
    yield made
    made.close()


class _Stop(Exception):  # noqa: N818 - no error
    pass


def test_a_transaction_that_ends_badly_is_taken_back_whole(storage):
    storage.write(ADDRESS, b"1", snapshot=True)
    for name in ("x", "y", "z"):
        storage.keep("roles", name, b"old")
    before, generation = list(storage.documents("roles")), storage.generation
    with suppress(_Stop), storage.transaction():
        storage.write(ADDRESS, b"2", snapshot=True)
        storage.remove(ADDRESS)
        storage.write(Address("a", "new", Environment.EDGE), b"3", snapshot=True)
        storage.discard("roles", "x")
        storage.keep("roles", "y", b"new")
        storage.keep("roles", "x", b"new")
        storage.keep("users", "u", b"new")
        raise _Stop
    assert storage.read(ADDRESS) == b"1"
    assert list(storage.history(ADDRESS)) == [b"1"]
    assert list(storage.addresses()) == [ADDRESS]
    assert list(storage.documents("roles")) == before
    assert list(storage.documents("users")) == []
    assert storage.generation != generation


def test_a_transaction_within_another_is_taken_back_alone(storage):
    with storage.transaction():
        storage.keep("roles", "outer", b"1")
        with suppress(_Stop), storage.transaction():
            storage.keep("roles", "inner", b"1")
            storage.write(ADDRESS, b"1", snapshot=True)
            raise _Stop
        with storage.transaction():
            storage.keep("roles", "second", b"1")
    assert [name for name, _ in storage.documents("roles")] == ["outer", "second"]
    assert storage.read(ADDRESS) is None


def test_what_an_inner_transaction_kept_goes_with_the_outer_one(storage):
    with suppress(_Stop), storage.transaction():
        with storage.transaction():
            storage.keep("roles", "inner", b"1")
        raise _Stop
    assert list(storage.documents("roles")) == []


def test_a_table_never_shows_what_was_taken_back(storage):
    table = Table(storage, "roles", lambda value: value, lambda told: told)
    table["kept"] = 1
    with suppress(_Stop), storage.transaction():
        table["kept"] = 2
        table["lost"] = 3
        assert dict(table) == {"kept": 2, "lost": 3}
        raise _Stop
    assert dict(table) == {"kept": 1}


def test_a_full_disk_in_the_middle_takes_everything_back(db_path):
    storage = SqliteStorage(db_path, capacity=60_000)

    def overfill() -> None:
        with storage.transaction():
            storage.keep("audit", "1", b"{}")
            with suppress(ComponentFailureError):
                storage.write(ADDRESS, b"x" * 100_000, snapshot=True)
            storage.keep("audit", "2", b"{}")

    with pytest.raises(ComponentFailureError) as raised:
        overfill()
    assert raised.value.kind == "StorageFull"
    assert list(storage.documents("audit")) == []
    storage.keep("audit", "1", b"{}")
    assert list(storage.documents("audit")) == [("1", b"{}")]
    storage.close()


# --- Killed -----------------------------------------------------------------------------------------


def test_a_lost_answer_is_replayed_by_the_server_that_comes_back(serve, db_path):
    server, client = serve()
    server.script("POST", reset().after_effect())
    headers = {"idempotency-key": "once"}
    with pytest.raises(httpx.TransportError):
        client.post(ITEM, json={"value": 1, "env": "dev"}, headers=headers)
    _, client = serve()
    replayed = client.post(ITEM, json={"value": 1, "env": "dev"}, headers=headers)
    assert replayed.headers["idempotency-replayed"] == "true"
    assert replayed.json()["version"] == 1
    assert [event["type"] for event in client.get(AUDIT).json()] == ["config.set"]


def test_a_request_that_failed_may_be_tried_again_under_its_key(serve):
    headers = {"idempotency-key": "again"}
    server, client = serve()
    server.script("POST", error("STORAGE_ERROR"))
    assert client.post(ITEM, json={"value": 1, "env": "dev"}, headers=headers).status_code == 500
    _, client = serve()
    assert client.post(ITEM, json={"value": 1, "env": "dev"}, headers=headers).json()["version"] == 1


_SERVER = """
import sys
from llm_config_mock_server import MockServer
with MockServer(storage=sys.argv[1]) as server:
    print(server.url, server.token(), flush=True)
    sys.stdin.read()
"""
_BEFORE_THE_KILL = 60  # acknowledged writes: enough to be in the middle of something


def test_killed_in_the_middle_writes_audit_events_and_replies_agree(serve, db_path):
    acknowledged: list[str] = []

    def write(writer: int, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            for number in range(10_000):
                name = f"{writer}-{number}"
                try:
                    client.post(
                        f"/api/v1/configs/app/k{writer}",
                        json={"value": name, "env": "dev"},
                        headers={"idempotency-key": name, "x-user-id": name},
                    ).raise_for_status()
                except httpx.TransportError:
                    return
                acknowledged.append(name)
                if len(acknowledged) >= _BEFORE_THE_KILL:
                    process.send_signal(signal.SIGKILL)

    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER, db_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process, ThreadPoolExecutor(4) as pool:
        try:
            url, token = process.stdout.readline().split()
            list(pool.map(lambda writer: write(writer, url, token), range(4)))
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(acknowledged) >= _BEFORE_THE_KILL
    server, client = serve()
    storage = server._core.platform.store.storage
    written = {
        json.loads(record)["value"] for address in storage.addresses() for record in storage.history(address)
    }
    recorded = [event["user_id"] for event in client.get(AUDIT).json()]
    replies = {json.loads(name)[1] for name, _ in storage.documents("idempotency")}
    assert set(acknowledged) <= written
    assert written == set(recorded) == replies
    assert len(recorded) == len(written)


def test_a_forked_child_sees_what_the_parent_kept(db_path):
    storage = SqliteStorage(db_path)
    table = Table(storage, "roles", lambda value: value, lambda told: told)
    table["a"] = 1
    child = os.fork()
    if child == 0:
        try:
            table["b"] = 2
            os._exit(0 if dict(table) == {"a": 1, "b": 2} else 2)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert dict(table) == {"a": 1, "b": 2}
    storage.close()
