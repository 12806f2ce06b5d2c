"""What makes a client worth keeping: watching, binding, last known good, many at once."""

import gc
import queue
import threading
import tracemalloc
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings

from client_faces import SteppingClock
from llm_config_mock_server import error, latency
from llm_config_resilience import SingleFlight
from llm_config_sdk import (
    CachePolicy,
    ConfigClient,
    ConnectFailedError,
    InvalidNamespaceError,
    InvalidRequestError,
    InvalidValueError,
    NotFoundError,
    RateLimitExceededError,
    ResiliencePolicy,
    UnauthorizedError,
)
from llm_config_sdk.binding import LLMConfigSettingsSource
from llm_config_sdk.cache import FirstLook
from sdk.profiles import BEHIND_TLS

NAMESPACE = "app/llm"


def as_admin(server):
    """A client of its own, of no particular face."""
    return ConfigClient(server.url, token=server.token("admin"), environment="production", headers=BEHIND_TLS)


class PollingClock(SteppingClock):
    """Time that moves on by itself while somebody waits for a gate."""

    def wait(self, gate, seconds):
        self.advance(0 if gate.is_open else seconds)
        return gate.is_open

    async def wait_async(self, gate, seconds):
        await anyio.lowlevel.checkpoint()
        return self.wait(gate, seconds)


@pytest.fixture
def clock():
    return PollingClock()


@pytest.fixture
def put(server):
    return partial(server.put, NAMESPACE, env="production")


@pytest.fixture
def follow(face):
    """Ask a watch for its next change."""

    def following(watch):
        return lambda: face.run(lambda: next(watch), lambda: anext(watch))

    return following


# --- Watching -------------------------------------------------------------------------------------


def test_a_watched_namespace_tells_what_is_created_updated_and_deleted(connect, put, follow):
    put("a", 1)
    client = connect()
    writer = client.with_options()
    change = follow(client.watch(NAMESPACE, interval=5.0))
    told = []

    def between_polls(act):
        act()
        told.append(change())

    # The first poll is the base line: it happens within the first wait for a change.
    client.client._core.clock.wait = _once(client.client._core.clock.wait, lambda: put("b", 2))
    client.client._core.clock.wait_async = _once_async(
        client.client._core.clock.wait_async, lambda: put("b", 2)
    )
    told.append(change())
    between_polls(lambda: put("a", 3))
    between_polls(lambda: writer.delete_config(NAMESPACE, "b"))
    assert [
        (each.kind, each.key, each.old and each.old.value, each.new and each.new.value) for each in told
    ] == [
        ("created", "b", None, 2),
        ("updated", "a", 1, 3),
        ("deleted", "b", 2, None),
    ]


def _once(wait, act):
    acts = [act]

    def waiting(gate, seconds):
        if acts:
            acts.pop()()
        return wait(gate, seconds)

    return waiting


def _once_async(wait, act):
    acts = [act]

    async def waiting(gate, seconds):
        if acts:
            acts.pop()()
        return await wait(gate, seconds)

    return waiting


def test_a_watched_entry_survives_an_outage_and_says_so(connect, server, put, follow, caplog):
    put("model", "gpt-4")
    client = connect(resilience=ResiliencePolicy(retry=None, breaker=None))
    change = follow(client.watch(NAMESPACE, "model", interval=5.0))
    clock = client.client._core.clock
    clock.wait = _once(clock.wait, server.stop)
    clock.wait_async = _once_async(clock.wait_async, server.stop)
    outage = change()
    server.start()
    put("model", "gpt-5")
    recovered, updated = change(), change()
    assert (outage.kind, recovered.kind, updated.kind) == ("unavailable", "recovered", "updated")
    assert outage.error.is_transient
    assert (updated.old.value, updated.new.value) == ("gpt-4", "gpt-5")
    assert not caplog.records, "the watcher tells of the outage itself, once"


def test_a_watch_of_what_may_not_be_read_raises(connect, server, follow):
    client = connect(token="nobody's")
    with pytest.raises(UnauthorizedError):
        follow(client.watch(NAMESPACE))()


