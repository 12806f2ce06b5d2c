"""What servers, proxies, disks and environments may hand to the SDK: shaped like the real thing, and broken.

A property states how many examples it is worth in CI; `make fuzz` multiplies all of them by `FUZZ_SCALE`.
"""

import gzip
import json
import os
import string
import zlib
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings, strategies as st

from llm_config_sdk.contract import CODES, SYSTEM_KINDS, VARIANTS, Environment

SCALE = float(os.environ.get("FUZZ_SCALE", "1"))
MAX_BYTES = 64 * 1024  # what a reply may have here, so that what is too large is cheap to make


def examples(count: int) -> Callable[[Any], Any]:
    """Run a property on so many examples in CI, and on `FUZZ_SCALE` times as many by `make fuzz`."""
    return settings(
        max_examples=max(1, round(count * SCALE)),
        deadline=None,  # a busy machine is no defect
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        phases=[phase for phase in Phase if phase is not Phase.explain],
    )


# --- JSON ---------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
"""Any JSON, and the NaN and Infinity that Python writes and other languages refuse."""


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def mutated(document: Any) -> st.SearchStrategy[Any]:
    """A document, any one place of which may have gone or be any JSON."""
    return st.sampled_from(list(_places(document))).flatmap(
        lambda place: (
            st.just(_without(document, place)) | json_values.map(lambda v: _with(document, place, v))
        )
    )


def _places(document: Any, here: tuple[Any, ...] = ()) -> Any:
    yield here
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for name, inner in items:
        yield from _places(inner, (*here, name))


