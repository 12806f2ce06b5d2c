"""Tokens that are asked for: once for all who wait, again after one 401, and shown to nobody."""

import base64
import queue
import threading
import time

import anyio
import anyio.lowlevel
import httpx
import httpx2
import pytest
from pydantic import SecretStr

from client_faces import SteppingClock
from llm_config_mock_server import error, latency, respond
from llm_config_sdk import (
    ConfigClient,
    InvalidRequestError,
    RequestTimeoutError,
    ServiceUnavailableError,
    UnauthorizedError,
)

NAMESPACE = "app/llm"


class Source:
    """Gives one token after another, and counts."""

    def __init__(self, *tokens):
        self.tokens = tokens
        self.asked = 0

    def __call__(self):
        self.asked += 1
        return self.tokens[min(self.asked, len(self.tokens)) - 1]


class AsyncSource(Source):
    async def __call__(self):
        await anyio.lowlevel.checkpoint()
        return super().__call__()


@pytest.fixture
def source(face):
    """The kind of callable that is at home on a face."""
    return AsyncSource if face.is_async else Source


@pytest.fixture
def good(server):
    server.put(NAMESPACE, "model", "gpt-4", env="production")
    return server.token("admin")


def statuses(server):
    return [exchange.status for exchange in server.journal]


def test_a_callable_is_asked_once_and_its_token_kept(connect, server, source, good):
    tokens = source(SecretStr(good))
    client = connect(token=tokens, cache=None)
    assert [client.get_str(NAMESPACE, "model") for _ in range(3)] == ["gpt-4"] * 3
    assert tokens.asked == 1
    assert statuses(server) == [200] * 3


def test_a_sync_callable_serves_the_async_client_too(connect, good):
    assert connect(token=lambda: good).get_str(NAMESPACE, "model") == "gpt-4"


def test_a_secret_string_is_a_token(connect, good):
    assert connect(token=SecretStr(good)).get_str(NAMESPACE, "model") == "gpt-4"


def test_after_one_401_it_is_asked_again_and_the_request_repeated(connect, server, source, good):
    tokens = source("expired", good)
    client = connect(token=tokens, cache=None)
    entry = client.get_config(NAMESPACE, "model")
    assert (entry.value, entry.attempts, tokens.asked) == ("gpt-4", 2, 2)
    client.set_config(NAMESPACE, "model", "gpt-5")
    assert statuses(server) == [401, 200, 200]


def test_a_second_401_is_raised_at_once(connect, server, source, clock, good):
    tokens = source("expired", "revoked")
    before = clock.monotonic()
    with pytest.raises(UnauthorizedError) as caught:
        connect(token=tokens).get_config(NAMESPACE, "model")
    assert (caught.value.attempts, tokens.asked, clock.monotonic()) == (2, 2, before)
    assert statuses(server) == [401, 401]


def test_an_authentication_error_never_waits_whatever_the_server_says(connect, server, clock, good):
    server.script("GET /api/*", error("UNAUTHORIZED", retriable=True, retry_after=1), repeat="last")
    before = clock.monotonic()
    with pytest.raises(UnauthorizedError):
        connect().get_config(NAMESPACE, "model")
    assert clock.monotonic() == before
    server.journal.assert_count(1)