def test_a_watch_of_a_bad_name_is_refused_at_once(connect):
    with pytest.raises(InvalidNamespaceError):
        connect().watch("a b")


def test_closing_the_client_ends_a_watch_that_waits(server, put):
    put("model", "gpt-4")
    client = as_admin(server)
    changes = client.watch(NAMESPACE, interval=3600.0)
    ended = threading.Thread(target=lambda: list(changes))
    ended.start()
    server.journal.wait_for(1)
    client.close()
    ended.join(30)
    assert not ended.is_alive()


def test_closing_the_client_ends_a_watch_of_a_copy(server):
    client = as_admin(server)
    changes = client.with_options(timeout=1).watch(NAMESPACE, interval=3600.0)
    client.close()
    assert list(changes) == []


def test_a_client_keeps_nothing_of_copies_and_watches_that_are_gone(connect):
    client = connect()

    def come_and_go(times):
        for _ in range(times):
            client.with_options(timeout=1)
            client.watch(NAMESPACE).close()
        gc.collect()

    come_and_go(100)
    tracemalloc.start()
    try:
        come_and_go(1_000)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 50_000  # bytes; with 100 for each it would be twice that, and more


def test_a_watch_tells_what_is_there_at_first_where_it_is_asked_to(connect, put, follow):
    put("model", "gpt-4")
    change = follow(connect().watch(NAMESPACE, interval=0.01, initial=True))
    first = change()
    assert (first.kind, first.key, first.old, first.new.value) == ("created", "model", None, "gpt-4")
    put("model", "gpt-5")
    then = change()
    assert (then.kind, then.new.value) == ("updated", "gpt-5")


def test_a_callback_is_told_in_the_background_and_may_fail(server, put, caplog):
    put("model", "gpt-4")
    heard = queue.Queue()

    def callback(change):
        heard.put((change.kind, change.new.value))
        raise RuntimeError("the application's own trouble")

    with as_admin(server) as client:
        client.on_change(callback, NAMESPACE, "model", interval=0.01)
        server.journal.wait_for(2)  # then the first look is over
        put("model", "gpt-5")
        assert heard.get(timeout=30) == ("updated", "gpt-5")
        put("model", "gpt-6")
        assert heard.get(timeout=30) == ("updated", "gpt-6")
    assert "a callback failed" in caplog.text


def test_a_watch_in_the_background_that_may_not_read_is_logged_and_ends(face, server, put, caplog):
    put("model", "gpt-4")
    client = face.client(server.url, token=server.token("admin"), environment="production")
    server.script("GET *", error("PERMISSION_DENIED"), times=2)
    for number in (1, 2):  # what one of them took is there for the next
        face.run(
            lambda: client.client.on_change(print, NAMESPACE, "model", interval=0.01),
            lambda: _begin(client.client),
        )
        server.journal.wait_for(number)
        face.run(lambda: client.client._core.watchers.drain(30), client.client._core.watchers.drain_async)
    told = [record for record in caplog.records if "work in the background ended" in record.message]
    assert len(told) == 2
    assert "PermissionDeniedError" in told[0].message
    assert client.get_str(NAMESPACE, "model") == "gpt-4"


async def _begin(client):
    client.on_change(print, NAMESPACE, "model", interval=0.01)


# --- Binding --------------------------------------------------------------------------------------


class Limits(BaseModel):
    per_minute: int
    burst: int = 10


class Settings(BaseModel):
    model: str
    api_key: SecretStr
    limits: Limits


@pytest.fixture
def namespace(put):
    put("model", "gpt-4")
    put("api-key", "s3cr3t-canary", secret=True)
    put("limits.per-minute", 60)


def test_a_namespace_becomes_a_model_with_one_request(connect, server, namespace):
    bound = connect().bind(Settings, NAMESPACE)
    assert (bound.model, bound.limits) == ("gpt-4", Limits(per_minute=60))
    assert bound.api_key == SecretStr("s3cr3t-canary")
    server.journal.assert_count(1)


