"""Faults of the wire, as raw sockets and as both kinds of httpx clients meet them."""

import contextlib
import socket
import time

import httpx
import pytest

from llm_config_mock_server import (
    Match,
    MockServer,
    close,
    drip,
    error,
    garbage,
    half_close,
    hang,
    html,
    latency,
    malformed,
    mislabelled,
    ok,
    oversized,
    reset,
    respond,
    stale,
    stall,
    truncate,
)
from mock_server.envelopes import error_of

ITEM = "/api/v1/configs/app%2Fllm/model"
BODY = {"value": 1, "env": "dev"}
ATTEMPT_SECONDS = 0.2  # how long a client waits for what will never come

FAILURES = [
    (reset(), httpx.ReadError),
    (close(), httpx.RemoteProtocolError),
    (half_close(), httpx.RemoteProtocolError),
    (hang(), httpx.ReadTimeout),
    (stall(), httpx.ReadTimeout),
    (garbage(), httpx.RemoteProtocolError),
    (truncate(), httpx.RemoteProtocolError),
    (truncate(head=20), httpx.RemoteProtocolError),
    (reset(keep=5), httpx.ReadError),
    (latency(ATTEMPT_SECONDS * 50), httpx.ReadTimeout),
    (latency(after=ATTEMPT_SECONDS * 50), httpx.ReadTimeout),
    (drip(ATTEMPT_SECONDS * 50, part="head"), httpx.ReadTimeout),
    (drip(ATTEMPT_SECONDS * 50), httpx.ReadTimeout),
]


def name_of(value):
    return getattr(value, "name", None)


@pytest.mark.parametrize(("step", "failure"), FAILURES, ids=name_of)
def test_a_sync_client_meets_the_fault_and_then_none(server, step, failure):
    server.script("/health", step)
    with httpx.Client(base_url=server.url, timeout=ATTEMPT_SECONDS, trust_env=False) as client:
        with pytest.raises(failure):
            client.get("/health")
        assert client.get("/health", timeout=5).status_code == 200


@pytest.mark.parametrize(("step", "failure"), FAILURES, ids=name_of)
async def test_an_async_client_meets_the_fault_and_then_none(server, step, failure):
    server.script("/health", step)
    async with httpx.AsyncClient(base_url=server.url, timeout=ATTEMPT_SECONDS, trust_env=False) as client:
        with pytest.raises(failure):
            await client.get("/health")
        assert (await client.get("/health", timeout=5)).status_code == 200


def test_a_reset_is_an_rst_and_not_an_end(server, wire):
    server.script("*", reset())
    connection = wire()
    connection.get()
    with pytest.raises(ConnectionResetError):
        connection.receive()


def test_a_reset_in_the_body_comes_after_what_was_sent(server, wire):
    server.script("*", reset(keep=10))
    connection = wire()
    connection.get()
    assert connection.receive_until(b'\r\n\r\n{"status":')
    with pytest.raises(ConnectionResetError):
        connection.receive()


def test_a_truncated_body_promises_more_than_it_holds(server, wire):
    server.script("*", truncate(keep=10))
    connection = wire()
    connection.get()
    head, _, body = connection.receive_all().partition(b"\r\n\r\n")
    assert body == b'{"status":'
    assert b"content-length: 69" in head


def test_a_body_is_always_cut_by_one_byte_at_least(server, wire):
    server.script("*", truncate(keep=1_000_000))
    connection = wire()
    connection.get()
    _, _, body = connection.receive_all().partition(b"\r\n\r\n")
    assert body == b'{"status":"healthy","service":"llm-config-manager","version":"0.5.0"'


def test_a_head_can_be_cut_too(server, wire):
    server.script("*", truncate(head=12))
    connection = wire()
    connection.get()
    assert connection.receive_all() == b"HTTP/1.1 200"


def test_garbage_is_sent_as_it_is(server, wire):
    server.script("*", garbage(b"\x00\xff\x00"))
    connection = wire()
    connection.get()
    assert connection.receive_all() == b"\x00\xff\x00"


def test_a_drip_trickles_and_arrives_whole(server, wire):
    server.script("*", drip(0.001, size=7, part="both"))
    connection = wire()
    connection.get("/health", "Connection: close")
    pieces = []
    while piece := connection.receive():
        pieces.append(piece)
    assert len(pieces) > 3
    assert b"".join(pieces).endswith(b'"version":"0.5.0"}')


def test_a_half_closed_connection_is_still_read(server, wire):
    server.script("*", half_close())
    connection = wire()
    connection.get()
    assert connection.receive_all() == b""
    for _ in range(3):
        connection.send(b"still here")


def test_a_connection_gone_stale_is_closed_after_its_reply(server, wire):
    server.script("*", stale())
    connection = wire()
    connection.get()
    received = connection.receive_all()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" not in received.lower()


def test_a_connection_stale_on_reuse_loses_the_next_request_unseen(server):
    server.script("*", stale(on_reuse=True))
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        assert client.get("/health").status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/health")
        assert client.get("/health").status_code == 200
    assert len(server.journal) == 2