def test_all_who_are_refused_wait_for_one_new_token(face, server, good):
    callers = 8
    together = threading.Barrier(callers, timeout=30)
    asked = []

    def sync_source():
        asked.append(None)
        return good if len(asked) > 1 else "expired"

    async def async_source():
        await anyio.lowlevel.checkpoint()
        return sync_source()

    server.script("GET /api/*", latency(0.05), repeat="last")
    client = face.client(
        server.url,
        token=async_source if face.is_async else sync_source,
        environment="production",
        cache=None,
    ).client

    def from_threads():
        found = queue.Queue()

        def ask(name):
            together.wait()
            found.put(client.list_configs(f"{NAMESPACE}/{name}"))

        threads = [threading.Thread(target=ask, args=[name]) for name in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return found.qsize()

    async def from_tasks():
        found = []

        async def ask(name):
            found.append(await client.list_configs(f"{NAMESPACE}/{name}"))

        async with anyio.create_task_group() as group:
            for name in range(callers):
                group.start_soon(ask, name)
        return len(found)

    assert face.run(from_threads, from_tasks) == callers
    assert len(asked) == 2


def test_a_callable_that_fails_is_told_by_its_class_alone(connect, server, good, caplog):
    def broken():
        raise RuntimeError("s3cr3t-canary")

    with pytest.raises(UnauthorizedError, match="the callable raised RuntimeError") as caught:
        connect(token=broken).get_config(NAMESPACE, "model")
    assert "s3cr3t" not in f"{caught.value}{caught.value!r}{caught.value.details}{caught.value.hint}"
    assert "s3cr3t" not in caplog.text
    assert isinstance(caught.value.__cause__, RuntimeError)
    server.journal.assert_count(0)


def test_a_callable_may_raise_an_error_of_the_sdk(connect, good):
    def unavailable():
        raise ServiceUnavailableError("the token service is down", retriable=False)

    client = connect(token=unavailable)
    assert client.get_config(NAMESPACE, "model", fallback="known").value == "known"


@pytest.mark.parametrize("token", ["", " ", None, 5, "s3cr3t\r\nX-Other: 1"])
def test_what_cannot_be_a_token_is_refused_and_not_shown(connect, server, good, token):
    with pytest.raises(InvalidRequestError) as caught:
        connect(token=lambda: token).get_config(NAMESPACE, "model")
    assert "s3cr3t" not in f"{caught.value}"
    server.journal.assert_count(0)


def test_what_gives_no_tokens_is_refused_at_once(connect):
    with pytest.raises(InvalidRequestError, match=r"httpx\.Auth, not int"):
        connect(token=5)


def test_an_async_callable_is_not_for_the_sync_client(server):
    async def tokens():
        await anyio.lowlevel.checkpoint()

    with (
        ConfigClient(server.url, token=tokens) as client,
        pytest.raises(InvalidRequestError, match="AsyncConfigClient"),
    ):
        client.list_configs(NAMESPACE)


def test_a_token_is_never_shown(connect, source, caplog):
    caplog.set_level("DEBUG")
    client = connect(token=source("s3cr3t-canary"))
    with pytest.raises(UnauthorizedError) as caught:
        client.get_config(NAMESPACE, "model")
    core = client.client._core
    shown = f"{client.client!r}{core!r}{core.credentials!r}{vars(core.credentials)!r}"
    assert "s3cr3t" not in f"{shown}{caught.value!r}{caught.value}{vars(caught.value)}{caplog.text}"


def test_a_client_with_a_callable_ignores_the_token_of_the_environment(connect, good, monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_TOKEN", "nobody's")
    assert connect(token=lambda: good).get_str(NAMESPACE, "model") == "gpt-4"


def test_copies_share_the_token_and_may_have_one_of_their_own(connect, server, source, good):
    tokens = source(good)
    client = connect(token=tokens, cache=None)
    client.with_options(timeout=5).get_str(NAMESPACE, "model")
    client.get_str(NAMESPACE, "model")
    assert tokens.asked == 1
    with pytest.raises(UnauthorizedError):
        client.with_options(headers={"Authorization": "Bearer nobody's"}).get_str(NAMESPACE, "model")
    assert (statuses(server), tokens.asked) == ([200, 200, 401], 1)


def test_a_token_that_does_not_come_in_time_is_a_timeout(face, server):
    if not face.is_async:
        pytest.skip("a thread cannot be interrupted")

    client = face.client(server.url, token=anyio.sleep_forever, clock=SteppingClock(), timeout=0.1)
    began = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"no token in time|time is over"):
        client.list_configs(NAMESPACE)
    assert time.monotonic() - began < 10
    server.journal.assert_count(0)


# --- Schemes of httpx's ---------------------------------------------------------------------------


class Renewing(httpx.Auth):
    """A scheme as users write them: another header after a 401."""

    def __init__(self, *tokens):
        self.tokens = tokens

    def auth_flow(self, request):
        for token in self.tokens:
            request.headers["Authorization"] = f"Bearer {token}"
            response = yield request
            if response.status_code != 401:
                return


def test_a_scheme_is_driven_on_the_request(connect, server, good):
    client = connect(token=Renewing("expired", good), cache=None)
    assert client.get_config(NAMESPACE, "model").attempts == 2
    assert client.set_config(NAMESPACE, "model", "gpt-5").value == "gpt-5"
    assert statuses(server) == [401, 200, 401, 200]


def test_a_scheme_makes_two_requests_at_most(connect, server):
    with pytest.raises(UnauthorizedError):
        connect(token=Renewing("a", "b", "c")).get_config(NAMESPACE, "model")
    assert statuses(server) == [401, 401]


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_basic_and_digest_work_with_either_family(connect, server, library):
    challenge = 'Digest realm="llm", nonce="abc", qop="auth", algorithm=SHA-256'
    server.script("GET /api/*", respond(200, b"[]", headers={"content-type": "application/json"}))
    assert connect(token=library.BasicAuth("ann", "pass")).list_configs(NAMESPACE) == []
    basic = server.journal[0].request.header("authorization")
    assert base64.b64decode(basic.removeprefix("Basic ")) == b"ann:pass"

    server.script(
        "GET /api/*",
        [
            respond(401, b"", headers={"www-authenticate": challenge}),
            respond(200, b"[]", headers={"content-type": "application/json"}),
        ],
    )
    assert connect(token=library.DigestAuth("ann", "pass")).list_configs(NAMESPACE) == []
    assert server.journal[2].request.header("authorization").startswith('Digest username="ann"')


def test_a_scheme_that_sends_requests_of_its_own_is_refused(connect, server):
    class Elsewhere(httpx.Auth):
        def auth_flow(self, request):
            yield httpx.Request("POST", "https://tokens.example/")

    with pytest.raises(InvalidRequestError, match="requests of its own"):
        connect(token=Elsewhere()).list_configs(NAMESPACE)
    server.journal.assert_count(0)