def test_a_secret_goes_to_a_field_that_asks_for_plain_text(connect, namespace):
    class Plain(BaseModel):
        api_key: str

    assert connect().bind(Plain, NAMESPACE).api_key == "s3cr3t-canary"


def test_a_model_that_does_not_fit_is_told_by_keys_and_never_by_values(connect, put, namespace):
    put("limits.per-minute", "s3cr3t-looking")
    with pytest.raises(
        InvalidValueError, match=r"limits\.per_minute: Input should be a valid integer"
    ) as caught:
        connect().bind(Settings, NAMESPACE)
    assert "s3cr3t" not in f"{caught.value}{caught.value!r}{caught.value.details}"
    assert caught.value.details["fields"] == ["limits.per_minute"]


def test_a_key_that_is_a_value_and_a_group_is_refused(connect, put, namespace):
    put("limits", 5)
    with pytest.raises(InvalidValueError, match="both a value and a group"):
        connect().bind(Settings, NAMESPACE)


def test_overrides_apply_where_asked(connect, server, put):
    server.put(NAMESPACE, "model", "gpt-3", env="base")
    server.put(NAMESPACE, "temperature", 0.5, env="staging")
    put("model", "gpt-4")
    client = connect()
    assert client.get_fields(NAMESPACE) == {"model": "gpt-4"}
    assert client.get_fields(NAMESPACE, resolve=True) == {"model": "gpt-4", "temperature": 0.5}


def test_settings_read_from_the_platform_with_the_environment_on_top(server, namespace, monkeypatch):
    client = as_admin(server)

    class AppSettings(BaseSettings):
        model: str
        api_key: SecretStr
        region: str = "eu"

        @classmethod
        def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **others):
            return init_settings, env_settings, LLMConfigSettingsSource(settings_cls, client, NAMESPACE)

    assert AppSettings().model == "gpt-4"
    monkeypatch.setenv("MODEL", "from-the-environment")
    settings = AppSettings()
    assert (settings.model, settings.region) == ("from-the-environment", "eu")
    assert settings.api_key.get_secret_value() == "s3cr3t-canary"
    client.close()


# --- Last known good ------------------------------------------------------------------------------


def test_an_application_starts_while_every_server_is_down(connect, server, put, tmp_path, caplog):
    put("model", "gpt-4")
    put("temperature", 0.5)
    first = connect(snapshot=tmp_path / "snapshot.json")
    assert first.get_str(NAMESPACE, "model") == "gpt-4"
    assert first.prefetch(NAMESPACE) == 2
    first.close()
    server.stop()
    caplog.clear()

    again = connect(snapshot=tmp_path / "snapshot.json")
    found = again.get_config(NAMESPACE, "model")
    assert (found.value, found.source, found.is_stale) == ("gpt-4", "snapshot", True)
    assert again.get_float(NAMESPACE, "temperature") == 0.5
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "values of an earlier run" in caplog.text
    assert again.status.snapshot_entries == 2


def test_a_model_is_bound_from_what_was_known(connect, server, put, tmp_path):
    put("per_minute", 60)
    first = connect(snapshot=tmp_path / "snapshot.json")
    first.bind(Limits, NAMESPACE)
    first.close()
    server.stop()
    assert connect(snapshot=tmp_path / "snapshot.json").bind(Limits, NAMESPACE) == Limits(per_minute=60)


def test_a_read_that_has_to_be_fresh_is_not_answered_by_a_snapshot(connect, server, put, tmp_path):
    put("model", "gpt-4")
    first = connect(snapshot=tmp_path / "snapshot.json")
    first.get_config(NAMESPACE, "model")
    first.close()
    server.stop()
    again = connect(snapshot=tmp_path / "snapshot.json")
    with pytest.raises(ConnectFailedError):
        again.get_config(NAMESPACE, "model", fresh=True)