def test_hung_connections_end_with_the_server():
    with MockServer() as server:
        server.script("*", hang())
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            server.journal.wait_for(1, path="/health", method="GET")
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 2
            assert connection.recv(1) == b""


@pytest.mark.parametrize(
    ("step", "seen"), [(reset(), ConnectionResetError), (close(), b""), (garbage(b"!!"), b"!!")], ids=name_of
)
def test_a_connection_can_be_refused_before_any_request(server, wire, step, seen):
    server.script(Match(connection=True), [step, ok()])
    connection = wire()
    if isinstance(seen, bytes):
        assert connection.receive_all() == seen
    else:
        with pytest.raises(seen):
            connection.receive()
    second = wire()
    second.get()
    assert second.receive().startswith(b"HTTP/1.1 200 ")


def test_a_fault_of_a_connection_cannot_be_about_a_reply(server):
    for step in (error("NOT_FOUND"), truncate(), malformed()):
        with pytest.raises(ValueError, match="is about a reply"):
            server.script(Match(connection=True), step)


def test_a_write_whose_answer_is_lost_took_effect(server, client):
    for step in (
        reset().after_effect(),
        close().after_effect(),
        garbage().after_effect(),
        html().after_effect(),
    ):
        server.put("app/llm", "model", "old")
        before = server.entry("app/llm", "model")["version"]
        server.script("POST", step)
        with contextlib.suppress(httpx.TransportError):
            assert client.post(ITEM, json=BODY).status_code == 502
        assert server.entry("app/llm", "model")["version"] == before + 1


def test_a_write_that_fails_before_took_no_effect(server, client):
    for step in (reset(), close(), garbage(), error("INTERNAL_ERROR"), html(), respond(204)):
        server.script("POST", step)
        with contextlib.suppress(httpx.TransportError):
            client.post(ITEM, json=BODY)
        assert server.entry("app/llm", "model") is None


def test_a_lost_answer_is_replayed_under_its_idempotency_key(server, client):
    server.script("POST", reset().after_effect())
    headers = {"idempotency-key": "once"}
    with pytest.raises(httpx.ReadError):
        client.post(ITEM, json=BODY, headers=headers)
    replayed = client.post(ITEM, json=BODY, headers=headers)
    assert replayed.json()["version"] == 1
    assert replayed.headers["idempotency-replayed"] == "true"


async def test_a_key_whose_request_still_runs_is_a_conflict(server):
    server.script("POST", latency(30))
    headers = {"authorization": f"Bearer {server.token()}", "idempotency-key": "once"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(ITEM, json=BODY, timeout=ATTEMPT_SECONDS)
        reply = await client.post(ITEM, json=BODY)
        assert error_of(reply, 409, "CONFLICT")["details"]["reason"] == "in_progress"


# --- Replies that are wrong in themselves ---------------------------------------------------------


def test_a_proxys_page_is_html(server, client):
    server.script("*", html())
    reply = client.get("/health")
    assert (reply.status_code, reply.headers["content-type"]) == (502, "text/html")
    assert "<h1>502 Bad Gateway</h1>" in reply.text


def test_malformed_json_has_a_length_that_fits(server, client):
    server.script("*", malformed())
    reply = client.get("/health")
    assert reply.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        reply.json()


def test_an_oversized_body_is_valid_and_long(server, client):
    server.script("*", oversized(1_000_000))
    reply = client.get("/health")
    assert len(reply.content) == 1_000_000
    assert reply.json()["status"] == "healthy"


def test_a_body_can_be_mislabelled(server, client):
    server.script("*", mislabelled())
    reply = client.get("/health")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.json()["status"] == "healthy"


@pytest.mark.parametrize(
    ("body", "content_type", "sent"),
    [
        (b"\x00\x01", "application/octet-stream", b"\x00\x01"),
        ("zażółć", "text/plain; charset=utf-8", "zażółć".encode()),
        ({"error": "down"}, "application/json", b'{"error": "down"}'),
        (b"", None, b""),
    ],
)
def test_any_status_can_have_any_body(server, client, body, content_type, sent):
    server.script("*", respond(418, body, headers={"x-extra": "1"}))
    reply = client.get("/health")
    assert (reply.status_code, reply.content) == (418, sent)
    assert reply.headers.get("content-type") == content_type
    assert reply.headers["x-extra"] == "1"


def test_an_error_can_be_answered_before_the_body_is_read(server, wire):
    server.script("POST", error("RATE_LIMIT_EXCEEDED", retry_after=1).at_head())
    connection = wire()
    connection.get(ITEM, "Content-Length: 1000", "Content-Type: application/json", method="POST")
    assert connection.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 429 ")
    assert server.journal[-1].request.body == b""


def test_a_step_that_takes_effect_needs_the_body():
    with pytest.raises(ValueError, match="needs its body"):
        latency(1).at_head()
