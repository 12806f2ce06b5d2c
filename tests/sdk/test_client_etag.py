"""Reads that ask whether anything has changed: entity tags, 304, and what they renew."""

import pytest

from client_faces import SteppingClock
from llm_config_mock_server import error, respond
from llm_config_sdk import CachePolicy, InvalidRequestError, ResponseDecodeError, ServiceUnavailableError

NAMESPACE = "app/llm"
TTL = CachePolicy(ttl=30)


class PollingClock(SteppingClock):
    """Time that moves on by itself while somebody waits for a gate; what is planned happens meanwhile."""

    def __init__(self):
        super().__init__()
        self.planned = []

    def wait(self, gate, seconds):
        self.advance(0 if gate.is_open else seconds)
        if self.planned:
            self.planned.pop(0)()
        return gate.is_open

    async def wait_async(self, gate, seconds):
        return self.wait(gate, seconds)


@pytest.fixture
def clock():
    return PollingClock()


@pytest.fixture
def model(server):
    """The server's entry, the way it would be sent."""
    server.put(NAMESPACE, "model", "gpt-4", env="production")
    return server.entry(NAMESPACE, "model", env="production")


def asked_with(server):
    return [entry.request.header("if-none-match") for entry in server.journal]


def statuses(server):
    return [entry.status for entry in server.journal]


def tag_of(entry):
    return f'"{entry["id"]}.{entry["version"]}"'


def test_a_stale_entry_is_renewed_without_its_body(connect_any, server, clock, model):
    client = connect_any(cache=TTL)
    first = client.get_config(NAMESPACE, "model")
    clock.advance(31)
    renewed = client.get_config(NAMESPACE, "model")
    assert statuses(server) == [200, 304]
    assert asked_with(server) == [None, tag_of(model)]
    assert renewed == first
    assert (renewed.source, renewed.age, renewed.attempts, renewed.endpoint) == ("server", 0, 1, server.url)
    clock.advance(29)
    again = client.get_config(NAMESPACE, "model")
    assert (again.source, again.age) == ("cache", 29)
    server.journal.assert_count(2)


def test_what_a_caller_has_in_hand_stays_as_it_was_when_it_is_renewed(connect, server, clock, model):
    client = connect(cache=TTL)
    first = client.get_config(NAMESPACE, "model")
    cached = client.get_config(NAMESPACE, "model")
    clock.advance(31)
    client.get_config(NAMESPACE, "model")
    assert statuses(server) == [200, 304]
    assert [(entry.source, entry.age, entry.attempts) for entry in (first, cached)] == [
        ("server", 31, 1),
        ("cache", 31, 0),
    ]


def test_an_entry_goes_on_being_renewed(connect, server, clock, model):
    client = connect(cache=TTL)
    for _ in range(4):
        assert client.get_str(NAMESPACE, "model") == "gpt-4"
        clock.advance(31)
    assert statuses(server) == [200, 304, 304, 304]


def test_what_has_changed_is_sent_whole(connect, server, clock, model):
    client = connect(cache=TTL)
    client.get_config(NAMESPACE, "model")
    server.put(NAMESPACE, "model", "gpt-5", env="production")
    clock.advance(31)
    assert client.get_str(NAMESPACE, "model") == "gpt-5"
    clock.advance(31)
    assert client.get_str(NAMESPACE, "model") == "gpt-5"
    assert statuses(server) == [200, 200, 304]


def test_a_read_that_has_to_be_fresh_asks_in_the_same_way(connect, server, clock, model):
    client = connect(cache=TTL)
    client.get_config(NAMESPACE, "model")
    clock.advance(20)
    found = client.get_config(NAMESPACE, "model", fresh=True)
    assert (found.value, found.source, statuses(server)) == ("gpt-4", "server", [200, 304])
    clock.advance(20)
    assert client.get_config(NAMESPACE, "model").source == "cache", "the fresh answer renewed what is cached"


