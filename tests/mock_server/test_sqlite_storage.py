"""Records in a sqlite database: the same behaviour as in memory, and nothing lost on the way down.

The tests of the guide's routes for configs run here once more, over a database.
"""

import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from llm_config_mock_server import MockServer
from llm_config_mock_server.conditions import ComponentFailureError
from llm_config_mock_server.sqlite_storage import SqliteStorage
from llm_config_mock_server.storage import Address, MemoryStorage, Storage
from llm_config_sdk.contract import Environment
from mock_server import test_guide_configs
from mock_server.envelopes import variant_of

ITEM = "/api/v1/configs/app%2Fllm/model"
DEV, PROD = Environment.DEVELOPMENT, Environment.PRODUCTION

globals().update({name: test for name, test in vars(test_guide_configs).items() if name.startswith("test_")})


@pytest.fixture
def db_path(tmp_path: Path) -> Path:
    return tmp_path / "configs.db"


@pytest.fixture
def server(db_path: Path) -> Iterator[MockServer]:
    """Takes the place of the server in memory, for the tests of the guide's routes too."""
    with MockServer(seed=7, storage=db_path) as running:
        yield running


@pytest.fixture(params=["memory", "sqlite"])
def storage(request, db_path) -> Iterator[Storage]:
    made = MemoryStorage() if request.param == "memory" else SqliteStorage(db_path)
    yield made
    made.close()


# --- What every storage does ------------------------------------------------------------------------


def test_what_is_written_is_read_back_where_it_was_written(storage):
    storage.write(Address("a", "k", DEV), b"\x00\xff", snapshot=True)
    assert storage.read(Address("a", "k", DEV)) == b"\x00\xff"
    for elsewhere in (Address("a", "k", PROD), Address("a", "K", DEV), Address("b", "k", DEV)):
        assert storage.read(elsewhere) is None
        assert list(storage.history(elsewhere)) == []


def test_a_history_has_every_snapshot_oldest_first_also_after_a_delete(storage):
    address = Address("a", "k", DEV)
    for record in (b"1", b"2"):
        storage.write(address, record, snapshot=True)
    storage.write(address, b"2, sealed anew", snapshot=False)
    assert storage.read(address) == b"2, sealed anew"
    assert storage.remove(address)
    assert not storage.remove(address)
    assert storage.read(address) is None
    storage.write(address, b"3", snapshot=True)
    assert list(storage.history(address)) == [b"1", b"2", b"3"]


def test_live_records_are_listed_by_namespace_and_environment(storage):
    everywhere = [
        Address("a", "k", DEV),
        Address("a", "l", DEV),
        Address("a", "k", PROD),
        Address("a/b", "k", DEV),
    ]
    for address in everywhere:
        storage.write(address, b"x", snapshot=True)
    assert sorted(storage.keys("a", DEV)) == ["k", "l"]
    assert sorted(storage.addresses()) == sorted(everywhere)
    storage.remove(everywhere[0])
    assert list(storage.keys("a", DEV)) == ["l"]
    assert len(list(storage.addresses())) == 3


def test_clearing_forgets_histories_too(storage):
    storage.write(Address("a", "k", DEV), b"x", snapshot=True)
    storage.clear()
    assert list(storage.addresses()) == []
    assert list(storage.history(Address("a", "k", DEV))) == []


# --- Across restarts --------------------------------------------------------------------------------


def test_entries_histories_and_secrets_survive_a_restart(db_path):
    with MockServer(storage=db_path) as first:
        first.put("app/llm", "model", "gpt-4", tags=["x"])
        first.put("app/llm", "model", "gpt-5", tags=["x"])
        first.put("app/llm", "key", "sk-1", secret=True)
        before = first.entry("app/llm", "model")
    with MockServer(storage=db_path) as second:
        assert second.entry("app/llm", "model") == before
        headers = {"authorization": f"Bearer {second.token()}"}
        with httpx.Client(base_url=second.url, headers=headers, trust_env=False) as client:
            assert [version["value"] for version in client.get(f"{ITEM}/history").json()] == [
                "gpt-5",
                "gpt-4",
            ]
            assert client.get("/api/v1/configs/app%2Fllm/key").json()["value"] == "sk-1"
            assert client.post(f"{ITEM}/rollback/1").json()["version"] == 3
    assert b"sk-1" not in db_path.read_bytes()