def _with(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[place[0]] = _with(copy[place[0]], place[1:], value)
    return copy


def _without(document: Any, place: tuple[Any, ...]) -> Any:
    if not place:
        return None
    copy = dict(document) if isinstance(document, dict) else list(document)
    if len(place) == 1:
        del copy[place[0]]
    else:
        copy[place[0]] = _without(copy[place[0]], place[1:])
    return copy


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with bits flipped, cut short, with a piece repeated, or with something put in."""
    places = st.integers(0, max(len(whole) - 1, 0))

    def flipped(flips: list[tuple[int, int]]) -> bytes:
        copy = bytearray(whole)
        for place, bit in flips:
            copy[place] ^= 1 << bit
        return bytes(copy)

    return st.one_of(
        st.lists(st.tuples(places, st.integers(0, 7)), min_size=1, max_size=4).map(flipped),
        places.map(lambda end: whole[:end]),
        st.tuples(places, places).map(lambda cut: whole[: max(cut)] + whole[min(cut) :]),
        st.tuples(places, st.binary(max_size=20)).map(lambda put: whole[: put[0]] + put[1] + whole[put[0] :]),
    )


deep_json = st.sampled_from([b"[" * depth + b"]" * depth for depth in (10, 200, 100_000)])
odd_json = st.sampled_from(
    [
        b"",
        b"null",
        b'"\\ud800"',
        b"9" * 5000,
        b"-1e999",
        b"\xef\xbb\xbf{}",
        b'{"error":{}}',
        b'{"a":1,"a":2}',
        '{"error": "é"}'.encode("utf-16"),
        b"<html><body>502 Bad Gateway</body></html>",
    ]
)

# --- What a server answers ------------------------------------------------------------------------

ENTRY = {
    "id": "1",
    "namespace": "app",
    "key": "model",
    "value": "gpt-4",
    "environment": "production",
    "version": 1,
    "secret": False,
    "metadata": {
        "created_at": "2024-01-15T10:30:00.123456789+00:00",
        "created_by": "ann",
        "updated_at": "2024-01-15T10:30:00Z",
        "updated_by": "ann",
        "tags": ["llm"],
        "description": None,
    },
}
VERSION = {"version": 1, "value": 1, "created_at": "2024-01-15T10:30:00Z", "created_by": "ann"}
ENVELOPE = {
    "error": {
        "code": "NOT_FOUND",
        "message": "Configuration not found",
        "details": {"module": "config", "variant": "NotFound", "namespace": "app", "retry_after": 1},
        "timestamp": "2024-01-15T10:30:00Z",
        "request_id": "req_1",
        "retriable": False,
    }
}
FLAT = {
    "error": "Storage error: no space (os error 28)",
    "code": "STORAGE_ERROR",
    "message": "m",
    "details": "d",
}
PROBLEM = {"type": "about:blank", "title": "Forbidden", "status": 403, "detail": "no"}
DOCUMENTS = (ENTRY, [ENTRY], [VERSION], ENVELOPE, FLAT, PROBLEM, {"status": "healthy", "service": "s"})

documents = st.sampled_from(DOCUMENTS).flatmap(lambda document: st.just(document) | mutated(document))
_texts = st.sampled_from(DOCUMENTS).flatmap(lambda document: damaged(encoded(document)))
bodies = st.one_of(
    documents.map(encoded),
    _texts,
    json_values.map(encoded),
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: text.encode(errors="surrogatepass")),
    deep_json,
    odd_json,
)

_packed = st.one_of(
    bodies.map(gzip.compress),
    bodies.map(zlib.compress),
    bodies.flatmap(lambda body: damaged(gzip.compress(body))),
    st.just(gzip.compress(bytes(4 * MAX_BYTES))),  # a bomb
)
encodings = st.sampled_from(["gzip", "x-gzip", "GZIP", "deflate", "br", "identity", "", "gzip, gzip", "\xff"])
wire_bodies = bodies | _packed

retry_afters = st.one_of(
    st.integers(-10, 10**6).map(str),
    st.integers(0, 10**400).map(str),
    st.floats().map(str),
    st.datetimes().map(lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT")),
    st.sampled_from(
        ["\u0663", "\uff11\uff12", "\u00b2", "1_000", "0x10", "+5", "1e9", "nan", "Infinity", " 7 ", "", "-0"]
    ),
    st.text(max_size=30),
    st.text("0123456789 :,+-GMTJanFri", max_size=40),
)
_header_text = st.text(st.characters(max_codepoint=0xFF, exclude_characters="\r\n\0"), max_size=60)
headers = st.dictionaries(
    st.sampled_from(
        [
            "content-type",
            "retry-after",
            "date",
            "x-request-id",
            "location",
            "etag",
            "allow",
            "server",
            "x-ratelimit-remaining",
            "x-anything",
        ]
    ),
    st.one_of(
        _header_text,
        retry_afters.filter(lambda value: value.isascii() and value.isprintable()),
        st.sampled_from(
            [
                "application/json",
                "application/problem+json",
                "text/plain; charset=utf-16",
                "text/html",
                'W/"1.1"',
                '"1.1"',
                "https://user:pass@evil.example/?token=t",
                "Fri, 31 Dec 9999 23:59:59 GMT",
                "Fri, 32 Foo 0000 99:99:99 -9999",
            ]
        ),
    ),
    max_size=5,
)
statuses = st.one_of(
    st.sampled_from([200, 201, 204, 206, 301, 304, 307, 400, 401, 403, 404, 405, 408, 409, 412, 422, 425]),
    st.sampled_from([429, 500, 502, 503, 504, 507, 599, 600, 999]),
    st.integers(200, 999),
)
errors_named = st.one_of(
    st.sampled_from(sorted(CODES)).map(lambda code: (code, None)),
    st.sampled_from(list(VARIANTS.values())).map(lambda facts: (facts.code, facts)),
)
io_kinds = st.none() | st.sampled_from(sorted(SYSTEM_KINDS))

# --- Names ----------------------------------------------------------------------------------------

_NAME = string.ascii_letters + string.digits + "_-"
namespaces = st.text(_NAME + "/", min_size=1, max_size=40) | st.sampled_from(
    ["/", "//", "a//b", "/a", "a/", "--", "a" * 256, "history", "api/v1/configs", "rollback/1"]
)
keys = st.text(_NAME + ".", min_size=1, max_size=40) | st.sampled_from(
    [".", "..", "...", "--", "history", "rollback", "a..b", "k" * 128]
)
bad_names = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            "",
            "a b",
            "a?env=base",
            "a#b",
            "a%2Fb",
            "a&b",
            "a\r\nX: y",
            "a\0",
            "é",
            "\u0663",
            "a\\b",
            "a;b",
            "a\n",
        ]
    ),
    st.none() | st.integers() | st.binary(max_size=5),
)
environments = st.sampled_from(list(Environment))
