"""The client against the 0.5 server: no switch but the header that its TLS check asks for."""

from functools import partial

import pytest
from pydantic import BaseModel, SecretStr

from client_faces import SteppingClock
from llm_config_mock_server import MockServer, error, respond
from llm_config_sdk import (
    CachePolicy,
    DecryptionError,
    EncryptionError,
    ErrorCategory,
    InternalError,
    InvalidRequestError,
    LLMConfigError,
    NotFoundError,
    RateLimitExceededError,
    ResiliencePolicy,
    RetryPolicy,
    StorageError,
    VersionNotFoundError,
)

NAMESPACE = "app/llm"
BEHIND_TLS = {"X-Forwarded-Proto": "https"}
LIMITED = {"error": "Too Many Requests", "message": "Rate limit exceeded. Please try again later"}


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
def server():
    with MockServer("upstream-0.5", limits=False, seed=1) as running:
        yield running


@pytest.fixture
def connect(face, server, clock):
    options = {"environment": "production", "clock": clock, "headers": BEHIND_TLS}
    return lambda **given: face.client(server.url, **{**options, **given})


@pytest.fixture
def put(server):
    return partial(server.put, NAMESPACE, env="production")


# --- Too many requests, and not a word of when there may be more ------------------------------------


def test_a_limit_without_retry_after_is_waited_out_for_a_second(connect, server, put, clock):
    put("model", "gpt-4")
    server.script("GET /api/*", respond(429, LIMITED))
    began = clock.monotonic()
    found = connect().get_config(NAMESPACE, "model")
    assert (found.value, found.attempts) == ("gpt-4", 2)
    assert 1.0 <= clock.monotonic() - began < 1.5


@pytest.mark.parametrize("retry", [RetryPolicy(), RetryPolicy.aggressive()], ids=["default", "aggressive"])
def test_it_is_tried_twice_in_all(connect, server, clock, retry):
    server.script("GET /api/*", respond(429, LIMITED), repeat="last")
    began = clock.monotonic()
    with pytest.raises(RateLimitExceededError) as caught:
        connect(resilience=ResiliencePolicy(retry=retry)).get_config(NAMESPACE, "model")
    server.journal.assert_count(2)
    assert (caught.value.attempts, caught.value.retry_after) == (2, None)
    assert "may ban" in caught.value.hint
    assert 1.0 <= clock.monotonic() - began < 1.5


def test_a_second_that_the_call_does_not_have_is_not_waited(connect, server, clock):
    server.script("GET /api/*", respond(429, LIMITED), repeat="last")
    began = clock.monotonic()
    with pytest.raises(RateLimitExceededError):
        connect(timeout=0.9).get_config(NAMESPACE, "model")
    server.journal.assert_count(1)
    assert clock.monotonic() == began


def test_a_limit_that_a_write_meets_is_raised_at_once_and_kept_to_by_reads(connect, server, put, clock):
    put("model", "gpt-4")
    server.script("POST /api/*", respond(429, LIMITED))
    client = connect(cache=CachePolicy(ttl=0))
    began = clock.monotonic()
    with pytest.raises(RateLimitExceededError):
        client.set_config(NAMESPACE, "model", "gpt-5")
    assert clock.monotonic() == began
    assert client.get_str(NAMESPACE, "model") == "gpt-4"
    assert 1.0 <= clock.monotonic() - began < 1.5


def test_a_stale_value_stands_in_for_a_limit(connect, server, put):
    put("model", "gpt-4")
    client = connect(cache=CachePolicy(ttl=0))
    client.get_config(NAMESPACE, "model")
    server.script("GET /api/*", respond(429, LIMITED), repeat="last")
    found = client.get_config(NAMESPACE, "model")
    assert (found.value, found.source) == ("gpt-4", "stale")


# --- Reading and writing ----------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["app/llm", "app", "a--b/c_d"])
def test_what_is_written_is_read_again(connect, server, namespace):
    client = connect(user="ann", cache=None)
    written = client.set_config(namespace, "model", {"name": "gpt-4", "limits": [1, 2.5, True]})
    found = client.get_config(namespace, "model")
    assert found == written
    assert found.value == {"name": "gpt-4", "limits": [1, 2.5, True]}
    assert (found.namespace, found.version, found.metadata.created_by) == (namespace, 1, "ann")
    assert client.set_config(namespace, "model", "gpt-5").version == 2


def test_values_come_typed(connect, put):
    for key, value in {"s": "gpt-4", "i": 8, "f": 0.5, "b": True, "j": {"a": [1]}}.items():
        put(key, value)
    client = connect()
    assert (client.get_str(NAMESPACE, "s"), client.get_int(NAMESPACE, "i")) == ("gpt-4", 8)
    assert (client.get_float(NAMESPACE, "f"), client.get_bool(NAMESPACE, "b")) == (0.5, True)
    assert client.get_json(NAMESPACE, "j") == {"a": [1]}
    assert client.get_value(NAMESPACE, "j", dict[str, list[int]]) == {"a": [1]}


