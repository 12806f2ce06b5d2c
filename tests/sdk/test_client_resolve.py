"""Overrides in fair weather and foul: as few requests as can be, and no answer that hides what it is."""

import time

import pytest

from llm_config_mock_server import Match, error, latency
from llm_config_sdk import (
    CachePolicy,
    ConnectFailedError,
    NotFoundError,
    PermissionDeniedError,
    RequestTimeoutError,
    ResiliencePolicy,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
)

NAMESPACE = "app/llm"
NAME = (NAMESPACE, "model")
TTL = CachePolicy(ttl=30)


@pytest.fixture
def connect_for_real(face, server):
    """As `connect`, on real time."""

    def connecting(**options):
        given = {"token": server.token("admin"), "environment": "production", **options}
        return face.client(server.url, **given)

    return connecting


@pytest.fixture
def base(server):
    """An entry that no environment overrides."""
    return server.put(*NAME, "gpt-3", env="base")


# --- How many requests ------------------------------------------------------------------------------


def test_what_was_resolved_lately_needs_no_request(connect, server, clock, base):
    client = connect(cache=TTL)
    first = client.resolve(*NAME)
    assert (first.value, first.source, first.is_stale, first.error) == ("gpt-3", "server", False, None)
    server.journal.assert_count(4)
    again = client.resolve(*NAME)
    assert (again.value, again.source, again.environment) == ("gpt-3", "cache", "base")
    server.journal.assert_count(4)
    clock.advance(31)
    assert client.resolve(*NAME).source == "server"
    server.journal.assert_count(8)


def test_writes_elsewhere_change_nothing(connect, server, base):
    client = connect(cache=TTL)
    client.resolve(*NAME)
    for _ in range(5):
        client.set_config(NAMESPACE, "other", 1)
    asked = len(server.journal)
    client.resolve(*NAME)
    assert len(server.journal) == asked


@pytest.mark.parametrize("face", ["sync"], indirect=True)
def test_sync_asks_for_no_more_than_it_needs(connect, server, base):
    server.put(*NAME, "gpt-4", env="production")
    assert connect().resolve(*NAME).value == "gpt-4"
    server.journal.assert_count(1)


@pytest.mark.parametrize("face", ["asyncio", "trio"], indirect=True)
def test_async_asks_for_all_at_once(connect_for_real, server, base):
    server.script("GET *", latency(0.3), repeat="last")
    began = time.monotonic()
    assert connect_for_real().resolve(*NAME).value == "gpt-3"
    assert connect_for_real().get_fields(NAMESPACE, resolve=True) == {"model": "gpt-3"}
    assert time.monotonic() - began < 1.8, "one after the other would be 2.4 s"


@pytest.mark.parametrize("env", ["production", "staging", "base"])
def test_a_write_to_any_environment_is_seen(connect, server, base, env):
    client = connect(cache=TTL)
    client.resolve(*NAME)
    client.set_config(*NAME, f"written to {env}", env=env)
    assert client.resolve(*NAME).value == f"written to {env}"


def test_an_override_that_was_read_meanwhile_is_seen(connect, server, base):
    client = connect(cache=TTL)
    client.resolve(*NAME)
    server.put(*NAME, "gpt-4", env="staging")
    assert client.get_str(*NAME, env="staging") == "gpt-4"
    assert client.resolve(*NAME).value == "gpt-4"


def test_another_environment_is_resolved_for_itself(connect, server, base):
    server.put(*NAME, "gpt-4", env="production")
    client = connect(cache=TTL)
    assert client.resolve(*NAME).value == "gpt-4"
    assert client.resolve(*NAME, env="staging").value == "gpt-3"
    assert client.resolve(*NAME).value == "gpt-4"


def test_without_a_cache_every_resolution_asks(connect, server, base):
    client = connect(cache=None)
    for _ in range(2):
        assert client.resolve(*NAME).value == "gpt-3"
    server.journal.assert_count(8)


# --- In an outage -----------------------------------------------------------------------------------