def test_a_watched_entry_is_asked_for_by_its_tag(connect, server, clock, face, model):
    clock.planned = [
        lambda: None,
        lambda: None,
        lambda: server.put(NAMESPACE, "model", "gpt-5", env="production"),
    ]
    changes = connect().watch(NAMESPACE, "model", interval=5)
    change = face.run(lambda: next(changes), lambda: anext(changes))
    assert (change.kind, change.old.value, change.new.value) == ("updated", "gpt-4", "gpt-5")
    assert statuses(server) == [200, 304, 304, 200]


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    "watched",
    [("model", TTL), ("model", None), (None, TTL), (None, None)],
    ids=["entry, cached", "entry", "namespace, cached", "namespace"],
)
def test_what_is_watched_is_asked_for_by_its_tag(connect_any, server, clock, any_face, watched):
    key, cache = watched
    clock.planned = [
        lambda: None,
        lambda: None,
        lambda: server.put(NAMESPACE, "model", "gpt-5", env="production"),
        lambda: None,
        lambda: server.put(NAMESPACE, "model", "gpt-6", env="production"),
    ]
    changes = connect_any(cache=cache).watch(NAMESPACE, key, interval=5)
    for old, new in (("gpt-4", "gpt-5"), ("gpt-5", "gpt-6")):
        change = any_face.run(lambda: next(changes), lambda: anext(changes))
        assert (change.kind, change.old.value, change.new.value) == ("updated", old, new)
    assert statuses(server) == [200, 304, 304, 200, 304, 200]
    assert all(asked_with(server)[1:])


@pytest.mark.usefixtures("model")
def test_a_watch_does_not_ask_a_backup_by_the_tag_of_another_server(connect, server, backup, clock, face):
    def fail_over():
        backup.put(NAMESPACE, "model", "gpt-4", env="production")
        backup.put(NAMESPACE, "new", 1, env="production")
        server.stop()

    clock.planned = [lambda: None, fail_over]
    changes = connect(backups=[backup.url]).watch(NAMESPACE, interval=5)
    change = face.run(lambda: next(changes), lambda: anext(changes))
    assert (change.kind, change.key) == ("created", "new")
    assert (asked_with(backup), statuses(backup)) == ([None], [200])


def test_an_outage_in_between_leaves_a_watch_its_tag(connect, server, clock, face, model):
    clock.planned = [server.stop, server.start]
    changes = connect().watch(NAMESPACE, interval=5)
    kinds = [face.run(lambda: next(changes), lambda: anext(changes)).kind for _ in range(2)]
    assert kinds == ["unavailable", "recovered"]
    assert statuses(server) == [200, 304]


def test_entries_of_an_unmodified_list_are_renewed_and_those_told_before_are_not(
    connect, server, clock, face, model
):
    clock.planned = [
        lambda: None,
        lambda: server.put(NAMESPACE, "new", 1, env="production"),
        lambda: server.put(NAMESPACE, "model", "gpt-5", env="production"),
    ]
    changes = connect().watch(NAMESPACE, interval=100)
    created = face.run(lambda: next(changes), lambda: anext(changes))
    updated = face.run(lambda: next(changes), lambda: anext(changes))
    assert (created.key, updated.key) == ("new", "model")
    assert 80 < updated.old.age < 120 < created.new.age + 30


def test_a_retried_read_asks_by_its_tag_each_time(connect, server, clock, model):
    client = connect(cache=TTL)
    client.get_config(NAMESPACE, "model")
    clock.advance(31)
    server.script("GET /api/*", error("SERVICE_UNAVAILABLE"))
    found = client.get_config(NAMESPACE, "model")
    assert (found.value, found.attempts, statuses(server)) == ("gpt-4", 2, [200, 503, 304])