def test_what_was_deleted_does_not_come_back_in_an_outage(connect, server, put, tmp_path):
    put("model", "gpt-4")
    client = connect(snapshot=tmp_path / "snapshot.json", cache=CachePolicy(ttl=0))
    assert client.get_str(NAMESPACE, "model") == "gpt-4"
    with as_admin(server) as other:
        other.delete_config(NAMESPACE, "model")
    assert client.get_str(NAMESPACE, "model", default="absent") == "absent"
    server.stop()
    with pytest.raises(ConnectFailedError):
        client.get_config(NAMESPACE, "model")


def test_what_a_write_left_behind_is_the_last_value_known(connect, server, tmp_path):
    first = connect(snapshot=tmp_path / "snapshot.json")
    first.set_config(NAMESPACE, "model", "gpt-5")
    first.close()
    server.stop()
    assert connect(snapshot=tmp_path / "snapshot.json").get_str(NAMESPACE, "model") == "gpt-5"


def test_a_bootstrap_file_answers_before_any_server_ever_did(connect, server, put, tmp_path):
    put("model", "shipped")
    first = connect(snapshot=tmp_path / "shipped.json")
    first.get_config(NAMESPACE, "model")
    first.close()
    server.stop()
    found = connect(bootstrap=tmp_path / "shipped.json").get_config(NAMESPACE, "model")
    assert (found.value, found.source) == ("shipped", "snapshot")


# --- Many at once ---------------------------------------------------------------------------------


def test_what_fails_among_many_is_told_one_by_one(connect, put):
    put("a", 1)
    told = []
    outcomes = connect().get_many(
        [(NAMESPACE, "a"), (NAMESPACE, "missing"), (NAMESPACE, "not a key")],
        on_progress=lambda outcome, done, total: told.append((done, total)),
    )
    assert [outcome.ok for outcome in outcomes] == [True, False, False]
    assert outcomes[0].unwrap().value == 1
    assert [type(outcome.error).__name__ for outcome in outcomes[1:]] == ["NotFoundError", "InvalidKeyError"]
    with pytest.raises(NotFoundError):
        outcomes[1].unwrap()
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_many_are_written_and_each_outcome_is_told(connect, server):
    outcomes = connect().set_many({(NAMESPACE, "a"): 1, (NAMESPACE, "b"): float("nan")}, user="ann")
    assert [outcome.ok for outcome in outcomes] == [True, False]
    assert server.entry(NAMESPACE, "a", env="production")["metadata"]["created_by"] == "ann"
    assert isinstance(outcomes[1].error, InvalidValueError)


def test_a_callback_that_raises_loses_no_outcome(connect, server, caplog):
    told = []

    def tell(outcome, done, total):
        told.append((outcome.key, total))
        raise RuntimeError("a defect of the application")

    outcomes = connect().set_many({(NAMESPACE, "a"): 1, (NAMESPACE, "b"): 2}, on_progress=tell)
    assert [outcome.ok for outcome in outcomes] == [True, True]
    assert sorted(told) == [("a", 2), ("b", 2)]
    assert "a defect of the application" in caplog.text


@pytest.mark.parametrize("name", ["app/llm", ("app/llm",), None, ["app", "n"]], ids=str)
def test_a_name_that_is_no_pair_is_refused_before_anything_is_asked(connect, server, name):
    with pytest.raises(InvalidRequestError, match="pair of namespace and key"):
        connect().get_many([(NAMESPACE, "a"), name])
    server.journal.assert_count(0)


def test_a_prefetched_namespace_costs_one_request(connect, server, put):
    for name in "abc":
        put(name, name.upper())
    client = connect()
    assert client.prefetch(NAMESPACE) == 3
    assert [client.get_str(NAMESPACE, name) for name in "abc"] == ["A", "B", "C"]
    server.journal.assert_count(1)


