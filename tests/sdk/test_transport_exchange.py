"""Base URLs, and replies put together within bounds."""

import gzip

import pytest

from llm_config_sdk.errors import InvalidRequestError, ResponseDecodeError
from llm_config_sdk.transport.exchange import Endpoint, ReplyReader, WireRequest, wire_headers


@pytest.mark.parametrize(
    ("url", "shown", "host", "port", "prefix"),
    [
        ("http://a", "http://a", "a", 80, ""),
        ("https://a/", "https://a", "a", 443, ""),
        ("http://a:8080/x/", "http://a:8080/x", "a", 8080, "/x"),
        ("https://a:443", "https://a", "a", 443, ""),
        (" http://A.Example ", "http://a.example", "a.example", 80, ""),
        ("http://[::1]:5/", "http://[::1]:5", "::1", 5, ""),
        ("http://[::1]", "http://[::1]", "::1", 80, ""),
        ("http://127.0.0.1", "http://127.0.0.1", "127.0.0.1", 80, ""),
        ("http://bücher.example", "http://xn--bcher-kva.example", "xn--bcher-kva.example", 80, ""),
    ],
    ids=repr,
)
def test_a_base_url_is_taken_apart(url, shown, host, port, prefix):
    endpoint = Endpoint.parse(url)
    assert (endpoint.url, endpoint.host, endpoint.port, endpoint.prefix) == (shown, host, port, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "", "config.example", "ftp://a", "http://", "http:///x", "http://a b", "http://a/x y", "http://a?x=s3cr3t",
        "http://a/?", "http://a/#s3cr3t", "http://u:s3cr3t@a", "http://u@a", "http://a:port", "http://a:99999",
        "http://a/ä", "http://[::1", "http://a\\b", "http://a\x00b",
        None,
    ],
    ids=repr,
)  # fmt: skip
def test_a_base_url_that_cannot_be_one_is_refused_without_showing_secrets(url):
    with pytest.raises(InvalidRequestError) as caught:
        Endpoint.parse(url)
    assert "s3cr3t" not in str(caught.value)


def read(headers, *chunks, max_bytes=100):
    reader = ReplyReader(200, headers, max_bytes=max_bytes)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.reply()


def test_a_reply_is_joined_and_its_headers_are_lowered():
    reply = read([(b"X-A", b"1"), (b"x-a", b"2"), (b"ETag", b'"e"')], b"ab", b"", b"c")
    assert (reply.body, reply.headers) == (b"abc", {"x-a": "1, 2", "etag": '"e"'})


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_gzip_is_unpacked_in_any_pieces(size):
    packed = gzip.compress(b"hello " * 10)
    chunks = [packed[i : i + size] for i in range(0, len(packed), size)]
    assert read([(b"Content-Encoding", b"GZIP")], *chunks).body == b"hello " * 10


@pytest.mark.parametrize(
    ("headers", "chunks", "told"),
    [
        ([], [b"x" * 60, b"x" * 60], "larger than 100 bytes"),
        ([(b"content-encoding", b"gzip")], [gzip.compress(b"x" * 5000)], "unpacks to more than 100 bytes"),
        ([(b"content-encoding", b"gzip")], [b"not gzip"], "broken"),
        ([(b"content-encoding", b"gzip")], [gzip.compress(b"x")[:-3]], "cut off"),
        ([(b"content-encoding", b"br")], [b"x"], "encoded as 'br'"),
    ],
    ids=["too large", "a bomb", "broken", "cut off", "another encoding"],
)
def test_a_body_out_of_bounds_is_refused(headers, chunks, told):
    with pytest.raises(ResponseDecodeError, match=told):
        read(headers, *chunks)


def test_an_empty_body_may_claim_to_be_packed():
    assert read([(b"content-encoding", b"gzip")]).body == b""


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("GET", None, None), ("POST", None, b"0"), ("POST", b"abc", b"3"), ("DELETE", None, None)],
)
def test_a_request_says_how_long_it_is(method, body, length):
    request = WireRequest(method, Endpoint.parse("http://a:5/x"), "/y", {"X-A": "1"}, body)
    headers = dict(wire_headers(request))
    assert headers.get(b"Content-Length") == length
    assert headers[b"Host"] == b"a:5"
    assert request.url == "http://a:5/x/y"


def test_headers_and_body_are_in_no_repr():
    request = WireRequest("GET", Endpoint.parse("http://a"), "/", {"Authorization": "t0k3n"}, b"s3cr3t")
    assert "t0k3n" not in repr(request)
    assert "s3cr3t" not in repr(request)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_gzip_may_have_several_members(size):
    packed = gzip.compress(b"one, ") + gzip.compress(b"two, ") + gzip.compress(b"three")
    pieces = [packed[start : start + size] for start in range(0, len(packed), size)]
    assert read([(b"content-encoding", b"gzip")], *pieces).body == b"one, two, three"


def test_several_members_are_bounded_together():
    packed = gzip.compress(b"x" * 60) * 2
    with pytest.raises(ResponseDecodeError, match="unpacks to more than 100 bytes"):
        read([(b"content-encoding", b"gzip")], packed)


def test_a_broken_encoding_takes_no_frames_along():
    with pytest.raises(ResponseDecodeError, match="gzip encoding is broken") as caught:
        read([(b"content-encoding", b"gzip")], b"s3cr3t")
    assert caught.value.__cause__ is not None
    assert caught.value.__cause__.__traceback__ is None
