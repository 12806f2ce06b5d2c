"""Fixtures of the reference server's tests: a server, clients by role, and a raw socket."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from llm_config_mock_server import MockServer

SOCKET_TIMEOUT = 5.0  # seconds: far beyond what a loopback needs, so that a hang ends as a failure


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=7) as running:
        yield running


@pytest.fixture
def client_as(server: MockServer) -> Iterator[Callable[..., httpx.Client]]:
    """Makes a client with the token of a role."""
    with ExitStack() as stack:

        def make(
            role: str | None = "admin", *, of: MockServer = server, **token_arguments: str
        ) -> httpx.Client:
            headers = {} if role is None else {"authorization": f"Bearer {of.token(role, **token_arguments)}"}
            client = httpx.Client(base_url=of.url, headers=headers, timeout=SOCKET_TIMEOUT, trust_env=False)
            return stack.enter_context(client)

        yield make


@pytest.fixture
def client(client_as: Callable[..., httpx.Client]) -> httpx.Client:
    """A client with the token of an admin."""
    return client_as()


class Wire:
    """A raw connection: what was sent, byte by byte."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SOCKET_TIMEOUT)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, path: str = "/health", *headers: str, method: str = "GET") -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *headers, "", ""]
        self.send("\r\n".join(lines).encode())

    def receive(self) -> bytes:
        return self.socket.recv(65_536)

    def receive_all(self) -> bytes:
        """Everything up to the end of the stream; an RST is an error."""
        received = b""
        while chunk := self.receive():
            received += chunk
        return received

    def receive_until(self, mark: bytes) -> bytes:
        received = b""
        while mark not in received:
            chunk = self.receive()
            assert chunk, f"the stream ended before {mark!r}: {received!r}"
            received += chunk
        return received


@pytest.fixture
def wire(server: MockServer) -> Iterator[Callable[[], Wire]]:
    """Opens raw connections to the server."""
    with ExitStack() as stack:

        def make() -> Wire:
            made = Wire(server.port)
            stack.callback(made.socket.close)
            return made

        yield make
