"""Byte streams of asyncio and trio, as httpcore has them, without a timer for each read and write.

The whole exchange is bounded instead, by `AsyncDeadline`. httpcore's own streams bound each step, for which
they enter a cancel scope of anyio's with every read and write.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError)
_AT_ONCE: Final = 256 * 1024
"""Bytes that asyncio reads at once. Of what is not taken at once nobody would see that it is there."""


class AnyioStream:
    """A connected stream of bytes. It waits as long as its caller's scope lets it.

    Args:
        stream: anyio's.
        family: `httpcore` or `httpcore2`, whose exceptions it raises.
    """

    __slots__ = ("_family", "_stream")

    def __init__(self, stream: ByteStream, family: Any) -> None:
        self._stream = stream
        self._family = family

    @classmethod
    async def connect(cls, host: str, port: int, family: Any) -> AnyioStream:
        """Try the host's addresses; anyio does so side by side (RFC 6555)."""
        try:
            return cls(await anyio.connect_tcp(host, port), family)
        except (OSError, anyio.BrokenResourceError) as error:
            raise family.ConnectError(error) from error

    async def start_tls(self, context: ssl.SSLContext, host: str, timeout: float | None) -> AnyioStream:
        """Encrypt from here on."""
        del timeout
        try:
            stream = await TLSStream.wrap(
                _AllAtOnce(self._stream),
                server_side=False,
                hostname=host,
                ssl_context=context,
                standard_compatible=False,
            )
        except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError) as error:
            raise self._family.ConnectError(error) from error
        return AnyioStream(stream, self._family)

    async def write(self, data: bytes, timeout: float | None) -> None:
        """Send all of it."""
        del timeout
        try:
            await self._stream.send(data)
        except (anyio.EndOfStream, *_GONE) as error:
            raise self._family.WriteError(error) from error

    async def read(self, max_bytes: int, timeout: float | None) -> bytes:
        """Wait for some bytes, `max_bytes` or what came at once; none are the end."""
        del timeout
        try:
            return await self._stream.receive(max(max_bytes, _AT_ONCE))
        except anyio.EndOfStream:
            return b""
        except _GONE as error:
            raise self._family.ReadError(error) from error

    def get_extra_info(self, info: str) -> Any:
        """Give the `socket`, or the `ssl_object` that encrypts it."""
        asked: Any = SocketAttribute.raw_socket if info == "socket" else TLSAttribute.ssl_object
        return self._stream.extra(asked)  # noqa: S610  # anyio's

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class _AllAtOnce(ByteStream):
    """What TLS reads from: anyio's asks for less at once than asyncio reads, and leaves the rest unseen."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = _AT_ONCE) -> bytes:
        return await self._stream.receive(max(max_bytes, _AT_ONCE))

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        found: Any = self._stream
        attributes: Mapping[Any, Callable[[], Any]] = found.extra_attributes
        return attributes