def test_an_answer_that_is_known_says_that_it_is_old(connect, server, clock, base):
    client = connect(cache=TTL)
    client.resolve(*NAME)
    server.stop()
    clock.advance(31)
    found = client.resolve(*NAME)
    assert (found.value, found.environment, found.source) == ("gpt-3", "base", "stale")
    assert (found.is_stale, found.error.is_transient) == (True, True)


def test_a_value_that_may_have_been_overridden_says_so_while_it_is_fresh_itself(connect, server, base):
    client = connect(cache=TTL)
    client.get_config(*NAME, env="base")
    server.stop()
    found = client.resolve(*NAME)
    assert (found.value, found.source, found.is_stale) == ("gpt-3", "stale", True)
    assert found.error.environment == "production", "which could not be read"
    assert client.get_config(*NAME, env="base").source == "cache"


@pytest.mark.usefixtures("base")
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
def test_one_line_of_the_log_tells_of_it(connect, server, clock, caplog, known):
    client = connect(cache=TTL)
    if known:
        client.resolve(*NAME)
    server.stop()
    clock.advance(31)
    caplog.clear()
    if known:
        client.resolve(*NAME)
    else:
        with pytest.raises((ConnectFailedError, ServiceCircuitOpenError)) as caught:
            client.resolve(*NAME)
        assert caught.value.environment == "production"
    (line,) = [record for record in caplog.records if record.name == "llm_config_sdk"]
    assert line.levelname == "WARNING"


def test_the_most_specific_value_that_is_known_wins(connect, server, clock, base):
    server.put(*NAME, "gpt-4", env="staging")
    client = connect(cache=TTL)
    client.get_config(*NAME, env="base")
    client.get_config(*NAME, env="staging")
    server.stop()
    clock.advance(31)
    assert client.resolve(*NAME).value == "gpt-4"


def test_an_earlier_run_knows_it_too(connect, server, base, tmp_path):
    first = connect(snapshot=tmp_path / "snapshot.json")
    first.resolve(*NAME)
    first.close()
    server.stop()
    found = connect(snapshot=tmp_path / "snapshot.json").resolve(*NAME)
    assert (found.value, found.source, found.is_stale) == ("gpt-3", "snapshot", True)
    assert found.error.is_transient


def test_what_is_too_old_does_not_stand_in(connect, server, clock, base):
    client = connect(cache=CachePolicy(ttl=30, stale_if_error=60))
    client.resolve(*NAME)
    server.stop()
    clock.advance(91)
    with pytest.raises((ConnectFailedError, ServiceCircuitOpenError)):
        client.resolve(*NAME)


def test_a_server_that_hangs_takes_the_time_of_one_call(connect_for_real, server, base):
    client = connect_for_real(cache=TTL, timeout=0.3)
    client.get_config(*NAME, env="base")
    server.script("GET *", latency(30), repeat="last")
    began = time.monotonic()
    found = client.resolve(*NAME)
    assert (found.value, found.is_stale) == ("gpt-3", True)
    assert isinstance(found.error, RequestTimeoutError)
    assert time.monotonic() - began < 2


def test_a_clients_fallback_is_the_last_resort(connect, server, clock, base):
    client = connect(cache=TTL, fallback={NAME: "gpt-4o-mini"})
    client.resolve(*NAME)
    server.stop()
    clock.advance(31)
    assert client.resolve(*NAME).value == "gpt-3", "a value that is known stands before it"
    other = connect(fallback={NAME: "gpt-4o-mini"}).resolve(*NAME)
    assert (other.value, other.source, other.environment) == ("gpt-4o-mini", "default", "production")
    assert (other.error.is_transient, other.error.environment) == (True, "production")


def test_a_server_that_answers_for_some_is_not_believed_for_the_rest(connect, server, base):
    server.script(Match(method="GET", env="production"), error("SERVICE_UNAVAILABLE"), repeat="last")
    with pytest.raises(ServiceUnavailableError) as caught:
        connect().resolve(*NAME)
    assert caught.value.environment == "production"


def test_nothing_that_is_known_hides_a_denial(connect, server, clock, base):
    client = connect(cache=TTL)
    client.resolve(*NAME)
    clock.advance(31)
    server.script("GET *", error("PERMISSION_DENIED"), repeat="last")
    with pytest.raises(PermissionDeniedError):
        client.resolve(*NAME)


