"""A server whose answers have no end, each kind at a port of its own: silence, drips, a flood.

It prints the addresses by kind, as JSON, and ends with its standard input, so that it cannot outlive who
started it.

    python tests/benchmarks/endless_server.py
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOST: Final = "127.0.0.1"
DRIP: Final = 0.02  # seconds from byte to byte
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
CHUNKS: Final = b"1\r\n \r\n" * 8_000

#: By kind: what is said at once, what is said again and again, and how many bytes of that at a time.
ANSWERS: Final[dict[str, tuple[bytes, bytes, int]]] = {
    "silence": (b"", b"", 0),
    "a dripped head": (b"", HEAD + b"x-long: " + b"a" * 60_000, 1),
    "a dripped body": (HEAD + b"content-length: 60000\r\n\r\n", b" " * 60_000, 1),
    "a flood of one-byte chunks": (HEAD + b"transfer-encoding: chunked\r\n\r\n", CHUNKS, len(CHUNKS)),
}


async def _answer(kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    beginning, rest, piece = ANSWERS[kind]
    with contextlib.suppress(OSError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(beginning)
        at = 0
        while piece:
            writer.write(rest[at : at + piece])
            at = (at + piece) % len(rest)
            await writer.drain()
            if piece == 1:
                await asyncio.sleep(DRIP)
        await reader.read()
    writer.close()


async def serve() -> None:
    """Serve until standard input ends; print the addresses first."""
    servers = {}
    for kind in ANSWERS:

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kind: str = kind) -> None:
            await _answer(kind, reader, writer)

        servers[kind] = await asyncio.start_server(met, HOST, 0)
    addresses = {
        kind: f"http://{HOST}:{server.sockets[0].getsockname()[1]}" for kind, server in servers.items()
    }
    print(json.dumps(addresses), flush=True)  # noqa: T201  # how the parent learns of them
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


@contextlib.contextmanager
def endless_server() -> Iterator[Mapping[str, str]]:
    """Run it for a while; gives the addresses by kind."""
    words = [sys.executable, "-I", __file__]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        addresses: dict[str, str] = json.loads(process.stdout.readline())
        yield addresses
    finally:
        process.kill()
        process.communicate()


if __name__ == "__main__":
    asyncio.run(serve())
