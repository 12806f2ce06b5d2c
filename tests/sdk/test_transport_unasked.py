"""A response that nobody asked for is never the answer to the next request."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import ExitStack, suppress

import pytest
import trustme

from client_faces import OWN, Face
from llm_config_sdk import AsyncStackTransport, StackTransport
from llm_config_sdk.transport import Endpoint, WireRequest

AMPLE = 10.0  # seconds


def response(body):
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Plain:
    """One connection's bytes."""

    def __init__(self, connection):
        self.connection = connection

    def read(self):
        return self.connection.recv(65_536)

    def write(self, *responses):
        self.connection.sendall(b"".join(responses))


class Encrypted(Plain):
    """The same in TLS: responses are records of their own, sent at once."""

    def __init__(self, connection, context):
        super().__init__(connection)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.step(self.tls.do_handshake)

    def step(self, function, *args):
        while True:
            try:
                return function(*args)
            except ssl.SSLWantReadError:
                self.flush()
                received = self.connection.recv(65_536)
                self.incoming.write(received) if received else self.incoming.write_eof()

    def flush(self):
        if self.outgoing.pending:
            self.connection.sendall(self.outgoing.read())

    def read(self):
        return self.step(self.tls.read, 65_536)

    def write(self, *responses):
        for each in responses:
            self.tls.write(each)
        self.flush()


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
            stream = Plain(connection) if self.context is None else Encrypted(connection, self.context)
            head = b""
            while received := stream.read():
                head += received
                if head.endswith(b"\r\n\r\n"):
                    head = b""
                    self.requests += 1
                    if self.requests == 1:
                        stream.write(response(b"first"), response(self.unasked))
                    else:
                        stream.write(response(b"second"))

    def close(self):
        with suppress(OSError):
            self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for thread in self.threads:
            thread.join(AMPLE)


@pytest.fixture(params=[*OWN, *(f"{colour}, own httpx2" for colour in OWN)])
def face(request):
    with ExitStack() as stack:
        yield Face(request.param, stack)


@pytest.fixture(scope="module")
def contexts():
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    return ours, theirs


@pytest.mark.parametrize("length", [7, 100_000, 1_000_000])
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_what_nobody_asked_for_answers_nothing(face, contexts, tls, length):
    ours, theirs = contexts
    server = Talkative(b"x" * length, theirs if tls else None)
    face.stack.callback(server.close)
    family = "httpx2" if face.wire else "httpx"
    make = AsyncStackTransport if face.is_async else StackTransport
    transport = make(verify=ours, family=family, trust_env=False)
    face.stack.callback(face.run, getattr(transport, "close", None), getattr(transport, "aclose", None))
    request = WireRequest("GET", Endpoint.parse(server.url), "/", {})
    said = [face.run(transport.send, transport.send, request, AMPLE).body for _ in range(3)]
    assert said == [b"first", b"second", b"second"]
