"""Strict mode: an outage is an error, whatever is known from before."""

import pytest

from llm_config_sdk import (
    CachePolicy,
    ConnectFailedError,
    InvalidRequestError,
    NotFoundError,
    ResiliencePolicy,
)

NAME = ("app/llm", "model")


@pytest.fixture
def known(connect, server, tmp_path):
    """What an earlier run has left on disk; the server is down by now."""
    server.put(*NAME, "gpt-4", env="production")
    path = tmp_path / "snapshot.json"
    earlier = connect(snapshot=path)
    earlier.get_config(*NAME)
    earlier.close()
    server.stop()
    return path


def test_a_dead_server_at_start_up_is_an_error(connect, known):
    assert connect(snapshot=known).get_str(*NAME) == "gpt-4"
    client = connect(snapshot=known, strict=True)
    with pytest.raises(ConnectFailedError):
        client.get_str(*NAME)


def test_a_shipped_file_does_not_help_either(connect, known):
    with pytest.raises(ConnectFailedError):
        connect(bootstrap=known, strict=True).get_str(*NAME)


def test_nothing_that_is_stale_stands_in(connect, server, clock):
    server.put(*NAME, "gpt-4", env="production")
    policy = CachePolicy(ttl=10, stale_while_revalidate=100, stale_if_slow=0)
    once = ResiliencePolicy(retry=None, breaker=None)
    client = connect(cache=policy, strict=True, fallback={NAME: "gpt-4o-mini"}, resilience=once)
    client.get_config(*NAME)
    server.stop()
    clock.advance(9)
    assert client.get_config(*NAME).source == "cache", "a fresh entry needs no server"
    clock.advance(2)
    for copy in (client, client.with_options(timeout=5), client.with_options(cache=policy)):
        with pytest.raises(ConnectFailedError):
            copy.get_config(*NAME)
    assert client.get_str(*NAME, fallback="this call's own") == "this call's own"


def test_what_is_read_is_kept_for_others(connect, server, tmp_path):
    server.put(*NAME, "gpt-4", env="production")
    strict = connect(snapshot=tmp_path / "snapshot.json", strict=True)
    assert strict.get_str(*NAME) == "gpt-4"
    strict.close()
    server.stop()
    assert connect(snapshot=tmp_path / "snapshot.json").get_str(*NAME) == "gpt-4"


def test_a_namespace_is_not_recalled(connect, known):
    with pytest.raises(ConnectFailedError):
        connect(snapshot=known, strict=True).get_fields(NAME[0])


def test_what_is_absent_has_its_default(connect, server):
    client = connect(strict=True)
    assert client.get_str(*NAME, default="gpt-4") == "gpt-4"
    with pytest.raises(NotFoundError):
        client.get_str(*NAME)


def test_the_environment_may_ask_for_it(connect, known, monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_STRICT", "true")
    with pytest.raises(ConnectFailedError):
        connect(snapshot=known).get_str(*NAME)
    assert connect(snapshot=known, strict=False).get_str(*NAME) == "gpt-4"
    monkeypatch.setenv("LLM_CONFIG_STRICT", "perhaps")
    with pytest.raises(InvalidRequestError, match="LLM_CONFIG_STRICT"):
        connect()