def test_a_token_stays_valid_and_an_id_is_never_given_twice(db_path):
    tokens, ids = [], []
    for _ in range(3):
        with MockServer(storage=db_path) as server:
            tokens.append(server.token("viewer"))
            ids.append(server.put("app", f"k{len(ids)}", 1)["id"])
    assert len(set(tokens)) == 1
    assert len(set(ids)) == 3


def test_a_seed_that_differs_leaves_the_secrets_readable(db_path):
    with MockServer(storage=db_path, seed=1) as server:
        server.put("app/llm", "model", "sk-1", secret=True)
    with MockServer(storage=db_path, seed=2) as server:
        assert server.seed == 2
        headers = {"authorization": f"Bearer {server.token()}"}
        assert httpx.get(server.url + ITEM, headers=headers, trust_env=False).json()["value"] == "sk-1"


def test_stopped_and_started_again_the_server_has_its_entries(db_path):
    with MockServer(storage=db_path) as server:
        server.put("app", "k", 1)
        server.stop()
        server.start()
        assert server.entry("app", "k")["value"] == 1
    assert server.entry("app", "k")["value"] == 1  # opened again by being used
    server.close()


_WRITER = """
import sys
from llm_config_mock_server import MockServer
with MockServer(storage=sys.argv[1]) as server:
    print(server.url, server.token(), flush=True)
    sys.stdin.read()
"""


def test_killed_in_the_middle_of_writes_it_has_every_write_that_was_acknowledged(db_path):
    acknowledged: list[tuple[str, int]] = []

    def write(writer: int, url: str, token: str) -> None:
        headers = {"authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
            while True:
                try:
                    reply = client.post(
                        f"/api/v1/configs/app/k{writer}", json={"value": "x" * 500, "env": "dev"}
                    )
                except httpx.TransportError:
                    return
                acknowledged.append((f"k{writer}", reply.json()["version"]))
                if len(acknowledged) >= 100:
                    process.send_signal(signal.SIGKILL)

    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, db_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process, ThreadPoolExecutor(4) as pool:
        try:
            url, token = process.stdout.readline().split()
            list(pool.map(lambda writer: write(writer, url, token), range(4)))
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(acknowledged) >= 100
    with MockServer(storage=db_path) as server:
        for key, version in acknowledged:
            address = Address("app", key, DEV)
            history = [json.loads(record)["version"] for record in server_storage(server).history(address)]
            assert version in history
            assert history == list(range(1, len(history) + 1))
            assert server.entry("app", key)["version"] == history[-1]


def server_storage(server: MockServer) -> Storage:
    return server._core.platform.store.storage


# --- The file ---------------------------------------------------------------------------------------


def test_nobody_else_can_read_the_database(db_path):
    mask = os.umask(0)
    try:
        with MockServer(storage=db_path) as server:
            server.put("app", "k", 1)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in db_path.parent.iterdir()}
    finally:
        os.umask(mask)
    assert modes == {"configs.db": 0o600, "configs.db-wal": 0o600, "configs.db-shm": 0o600}


def test_a_file_that_is_no_database_is_refused_and_left_alone(db_path):
    db_path.write_text("[app]\nmodel = gpt-4\n" * 100)
    with pytest.raises(ValueError, match="is no sqlite database"):
        MockServer(storage=db_path)
    assert db_path.read_text() == "[app]\nmodel = gpt-4\n" * 100