def test_all_who_ask_for_a_cold_entry_at_once_make_one_request(face, server, put):
    put("model", "gpt-4")
    server.script("GET /api/*", latency(0.2))
    client = face.client(server.url, token=server.token("admin"), environment="production").client
    callers = 1_000

    def from_threads():
        found = queue.Queue()

        def ask():
            found.put(client.get_str(NAMESPACE, "model"))

        threads = [threading.Thread(target=ask) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return [found.get_nowait() for _ in range(callers)]

    async def from_tasks():
        found = []

        async def ask():
            found.append(await client.get_str(NAMESPACE, "model"))

        async with anyio.create_task_group() as group:
            for _ in range(callers):
                group.start_soon(ask)
        return found

    assert face.run(from_threads, from_tasks) == ["gpt-4"] * callers
    server.journal.assert_count(1)


@pytest.fixture
def threaded(server, put):
    put("model", "gpt-4")
    with as_admin(server) as client:
        yield client


def test_who_looked_too_early_and_comes_too_late_for_the_request_makes_none(threaded, server, monkeypatch):
    """It finds nothing in the cache; before it goes on, somebody else's request has come and gone."""
    looked, go_on, look = threading.Event(), threading.Event(), FirstLook.get

    def look_and_pause(self, key):
        found = look(self, key)
        if threading.current_thread() is late:
            looked.set()
            assert go_on.wait(30)
        return found

    monkeypatch.setattr(FirstLook, "get", look_and_pause)
    found = []
    late = threading.Thread(target=lambda: found.append(threaded.get_str(NAMESPACE, "model")))
    late.start()
    assert looked.wait(30)
    assert threaded.get_str(NAMESPACE, "model") == "gpt-4"
    go_on.set()
    late.join(30)
    assert found == ["gpt-4"]
    server.journal.assert_count(1)


def test_what_was_fetched_is_kept_before_the_next_may_ask(threaded, server, monkeypatch):
    found, land = [], SingleFlight._land

    def land_and_look(self, *args):
        land(self, *args)
        if not found:
            asking = threading.Thread(target=lambda: found.append(threaded.get_str(NAMESPACE, "model")))
            asking.start()
            asking.join(30)

    monkeypatch.setattr(SingleFlight, "_land", land_and_look)
    assert threaded.get_str(NAMESPACE, "model") == "gpt-4"
    assert found == ["gpt-4"]
    server.journal.assert_count(1)


# --- How it is ------------------------------------------------------------------------------------


def test_status_says_how_every_endpoint_is(connect, server, backup, put):
    put("model", "gpt-4")
    backup.put(NAMESPACE, "model", "gpt-4", env="production")
    client = connect(backups=[backup.url])
    assert [(each.role, each.is_healthy) for each in client.endpoints] == [
        ("primary", True),
        ("backup", True),
    ]
    assert client.status.is_healthy
    server.stop()
    client.get_config(NAMESPACE, "model")
    primary, second = client.endpoints
    assert (primary.url, primary.is_healthy, second.is_healthy) == (server.url, False, True)
    assert client.status.cached_entries == 1
    client.close()
    assert client.status.is_closed


def test_a_closed_client_watches_nothing(connect):
    client = connect()
    client.close()
    with pytest.raises(InvalidRequestError, match="closed"):
        client.watch(NAMESPACE)


def test_a_call_within_a_cooldown_that_is_too_long_for_it_says_how_long(connect, server, put):
    put("model", "gpt-4")
    server.script("GET /api/*", error("RATE_LIMIT_EXCEEDED", retry_after=30))
    client = connect(timeout=5.0)
    for requests in (1, 1):
        with pytest.raises(RateLimitExceededError) as caught:
            client.get_config(NAMESPACE, "model")
        assert caught.value.retry_after == pytest.approx(30, abs=1)
        server.journal.assert_count(requests)


def test_a_fallback_of_the_client_answers_for_what_is_resolved_in_an_outage(connect, server):
    client = connect(fallback={(NAMESPACE, "model"): "gpt-4o-mini"})
    server.stop()
    found = client.resolve(NAMESPACE, "model")
    assert (found.value, found.source, found.error.is_transient) == ("gpt-4o-mini", "default", True)
