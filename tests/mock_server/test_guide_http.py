"""The framework's own refusals in the profile `guide`: every one of them is the envelope."""

import httpx
import pytest

from llm_config_mock_server import Limits, MockServer
from mock_server.envelopes import error_of

ITEM = "/api/v1/configs/app%2Fllm/model"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1/configs",
        "/api/v1/configs/app/llm/model",
        f"{ITEM}/",
        f"{ITEM}/rollback",
        "/health/",
    ],
)
def test_a_path_without_a_route_is_told_from_a_missing_config(client, path):
    details = error_of(client.get(path), 404, "NOT_FOUND")["details"]
    assert details == {"route": path}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", ITEM, "GET, HEAD, DELETE, POST"),
        ("PATCH", ITEM, "GET, HEAD, DELETE, POST"),
        ("OPTIONS", "/health", "GET, HEAD"),
        ("POST", "/api/v1/configs/app", "GET, HEAD"),
        ("DELETE", f"{ITEM}/history", "GET, HEAD"),
        ("GET", f"{ITEM}/rollback/1", "POST"),
        ("HEAD", f"{ITEM}/rollback/1", "POST"),
    ],
)
def test_a_method_without_a_handler_is_not_allowed(client, method, path, allow):
    reply = client.request(method, path)
    assert reply.status_code == 405
    assert reply.headers["allow"] == allow
    if method != "HEAD":
        assert "module" not in error_of(reply, 405, "INVALID_REQUEST")["details"]


def test_head_is_get_without_a_body(server, client):
    server.put("app/llm", "model", "gpt-4")
    read, looked = client.get(ITEM), client.head(ITEM)
    assert (looked.status_code, looked.content) == (200, b"")
    assert looked.headers["content-length"] == str(len(read.content))
    assert looked.headers["etag"] == read.headers["etag"]


@pytest.mark.parametrize("accept", ["text/html", "image/*", "text/plain;q=0.5"])
def test_an_answer_that_is_not_json_is_not_acceptable(client, accept):
    error_of(client.get("/health", headers={"accept": accept}), 406, "INVALID_REQUEST")


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/*", "text/html, */*;q=0.1", ""])
def test_whatever_allows_json_is_acceptable(client, accept):
    assert client.get("/health", headers={"accept": accept}).status_code == 200


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "json"])
def test_a_body_of_another_type_is_unsupported(client, content_type):
    headers = {} if content_type is None else {"content-type": content_type}
    reply = client.post(ITEM, content=b'{"value": 1, "env": "dev"}', headers=headers)
    error_of(reply, 415, "INVALID_REQUEST")


@pytest.mark.parametrize(
    "content_type", ["application/json", "APPLICATION/JSON; charset=utf-8", "application/merge+json"]
)
def test_a_body_of_any_json_type_is_read(client, content_type):
    reply = client.post(ITEM, content=b'{"value": 1, "env": "dev"}', headers={"content-type": content_type})
    assert reply.status_code == 200


def test_a_declared_body_over_the_limit_is_refused_unread(server, client):
    size = 2 * 1024 * 1024 + 1
    reply = client.post(ITEM, content=b"x" * size, headers={"content-type": "application/json"})
    error_of(reply, 413, "INVALID_REQUEST")
    assert reply.headers["connection"] == "close"
    assert server.journal[-1].status == 413


def test_an_undeclared_body_over_the_limit_is_refused_on_the_way(client):
    def chunks():
        for _ in range(40):
            yield b"x" * 65_536

    reply = client.post(ITEM, content=chunks(), headers={"content-type": "application/json"})
    error_of(reply, 413, "INVALID_REQUEST")


def test_a_target_that_is_too_long_is_refused(wire):
    for length in (65_535, 200_000):
        connection = wire()
        connection.get("/" + "a" * length)
        assert connection.receive_all().startswith(b"HTTP/1.1 414 ")


