"""Whatever answers, and whatever it says: a value or an `LLMConfigError`, in bounded time and memory."""

import asyncio
import gzip
import pickle
import time
import tracemalloc

import anyio.lowlevel
import httpcore
import httpcore2
import httpx
import httpx2
import pytest
from anyio.abc import ByteStream
from hypothesis import example, given, strategies as st

from client_faces import SteppingClock
from fuzz.strategies import (
    ENTRY,
    MAX_BYTES,
    bodies,
    damaged,
    encoded,
    encodings,
    examples,
    headers,
    statuses,
    wire_bodies,
)
from llm_config_sdk import (
    AsyncConfigClient,
    ConfigClient,
    LLMConfigError,
    ResponseDecodeError,
    operations,
)
from llm_config_sdk.decoding import Reply, decode_error
from llm_config_sdk.transport import exchange
from llm_config_sdk.transport.anyio_stream import AnyioStream
from llm_config_sdk.transport.socket_stream import SocketStream

URL = "http://192.0.2.1"  # RFC 5737: of nobody, and looked up nowhere
OPERATIONS = [value for value in vars(operations).values() if isinstance(value, operations.Operation)]
LONGEST = 5.0  # seconds for one reply on a busy machine; a quadratic step would take minutes
CALLS = {
    "get_config": ("app", "model"),
    "resolve": ("app", "model"),
    "get_int": ("app", "model"),
    "get_json": ("app", "model"),
    "set_config": ("app", "model", 1),
    "delete_config": ("app", "model"),
    "list_configs": ("app",),
    "get_history": ("app", "model"),
    "rollback": ("app", "model", 1),
    "health_check": (),
    "request": ("GET", "/api/v1/vault/keys"),
}
calls = st.sampled_from(sorted(CALLS))


def assert_sound(error):
    """Check what everybody who catches an error relies on."""
    assert isinstance(error, LLMConfigError)
    for text in (str(error), repr(error), error.message, error.hint):
        assert len(text.splitlines()) == 1
        assert len(text) < 4000
        text.encode()
    assert error.retry_after is None or 0 <= error.retry_after < 1e9
    assert error.status is None or isinstance(error.status, int)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), repr(copy), copy.details) == (str(error), repr(error), error.details) or has_nan(error)


def assert_located(error):
    """Check that an error of a whole call says which."""
    assert error.operation is not None


def has_nan(error):
    return "nan" in repr(error.details)


# --- The pieces -----------------------------------------------------------------------------------


@examples(400)
@given(statuses, headers, bodies)
def test_every_refusal_becomes_an_error_that_can_be_shown_and_pickled(status, sent, body):
    began = time.process_time()
    assert_sound(decode_error(Reply(status, sent, body)))
    assert time.process_time() - began < LONGEST


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@examples(60)
@given(headers=headers, body=bodies)
def test_every_operation_reads_its_reply_or_says_that_it_cannot(operation, headers, body):
    began = time.process_time()
    try:
        operation.read(Reply(200, headers, body))
    except ResponseDecodeError as error:
        assert_sound(error)
    assert time.process_time() - began < LONGEST


@examples(150)
@given(encodings, wire_bodies, st.lists(st.integers(1, 5000), max_size=5))
def test_a_body_is_put_together_within_bounds_however_it_is_packed_and_cut(encoding, body, sizes):
    raw = [(b"Content-Encoding", encoding.encode("latin-1"))]
    reader = exchange.ReplyReader(200, raw, max_bytes=MAX_BYTES)
    for size in [*sizes, len(body)]:
        reader.feed(body[:size])
        body = body[size:]
    try:
        reply = reader.reply()
    except ResponseDecodeError as error:
        assert_sound(error)
    else:
        assert len(reply.body) <= MAX_BYTES


def test_what_unpacks_to_too_much_is_never_in_memory_at_once():
    size = 1024 * 1024
    bomb = gzip.compress(bytes(64 * size))
    tracemalloc.start()
    try:
        reader = exchange.ReplyReader(200, [(b"content-encoding", b"gzip")], max_bytes=size)
        assert not reader.feed(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    with pytest.raises(ResponseDecodeError, match="unpacks to more than"):
        reader.reply()
    assert peak < 4 * size


# --- The whole client, over a transport that answers anything --------------------------------------


def answering(library, *, status, sent, encoding, body, cut):
    """Answer every request with this reply, its body in two chunks."""
    if encoding is not None:
        sent = {**sent, "content-encoding": encoding}
    raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in sent.items()]

    def answer(request):
        del request
        return library.Response(status, headers=raw, stream=stream_of(library)([body[:cut], body[cut:]]))

    return answer