def test_a_backup_is_not_asked_by_the_tag_of_another_server(connect, server, backup, clock, model):
    backup.put(NAMESPACE, "model", "gpt-4", env="production")
    client = connect(cache=TTL, backups=[backup.url])
    client.get_config(NAMESPACE, "model")
    clock.advance(31)
    server.stop()
    assert client.get_config(NAMESPACE, "model").endpoint == backup.url
    assert (asked_with(backup), statuses(backup)) == ([None], [200])


def test_a_tag_is_kept_as_it_was_sent_and_never_guessed(connect, server, clock, model):
    untagged = respond(200, model)
    weak = respond(200, model, headers={"ETag": 'W/"as-sent"'})
    broken = respond(200, model, headers={"ETag": 'no "tag" at all'})
    server.script("GET /api/*", [untagged, weak, broken, untagged])
    client = connect(cache=TTL)
    for _ in range(4):
        client.get_config(NAMESPACE, "model")
        clock.advance(31)
    assert asked_with(server) == [None, None, 'W/"as-sent"', None]


def test_a_304_may_bring_another_tag(connect, server, clock, model):
    unmodified = respond(304, headers={"ETag": '"another"'})
    server.script("GET /api/*", [respond(200, model, headers={"ETag": '"one"'}), unmodified, respond(304)])
    client = connect(cache=TTL)
    for _ in range(3):
        assert client.get_str(NAMESPACE, "model") == "gpt-4"
        clock.advance(31)
    client.get_str(NAMESPACE, "model")
    assert asked_with(server) == [None, '"one"', '"another"', '"another"']


def test_a_304_to_who_holds_nothing_cannot_be_read(connect, server, model):
    server.script("GET /api/*", respond(304, headers={"ETag": tag_of(model)}), repeat="last")
    for client in (connect(cache=TTL), connect(cache=None)):
        with pytest.raises(ResponseDecodeError, match="nothing is held") as caught:
            client.get_config(NAMESPACE, "model")
        assert caught.value.response.status == 304
        with pytest.raises(ResponseDecodeError, match="HTTP 304"):
            client.list_configs(NAMESPACE)
    assert set(asked_with(server)) == {None}


def test_an_entry_from_a_list_has_no_tag_to_ask_with(connect, server, clock, model):
    client = connect(cache=TTL)
    client.prefetch(NAMESPACE)
    clock.advance(31)
    client.get_config(NAMESPACE, "model")
    assert (asked_with(server), statuses(server)) == ([None, None], [200, 200])


def test_a_written_entry_is_read_whole(connect, server, model):
    client = connect(cache=TTL)
    client.get_config(NAMESPACE, "model")
    client.set_config(NAMESPACE, "model", "gpt-5")
    assert client.get_str(NAMESPACE, "model") == "gpt-5"
    assert statuses(server) == [200, 200, 200]


def test_a_secret_is_renewed_and_stays_one(connect, server, clock):
    server.put(NAMESPACE, "api-key", "s3cr3t-canary", env="production", secret=True)
    client = connect(cache=TTL)
    client.get_config(NAMESPACE, "api-key")
    clock.advance(31)
    found = client.get_config(NAMESPACE, "api-key")
    assert statuses(server) == [200, 304]
    assert found.value.get_secret_value() == "s3cr3t-canary"
    assert "s3cr3t" not in f"{found!r}{found.provenance!r}"


def test_an_entry_that_could_not_be_renewed_is_stale_and_keeps_its_tag(connect, server, clock, model):
    client = connect(cache=TTL)
    client.get_config(NAMESPACE, "model")
    clock.advance(31)
    server.script("GET /api/*", error("SERVICE_UNAVAILABLE"), repeat="last")
    found = client.get_config(NAMESPACE, "model")
    assert found.source == "stale"
    assert isinstance(found.error, ServiceUnavailableError)
    assert asked_with(server)[-1] == tag_of(model)


def test_the_header_is_not_a_callers(connect):
    with pytest.raises(InvalidRequestError, match="made for each request"):
        connect(headers={"If-None-Match": "*"})
