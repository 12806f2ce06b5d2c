"""What only a host can see of a request: raw bytes, lengths, and a missing Host."""

from collections.abc import Iterator

import pytest
from hypothesis import given, strategies as st

from llm_config_mock_server import MockServer
from llm_config_mock_server.hosts.parsing import STRICT, UPSTREAM, head_problem, parsing_of, soften
from llm_config_mock_server.messages import Request
from mock_server.conftest import Wire

PREFIX = b"/api/v1/configs/"
TLS = b"X-Forwarded-Proto: https\r\n"


@pytest.fixture
def upstream() -> Iterator[Wire]:
    with MockServer("upstream-0.5", limits=False) as server:
        connection = Wire(server.port)
        yield connection
        connection.socket.close()


def reply_to(connection: Wire, head: bytes) -> tuple[int, bytes]:
    connection.send(head + b"Connection: close\r\n\r\n")
    head, _, body = connection.receive_all().partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("byte", [b" ", b"<", b">", b"`", b"\x7f"])
def test_bytes_that_may_not_stand_in_a_path_are_a_400_without_a_body(upstream, byte):
    head = b"GET " + PREFIX + b"a" + byte + b"b/key HTTP/1.1\r\nHost: x\r\n" + TLS
    assert reply_to(upstream, head) == (400, b"")


@pytest.mark.parametrize("text", ['a"b', "a{b}", "a|b", "a~b", "a^b", "a[b]"])
def test_unusual_bytes_that_may_stand_there_reach_the_route(upstream, text):
    head = b"GET " + PREFIX + text.encode() + b" HTTP/1.1\r\nHost: x\r\n" + TLS
    assert reply_to(upstream, head)[0] in {200, 400}
    assert parsing_of("upstream-0.5") is UPSTREAM
    assert head_problem(Request("GET", f"/{text}"), UPSTREAM) is None


def test_raw_bytes_above_ascii_pass_and_count_as_what_they_are(upstream):
    head = b"GET /caf\xc3\xa9 HTTP/1.1\r\nHost: x\r\n"
    assert reply_to(upstream, head) == (404, b"")


def test_a_missing_host_is_accepted_and_is_not_made_up(wire):
    with MockServer("upstream-0.5", limits=False) as server:
        connection = Wire(server.port)
        assert reply_to(connection, b"GET /health HTTP/1.1\r\n")[0] == 200
        connection.socket.close()
        assert server.journal[0].request.header("host") is None
    strict = wire()
    assert reply_to(strict, b"GET /health HTTP/1.1\r\n")[0] == 400


def test_a_head_may_come_in_pieces_and_requests_one_after_the_other(upstream):
    for _ in range(2):
        for piece in (b"GET /hea", b"lth HTTP/1.1\r", b"\n", b"X: y\r\n\r", b"\n"):
            upstream.send(piece)
        assert upstream.receive_until(b"}").startswith(b"HTTP/1.1 200 ")
    upstream.send(b"GET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert upstream.receive_all().count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize("profile", ["guide", "upstream-0.5"])
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /" + b"a" * 65_533 + b" HTTP/1.1\r\nHost: x\r\n", {404, 401}),
        (b"GET /" + b"a" * 65_534 + b" HTTP/1.1\r\nHost: x\r\n", {414}),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 98, {200}),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 99, {431}),
        (b"no HTTP at all\r\n", {400}),
    ],
    ids=["longest target", "target too long", "most headers", "too many headers", "no HTTP"],
)
def test_lengths_and_counts_have_the_platforms_bounds(profile, head, status):
    with MockServer(profile, limits=False) as server:
        connection = Wire(server.port)
        assert reply_to(connection, head)[0] in status
        connection.socket.close()


def test_a_client_that_goes_in_its_head_is_no_defect():
    with MockServer("upstream-0.5") as server:
        for piece in (b"", b"GET", b"GET / HTTP/1.1\r\nX:", b"\x00" * 200_000):
            connection = Wire(server.port)
            connection.send(piece)
            connection.socket.close()
    assert len(server.journal) == 0


@given(st.binary(max_size=200))
def test_any_head_is_softened_to_the_same_request_line_but_for_its_target(head):
    softened = soften(head)
    assert softened.head.split(b" ")[0] == head.split(b" ")[0] or b" " not in head
    if softened.target is not None:
        assert max(softened.target.encode("latin-1")) >= 0x80
    request = Request("GET", "/", (("host", ""), ("x", "y")))
    restored = softened.restored(request)
    assert (len(restored.headers) == 1) == softened.added_host


def test_the_strict_profile_leaves_the_path_to_the_parser():
    assert head_problem(Request("GET", "/<>"), STRICT) is None
    assert head_problem(Request("GET", "/<>"), UPSTREAM) == (
        400,
        "the path holds a byte that may not stand there",
    )
