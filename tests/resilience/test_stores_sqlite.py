"""The sqlite store: crashes, damage, other processes, and its bounds."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading

import anyio
import pytest

from llm_config_resilience import CacheFallback, Entry, JsonCodec, Pipeline, SqliteStore, current

PATIENCE = 30


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "entries.db"


@pytest.fixture
def store(path):
    store = SqliteStore(path)
    yield store
    store.close()


def child(program, *args, **options):
    """Start a Python process that has the toolkit at hand."""
    program = "import sys, os\nfrom llm_config_resilience import Entry, SqliteStore\n" + textwrap.dedent(
        program
    )
    return subprocess.Popen([sys.executable, "-c", program, *map(str, args)], text=True, **options)


def test_what_is_stored_comes_back(store):
    assert store.get("k") is None
    store.set("k", Entry({"a": [1, 2.5, None, True, "ü"]}, 1000.25), 60)
    assert store.get("k") == Entry({"a": [1, 2.5, None, True, "ü"]}, 1000.25)
    store.set("k", Entry("later", 1001.0), 60)
    assert (store.get("k"), len(store)) == (Entry("later", 1001.0), 1)
    store.delete("k")
    assert store.get("k") is None
    store.set("k", Entry(1, 1.0), 60)
    store.clear()
    assert len(store) == 0


def test_1_true_and_1_0_are_different_cache_keys(store):
    keys = [1, True, 1.0, "1", b"1", None, (1,), (True,), ("int", 1), ("a", ("b",)), ("a", "b")]
    for number, key in enumerate(keys):
        store.set(key, Entry(number, 0.0), 60)
    assert [store.get(key).value for key in keys] == list(range(len(keys)))


def test_a_key_that_other_processes_would_not_recognise_is_refused(store):
    for key in (object(), frozenset(), ("a", object())):
        with pytest.raises(TypeError, match="is no key"):
            store.get(key)


@pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {"a": (1,)}, object(), float("nan"), b"bytes", {1, 2}])
def test_a_value_that_would_come_back_different_is_refused(store, value):
    with pytest.raises(TypeError):
        store.set("k", Entry(value, 0.0), 60)
    assert store.get("k") is None


def test_a_codec_of_ones_own(path):
    class Text:
        def encode(self, value):
            return str(value).encode("utf-16")

        def decode(self, data):
            return data.decode("utf-16")

    store = SqliteStore(path, codec=Text())
    store.set("k", Entry((1, 2), 0.0), 60)
    assert store.get("k").value == "(1, 2)"
    store.close()


def test_only_its_owner_may_read_the_file(path):
    path.parent.mkdir()
    path.touch(0o644)
    store = SqliteStore(path)
    store.set("k", Entry(1, 0.0), 60)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"entries.db": 0o600, "entries.db-wal": 0o600, "entries.db-shm": 0o600}
    store.close()
    fresh = SqliteStore(path.parent / "deep" / "fresh.db")
    fresh.set("k", Entry(1, 0.0), 60)
    assert stat.S_IMODE((path.parent / "deep").stat().st_mode) == 0o700
    assert stat.S_IMODE((path.parent / "deep" / "fresh.db").stat().st_mode) == 0o600
    fresh.close()


def test_too_many_entries_go_expired_ones_first_then_the_oldest(path):
    store = SqliteStore(path, max_entries=3)
    store.set("short", Entry(1, 102.0), 1)
    store.set("old", Entry(1, 100.0), 60)
    store.set("new", Entry(1, 101.0), 60)
    store.set("newer", Entry(1, 104.0), 60)
    assert [key for key in ("short", "old", "new", "newer") if store.get(key)] == ["old", "new", "newer"]
    store.set("newest", Entry(1, 105.0), 60)
    assert [key for key in ("old", "new", "newer", "newest") if store.get(key)] == ["new", "newer", "newest"]
    store.set("newest", Entry(2, 106.0), 60)
    assert len(store) == 3
    store.close()


def test_it_may_be_kept_for_ever(store):
    store.set("k", Entry(1, 0.0), float("inf"))
    assert store.get("k").value == 1


def test_a_process_killed_in_the_middle_of_writing_loses_nothing_it_had_stored(path):
    writer = child(
        """
        store, number = SqliteStore(sys.argv[1], max_entries=50), 0
        while True:
            number += 1
            store.set(("key", number % 100), Entry(["x" * 5000, number], float(number)), 1e9)
            print(number, flush=True)
        """,
        path,
        stdout=subprocess.PIPE,
    )
    with writer:
        stored = 0
        for line in writer.stdout:
            stored = int(line)
            if stored == 300:
                os.kill(writer.pid, signal.SIGKILL)
                break
        stored = max([stored, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    assert writer.returncode == -signal.SIGKILL
    store = SqliteStore(path, max_entries=50)
    for number in range(stored - 40, stored + 1):
        value = store.get(("key", number % 100)).value
        assert value[1] >= number
    store.set("k", Entry("after", 1e9), 60)
    assert store.get("k").value == "after"
    store.close()
    assert not list(path.parent.glob("*.corrupt"))
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_two_processes_share_the_file(path):
    program = """
        store = SqliteStore(sys.argv[1], timeout=20)
        for number in range(60):
            store.set((sys.argv[2], number), Entry(number, float(number)), 1e9)
            store.set("both", Entry(sys.argv[2], float(number)), 1e9)
        assert store.get((sys.argv[2], 59)).value == 59
        """
    children = [child(program, path, name) for name in ("a", "b")]
    assert [process.wait(PATIENCE) for process in children] == [0, 0]
    store = SqliteStore(path)
    assert len(store) == 121
    assert all(store.get((name, number)).value == number for name in "ab" for number in range(60))
    assert store.get("both").value in {"a", "b"}
    store.close()


@pytest.mark.parametrize("damage", ["garbage", "page"])
def test_a_damaged_file_is_reported_moved_aside_and_replaced(path, caplog, damage):
    store = SqliteStore(path)
    for number in range(500):
        store.set(number, Entry("x" * 200, float(number)), 60)
    store.close()
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data[:100] = b"no database at all" * 5 + b"\0" * 10
    else:
        data[4096 : 20 * 4096] = os.urandom(19 * 4096)
    path.write_bytes(data)
    assert [store.get(number) for number in range(500)] == [None] * 500 or damage == "page"
    store.set("k", Entry("new", 1.0), 60)
    assert store.get("k").value == "new"
    assert store.get(1) is None
    assert "is damaged" in caplog.text
    assert path.with_name("entries.db.corrupt").exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


def test_damage_is_an_event_of_the_call_that_found_it(colour, path, events, clock):
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 100)
    store = SqliteStore(path)
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10), clock=clock, listeners=[events.append])
    assert colour.call(pipeline, lambda: 1) == 1
    assert colour.call(pipeline, lambda: 2) == 1
    assert [(event.kind, event.details) for event in events] == [
        ("cache_failed", {"moved_to": f"{path}.corrupt"})
    ]
    store.close()


def test_a_file_replaced_by_another_process_is_opened_anew(path):
    store, other = SqliteStore(path), SqliteStore(path)
    store.set("k", Entry(1, 0.0), 60)
    assert other.get("k").value == 1
    for file in path.parent.iterdir():
        file.unlink()
    other.set("k", Entry(2, 0.0), 60)
    assert store.get("k").value == 2
    store.close()
    other.close()


def test_a_database_of_something_else_is_left_alone(path):
    path.parent.mkdir()
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE entries (key, value)")
    db.execute("INSERT INTO entries VALUES ('k', 'v')")
    db.commit()
    store = SqliteStore(path)
    with pytest.raises(ValueError, match="a database of something else"):
        store.get("k")
    assert db.execute("SELECT * FROM entries").fetchall() == [("k", "v")]
    db.close()


def test_a_file_of_another_layout_is_emptied(path, store):
    store.set("k", Entry(1, 0.0), 60)
    store.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert store.get("k") is None


def test_a_lock_held_elsewhere_is_waited_for_no_longer_than_the_timeout(path):
    store = SqliteStore(path, timeout=0.01)
    store.set("k", Entry(1, 0.0), 60)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        store.set("k", Entry(2, 0.0), 60)
    assert store.get("k").value == 1
    other.execute("ROLLBACK")
    other.close()
    store.set("k", Entry(2, 0.0), 60)
    assert store.get("k").value == 2
    store.close()


def test_a_directory_held_elsewhere_is_waited_for_no_longer_than_the_timeout(path):
    path.parent.mkdir()
    directory = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    store = SqliteStore(path, timeout=0.01)
    with pytest.raises(TimeoutError, match="was locked"):
        store.get("k")
    os.close(directory)
    assert store.get("k") is None
    store.close()


def test_a_thread_that_holds_the_store_is_waited_for_no_longer_than_the_timeout(path):
    store = SqliteStore(path, timeout=0.01)
    with store._locked(), pytest.raises(TimeoutError, match="was busy"):
        store.get("k")


def test_threads_share_it(store):
    def work(name):
        for number in range(50):
            store.set((name, number), Entry(number, float(number)), 60)
            assert store.get((name, number)).value == number

    store._timeout = PATIENCE
    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store) == 400


def test_a_forked_child_opens_the_file_itself(path):
    process = child(
        """
        store = SqliteStore(sys.argv[1], timeout=20)
        store.set("parent", Entry(1, 0.0), 60)
        pid = os.fork()
        if pid == 0:
            store.set("child", Entry(store.get("parent").value + 1, 0.0), 60)
            os._exit(0 if len(store._inherited) == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.get("child").value == 2
        store.close()
        """,
        path,
    )
    assert process.wait(PATIENCE) == 0


def test_a_cache_keeps_entries_in_it_in_every_colour(colour, store, clock, script):
    pipeline, fn = Pipeline(CacheFallback(store, key="k", ttl=10), clock=clock), script({"a": 1}, {"a": 2})
    assert [colour.call(pipeline, fn) for _ in range(3)] == [{"a": 1}] * 3
    clock.advance(11)
    clock.step_wall(0)
    assert colour.call(pipeline, fn) == {"a": 2}
    assert fn.calls == 2


def test_what_does_not_fit_into_the_store_bypasses_it_and_is_reported(colour, store, events):
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10), listeners=[events.append])
    assert colour.call(pipeline, lambda: (1, 2)) == (1, 2)
    assert [event.kind for event in events if event.layer] == ["cache_failed"]
    assert colour.call(pipeline, lambda: [3]) == [3]


def test_a_directory_that_cannot_be_made_bypasses_it(colour, tmp_path, events):
    (tmp_path / "file").touch()
    store = SqliteStore(tmp_path / "file" / "entries.db")
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10), listeners=[events.append])
    assert colour.call(pipeline, lambda: 1) == 1
    assert {event.kind for event in events if event.layer} == {"cache_failed"}


def test_async_calls_ask_it_in_a_worker_thread(loop, store):
    here, there = [], []

    class Watched(JsonCodec):
        def decode(self, data):
            there.append(threading.get_ident())
            return super().decode(data)

    store._codec = Watched()

    async def main():
        here.append(threading.get_ident())
        pipeline = Pipeline(CacheFallback(store, key="k", ttl=10))
        for _ in range(2):
            assert await pipeline.call_async(lambda: 1) == 1

    loop.run(main)
    assert there
    assert here[0] not in there


def test_a_function_may_use_the_store_it_is_cached_in(colour, store):
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10))
    if colour.is_async:

        async def work():
            await store.set("other", Entry(1, 0.0), 60)
            return (await store.get("other")).value

        assert colour.run(pipeline.call_async, work) == 1
    else:
        assert pipeline.call(lambda: store.set("other", Entry(1, 0.0), 60) or store.get("other").value) == 1


def test_a_sync_call_within_an_async_one_is_answered_at_once(loop, store):
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10))

    async def work():
        await anyio.lowlevel.checkpoint()
        assert current().is_async
        return pipeline.call(lambda: "sync")

    assert loop.run(Pipeline().call_async, work) == "sync"
    assert store.get(("str", "k")) is None
    assert store.get("k").value == "sync"


def test_the_settings_are_checked(path):
    with pytest.raises(ValueError, match="max_entries"):
        SqliteStore(path, max_entries=0)
    with pytest.raises(ValueError, match="timeout"):
        SqliteStore(path, timeout=-1)
    assert repr(SqliteStore("a.db")) == "SqliteStore('a.db')"
    assert bool(SqliteStore("a.db"))