def test_strict_resolution_raises(connect, server, clock, base):
    client = connect(cache=TTL, strict=True)
    client.resolve(*NAME)
    server.stop()
    clock.advance(31)
    with pytest.raises((ConnectFailedError, ServiceCircuitOpenError)):
        client.resolve(*NAME)


def test_what_is_nowhere_is_asked_for_again(connect, server):
    client = connect(cache=TTL)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            client.resolve(*NAME)
    server.journal.assert_count(8)


# --- Whole namespaces -------------------------------------------------------------------------------


@pytest.fixture
def spread(server):
    """A namespace that two of four environments have something of."""
    server.put(NAMESPACE, "model", "gpt-3", env="base")
    server.put(NAMESPACE, "region", "eu", env="base")
    server.put(NAMESPACE, "model", "gpt-4", env="production")


RESOLVED = {"model": "gpt-4", "region": "eu"}


def test_a_namespace_is_recalled_with_its_overrides(connect, server, spread, clock, caplog):
    client = connect(cache=TTL)
    assert client.get_fields(NAMESPACE, resolve=True) == RESOLVED
    server.journal.assert_count(4)
    server.stop()
    clock.advance(31)
    caplog.clear()
    for _ in range(3):
        assert client.get_fields(NAMESPACE, resolve=True) == RESOLVED
    assert [record.levelname for record in caplog.records] == ["WARNING"], "an outage is one line"


def test_an_earlier_run_knows_the_namespace(connect, server, spread, tmp_path):
    first = connect(snapshot=tmp_path / "snapshot.json")
    first.get_fields(NAMESPACE, resolve=True)
    first.close()
    server.stop()
    assert connect(snapshot=tmp_path / "snapshot.json").get_fields(NAMESPACE, resolve=True) == RESOLVED


def test_what_is_too_old_is_not_recalled(connect, server, spread, clock):
    client = connect(cache=CachePolicy(ttl=30, stale_if_error=60))
    client.get_fields(NAMESPACE)
    server.stop()
    clock.advance(91)
    with pytest.raises((ConnectFailedError, ServiceCircuitOpenError)):
        client.get_fields(NAMESPACE)


def test_a_namespace_is_not_put_together_from_a_server_and_from_nothing(connect, server, spread):
    server.script(Match(method="GET", env="production"), error("SERVICE_UNAVAILABLE"), repeat="last")
    with pytest.raises(ServiceUnavailableError):
        connect().get_fields(NAMESPACE, resolve=True)


@pytest.mark.parametrize("face", ["sync"], indirect=True)
def test_an_outage_is_not_asked_about_four_times(connect, server, spread):
    client = connect(resilience=ResiliencePolicy(breaker=None))
    server.script("GET *", error("SERVICE_UNAVAILABLE"), repeat="last")
    for read in (client.resolve, lambda *_: client.get_fields(NAMESPACE, resolve=True)):
        server.journal.clear()
        with pytest.raises(ServiceUnavailableError):
            read(*NAME)
        server.journal.assert_count(3)


def test_the_clients_fallback_fills_in(connect, server, spread, clock):
    client = connect(cache=TTL, fallback={NAME: "gpt-4o-mini", (NAMESPACE, "style"): "plain"})
    assert client.get_fields(NAMESPACE, resolve=True) == RESOLVED, "as long as a server answers it does not"
    server.stop()
    clock.advance(31)
    assert client.get_fields(NAMESPACE, resolve=True) == {**RESOLVED, "style": "plain"}
    assert connect(fallback={NAME: "gpt-4o-mini"}).get_fields(NAMESPACE) == {"model": "gpt-4o-mini"}


def test_a_namespace_that_is_denied_is_not_recalled(connect, server, spread, clock):
    client = connect(cache=TTL)
    client.get_fields(NAMESPACE)
    server.script("GET *", error("PERMISSION_DENIED"), repeat="last")
    with pytest.raises(PermissionDeniedError):
        client.get_fields(NAMESPACE)
