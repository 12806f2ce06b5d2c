"""A server that never ends: whatever it pours out, a call ends by its deadline, in bounded memory."""

import gzip
import socketserver
import threading
import time
import tracemalloc
from contextlib import ExitStack, suppress

import pytest

from client_faces import OWN, Face
from llm_config_mock_server import MockServer, respond
from llm_config_sdk import LLMConfigError, ResiliencePolicy
from llm_config_sdk.transport.exchange import MAX_RESPONSE_BYTES

DEADLINE = 0.3  # seconds
AMPLE = 30.0  # seconds: far more than a busy machine needs, and nothing beside "for ever"
MEMORY = 160 * 1024 * 1024  # bytes: a few times what a reply may have
BOMB = gzip.compress(bytes(2 * MAX_RESPONSE_BYTES))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
FLOODS = {
    "interim responses": (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 500),
    "headers": (HEAD, b"X-Header: value\r\n" * 1000),
    "one header": (HEAD + b"X: ", b"a" * 60_000),
    "a status line": (b"HTTP/1.1 200 ", b"a" * 60_000),
    "a body without an end": (HEAD + b"\r\n", b" " * 60_000),
    "chunks": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 8000),
    "trailers": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: value\r\n" * 1000),
    "one chunk's size": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0" * 60_000),
    "rubbish": (b"", b"\0" * 60_000),
}


class Flood(socketserver.ThreadingTCPServer):
    """Says its beginning, and then the same for ever, to whoever connects."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, beginning, rest):
        super().__init__(("127.0.0.1", 0), None)
        self.beginning, self.rest, self.is_over = beginning, rest, False
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request, client_address):
        request.settimeout(AMPLE)
        with suppress(OSError):
            request.recv(65_536)
            request.sendall(self.beginning)
            while not self.is_over:
                request.sendall(self.rest)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *raised):
        self.is_over = True
        self.shutdown()
        self._thread.join()
        self.server_close()


@pytest.mark.parametrize("wire", ["sync", "asyncio", "asyncio, injected httpx2"])
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_ends_by_the_deadline_and_fills_no_memory(name, wire):
    with Flood(*FLOODS[name]) as server, ExitStack() as stack:
        client = Face(wire, stack).client(
            server.url, timeout=DEADLINE, resilience=ResiliencePolicy(retry=None)
        )
        tracemalloc.start()
        began = time.monotonic()
        try:
            with pytest.raises(LLMConfigError):
                client.get_config("app", "model")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert time.monotonic() - began < AMPLE
        assert peak < MEMORY


@pytest.mark.parametrize("wire", [*OWN, "sync, injected httpx"])
def test_a_bomb_is_refused_before_it_is_unpacked(wire):
    packed = {"content-encoding": "gzip"}
    with MockServer(seed=1) as server, ExitStack() as stack:
        server.script("*", respond(200, BOMB, content_type="application/json", headers=packed), repeat="last")
        client = Face(wire, stack).client(server.url, token=server.token("admin"), timeout=AMPLE)
        tracemalloc.start()
        try:
            with pytest.raises(LLMConfigError, match="unpacks to more than"):
                client.get_config("app", "model")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < MEMORY
