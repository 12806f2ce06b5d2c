"""A response that nobody asked for never answers the next request; what TLS cannot read is no response.

And what TLS reads in many steps, one in the other, is read within one deadline.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress

import pytest
import trustme

from client_faces import OWN, Face
from llm_config_sdk import (
    AsyncStackTransport,
    ConnectFailedError,
    RequestTimeoutError,
    StackTransport,
    TransportError,
)
from llm_config_sdk.transport import Endpoint, WireRequest

AMPLE = 10.0  # seconds, far more than is needed


def response(body):
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Plain:
    """One connection's bytes."""

    def __init__(self, connection):
        self.connection = connection

    def read(self):
        return self.connection.recv(65_536)

    def send(self, data):
        self.connection.sendall(data)

    def write(self, *responses):
        self.send(b"".join(responses))


class Encrypted(Plain):
    """The same in TLS, over one of the others: responses are records of their own, sent at once."""

    def __init__(self, below, context):
        self.below = below
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.step(self.tls.do_handshake)
        self.flush()

    def step(self, function, *args):
        while True:
            try:
                return function(*args)
            except ssl.SSLWantReadError:
                self.flush()
                received = self.below.read()
                self.incoming.write(received) if received else self.incoming.write_eof()

    def flush(self):
        if self.outgoing.pending:
            self.below.send(self.outgoing.read())

    def read(self):
        return self.step(self.tls.read, 65_536)

    def send(self, data):
        self.tls.write(data)
        self.flush()

    def write(self, *responses):
        for each in responses:
            self.tls.write(each)
        self.flush()

    def records(self, data):
        self.tls.write(data)
        return self.outgoing.read()


class Talkative:
    """Answers the first request twice, with nothing in between, and later ones once."""

    def __init__(self, unasked, context):
        self.unasked = unasked
        self.context = context
        self.requests = 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.listening.getsockname()[1]}"
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                connection.settimeout(AMPLE)
                self.threads.append(threading.Thread(target=self.serve, args=[connection]))
                self.threads[-1].start()

    def serve(self, connection):
        with connection, suppress(OSError):
            stream = self.spoken(Plain(connection))
            head = b""
            while received := stream.read():
                head += received
                if head.endswith(b"\r\n\r\n"):
                    head = b""
                    self.requests += 1
                    if self.requests == 1:
                        self.begin(stream)
                    else:
                        stream.write(response(b"second"))

    def spoken(self, plain):
        return plain if self.context is None else Encrypted(plain, self.context)

    def begin(self, stream):
        stream.write(response(b"first"), response(self.unasked))

    def close(self):
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for thread in self.threads:
            thread.join(AMPLE)


class Crowding(Talkative):
    """Ends its first response in TLS where anyio, unless it is asked for more, ends its first read."""

    READ = 65_536
    RECORD = 16_384  # the most bytes that go into one
    AROUND = 5 + 1 + 16  # bytes: header, content type, tag (RFC 8446, section 5.2)

    def begin(self, stream):
        length = self.READ - -(-self.READ // self.RECORD) * self.AROUND
        said = response(b"x" * (length - len(response(b"x" * length)) + length))
        first = b"".join(
            stream.records(said[start : start + self.RECORD]) for start in range(0, length, self.RECORD)
        )
        assert len(first) == self.READ
        stream.below.send(first + stream.records(response(self.unasked)))


class Proxying(Talkative):
    """A proxy by TLS that is the server by TLS, too: one is in the other."""

    def __init__(self, unasked, context, *, in_one):
        super().__init__(unasked, context)
        self.in_one = in_one

    def spoken(self, plain):
        outer, head = Encrypted(plain, self.context), b""
        while not head.endswith(b"\r\n\r\n"):
            head += outer.read()
        outer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        return Encrypted(outer, self.context)

    def begin(self, stream):
        said = [stream.records(response(body)) for body in (b"first", self.unasked)]
        stream.below.write(*([b"".join(said)] if self.in_one else said))


class Dripping(Proxying):
    """Sends a record a byte at a time, each in one of the proxy's: it is whole after many seconds."""

    PAUSE = 0.1  # seconds

    def begin(self, stream):
        ended = threading.Event()
        for byte in stream.records(response(b"first")):
            stream.below.write(bytes([byte]))
            ended.wait(self.PAUSE)


class Garbling(Talkative):
    """Sends half a response, and then what was changed on its way."""

    def begin(self, stream):
        stream.write(response(b"first")[:-2])
        stream.below.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)


@pytest.fixture(params=[*OWN, *(f"{colour}, own httpx2" for colour in OWN)])
def face(request):
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    theirs.num_tickets = 0  # which would come before the first response, or with it
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    return ours, theirs


@pytest.fixture
def asking(face, contexts):
    def ask(server, times=3, timeout=AMPLE):
        face.stack.callback(server.close)
        make = AsyncStackTransport if face.is_async else StackTransport
        transport = make(verify=contexts[0], family="httpx2" if face.wire else "httpx")
        face.stack.callback(face.run, getattr(transport, "close", None), getattr(transport, "aclose", None))
        request = WireRequest("GET", Endpoint.parse(server.url), "/", {})
        return [face.run(transport.send, transport.send, request, timeout).body for _ in range(times)]

    return ask


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


@pytest.mark.parametrize("length", [7, 100_000, 1_000_000])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_what_nobody_asked_for_answers_nothing(asking, contexts, tls, length):
    server = Talkative(b"x" * length, contexts[1] if tls else None)
    assert asking(server) == [b"first", b"second", b"second"]


def test_nor_where_it_begins_behind_what_is_read_at_once(asking, contexts):
    assert asking(Crowding(b"unasked", contexts[1]))[1:] == [b"second", b"second"]


@pytest.mark.parametrize("in_one", [False, True], ids=["a record each", "one record of the proxy's"])
def test_nor_in_a_proxys_tls(asking, contexts, environment, in_one):
    server = Proxying(b"unasked", contexts[1], in_one=in_one)
    environment("HTTPS_PROXY", server.url)
    assert asking(server) == [b"first", b"second", b"second"]


def test_a_record_that_was_changed_on_its_way_breaks_a_response_off(asking, contexts):
    with pytest.raises(TransportError, match="reading the response") as caught:
        asking(Garbling(b"", contexts[1]), times=1)
    assert (isinstance(caught.value, ConnectFailedError), caught.value.never_sent) == (False, False)


def test_a_deadline_holds_for_all_the_records_of_a_proxys_tls(asking, contexts, environment):
    server = Dripping(b"", contexts[1], in_one=True)
    environment("HTTPS_PROXY", server.url)
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError, match="reading the response"):
        asking(server, times=1, timeout=0.3)
    assert time.monotonic() - started < AMPLE / 2
