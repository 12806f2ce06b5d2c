"""The Redis store, against a real Redis."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest

from llm_config_resilience import CacheFallback, Entry, Pipeline, RedisStore, UsageError

redis = pytest.importorskip("redis")

PATIENCE = 30


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture
def store(redis_url, client):
    store = RedisStore(redis_url, namespace="test", timeout=PATIENCE)
    yield store
    store.close()


@pytest.fixture
def silent():
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_what_is_stored_comes_back(store, client):
    assert store.get("k") is None
    store.set("k", Entry({"a": [1, None, "ü"]}, 1000.123456789), 60)
    assert store.get("k") == Entry({"a": [1, None, "ü"]}, 1000.123456789)
    assert client.keys() == [b"test:'k'"]
    store.delete("k")
    assert store.get("k") is None


def test_every_entry_has_its_time(store, client):
    store.set("k", Entry(1, 0.0), 60)
    assert 55_000 < client.pttl("test:'k'") <= 60_000
    store.set("k", Entry(1, 0.0), 0.0001)
    assert client.pttl("test:'k'") <= 1
    store.set("k", Entry(1, 0.0), float("inf"))
    assert client.pttl("test:'k'") == -1


def test_1_true_and_1_0_are_different_cache_keys(store):
    keys = [1, True, 1.0, "1", (1,), ("int", 1)]
    for number, key in enumerate(keys):
        store.set(key, Entry(number, 0.0), 60)
    assert [store.get(key).value for key in keys] == list(range(len(keys)))


def test_namespaces_keep_apart(redis_url, client, store):
    other = RedisStore(redis_url, namespace="other", timeout=PATIENCE)
    other.set("k", Entry("other", 0.0), 60)
    assert store.get("k") is None
    other.close()


def test_what_somebody_else_wrote_there_is_an_error_and_runs_nothing(store, client):
    client.set("test:'k'", b"\x80\x04cos\nsystem\n")
    with pytest.raises(ValueError, match="Expecting value"):
        store.get("k")
    client.set("test:'k'", b"yesterday\n1")
    with pytest.raises(ValueError, match="could not convert"):
        store.get("k")


def test_a_cache_keeps_entries_in_it_in_every_colour(colour, store, clock, script):
    pipeline, fn = Pipeline(CacheFallback(store, key="k", ttl=10), clock=clock), script({"a": 1}, {"a": 2})
    assert [colour.call(pipeline, fn) for _ in range(3)] == [{"a": 1}] * 3
    clock.advance(11)
    assert colour.call(pipeline, fn) == {"a": 2}
    assert fn.calls == 2


@pytest.mark.parametrize("decode", [False, True])
def test_a_client_of_ones_own(colour, redis_url, client, decode):
    with redis.Redis.from_url(redis_url, decode_responses=decode) as own:
        store = RedisStore(own, timeout=PATIENCE)
        pipeline = Pipeline(CacheFallback(store, key="k", ttl=10))
        assert [colour.call(pipeline, lambda: "ü") for _ in range(2)] == ["ü", "ü"]
        store.close()
        assert own.ping()


async def test_an_asyncio_client_is_awaited(redis_url, client, events):
    async with redis.asyncio.Redis.from_url(redis_url) as own:
        store = RedisStore(own, timeout=PATIENCE)
        pipeline = Pipeline(CacheFallback(store, key="k", ttl=10), listeners=[events.append])
        assert [await pipeline.call_async(lambda value=value: value) for value in (1, 2)] == [1, 1]
        with pytest.raises(UsageError, match="asyncio only"):
            pipeline.call(int)
    assert [event.kind for event in events if event.layer == "cache"] == []


def test_an_asyncio_client_does_not_serve_trio(redis_url):
    import trio  # noqa: PLC0415 - one test in trio, whatever its colour

    store = RedisStore(redis.asyncio.Redis.from_url(redis_url), timeout=PATIENCE)
    with pytest.raises(UsageError, match="asyncio only"):
        trio.run(Pipeline(CacheFallback(store, key="k", ttl=10)).call_async, int)


def refused():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"redis://127.0.0.1:{server.getsockname()[1]}/0"


def test_without_redis_it_is_bypassed_reported_and_left_alone(colour, events):
    store = RedisStore(refused(), cooldown=PATIENCE)
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10), listeners=[events.append])
    assert [colour.call(pipeline, lambda: 5) for _ in range(3)] == [5, 5, 5]
    failures = [event.error for event in events if event.layer]
    assert len(failures) == 6
    assert all("Redis was not there" in str(error) for error in failures[1:])
    store.close()


def test_a_redis_that_hangs_costs_one_timeout_and_no_more(colour, silent, events):
    store = RedisStore(silent, timeout=0.05, cooldown=PATIENCE)
    pipeline = Pipeline(CacheFallback(store, key="k", ttl=10), listeners=[events.append])
    began = time.monotonic()
    assert [colour.call(pipeline, lambda: 5) for _ in range(20)] == [5] * 20
    assert time.monotonic() - began < 5
    assert len([event for event in events if event.kind == "cache_failed"]) == 40
    store.close()


async def test_an_asyncio_client_that_hangs_is_bounded_too(silent):
    async with redis.asyncio.Redis.from_url(silent) as own:
        store = RedisStore(own, timeout=0.05, cooldown=PATIENCE)
        pipeline = Pipeline(CacheFallback(store, key="k", ttl=10))
        began = time.monotonic()
        assert [await pipeline.call_async(lambda: 5) for _ in range(5)] == [5] * 5
        assert time.monotonic() - began < 5


async def test_a_client_that_knows_no_time_limit_is_bounded_in_async(silent):
    with redis.Redis.from_url(silent, socket_timeout=2) as own:
        store = RedisStore(own, timeout=0.02, cooldown=0)
        pipeline, began = Pipeline(CacheFallback(store, key="k", ttl=10)), time.monotonic()
        assert await pipeline.call_async(lambda: 5) == 5
        assert time.monotonic() - began < 1.5


def test_after_the_cooldown_it_is_asked_again(redis_url, client, monkeypatch):
    store = RedisStore(redis_url, namespace="test", cooldown=5)
    now = [1000.0]
    monkeypatch.setattr("llm_config_resilience.stores.redis.time.monotonic", lambda: now[0])
    store._note(ConnectionError("gone"))
    with pytest.raises(ConnectionError, match=r"asked again in 5\.0 s: ConnectionError: gone"):
        store.get("k")
    now[0] += 5
    assert store.get("k") is None
    store.close()


def test_an_error_that_says_nothing_of_redis_being_gone_is_no_reason_to_leave_it_alone(store, client):
    client.lpush("test:'k'", "a list")
    with pytest.raises(redis.exceptions.ResponseError):
        store.get("k")
    assert store.get("other") is None


def test_a_cancelled_call_leaves_the_store_as_it_was(redis_url, client, silent):
    async def main():
        async with redis.asyncio.Redis.from_url(silent) as own:
            store = RedisStore(own, timeout=PATIENCE)
            pipeline = Pipeline(CacheFallback(store, key="k", ttl=10))
            task = asyncio.create_task(pipeline.call_async(int))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert store._down_until == 0

    asyncio.run(main())


def test_two_processes_share_it(redis_url, client, store):
    program = """
