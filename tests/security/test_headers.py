"""No argument can put a line of its own on the wire, and no server can have the token sent elsewhere."""

from contextlib import ExitStack, suppress
from functools import partial

import pytest

from client_faces import ALL, Face
from llm_config_mock_server import MockServer, respond
from llm_config_sdk import LLMConfigError

EVIL = [
    "a\r\nX-Evil: 1",
    "a\nX-Evil: 1",
    "a\rX-Evil: 1",
    "a\0X-Evil: 1",
    "\x7f",
    "a\u2028b",
    "\u0130\u4e2d",
    "\ud800",
]
CALLS = {
    "token": lambda connect, evil: connect(token=evil).get_config("app", "model"),
    "token, from a callable": lambda connect, evil: connect(token=lambda: evil).get_config("app", "model"),
    "user": lambda connect, evil: connect(user=evil).get_config("app", "model"),
    "environment": lambda connect, evil: connect(environment=evil).get_config("app", "model"),
    "a header's name": lambda connect, evil: connect(headers={evil: "v"}).get_config("app", "model"),
    "a header's value": lambda connect, evil: connect(headers={"X-Team": evil}).get_config("app", "model"),
    "with_options": lambda connect, evil: connect().with_options(headers={"X-Team": evil}).health_check(),
    "namespace": lambda connect, evil: connect().get_config(evil, "model"),
    "key": lambda connect, evil: connect().get_config("app", evil),
    "env": lambda connect, evil: connect().get_config("app", "model", env=evil),
    "value": lambda connect, evil: connect().set_config("app", "model", evil),
    "user of a write": lambda connect, evil: connect().set_config("app", "model", 1, user=evil),
    "idempotency_key": lambda connect, evil: connect().set_config("app", "model", 1, idempotency_key=evil),
    "expected_version": lambda connect, evil: connect().set_config("app", "model", 1, expected_version=evil),
    "method": lambda connect, evil: connect().request(evil, "/health"),
    "path": lambda connect, evil: connect().request("GET", f"/health{evil}"),
    "params": lambda connect, evil: connect().request("GET", "/health", params={"a": evil, evil: 1}),
    "json": lambda connect, evil: connect().request("POST", "/health", json={evil: evil}),
}


@pytest.fixture(scope="module")
def server():
    with MockServer(seed=1, limits=False) as running:
        yield running


@pytest.mark.parametrize("wire", ["sync", "asyncio, injected httpx"])
@pytest.mark.parametrize("argument", CALLS)
def test_an_argument_stays_in_its_place_or_is_not_sent(server, argument, wire):
    with ExitStack() as stack:
        face = Face(wire, stack)
        connect = partial(face.client, server.url, resilience=None)
        for evil in EVIL:
            server.reset()
            with suppress(LLMConfigError):
                given = {} if argument.startswith("token") else {"token": server.token("admin")}
                CALLS[argument](partial(connect, **given), evil)
            check(server)


def check(server):
    assert len(server.journal) <= 1, "one call made two requests"
    for seen in server.journal:
        assert seen.request.header("x-evil") is None
        assert seen.request.header("host") == server.url.removeprefix("http://")
        assert "\r" not in seen.request.target


@pytest.mark.parametrize("wire", ALL)
def test_a_redirect_takes_the_token_nowhere(server, wire):
    server.reset()
    with MockServer(seed=1) as other, ExitStack() as stack:
        server.script(
            "*", respond(307, headers={"location": f"{other.url}/api/v1/configs/app/model"}), repeat="last"
        )
        client = Face(wire, stack).client(server.url, token=server.token("admin"))
        for call in (lambda: client.get_config("app", "model"), lambda: client.set_config("app", "model", 1)):
            with pytest.raises(LLMConfigError, match="redirect"):
                call()
        assert not other.journal
