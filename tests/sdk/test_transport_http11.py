"""HTTP/1.1 without a socket: what is sent, what comes back, and when a connection may be used again."""

import h11
import pytest
from hypothesis import example, given, settings, strategies as st

from llm_config_sdk.errors import ResponseDecodeError
from llm_config_sdk.transport.http11 import MAX_HEAD_BYTES, Http11

HEADERS = [(b"Host", b"a")]
FRAMING = {b"host", b"content-length", b"transfer-encoding", b"connection"}  # never a caller's to set
NAMES = (st.binary(max_size=8) | st.sampled_from([b"A", b"X-Request-ID"])).filter(
    lambda name: name.lower() not in FRAMING
)
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\n\r\nok"


@pytest.fixture
def http():
    return Http11(1000)


def receive(http, data, still_in_time=lambda: None):
    return http.receive(data, still_in_time)


def ask(http, method="GET", body=None):
    written = http.request(method, "/x", HEADERS, body)
    http.sent()
    return written


def test_a_request_is_one_piece_of_bytes(http):
    headers = [*HEADERS, (b"Content-Length", b"2")]
    assert http.request("POST", "/x?a=b", headers, b"{}") == (
        b"POST /x?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
    )


@pytest.mark.parametrize("size", [1, 7, len(WHOLE)])
def test_a_reply_is_put_together_from_any_pieces(http, size):
    ask(http)
    pieces = [WHOLE[start : start + size] for start in range(0, len(WHOLE), size)]
    assert [receive(http, piece) for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    reply = http.reply()
    assert (reply.status, reply.headers["x-a"], reply.body) == (200, "1", b"ok")


def test_a_connection_carries_one_exchange_after_another(http):
    for _ in range(3):
        ask(http)
        assert not http.is_reusable
        assert not receive(http, WHOLE)
        assert http.reply().body == b"ok"
        assert http.is_reusable


@pytest.mark.parametrize(
    "wire",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        WHOLE + b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnot for",
    ],
    ids=["closed", "HTTP/1.0", "more than was asked for"],
)
def test_a_connection_that_says_goodbye_or_too_much_is_not_used_again(http, wire):
    ask(http)
    assert not receive(http, wire)
    assert http.reply().body == b"ok"
    assert not http.is_reusable


@pytest.mark.parametrize(
    ("method", "wire", "status"),
    [
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", 304),
        ("HEAD", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", 200),
    ],
)
def test_what_has_no_body_ends_with_its_head(http, method, wire, status):
    ask(http, method)
    assert not receive(http, wire)
    assert (http.reply().status, http.reply().body) == (status, b"")
    assert http.is_reusable


def test_a_body_may_end_with_the_connection(http):
    ask(http)
    assert receive(http, b"HTTP/1.1 200 OK\r\n\r\nok")
    assert not receive(http, b"")
    assert http.reply().body == b"ok"
    assert not http.is_reusable


def test_informational_responses_are_passed_over(http):
    ask(http)
    assert receive(http, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n")
    assert not receive(http, WHOLE)
    assert http.reply().status == 200


def test_a_tunnel_begins_where_the_answer_to_connect_ends(http):
    http.request("CONNECT", "a:443", HEADERS)
    assert not receive(http, b"HTTP/1.1 200 Connection established\r\n\r\n")
    assert http.reply().is_success
    assert not http.is_reusable


@pytest.mark.parametrize(
    ("wire", "said"),
    [
        ([b""], "closed the connection without a response"),
        ([b"HTTP/1.1 2"], None),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", b""], "without sending complete message body"),
        ([b"not http at all\r\n\r\n"], None),
        ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"], None),
        ([b"HTTP/1.1 200 OK\r\nx: " + b"a" * (MAX_HEAD_BYTES + 1)], None),
    ],
    ids=[
        "nothing",
        "half a line",
        "half a body",
        "another protocol",
        "an upgrade nobody asked for",
        "a head",
    ],
)
def test_what_is_no_http_or_ends_too_early_is_the_other_sides_mistake(http, wire, said):
    ask(http)
    with pytest.raises(h11.RemoteProtocolError, match=said):
        all(receive(http, data) for data in [*wire, b""])
    assert not http.is_reusable


def test_a_flood_of_chunks_in_one_read_is_left_when_time_is_up():
    http, looked = Http11(1_000_000), []

    def still_in_time():
        looked.append(None)
        if len(looked) > 100:
            raise TimeoutError

    ask(http)
    receive(http, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    with pytest.raises(TimeoutError):
        receive(http, b"1\r\nx\r\n" * 8000, still_in_time)
    assert not http.is_reusable


def test_a_body_that_is_too_large_is_not_read_to_its_end(http):
    ask(http)
    assert not receive(http, b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + b"x" * 1001)
    with pytest.raises(ResponseDecodeError, match="larger than 1000 bytes"):
        http.reply()
    assert not http.is_reusable


@settings(deadline=None)  # a busy machine may take long for one example
@given(
    st.sampled_from(["GET", "HEAD", "OPTIONS", "DELETE"]),
    st.text(st.characters(max_codepoint=0x180), max_size=20),
    st.lists(
        st.tuples(NAMES, st.binary(max_size=12) | st.from_regex(rb"[ -~]{0,9}", fullmatch=True)), max_size=4
    ),
)
@example("GET", "/", [(b"A: b", b"c")])
@example("GET", "/", [(b"A", b"b\r\nC: d")])
@example("GET", "/", [(b"A", b"b\tc"), (b"D", b"\xff"), (b"E", b"")])
@example("GET", "/", [(b"A", b" b")])
@example("GET", "/ HTTP/1.1\r\nA: b", [])
def test_a_request_without_a_body_is_written_or_refused_as_h11_would(method, target, headers):
    headers = [*HEADERS, *headers]
    try:
        expected = h11.Connection(h11.CLIENT).send(h11.Request(method=method, target=target, headers=headers))
    except (h11.LocalProtocolError, UnicodeEncodeError):
        with pytest.raises(h11.LocalProtocolError):
            Http11(1000).request(method, target, headers)
    else:
        assert Http11(1000).request(method, target, headers) == expected


def test_what_would_smuggle_in_another_header_is_refused_before_it_is_sent(http):
    with pytest.raises(h11.LocalProtocolError):
        http.request("GET", "/x", [*HEADERS, (b"X-A", b"1\r\nX-B: 2")])
    with pytest.raises(h11.LocalProtocolError):
        Http11(1000).request("GET", "/x HTTP/1.1\r\nX-B: 2\r\n\r\n", HEADERS)