def test_an_absent_entry_is_not_found_and_a_default_answers(connect):
    client = connect()
    with pytest.raises(NotFoundError, match="Configuration not found: app/llm:nothing") as caught:
        client.get_config(NAMESPACE, "nothing")
    assert caught.value.is_not_found
    assert client.get_str(NAMESPACE, "nothing", default="gpt-4") == "gpt-4"


def test_a_deleted_entry_is_gone_and_keeps_its_history(connect, put):
    put("model", "gpt-4")
    client = connect()
    assert client.get_str(NAMESPACE, "model") == "gpt-4"
    client.delete_config(NAMESPACE, "model")
    with pytest.raises(NotFoundError):
        client.get_config(NAMESPACE, "model")
    with pytest.raises(NotFoundError):
        client.delete_config(NAMESPACE, "model")
    assert [item.value for item in client.get_history(NAMESPACE, "model")] == ["gpt-4"]


def test_a_list_is_sorted_and_has_no_other_namespaces_entries(connect, server, put):
    for key in ("c", "a", "b"):
        put(key, key.upper())
    server.put(f"{NAMESPACE}/other", "d", "D", env="production")
    client = connect()
    assert [(entry.key, entry.value) for entry in client.list_configs(NAMESPACE)] == [
        ("a", "A"),
        ("b", "B"),
        ("c", "C"),
    ]
    assert client.list_configs("nothing") == []


def test_an_earlier_version_is_written_again(connect):
    client = connect(user="ann")
    for value in ("gpt-3", "gpt-4"):
        client.set_config(NAMESPACE, "model", value)
    assert [(item.version, item.value) for item in client.get_history(NAMESPACE, "model")] == [
        (2, "gpt-4"),
        (1, "gpt-3"),
    ]
    back = client.rollback(NAMESPACE, "model", 1)
    assert (back.version, back.value, client.get_str(NAMESPACE, "model")) == (3, "gpt-3", "gpt-3")
    with pytest.raises(VersionNotFoundError, match="Version 9 not found"):
        client.rollback(NAMESPACE, "model", 9)


def test_overrides_are_resolved_here_in_one_parameter_requests(connect, server, put):
    server.put(NAMESPACE, "temperature", 0.2, env="base")
    server.put(NAMESPACE, "temperature", 0.5, env="staging")
    server.put(NAMESPACE, "model", "gpt-4", env="base")
    client = connect()
    assert client.resolve(NAMESPACE, "temperature").value == 0.5
    assert client.resolve(NAMESPACE, "model").environment == "base"
    with pytest.raises(NotFoundError, match="looked in production, staging, development, base"):
        client.resolve(NAMESPACE, "nothing")
    assert not any("&" in entry.request.target for entry in server.journal)


def test_a_version_that_is_no_longer_the_newest_is_warned_of(connect, put, caplog):
    for value in ("gpt-3", "gpt-4"):
        put("model", value)
    client = connect()
    assert client.set_config(NAMESPACE, "model", "gpt-5", expected_version=1).version == 3
    assert "ignored expected_version=1 and wrote version 3: a change may have been lost" in caplog.text
    caplog.clear()
    client.set_config(NAMESPACE, "model", "gpt-6", expected_version=3)
    assert not caplog.records


def test_it_is_asked_how_it_is(connect):
    health = connect(headers={}).health_check()
    assert health.status == "healthy"


# --- Secrets ----------------------------------------------------------------------------------------


def test_a_secret_written_here_is_one_wherever_it_comes_from(connect):
    client = connect(cache=None)
    written = client.set_config(NAMESPACE, "api-key", SecretStr("s3cr3t-canary"))
    found = client.get_config(NAMESPACE, "api-key")
    (listed,) = client.list_configs(NAMESPACE)
    for entry in (written, found, listed):
        assert entry.value == SecretStr("s3cr3t-canary")
        assert "s3cr3t" not in f"{entry!r}{entry}"
    assert client.get_value(NAMESPACE, "api-key", SecretStr) == SecretStr("s3cr3t-canary")


def test_ciphertext_is_never_handed_out_as_the_secret(connect):
    client = connect()
    client.set_config(NAMESPACE, "api-key", "s3cr3t-canary", secret=True)
    (item,) = client.get_history(NAMESPACE, "api-key")
    assert item.is_redacted
    assert isinstance(item.value, SecretStr)
    assert client.rollback(NAMESPACE, "api-key", 1).is_redacted
    with pytest.raises(DecryptionError, match="ciphertext"):
        client.get_config(NAMESPACE, "api-key")