def stream_of(library):
    class Stream(library.SyncByteStream, library.AsyncByteStream):
        def __init__(self, chunks):
            self.chunks = chunks

        def __iter__(self):
            return iter(self.chunks)

        async def __aiter__(self):
            for chunk in self.chunks:
                yield chunk

    return Stream


def options(http_client):
    return {
        "http_client": http_client,
        "clock": SteppingClock(),
        "environment": "production",
        "token": "t",
        "backups": ["http://192.0.2.2"],
    }


def call_sync(method, http_client):
    with http_client, ConfigClient(URL, **options(http_client)) as client:
        return getattr(client, method)(*CALLS[method])


def call_async(method, http_client):
    async def call():
        async with http_client, AsyncConfigClient(URL, **options(http_client)) as client:
            return await getattr(client, method)(*CALLS[method])

    return asyncio.run(call())


replies = st.fixed_dictionaries(
    {
        "status": statuses,
        "sent": headers,
        "encoding": st.none() | encodings,
        "body": wire_bodies,
        "cut": st.integers(0, 99),
    }
)


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("colour", ["sync", "async"])
@examples(60)
@given(method=calls, reply=replies)
def test_a_call_ends_in_a_value_or_in_an_error_of_ours(colour, library, method, reply):
    transport = library.MockTransport(answering(library, **reply))
    made = (library.Client if colour == "sync" else library.AsyncClient)(transport=transport)
    began = time.process_time()
    try:
        (call_sync if colour == "sync" else call_async)(method, made)
    except LLMConfigError as error:
        assert_sound(error)
        assert_located(error)
    assert time.process_time() - began < LONGEST


# --- The whole client, over connections that say anything -------------------------------------------

WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
GOOD = WHOLE % (len(encoded(ENTRY)), encoded(ENTRY))
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    len(encoded(ENTRY)),
    encoded(ENTRY),
)
INTERIM = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
wire_bytes = st.one_of(
    damaged(GOOD),
    damaged(CHUNKED),
    damaged(INTERIM + GOOD),
    st.binary(max_size=300),
    st.integers(0, 300).map(lambda times: INTERIM * times + GOOD),
    st.sampled_from(
        [
            GOOD,
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
            b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 20_000 + b"\r\n",
            b"HTTP/1.1 200 \xff\xfe\r\nx\xe9: y\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.6\r\n",
            b"\x15\x03\x01\x00\x02\x02\x50",  # a TLS alert
            b"",
        ]
    ),
)


@pytest.mark.parametrize("core", [httpcore, httpcore2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("colour", ["sync", "async"])
@examples(60)
@given(method=calls, spoken=wire_bytes, cut=st.integers(1, 400))
@example(method="get_config", spoken=GOOD, cut=7)
def test_a_connection_may_say_anything(colour, core, method, spoken, cut):
    pieces = [spoken[:cut], *([spoken[cut:]] if spoken[cut:] else [])]
    kept = {
        "clock": SteppingClock(),
        "token": "t",
        "environment": "production",
        "transport": "httpx" if core is httpcore else "httpx2",
    }
    with pytest.MonkeyPatch.context() as patch:
        if colour == "sync":
            patch.setattr(SocketStream, "connect", lambda *_: Said(pieces))
        else:
            patch.setattr(AnyioStream, "connect", speaking(pieces))
        try:
            found = _said_sync(method, kept) if colour == "sync" else asyncio.run(_said_async(method, kept))
        except LLMConfigError as error:
            assert_sound(error)
            assert spoken != GOOD or method not in {"get_config", "resolve"}
        else:
            assert spoken != GOOD or method != "get_config" or found.value == ENTRY["value"]


class Said:
    """A stream of sync code that has been told already."""

    def __init__(self, pieces):
        self.pieces = list(pieces)

    def read(self, max_bytes, deadline):
        del max_bytes, deadline
        return self.pieces.pop(0) if self.pieces else b""

    def write(self, data, deadline):
        pass

    def is_readable(self):
        return bool(self.pieces)

    def close(self):
        pass


class Spoken(ByteStream):
    """A stream that has been told already."""

    def __init__(self, pieces):
        self.pieces = list(pieces)

    async def receive(self, max_bytes=65_536):
        del max_bytes
        await anyio.lowlevel.checkpoint()
        if not self.pieces:
            raise anyio.EndOfStream
        return self.pieces.pop(0)

    async def send(self, item):
        del item

    async def send_eof(self):
        pass

    async def aclose(self):
        pass


def speaking(pieces):
    async def connect(host, port, family, deadline):
        del host, port, deadline
        return AnyioStream(Spoken(pieces), family)

    return connect


def _said_sync(method, kept):
    with ConfigClient(URL, **kept) as client:
        return getattr(client, method)(*CALLS[method])


async def _said_async(method, kept):
    async with AsyncConfigClient(URL, **kept) as client:
        return await getattr(client, method)(*CALLS[method])