import sys
from llm_config_resilience import Entry, RedisStore
store = RedisStore(sys.argv[1], namespace="test", timeout=20)
for number in range(60):
    store.set((sys.argv[2], number), Entry(number, float(number)), 60)
    store.set("both", Entry(sys.argv[2], float(number)), 60)
"""
    children = [subprocess.Popen([sys.executable, "-c", program, redis_url, name]) for name in ("a", "b")]
    assert [process.wait(PATIENCE) for process in children] == [0, 0]
    assert all(store.get((name, number)).value == number for name in "ab" for number in range(60))
    assert store.get("both").value in {"a", "b"}


def test_threads_share_it(store):
    def work(name):
        for number in range(20):
            store.set((name, number), Entry(number, 0.0), 60)
            assert store.get((name, number)).value == number
        done.append(name)

    done = []
    store._timeout = PATIENCE
    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8


def test_without_the_extra_all_else_works_and_a_store_says_at_once_what_it_needs():
    program = """
import sys
sys.modules["redis"] = None
from llm_config_resilience import CacheFallback, MemoryStore, Pipeline, RedisStore
assert Pipeline(CacheFallback(MemoryStore(), key="k", ttl=10)).call(lambda: 5) == 5
try:
    RedisStore("redis://x")
except ModuleNotFoundError as error:
    assert "llm-config-sdk[redis]" in str(error)
else:
    raise SystemExit("a store that nothing can be kept in")
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_settings_are_checked_and_a_password_is_not_shown():
    with pytest.raises(ValueError, match="timeout"):
        RedisStore("redis://x", timeout=0)
    with pytest.raises(ValueError, match="cooldown"):
        RedisStore("redis://x", cooldown=-1)
    assert "secret" not in repr(RedisStore("redis://:secret@x"))
