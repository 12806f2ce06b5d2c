"""The ASGI host: in-process, mounted, and under a real uvicorn."""

from typing import Any

import anyio
import httpx
import pytest
import trio

from llm_config_mock_server import (
    Match,
    MockServer,
    close,
    create_app,
    drip,
    garbage,
    half_close,
    hang,
    latency,
    reset,
    stale,
    stall,
    truncate,
)
from mock_server.uvicorn_host import under_uvicorn

ITEM = "/api/v1/configs/app%2Fllm/model"
HTTP = {"type": "http", "method": "GET", "path": "/health", "headers": []}


def client_of(app: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://config.test", **options)


class Wire:
    """What an ASGI server says to an application, and what it hears."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = list(messages)
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return self.messages.pop(0)

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


REQUEST = {"type": "http.request", "body": b"", "more_body": False}
GONE = {"type": "http.disconnect"}


async def test_an_application_is_the_server():
    app = create_app(seed=7)
    app.server.put("app/llm", "model", "gpt-4")
    async with client_of(app, headers={"authorization": f"Bearer {app.server.token()}"}) as client:
        reply = await client.get(ITEM)
        assert reply.json()["value"] == "gpt-4"
        assert "etag" in reply.headers
        assert (await client.post(ITEM, json={"value": 2, "env": "dev"})).json()["version"] == 2
        assert (await client.delete(ITEM)).status_code == 204
        head = await client.head("/health")
        assert (head.content, head.headers["content-length"]) == (b"", "69")
    assert [entry.status for entry in app.server.journal] == [200, 200, 204, 200]
    assert repr(app).startswith("<Application of <MockServer guide stopped")


def test_under_uvicorn_it_answers_and_has_one_date_only():
    app = create_app(auth=False)
    with under_uvicorn(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        assert client.post(ITEM, json={"value": 1, "env": "dev"}).json()["version"] == 1
        reply = client.get(ITEM)
        assert reply.json()["namespace"] == "app/llm"
        assert len(reply.headers.get_list("date")) == 1
        app.server.script("*", drip(0.001, size=20))
        assert client.get(ITEM).json()["value"] == 1
    assert app.server.journal.count(path="/api/v1/configs/app/llm/model") == 3


def test_it_runs_on_trio_too():
    app = create_app()
    app.server.script("*", latency(0.001))

    async def ask() -> None:
        async with client_of(app) as client:
            assert (await client.get("/health")).status_code == 200

    trio.run(ask)


async def test_a_server_can_be_shared_with_an_application():
    server = MockServer(auth=False)
    server.put("app/llm", "model", 1)
    async with client_of(create_app(server=server)) as client:
        assert (await client.get(ITEM)).json()["value"] == 1
    server.journal.assert_count(1, method="GET", namespace="app/llm", key="model")


@pytest.mark.parametrize(
    "step",
    [
        reset(),
        close(),
        half_close(),
        garbage(),
        truncate(),
        truncate(head=3),
        stale(),
        stale(on_reuse=True),
        drip(part="head"),
        drip(part="both"),
    ],
    ids=lambda step: step.name,
)
def test_a_fault_that_it_cannot_carry_is_refused_when_it_is_armed(step):
    app = create_app()
    with pytest.raises(ValueError, match=f"the ASGI host cannot carry the fault '{step.name}'.*socket"):
        app.server.script("*", step)
    assert len(app.server.faults) == 0


def test_faults_of_connections_are_refused_too():
    with pytest.raises(ValueError, match="is about connections"):
        create_app().server.script(Match(connection=True), latency(1))


def test_a_server_with_such_a_fault_armed_cannot_be_made_an_application():
    server = MockServer()
    with server.script("*", reset()), pytest.raises(ValueError, match="ASGI host cannot carry"):
        create_app(server=server)
    create_app(server=server)


async def test_silence_lasts_until_the_client_goes():
    app = create_app()
    app.server.script("*", [hang(), stall(keep=5)])
    for expected in (b"", b'{"sta'):
        wire = Wire(REQUEST, GONE)
        await app(dict(HTTP), wire.receive, wire.send)
        assert wire.body == expected
    assert wire.sent[0]["status"] == 200
    assert all(message["more_body"] for message in wire.sent[1:])


async def test_a_drip_is_sent_in_pieces():
    app = create_app()
    app.server.script("*", drip(0.0, size=30))
    wire = Wire(REQUEST)
    await app(dict(HTTP), wire.receive, wire.send)
    assert [len(message["body"]) for message in wire.sent[1:]] == [30, 30, 9, 0]


async def test_a_client_that_goes_in_its_body_changes_nothing():
    app = create_app(auth=False)
    wire = Wire({**REQUEST, "body": b'{"value"', "more_body": True}, GONE)
    headers = [(b"content-type", b"application/json")]
    await app({**HTTP, "method": "POST", "path": ITEM, "headers": headers}, wire.receive, wire.send)
    assert wire.sent == []
    assert [entry.outcome for entry in app.server.journal] == ["abandoned"]


async def test_a_request_that_is_cancelled_is_abandoned():
    app = create_app()
    app.server.script("*", latency(60))
    with anyio.move_on_after(0.01):
        await app(dict(HTTP), Wire(REQUEST).receive, Wire().send)
    assert [entry.outcome for entry in app.server.journal] == ["abandoned"]


async def test_a_body_that_is_too_long_is_refused_before_its_end():
    app = create_app(auth=False)
    piece = {**REQUEST, "body": b" " * 1_100_000, "more_body": True}
    wire = Wire(piece, piece)
    headers = [(b"content-type", b"application/json")]
    await app({**HTTP, "method": "POST", "path": ITEM, "headers": headers}, wire.receive, wire.send)
    assert wire.sent[0]["status"] == 413


async def test_the_parsers_limits_hold_here_too():
    wire = Wire(REQUEST)
    await create_app()({**HTTP, "headers": [(b"x", b"y")] * 101}, wire.receive, wire.send)
    assert wire.sent[0]["status"] == 431


@pytest.mark.parametrize(
    "told",
    [
        {"raw_path": ITEM.encode(), "path": "/api/v1/configs/app/llm/model"},
        {"raw_path": b"/mounted" + ITEM.encode(), "path": "/x", "root_path": "/mounted"},
        {"path": "/api/v1/configs/app-llm/model"},
        {"raw_path": ITEM.encode(), "query_string": b"env=development"},
    ],
    ids=["whole", "mounted", "without raw_path", "with a query"],
)
async def test_the_raw_path_counts_below_wherever_it_is_mounted(told):
    app = create_app(auth=False)
    for namespace in ("app/llm", "app-llm"):
        app.server.put(namespace, "model", 1)
    wire = Wire(REQUEST)
    await app({**HTTP, **told}, wire.receive, wire.send)
    assert wire.sent[0]["status"] == 200


async def test_a_lifespan_is_started_and_ended():
    wire = Wire({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    await create_app()({"type": "lifespan"}, wire.receive, wire.send)
    assert [message["type"] for message in wire.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]


async def test_web_sockets_are_closed_and_anything_else_is_an_error():
    wire = Wire()
    await create_app()({"type": "websocket"}, wire.receive, wire.send)
    assert wire.sent == [{"type": "websocket.close"}]
    with pytest.raises(ValueError, match="knows http and lifespan, not 'carrier pigeon'"):
        await create_app()({"type": "carrier pigeon"}, wire.receive, wire.send)