def test_too_many_or_too_large_headers_are_refused(wire):
    for headers in (
        [f"X-{number}: 1" for number in range(101)],
        ["X-Big: " + "a" * 65_537],
        ["X-Big: " + "a" * 200_000],
    ):
        connection = wire()
        connection.get("/health", *headers)
        reply = connection.receive_all()
        assert reply.startswith(b"HTTP/1.1 431 ")
        assert b'"code":"INVALID_REQUEST"' in reply


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: banana\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
def test_what_is_no_http_is_a_bad_request_in_the_envelope(wire, sent):
    connection = wire()
    connection.send(sent)
    reply = connection.receive_all()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"INVALID_REQUEST"' in reply


def test_a_chunk_that_is_none_is_a_bad_request(wire):
    connection = wire()
    connection.send(b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert connection.receive_all().startswith(b"HTTP/1.1 400 ")


def test_a_path_that_is_no_utf_8_is_a_bad_request(client):
    error_of(client.get("/api/v1/configs/%FF/k"), 400, "INVALID_REQUEST")


def test_the_client_is_told_to_go_on_before_it_sends_its_body(server, wire):
    connection = wire()
    connection.get(
        ITEM,
        f"Authorization: Bearer {server.token()}",
        "Content-Type: application/json",
        "Content-Length: 26",
        "Expect: 100-continue",
        method="POST",
    )
    assert connection.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 100 ")
    connection.send(b'{"value": 1, "env": "dev"}')
    assert connection.receive_until(b"}}").startswith(b"HTTP/1.1 200 ")


def test_a_refused_head_never_asks_for_the_body(wire):
    connection = wire()
    connection.get(
        ITEM, "Content-Type: text/plain", "Content-Length: 5", "Expect: 100-continue", method="POST"
    )
    assert connection.receive_until(b"\r\n\r\n").startswith(b"HTTP/1.1 415 ")


def test_pipelined_requests_are_answered_in_order(wire):
    connection = wire()
    request = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
    connection.send(request % b"health" + request % b"nope" + request % b"health")
    received = connection.receive_until(b"req_")
    while received.count(b"HTTP/1.1 ") < 3:
        received += connection.receive()
    assert [part[:3] for part in received.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]


@pytest.mark.parametrize(
    "request_line", ["GET /health HTTP/1.0", "GET /health HTTP/1.1\r\nConnection: close"]
)
def test_a_connection_is_closed_where_that_was_asked(wire, request_line):
    connection = wire()
    connection.send(f"{request_line}\r\nHost: x\r\n\r\n".encode())
    assert connection.receive_all().endswith(b'"version":"0.5.0"}')


def test_a_rate_limit_has_its_headers_and_says_when_to_come_back(client_as):
    with MockServer(limits=Limits(rate=0.5, burst=2)) as limited:
        client = client_as(of=limited)
        replies = [client.get(ITEM) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [404, 404, 429]
        error = error_of(replies[2], 429, "RATE_LIMIT_EXCEEDED")
        assert error["retriable"] is True
        assert replies[2].headers["retry-after"] in {"1", "2"}
        assert replies[2].headers["x-ratelimit-limit"] == "2"
        assert replies[2].headers["x-ratelimit-remaining"] == "0"
        assert client_as("viewer", of=limited).get(ITEM).status_code == 404, (
            "others have a budget of their own"
        )
        assert client.get("/health").status_code == 200, "health is not limited"


def test_a_rate_limit_tells_what_is_left(client_as):
    with MockServer(limits=Limits(rate=0.5, burst=3)) as limited:
        limited.put("app/llm", "model", 1)
        reply = client_as(of=limited).get(ITEM)
        assert reply.status_code == 200
        assert reply.headers["x-ratelimit-remaining"] == "2"
        assert int(reply.headers["x-ratelimit-reset"]) > 1_600_000_000


async def test_an_async_client_gets_the_same(server):
    server.put("app/llm", "model", "gpt-4")
    headers = {"authorization": f"Bearer {server.token('viewer')}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
        assert (await client.get(ITEM)).json()["value"] == "gpt-4"
        denied = await client.post(ITEM, json={"value": 1, "env": "dev"})
        assert error_of(denied, 403, "PERMISSION_DENIED")["details"]["variant"] == "AccessDenied"