def test_a_server_without_a_key_stores_no_secrets(face, clock):
    with MockServer("upstream-0.5", limits=False, encryption_key=None) as keyless:
        client = face.client(keyless.url, clock=clock, headers=BEHIND_TLS)
        with pytest.raises(EncryptionError, match="Encryption key not configured") as caught:
            client.set_config(NAMESPACE, "api-key", "s3cr3t-canary", secret=True)
        assert not caught.value.is_retriable
        keyless.journal.assert_count(1)


# --- Watching and binding ---------------------------------------------------------------------------


def test_a_watched_entry_tells_of_a_change(connect, face, put, clock):
    put("model", "gpt-4")
    clock.planned = [lambda: None, lambda: put("model", "gpt-5")]
    changes = connect().watch(NAMESPACE, "model", interval=5)
    change = face.run(lambda: next(changes), lambda: anext(changes))
    assert (change.kind, change.old.value, change.new.value) == ("updated", "gpt-4", "gpt-5")


def test_a_namespace_becomes_a_model(connect, server, put):
    class Settings(BaseModel):
        model: str
        api_key: SecretStr
        limits: dict[str, int]

    put("model", "gpt-4")
    put("api-key", "s3cr3t-canary", secret=True)
    put("limits.per-minute", 60)
    bound = connect().bind(Settings, NAMESPACE)
    assert (bound.model, bound.api_key, bound.limits) == (
        "gpt-4",
        SecretStr("s3cr3t-canary"),
        {"per_minute": 60},
    )
    server.journal.assert_count(1)


# --- Errors -----------------------------------------------------------------------------------------


def test_who_does_not_come_through_tls_is_told_what_to_do(connect, server):
    with pytest.raises(InvalidRequestError, match="TLS is required") as caught:
        connect(headers={}).get_config(NAMESPACE, "model")
    assert (caught.value.status, caught.value.is_retriable) == (426, False)
    assert "X-Forwarded-Proto: https" in caught.value.hint
    server.journal.assert_count(1)


def test_an_empty_404_is_a_wrong_base_url_and_no_absent_entry(face, server, clock):
    client = face.client(f"{server.url}/elsewhere", clock=clock, headers=BEHIND_TLS)
    with pytest.raises(NotFoundError, match="no such route") as caught:
        client.get_config(NAMESPACE, "model", default="gpt-4")
    assert (caught.value.is_not_found, caught.value.is_route_problem) == (False, True)
    assert "base URL" in caught.value.hint


def test_a_name_that_the_servers_filter_refuses_is_told(connect):
    with pytest.raises(InvalidRequestError) as caught:
        connect().get_config("update", "set")
    assert "filter" in caught.value.hint


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Storage error: file is locked", (StorageError, ErrorCategory.SERVER, 3)),
        ("Storage error: No space left on device (os error 28)", (StorageError, ErrorCategory.SYSTEM, 1)),
        ("Storage error: Permission denied (os error 13)", (StorageError, ErrorCategory.SYSTEM, 1)),
        ("Crypto error: Encryption failed: bad key", (EncryptionError, ErrorCategory.SERVER, 1)),
        ("Crypto error: Decryption failed: bad tag", (DecryptionError, ErrorCategory.SERVER, 1)),
        ("Serialization error: EOF while parsing", (InternalError, ErrorCategory.SERVER, 1)),
        ("Something else", (InternalError, ErrorCategory.SERVER, 3)),
    ],
)
def test_a_500_is_read_by_its_beginning(connect, server, message, expected):
    cls, category, requests = expected
    body = {"error": "Internal Server Error", "message": message}
    server.script("GET /api/*", respond(500, body), repeat="last")
    with pytest.raises(cls) as caught:
        connect().get_config(NAMESPACE, "model")
    assert (caught.value.category, caught.value.status) == (category, 500)
    assert message in caught.value.message
    server.journal.assert_count(requests)


def test_a_write_that_failed_with_a_500_is_not_repeated(connect, server):
    server.script("POST /api/*", error("STORAGE_ERROR"), repeat="last")
    with pytest.raises(LLMConfigError) as caught:
        connect().set_config(NAMESPACE, "model", "gpt-4")
    assert caught.value.status == 500
    server.journal.assert_count(1)


def test_an_outage_is_bridged_by_what_is_cached(connect, server, put, clock):
    put("model", "gpt-4")
    client = connect()
    client.get_config(NAMESPACE, "model")
    server.stop()
    clock.advance(31)
    found = client.get_config(NAMESPACE, "model")
    assert (found.value, found.source) == ("gpt-4", "stale")
    assert "Connection refused" in found.error.message