def test_the_database_of_another_program_is_refused_and_left_alone(db_path):
    with closing(sqlite3.connect(db_path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    with pytest.raises(ValueError, match="the database of another program"):
        MockServer(storage=str(db_path))
    with closing(sqlite3.connect(db_path)) as database:
        assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmarks",)]


def test_a_database_of_a_later_format_is_refused(db_path):
    SqliteStorage(db_path).close()
    with closing(sqlite3.connect(db_path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="format 99"):
        SqliteStorage(db_path)


def test_a_place_where_nothing_can_be_made_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        MockServer(storage=tmp_path / "missing" / "configs.db")
    with pytest.raises(OSError, match="cannot open the database"):
        MockServer(storage=tmp_path)


# --- When it says no --------------------------------------------------------------------------------


def test_a_locked_database_is_a_storage_error_for_writes_and_reads_go_on(server, client, db_path):
    server.put("app/llm", "model", 1)
    with closing(sqlite3.connect(db_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        reply = client.post(ITEM, json={"value": 2, "env": "dev"})
        variant_of(reply, 500, "STORAGE_ERROR", "config", "StorageError")
        assert "locked" in reply.json()["error"]["message"]
        assert reply.json()["error"]["retriable"] is True
        assert client.get(ITEM).json()["value"] == 1
        other.execute("ROLLBACK")
    assert client.post(ITEM, json={"value": 2, "env": "dev"}).json()["version"] == 2


def _fill(client: httpx.Client) -> tuple[httpx.Response, int]:
    """Write until the disk is full, and return what then was said and how many writes took effect."""
    for number in range(1, 200):
        reply = client.post(f"/api/v1/configs/app/k{number}", json={"value": "x" * 20_000, "env": "dev"})
        if reply.status_code != 200:
            return reply, number - 1
    raise AssertionError("the disk never became full")


def _check_full(reply: httpx.Response) -> None:
    details = variant_of(reply, 500, "STORAGE_ERROR", "config", "IoError")
    assert details["kind"] == "StorageFull"
    assert reply.json()["error"]["retriable"] is False
    assert "(os error 28)" in reply.json()["error"]["message"]


def test_a_full_database_is_a_system_error_and_keeps_what_it_has(db_path, client_as):
    with MockServer(storage=db_path, disk_bytes=300_000) as server:
        reply, written = _fill(client_as(of=server))
        _check_full(reply)
        assert written > 0
        assert len(list(server_storage(server).addresses())) == written
        assert db_path.stat().st_size <= 300_000


_ON_A_FULL_DISK = """
import json, subprocess, sys
import httpx
from llm_config_mock_server import MockServer
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", sys.argv[1]], check=True)
with MockServer(storage=sys.argv[1] + "/configs.db") as server:
    headers = {"authorization": f"Bearer {server.token()}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
        for number in range(200):
            reply = client.post(f"/api/v1/configs/app/k{number}", json={"value": "x" * 20_000, "env": "dev"})
            if reply.status_code != 200:
                break
        read = client.get("/api/v1/configs/app/k0")
print(json.dumps([reply.status_code, reply.json()["error"], number, read.status_code]))
"""


def test_a_disk_that_is_really_full_is_a_system_error(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not installed")
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False, timeout=30).returncode != 0:
        pytest.skip("a disk of one's own needs user namespaces, which this machine does not allow")
    command = ["unshare", "-rm", sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    status, error, written, read_status = json.loads(ended.stdout)
    assert (status, error["details"]["kind"], error["retriable"]) == (500, "StorageFull", False)
    assert written > 5
    assert read_status == 200


def test_a_database_that_became_garbage_is_a_storage_error(server, client, db_path):
    server.put("app/llm", "model", 1)
    server_storage(server).close()
    db_path.write_bytes(b"no database at all " * 1000)
    variant_of(client.get(ITEM), 500, "STORAGE_ERROR", "config", "StorageError")


def test_a_write_that_fails_halfway_leaves_nothing(db_path):
    storage = SqliteStorage(db_path)
    address = Address("a", "k", DEV)
    with closing(sqlite3.connect(db_path)) as other:
        other.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON versions"
            " WHEN NEW.record = 'full' BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
        )
    storage.write(address, b"1", snapshot=True)
    with pytest.raises(sqlite3.IntegrityError):
        storage.write(address, "full", snapshot=True)  # a text, which the trigger knows it by
    assert storage.read(address) == b"1"
    assert list(storage.history(address)) == [b"1"]
    storage.close()


def test_what_the_database_refuses_says_which_component_failed(db_path):
    storage = SqliteStorage(db_path, capacity=60_000)
    with pytest.raises(ComponentFailureError) as raised:
        storage.write(Address("a", "k", DEV), b"x" * 100_000, snapshot=True)
    assert (raised.value.component, raised.value.kind, raised.value.is_io) == ("store", "StorageFull", True)
    assert isinstance(raised.value.__cause__, sqlite3.OperationalError)
    storage.close()


def _child(storage: SqliteStorage, answer: int) -> None:
    storage.close()  # what a child does at its end: it must not disturb the parent's database
    storage.write(Address("a", "child", DEV), b"1", snapshot=True)
    os.write(answer, storage.read(Address("a", "k", DEV)) or b"nothing")
    os._exit(0)


def test_a_forked_child_opens_the_database_for_itself(db_path):
    storage = SqliteStorage(db_path)
    storage.write(Address("a", "k", DEV), b"parent", snapshot=True)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _child(storage, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        assert answer.read() == b"parent"
    assert os.waitpid(child, 0)[1] == 0
    storage.write(Address("a", "k", DEV), b"2", snapshot=True)
    assert sorted(storage.keys("a", DEV)) == ["child", "k"]
    storage.close()
