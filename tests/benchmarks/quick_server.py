"""The smallest server that a client of the platform is content with: one asyncio process of its own.

It is there to cost as little as it can, so that what is measured is the client. It reads GET requests without
bodies, answers every one with an entry of the name that was asked for, and misbehaves as its options say.
It ends with its standard input, so that it cannot outlive who started it.

    python tests/benchmarks/quick_server.py --delay 0.2
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST: Final = "127.0.0.1"
BACKLOG: Final = 4096  # connections; 2,000 callers of a client without a limit come at once

HEAD: Final = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
MOMENT: Final = "2026-01-01T00:00:00.000000000Z"
UNAVAILABLE: Final = {
    "error": {
        "code": "SERVICE_UNAVAILABLE",
        "message": "Service temporarily unavailable",
        "details": {},
        "timestamp": MOMENT,
        "request_id": "req_0123456789ab",
        "retriable": True,
    }
}


@dataclass(frozen=True, slots=True)
class Options:
    """How the server answers.

    Attributes:
        delay: Seconds that every answer takes.
        errors: The share of requests that get 503.
        slow: Seconds more that some answers take.
        slow_share: The share of them.
        seed: Of the two shares: which requests are struck follows from their number, so it is the same ones
            in every run.
    """

    delay: float = 0.0
    errors: float = 0.0
    slow: float = 0.0
    slow_share: float = 0.0
    seed: int = 7


def _reply(status: bytes, content: object) -> bytes:
    body = json.dumps(content, separators=(",", ":")).encode()
    return HEAD % (status, len(body)) + body


_ENTRY: Final = (
    b'{"id":"6f1f6a52-7d0c-4a8e-9d5c-0f4f8a1f0c11","namespace":"%b","key":"%b","value":"gpt-4",'
    b'"environment":"development","version":1,"secret":false,"metadata":{"created_at":"%b",'
    b'"created_by":"bench","updated_at":"%b","updated_by":"bench","tags":[],"description":null}}'
)


def entry(target: bytes) -> bytes:
    """Write the entry that is asked for, as the platform sends it: a microsecond, whatever its name is."""
    *_, namespace, key = target.partition(b"?")[0].split(b"/")
    moment = MOMENT.encode()
    body = _ENTRY % (namespace.replace(b"%2F", b"/"), key, moment, moment)
    return HEAD % (b"200 OK", len(body)) + body


class _Connection(asyncio.Protocol):
    """One connection; requests may be pipelined, answers are in order where nothing is delayed."""

    def __init__(self, options: Options, draw: random.Random) -> None:
        self._options = options
        self._draw = draw.random
        self._unavailable = _reply(b"503 Service Unavailable", UNAVAILABLE)
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            request, self._buffer = self._buffer[:end], self._buffer[end + 4 :]
            self._answer(request.split(b" ", 2)[1])

    def _answer(self, target: bytes) -> None:
        options, reply = self._options, entry(target)
        delay = options.delay
        if options.errors and self._draw() < options.errors:
            reply = self._unavailable
        if options.slow_share and self._draw() < options.slow_share:
            delay += options.slow
        if delay:
            asyncio.get_running_loop().call_later(delay, self._send, reply)
        else:
            self._transport.write(reply)

    def _send(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(reply)


async def serve(options: Options, port: int) -> None:
    """Serve until standard input ends; print the port first."""
    loop = asyncio.get_running_loop()
    draw = random.Random(options.seed)
    server = await loop.create_server(
        lambda: _Connection(options, draw), HOST, port, backlog=BACKLOG, reuse_address=True
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201  # how the parent learns of it
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


class RunningServer:
    """A server in a process of its own, which can be taken down and come back on the same port.

    Args:
        options: How it answers.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{HOST}:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        """Its host and port."""
        return HOST, self._port

    def start(self) -> None:
        """Start it, and wait until it listens."""
        options = self._options
        words = [sys.executable, "-I", __file__, "--port", str(self._port)]
        for name in Options.__slots__:
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the quick server did not start: status {process.wait()}")
        self._port = int(line)
        self._process = process

    def stop(self) -> None:
        """Take it down as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def quick_server(**options: float) -> Iterator[RunningServer]:
    """Run a server for a while. Arguments as `Options`."""
    server = RunningServer(Options(**options))  # type: ignore[arg-type]  # the seed is a whole number
    try:
        yield server
    finally:
        server.stop()


def main() -> None:
    """Read the options, and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--errors", type=float, default=0.0)
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--slow-share", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=7)
    told = vars(parser.parse_args())
    port = told.pop("port")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Options(**told), port))


if __name__ == "__main__":
    main()
