"""Byte streams of asyncio and trio, as httpcore has them, without a timer for each read and write.

The whole exchange is bounded instead, by `AsyncDeadline`. httpcore's own streams bound each step, for which
they enter a cancel scope of anyio's with every read and write.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

if TYPE_CHECKING:
    from socket import socket

    from anyio.abc import ByteStream

_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError)
_AT_ONCE: Final = 256 * 1024
"""Bytes that asyncio reads at once. Of what is not taken at once nobody would see that it is there."""


class AnyioStream:
    """A connected stream of bytes. It waits as long as its caller's scope lets it.

    Args:
        stream: anyio's.
        family: `httpcore` or `httpcore2`, whose exceptions it raises.
        tls: What encrypts it.
    """

    __slots__ = ("_family", "_stream", "_tls")

    def __init__(self, stream: ByteStream, family: Any, tls: ssl.SSLObject | None = None) -> None:
        self._stream = stream
        self._family = family
        self._tls = tls

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
                self._stream, server_side=False, hostname=host, ssl_context=context, standard_compatible=False
            )
        except (anyio.BrokenResourceError, anyio.EndOfStream, ssl.SSLError) as error:
            raise self._family.ConnectError(error) from error
        return AnyioStream(stream, self._family, stream.extra(TLSAttribute.ssl_object))  # noqa: S610  # anyio's

    async def write(self, data: bytes, timeout: float | None) -> None:
        """Send all of it."""
        del timeout
        try:
            await self._stream.send(data)
        except _GONE as error:
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

    def has_unread(self) -> bool:
        """Whether more came than was read, which TLS alone keeps back: nobody asked for that."""
        if self._tls is None:
            return False
        try:
            self._tls.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            return True
        return True

    def get_extra_info(self, info: str) -> socket:
        """Give the socket, the one thing that is asked for."""
        del info
        return self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # anyio's

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()
