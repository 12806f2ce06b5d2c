"""Cached reads as a caller sees them: what is served from where, and what a write does to it."""

import threading

import pytest

from llm_config_mock_server import error, html, latency
from llm_config_sdk import CachePolicy, LLMConfigError, ResponseDecodeError

GET = "GET /api/*"


@pytest.fixture(autouse=True)
def entry(server):
    return server.put("app", "n", "first", env="production")


def test_a_second_read_makes_no_request_and_says_that_it_is_cached(connect_any, server):
    client = connect_any()
    first, second = client.get_config("app", "n"), client.get_config("app", "n", env="prod")
    assert first == second
    assert (first.source, first.attempts) == ("server", 1)
    assert (second.source, second.attempts, second.endpoint) == ("cache", 0, server.url)
    server.journal.assert_count(1)


def test_an_entry_is_asked_for_again_after_its_time(connect, server, clock):
    client = connect(cache=CachePolicy(ttl=30))
    client.get_config("app", "n")
    clock.advance(29.9)
    assert client.get_config("app", "n").source == "cache"
    clock.advance(0.1)
    assert client.get_config("app", "n").source == "server"
    server.journal.assert_count(2)


def test_environments_are_cached_apart(connect, server):
    server.put("app", "n", "in staging", env="staging")
    client = connect()
    assert client.get_str("app", "n") == "first"
    assert client.get_str("app", "n", env="staging") == "in staging"
    assert client.get_str("app", "n", env="STAGING") == "in staging"
    server.journal.assert_count(2)


def test_a_fresh_read_asks_and_what_it_learns_is_kept(connect, server):
    client = connect()
    client.get_config("app", "n")
    server.put("app", "n", "second", env="production")
    assert client.get_str("app", "n") == "first"
    assert client.get_config("app", "n", fresh=True).value == "second"
    assert client.get_config("app", "n").source == "cache"
    assert client.get_str("app", "n") == "second"
    server.journal.assert_count(2)


def test_without_a_cache_every_read_asks(connect_any, server):
    client = connect_any(cache=None)
    client.get_config("app", "n")
    assert client.get_config("app", "n").source == "server"
    server.journal.assert_count(2)


@pytest.mark.parametrize(
    "write",
    [
        lambda client: client.set_config("app", "n", "second"),
        lambda client: client.delete_config("app", "n"),
        lambda client: client.rollback("app", "n", 1),
    ],
    ids=["set", "delete", "rollback"],
)
@pytest.mark.parametrize("outcome", ["succeeds", "fails"])
def test_a_write_makes_its_entry_be_asked_for_again_however_it_ends(connect, server, write, outcome):
    client = connect()
    client.get_config("app", "n")
    if outcome == "fails":
        step = error("INTERNAL_ERROR", retriable=False).after_effect()
        server.script("POST /api/*", step)
        server.script("DELETE /api/*", step)
        with pytest.raises(LLMConfigError):
            write(client)
    else:
        write(client)
    server.journal.clear()
    client.get_config("app", "n", default="gone")
    server.journal.assert_count(1)


def test_a_read_that_a_write_overtook_is_not_kept(connect, server):
    client = connect()
    server.script(GET, latency(after=0.2))
    seen = []
    reader = threading.Thread(target=lambda: seen.append(client.get_str("app", "n")))
    reader.start()
    server.journal.wait_for(1, method="GET")
    client.set_config("app", "n", "second")
    reader.join()
    assert seen == ["first"], "it was read before the write"
    assert client.get_str("app", "n") == "second", "and is served to nobody after it"


def test_an_outage_is_bridged_by_a_stale_entry_that_says_so(connect_any, server, clock, caplog):
    client = connect_any(cache=CachePolicy(ttl=10, stale_if_error=100))
    fresh = client.get_config("app", "n")
    server.stop()
    clock.advance(11)
    stale = client.get_config("app", "n")
    assert stale == fresh
    assert (stale.source, stale.is_stale, stale.attempts) == ("stale", True, 3)
    assert stale.error.operation == "get_config"
    assert stale.error.is_transient
    assert "serving a stale value" in caplog.text
    assert client.get_str("app", "n") == "first"


def test_a_stale_entry_does_not_stand_in_for_ever(connect, server, clock):
    client = connect(cache=CachePolicy(ttl=10, stale_if_error=100))
    client.get_config("app", "n")
    server.stop()
    clock.advance(111)
    with pytest.raises(LLMConfigError):
        client.get_config("app", "n")


def test_a_stale_entry_stands_before_a_fallback(connect, server, clock):
    client = connect(cache=CachePolicy(ttl=10))
    client.get_config("app", "n")
    server.stop()
    clock.advance(11)
    assert client.get_str("app", "n", fallback="worse") == "first"


def test_a_fresh_read_takes_no_stale_entry(connect, server):
    client = connect()
    client.get_config("app", "n")
    server.stop()
    with pytest.raises(LLMConfigError):
        client.get_config("app", "n", fresh=True)


@pytest.mark.parametrize(
    "code", ["UNAUTHORIZED", "PERMISSION_DENIED", "NOT_FOUND", "VALIDATION_ERROR", "DECRYPTION_ERROR"]
)
def test_an_answer_is_never_hidden_by_a_stale_entry(connect, server, clock, code):
    client = connect(cache=CachePolicy(ttl=10))
    client.get_config("app", "n")
    clock.advance(11)
    server.script(GET, error(code), repeat="last")
    with pytest.raises(LLMConfigError, match=code):
        client.get_config("app", "n")


def test_an_answer_that_cannot_be_read_is_bridged_like_an_outage(connect, server, clock):
    client = connect(cache=CachePolicy(ttl=10))
    client.get_config("app", "n")
    clock.advance(11)
    server.script(GET, html(200), repeat="last")
    assert isinstance(client.get_config("app", "n").error, ResponseDecodeError)


def test_an_entry_is_renewed_in_the_background_while_it_is_served(connect, server, clock):
    client = connect(cache=CachePolicy(ttl=10, stale_while_revalidate=20))
    client.get_config("app", "n")
    server.put("app", "n", "second", env="production")
    clock.advance(11)
    served = client.get_config("app", "n")
    assert (served.value, served.source, served.error) == ("first", "stale", None)
    server.journal.wait_for(2, status=200)
    stack = client.client._core.stack.cached_reads
    assert stack.drain(5.0)
    assert client.get_config("app", "n").value == "second"
    server.journal.assert_count(2)
