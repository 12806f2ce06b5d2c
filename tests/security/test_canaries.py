"""Secrets put in everywhere and searched for everywhere: one table, places put in by places searched.

The rows are `places`, the columns are the outlets of `outlets.py`. Each row is used through every kind of
call, against a server that works, one that fails in each way, one that says back whatever it is sent, and
none at all.
"""

import base64
import logging
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from prometheus_client import Counter
from pydantic import SecretStr, TypeAdapter

from client_faces import OWN, Face, SteppingClock
from llm_config_mock_server import MockServer, error, garbage, reset, truncate
from llm_config_sdk import CachePolicy, ConfigClient, LLMConfigError, SnapshotPolicy
from llm_config_sdk.observability import CallEvent, ObservedCall
from redis_server import RedisServer
from security.echo import SHAPES, EchoServer
from security.outlets import Outlets

NAMESPACE = "app/llm"
CANARY = "canary-4711-sk"
BASIC = base64.b64encode(f"ann:{CANARY}".encode()).decode()
FERNET = base64.urlsafe_b64encode(b"canary-4711-of-32-bytes-exactly!").decode()
IN_THE_CALLERS_HANDS = frozenset({"locals of our frames"})  # an argument, in the frame of the method called


@dataclass
class Place:
    """A place that a secret is put in.

    Attributes:
        options: The client's arguments.
        environment: Variables.
        write: Arguments of a write.
        needles: What is searched for.
        may: Outlets that nothing is promised of.
    """

    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    write: dict[str, Any] = field(default_factory=lambda: {"value": "large"})
    needles: tuple[str, ...] = (CANARY,)
    may: frozenset[str] = frozenset()


class Scheme(httpx.Auth):
    """A scheme of a user's own."""

    def auth_flow(self, request):
        request.headers["Authorization"] = f"Key {CANARY}"
        yield request


async def ask_for_token():
    return SecretStr(CANARY)


def places(face, home, redis_port):
    """Every place, by name, on one face."""
    secret = {"value": SecretStr(CANARY)}
    sealed = {"snapshot": SnapshotPolicy(path=home / "sealed.json", encryption_key=FERNET)}
    url = f"redis://:{CANARY}@127.0.0.1:{redis_port}/0"
    proxy = f"http://ann:{CANARY}@127.0.0.1:1"
    return {
        "a token, as a string": Place({"token": CANARY}),
        "a token, as a SecretStr": Place({"token": SecretStr(CANARY)}),
        "a token, from a callable": Place({"token": ask_for_token if face.is_async else lambda: CANARY}),
        "a token, from an httpx.Auth": Place({"token": Scheme()}),
        "a token, of the environment": Place(environment={"LLM_CONFIG_TOKEN": CANARY}),
        "a password, of an httpx.BasicAuth": Place(
            {"token": httpx.BasicAuth("ann", CANARY)}, needles=(BASIC, CANARY)
        ),
        "a header of the caller's": Place({"headers": {"X-Api-Key": CANARY}}),
        "a secret, written as a SecretStr": Place(write=secret),
        "a secret, written as a string": Place(
            write={"value": CANARY, "secret": True}, may=IN_THE_CALLERS_HANDS
        ),
        "a secret, kept on disk": Place(sealed, write=secret, needles=(CANARY, FERNET)),
        "a secret, kept in Redis": Place(
            {"cache": CachePolicy(redis=url, encryption_key=FERNET)}, write=secret, needles=(CANARY, FERNET)
        ),
        "an idempotency key": Place(write={"value": 1, "idempotency_key": CANARY}, may=IN_THE_CALLERS_HANDS),
        "the password of a Redis": Place({"cache": url}),
        "the password of a Redis that refuses it": Place({"cache": url.replace(CANARY, f"{CANARY}-wrong")}),
        "the password of a proxy": Place(environment={"HTTP_PROXY": proxy}, needles=(BASIC, CANARY)),
    }


ROWS = list(places(Face("sync", ExitStack()), Path(), 0))
TROUBLES = [
    None,
    reset(keep=100),
    garbage(),
    truncate(),
    error("UNAUTHORIZED"),
    error("RATE_LIMIT_EXCEEDED", retry_after=1),
    error("DECRYPTION_ERROR"),
]


@pytest.fixture(scope="module")
def own_redis(tmp_path_factory):
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        with redis.Redis(port=server.port) as client:
            client.config_set("requirepass", CANARY)
        yield server


@pytest.fixture(scope="module")
def echo():
    with EchoServer() as running:
        yield running


@pytest.fixture
def server():
    with MockServer(seed=1) as running:
        yield running


