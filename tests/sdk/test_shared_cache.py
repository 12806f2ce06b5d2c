"""Clients that share cache and circuits through a real Redis, and what becomes of them without it."""

from __future__ import annotations

import gc
import logging
import socket
import sys
import threading
import time
from functools import partial

import pytest
import redis
from cryptography.fernet import Fernet

from llm_config_mock_server import error
from llm_config_sdk import (
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    InvalidRequestError,
    NotFoundError,
    ResiliencePolicy,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
)
from redis_server import RedisServer

PATIENCE = 30.0  # seconds: far beyond what Redis on loopback needs
CANARY = "canary-sk-4711"
NAME = ("app/llm", "model")
KEY = (*NAME, "production")


@pytest.fixture
def raw(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        yield client


@pytest.fixture
def share(connect, redis_url, raw, monkeypatch):
    """Makes a client that shares through Redis, and hears of what the others write."""
    monkeypatch.setattr("llm_config_sdk.shared._TIMEOUT", PATIENCE)  # the machine may be busy

    def make(cache=redis_url, **options):
        client = connect(cache=cache, **options)
        assert shared(client).listening.wait(PATIENCE)
        return client

    return make


@pytest.fixture
def put(server):
    return partial(server.put, *NAME, env="production")


@pytest.fixture
def own_redis(tmp_path):
    """A Redis that the test may end."""
    with RedisServer(tmp_path) as server:
        yield server


def cache_of(client):
    return client._core.cache


def shared(client):
    return cache_of(client).shared


def listener(client):
    threads = [thread for thread in threading.enumerate() if thread.name == "llm-config-shared"]
    return threads[-1]


def when(target, method):
    """Tell when a method has been called."""
    called = threading.Event()
    real = getattr(target, method)

    def call(*args):
        result = real(*args)
        called.set()
        return result

    setattr(target, method, call)
    return called


def everything(raw):
    """Every key and value in Redis."""
    values = {key: raw.get(key) for key in raw.scan_iter()}
    return b"\n".join(part for pair in values.items() for part in pair)


@pytest.fixture
def elsewhere(face, server, backup, redis_url, clock):
    """A client of another server on the same Redis."""
    options = {"token": server.token("admin"), "environment": "production", "clock": clock}
    return face.client(backup.url, cache=redis_url, **options)


# --- Sharing ---


def test_what_one_client_has_read_costs_the_next_one_no_request(share, put, server):
    put("gpt-4")
    mine, other = share(), share()
    assert mine.get_config(*NAME).source == "server"
    found = other.get_config(*NAME)
    assert (found.value, found.source, found.attempts, found.endpoint) == ("gpt-4", "cache", 0, server.url)
    assert len(server.journal) == 1
    assert other.get_config(*NAME).source == "cache"
    assert found == mine.get_config(*NAME)


def test_sync_and_async_clients_share(share, put, server, redis_url, clock):
    put("gpt-4")
    share().get_config(*NAME)
    options = {"token": server.token("admin"), "environment": "production", "clock": clock}
    with ConfigClient(server.url, cache=redis_url, **options) as plain:
        assert plain.get_config(*NAME).source == "cache"
    assert len(server.journal) == 1


def test_clients_of_another_server_share_nothing(share, put, backup, elsewhere):
    put("gpt-4")
    backup.put(*NAME, "gpt-4o", env="production")
    share().get_config(*NAME)
    assert elsewhere.get_config(*NAME).value == "gpt-4o"


def test_an_entry_keeps_its_age_on_the_way(share, put, server, clock):
    put("gpt-4")
    mine, other = share(), share()
    mine.get_config(*NAME)
    clock.advance(20)
    assert other.get_config(*NAME).age == pytest.approx(20)
    assert other.get_config(*NAME).source == "cache"
    clock.advance(15)  # 35 s since a server sent it, 15 s since this client has it
    assert other.get_config(*NAME).source == "server"
    assert len(server.journal) == 2


def test_what_comes_from_redis_is_asked_for_again_by_its_tag(share, put, server, clock):
    put("gpt-4")
    mine, other = share(), share()
    mine.get_config(*NAME)
    assert other.get_config(*NAME).source == "cache"
    clock.advance(31)
    renewed = other.get_config(*NAME)
    assert (renewed.value, renewed.source, renewed.age) == ("gpt-4", "server", 0)
    assert [entry.status for entry in server.journal] == [200, 304]
    assert mine.get_config(*NAME).source == "cache", "and the answer renews it for all"
    assert len(server.journal) == 2


def test_a_process_that_begins_with_an_old_entry_in_redis_asks_by_its_tag(share, put, server, clock):
    put("gpt-4")
    share().get_config(*NAME)
    clock.advance(60)
    begun = share()
    assert begun.get_config(*NAME).source == "server"
    put("gpt-5")
    clock.advance(60)
    assert begun.get_config(*NAME).value == "gpt-5"
    assert [entry.status for entry in server.journal] == [200, 304, 200]


def test_a_tag_in_redis_that_is_none_is_not_sent(share, put, server, raw, clock):
    put("gpt-4")
    share().get_config(*NAME)
    (name,) = raw.scan_iter("*entry*")
    kept = raw.get(name)
    clock.advance(60)
    for rubbish in (b"null", b"7", b'"no tag"', b'"\\"a\\"\\r\\nX-Role: admin"'):
        head, _, _ = kept.rpartition(b'"validator":')
        raw.set(name, head + b'"validator":' + rubbish + b"}")
        assert share().get_config(*NAME).value == "gpt-4"
        assert server.journal[-1].request.header("if-none-match") is None
        assert server.journal[-1].request.header("x-role") is None


def test_an_outage_is_bridged_by_what_another_client_has_read(share, put, server, clock):
    put("gpt-4")
    share().get_config(*NAME)
    clock.advance(60)
    server.stop()
    found = share().get_config(*NAME)
    assert (found.value, found.source, found.is_stale) == ("gpt-4", "stale", True)
    assert found.error is not None
    assert found.age >= 60


def test_what_cannot_be_read_in_redis_is_not_there(share, put, raw):
    put("gpt-4")
    share().get_config(*NAME)
    (name,) = raw.scan_iter("*entry*")
    for rubbish in (
        b"\xff",
        b"1.0\nnull",
        b"1.0\n{}",
        b'1.0\n{"entry": {}, "fetched_at": 1, "endpoint": null}',
    ):
        raw.set(name, rubbish)
        assert share().get_config(*NAME).value == "gpt-4"


def test_an_entry_under_another_name_is_not_there(share, put, server, raw):
    put("gpt-4")
    server.put("app/llm", "other", "x", env="production")
    share().get_config(*NAME)
    (name,) = raw.scan_iter("*entry*")
    raw.set(name.replace(b"model", b"other"), raw.get(name))
    assert share().get_config("app/llm", "other").value == "x"


# --- Writes ---


@pytest.mark.parametrize("write", ["set", "delete"])
def test_the_others_forget_what_a_client_writes(share, put, raw, write):
    put("gpt-4")
    mine, other = share(), share()
    mine.get_config(*NAME)
    other.get_config(*NAME)
    dropped = when(cache_of(other), "delete")
    if write == "set":
        mine.set_config(*NAME, "gpt-5")
    else:
        mine.delete_config(*NAME)
    assert list(raw.scan_iter("*entry*")) == []
    assert dropped.wait(PATIENCE)
    assert other.get_config(*NAME, default=None).value == ("gpt-5" if write == "set" else None)


def test_a_read_that_a_write_overtook_is_kept_nowhere(share, put, raw):
    put("gpt-4")
    client = share()
    put_back = when(shared(client), "set")
    real = client.client._transport.send

    def write_first(*args):
        cache_of(client).delete(KEY)  # as the word of another client does, while the answer is on its way
        return real(*args)

    client.client._transport.send = write_first
    assert client.get_config(*NAME).value == "gpt-4"
    assert put_back.is_set()
    assert list(raw.scan_iter("*entry*")) == []
    assert len(cache_of(client)) == 0


def test_a_write_that_redis_did_not_hear_of_is_told_later(share, put, raw):
    put("gpt-4")
    mine, other = share(), share()
    mine.get_config(*NAME)
    other.get_config(*NAME)
    real, dropped = shared(mine)._client.publish, when(cache_of(other), "delete")

    def fail_once(*args):
        shared(mine)._client.publish = real
        raise redis.ConnectionError("gone")

    shared(mine)._client.publish = fail_once
    mine.set_config(*NAME, "gpt-5")
    assert mine.get_config(*NAME).value == "gpt-5"
    assert dropped.wait(PATIENCE)
    assert other.get_config(*NAME).value == "gpt-5"


def test_an_entry_that_a_server_says_is_gone_leaves_redis_too(share, put, server, raw, clock):
    put("gpt-4")
    client = share()
    client.get_config(*NAME)
    told = when(shared(client), "_publish")
    server.script("GET *", error("NOT_FOUND", status=404))
    with pytest.raises(NotFoundError):
        client.get_config(*NAME, fresh=True)
    assert told.wait(PATIENCE)
    assert list(raw.scan_iter("*entry*")) == []


def test_a_strange_message_drops_every_entry(share, put, raw):
    put("gpt-4")
    client = share()
    client.get_config(*NAME)
    for rubbish in (b"\xff", b"[]", b'{"key": 1, "by": ""}'):
        cleared = when(cache_of(client), "clear")
        raw.publish(shared(client)._channel, rubbish)
        assert cleared.wait(PATIENCE)
    assert len(cache_of(client)) == 0


# --- Secrets ---


def test_secrets_do_not_go_to_redis(share, raw, server):
    client = share()
    client.set_config("app/llm", "api_key", CANARY, secret=True)
    assert client.get_config("app/llm", "api_key").value.get_secret_value() == CANARY
    client.set_config("app/llm", "plain", "visible")
    client.get_config("app/llm", "plain")
    assert b"visible" in everything(raw)
    assert CANARY.encode() not in everything(raw)


def test_secrets_go_to_redis_under_a_key(share, raw, server, redis_url):
    policy = CachePolicy(redis=redis_url, encryption_key=Fernet.generate_key())
    client = share(policy)
    client.set_config("app/llm", "api_key", CANARY, secret=True)
    client.get_config("app/llm", "api_key")
    asked = len(server.journal)
    found = share(policy).get_config("app/llm", "api_key")
    assert found.secret
    assert found.value.get_secret_value() == CANARY
    assert len(server.journal) == asked
    assert b"api_key" in everything(raw)
    assert CANARY.encode() not in everything(raw)
    stranger = share(CachePolicy(redis=redis_url, encryption_key=Fernet.generate_key()))
    assert stranger.get_config("app/llm", "api_key").value.get_secret_value() == CANARY
    assert len(server.journal) == asked + 1


# --- Without Redis ---


def reports(caplog):
    return [r for r in caplog.records if r.name == "llm_config_sdk.shared" and r.levelno >= logging.WARNING]


def test_reads_and_writes_go_on_without_redis_and_with_it_again(share, put, server, own_redis, caplog):
    put("gpt-4")
    options = {"cache": own_redis.url, "resilience": ResiliencePolicy(breaker=None)}
    mine, other = share(**options), share(**options)
    mine.get_config(*NAME)
    other.close()
    gone = when(shared(mine), "lost")
    own_redis.stop()
    assert gone.wait(PATIENCE)
    assert mine.get_config(*NAME).source == "cache"
    for number in range(5):
        server.put("app/llm", f"key-{number}", number, env="production")
        assert mine.get_config("app/llm", f"key-{number}").value == number
    mine.set_config(*NAME, "gpt-5")
    assert mine.get_config(*NAME).value == "gpt-5"
    assert [record.levelname for record in reports(caplog)] == ["ERROR"]
    asked = len(server.journal)

    assert own_redis.start()
    assert shared(mine).listening.wait(PATIENCE)
    assert mine.get_config(*NAME).source == "server"  # it may have missed a write, and forgot everything
    assert share(**options).get_config(*NAME).source == "cache"
    assert len(server.journal) == asked + 1
    assert len(reports(caplog)) == 1


def test_a_client_starts_without_redis(connect, put, own_redis, caplog):
    put("gpt-4")
    own_redis.stop()
    client = connect(cache=own_redis.url, resilience=ResiliencePolicy(breaker=None))
    assert client.get_config(*NAME).source == "server"
    assert client.get_config(*NAME).source == "cache"
    assert len(reports(caplog)) == 1


def test_a_redis_that_never_answers_holds_up_one_read_at_most(connect, put, server):
    put("gpt-4")
    server.put("app/llm", "next", 1, env="production")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = connect(
            cache=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", resilience=ResiliencePolicy(breaker=None)
        )
        began = time.monotonic()
        assert client.get_config(*NAME).source == "server"
        assert client.get_config("app/llm", "next").source == "server"
        assert time.monotonic() - began < 5  # without a limit it would hang


# --- Circuits ---


def test_a_circuit_that_one_client_opens_is_open_for_the_others(share, put, server):
    put("gpt-4")
    policy = ResiliencePolicy(retry=None, breaker=BreakerPolicy(failure_threshold=2))
    mine, other = share(resilience=policy), share(resilience=policy)
    for client in (mine, other):
        assert client.get_config(*NAME, fresh=True).value == "gpt-4"
        refresh(client)
    server.script("GET *", [error("SERVICE_UNAVAILABLE")] * 2)
    for _ in range(2):
        with pytest.raises(ServiceUnavailableError):
            mine.get_config(*NAME, fresh=True)
    refresh(mine)
    refresh(other)
    asked = len(server.journal)
    with pytest.raises(ServiceCircuitOpenError):
        other.get_config(*NAME, fresh=True)
    assert len(server.journal) == asked
    assert other.endpoints[0].circuit == "open"


def refresh(client):
    for breaker in client._core.stack.breakers.strategies.values():
        breaker.refresh()


# --- Beginning and ending ---


def test_the_listener_ends_with_its_client(share):
    client = share()
    thread = listener(client)
    assert thread.daemon
    client.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_the_listener_of_a_client_that_was_forgotten_ends(raw, redis_url, server):
    client = ConfigClient(server.url, token="x", cache=redis_url)
    assert shared(client).listening.wait(PATIENCE)
    thread = listener(client)
    client._transport.close()
    del client
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_a_forked_child_listens_for_itself_and_trusts_nothing(share, put, server):
    put("gpt-4")
    client = share()
    client.get_config(*NAME)
    stopped = shared(client)._stopped
    shared(client).renew()  # what happens in the child of a fork
    stopped.set()  # a child has none of its parent's threads
    assert len(cache_of(client)) == 0
    assert not shared(client).listening.is_set()
    assert client.get_config(*NAME).source == "cache"
    assert shared(client).listening.wait(PATIENCE)
    assert len(server.journal) == 1


def test_the_extra_is_named_where_it_is_missing(connect, monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(InvalidRequestError, match=r"llm-config-sdk\[redis\]"):
        connect(cache="redis://127.0.0.1/0")


@pytest.mark.parametrize("url", ["", "memcached://127.0.0.1", "redis"])
def test_what_is_no_url_of_a_redis_is_refused(connect, url):
    with pytest.raises(InvalidRequestError, match="URL of a Redis"):
        connect(cache=url)


def test_a_password_is_not_shown(redis_url):
    policy = CachePolicy(redis="redis://:hunter2@127.0.0.1/0", encryption_key=b"hunter2")
    assert "hunter2" not in repr(policy)


def test_a_copy_shares_what_its_client_shares_or_nothing(share, put, server, redis_url):
    put("gpt-4")
    client = share()
    client.with_options(timeout=5.0).get_config(*NAME)
    assert client.get_config(*NAME).source == "cache"
    apart = client.with_options(cache=CachePolicy(ttl=5.0))
    assert apart.get_config(*NAME).source == "server"
    with pytest.raises(InvalidRequestError, match="constructor"):
        client.with_options(cache=CachePolicy(redis=redis_url))