def use(client, place, outlets):
    """Make every kind of call; what it hands out and what it raises is noted."""
    calls = [
        lambda: client.set_config(NAMESPACE, "model", **place.write),
        lambda: client.get_config(NAMESPACE, "model"),
        lambda: client.get_config(NAMESPACE, "api-key", fresh=True),
        lambda: client.get_int(NAMESPACE, "api-key"),
        lambda: client.list_configs(NAMESPACE),
        lambda: client.get_history(NAMESPACE, "api-key"),
        lambda: client.health_check(),  # noqa: PLW0108  # looked up when it is called, as the others are
        lambda: client.delete_config(NAMESPACE, "nothing"),
    ]
    for call in calls:
        try:
            found = call()
        except LLMConfigError as raised:
            outlets.catch(raised.add_context("while searching"))
        else:
            outlets.hand_out(found)
    outlets.hand_out(client.status)
    outlets.show(client.client, client.endpoints)


@pytest.fixture
def search(server, echo, own_redis, tmp_path, monkeypatch):
    """Uses one place in every way, and names the outlets that its secret came out of."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def searching(name, wire):
        with ExitStack() as stack:
            face = Face(wire, stack)
            place = places(face, tmp_path, own_redis.port)[name]
            for variable, value in place.environment.items():
                monkeypatch.setenv(variable, value)
            raw = stack.enter_context(redis.Redis(port=own_redis.port, password=CANARY))
            raw.flushall()
            outlets = stack.enter_context(Outlets(tmp_path, raw))
            for url in urls():
                options = {
                    "token": None if "LLM_CONFIG_TOKEN" in place.environment else server.token("admin"),
                    "environment": "production",
                    "clock": SteppingClock(),
                    "listeners": outlets.listeners,
                    "snapshot": tmp_path / "plain.json",
                    **place.options,
                }
                client = face.client(url, **options)
                use(client, place, outlets)
                client.close()
            leaks = outlets.leaks(*place.needles)
        assert outlets.paper.lines.getvalue(), "there was nothing to search"
        return {outlet: found for outlet, found in leaks.items() if outlet not in place.may}

    def urls():
        """Bring the servers into every state, one after the other, and say whom to ask."""
        for trouble in TROUBLES:
            server.reset()
            server.put(NAMESPACE, "model", 1, env="production")
            server.put(NAMESPACE, "api-key", CANARY, env="production", secret=True)
            if trouble is not None:
                server.script("*", trouble, repeat="last")
            yield server.url
        for echo.shape in SHAPES:
            yield echo.url
        server.stop()
        yield server.url

    return searching


@pytest.mark.parametrize("name", ROWS)
def test_what_is_secret_comes_out_nowhere(search, name):
    assert not search(name, "sync")


@pytest.mark.parametrize("wire", ["asyncio", "trio", "sync, own httpx2", "asyncio, injected httpx2"])
def test_nor_does_it_on_another_wire(search, wire):
    assert not search("a token, from a callable", wire)


@pytest.mark.parametrize("wire", [*OWN, "sync, own httpx2", "sync, injected httpx"])
def test_a_write_that_breaks_off_shows_nothing_of_what_was_sent(server, tmp_path, wire):
    server.script("POST *", reset().at_head())
    secret = SecretStr(CANARY * 500_000)
    with ExitStack() as stack, Outlets(tmp_path) as outlets:
        client = Face(wire, stack).client(server.url, token=server.token("admin"))
        with pytest.raises(LLMConfigError) as caught:
            client.set_config(NAMESPACE, "api-key", secret)
        outlets.catch(caught.value)
        assert not outlets.leaks(CANARY, server.token("admin"))


def test_the_search_finds_what_is_there(tmp_path, own_redis):
    """A search that finds nothing anywhere would not do: here the secret is in every outlet."""
    call = ObservedCall("get_config", namespace=CANARY)
    found = LLMConfigError(CANARY, code="INTERNAL_ERROR")
    with redis.Redis(port=own_redis.port, password=CANARY) as raw, Outlets(tmp_path, raw) as outlets:
        raw.set("key", CANARY)
        (tmp_path / "file").write_text(CANARY)
        Counter("planted", "A label.", ["label"], registry=outlets.registry).labels(CANARY).inc()
        logging.getLogger("llm_config_sdk.test").debug("a line", extra={"field": CANARY})
        logging.getLogger("httpcore.test").debug("a line of %s", CANARY)
        for listener in outlets.listeners:
            listener.began(call)
            listener.ended(CallEvent(call, "failed", 1.0, error=found, endpoint=CANARY))
        outlets.hand_out(found)
        outlets.catch(found)
        for refuse in (partial(ConfigClient, [CANARY]), partial(TypeAdapter(int).validate_python, CANARY)):
            with pytest.raises((LLMConfigError, ValueError)) as caught:
                refuse()  # with the argument in the frames of ours, and of a library's
            outlets.catch(caught.value)
        assert set(outlets.leaks(CANARY)) == set(outlets.everything())
