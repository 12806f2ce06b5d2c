"""Byte streams of asyncio and trio, as httpcore has them, without a timer for each read and write.

The whole exchange is bounded instead, by `AsyncDeadline`. httpcore's own streams bound each step, for which
they enter a cancel scope of anyio's with every read and write.
"""

from __future__ import annotations

import select
import ssl
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSAttribute, TLSStream

from llm_config_sdk.transport.tls import holds_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_config_sdk.transport.deadline import Limit

_GONE: Final = (anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError)
_AT_ONCE: Final = 256 * 1024
"""Bytes that asyncio reads at once. Of what is not taken at once nobody would see that it is there."""


class AnyioStream:
    """A connected stream of bytes. It waits as long as its caller's scope lets it.

    Args:
        stream: anyio's.
        family: `httpcore` or `httpcore2`, whose exceptions it raises.
    """

    __slots__ = ("_family", "_readable", "_stream")

    def __init__(self, stream: ByteStream, family: Any) -> None:
        self._stream = stream
        self._family = family
        self._readable: select.poll | None = None

    @classmethod
    async def connect(cls, host: str, port: int, family: Any, deadline: Limit) -> AnyioStream:
        """Try the host's addresses; anyio does so side by side (RFC 6555)."""
        deadline.left("Connect")
        try:
            return cls(await anyio.connect_tcp(host, port), family)
        except (OSError, anyio.BrokenResourceError) as error:
            raise family.ConnectError(error) from error

    async def start_tls(self, context: ssl.SSLContext, host: str, deadline: Limit) -> AnyioTlsStream:
        """Encrypt from here on."""
        deadline.left("Connect")
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
        return AnyioTlsStream(stream, self._family, self)

    async def write(self, data: bytes, deadline: Limit) -> None:
        """Send all of it."""
        deadline.left("Write")
        try:
            await self._stream.send(data)
        except (anyio.EndOfStream, *_GONE) as error:
            raise self._family.WriteError(error) from error

    async def read(self, max_bytes: int, deadline: Limit) -> bytes:
        """Wait for some bytes, `max_bytes` or what came at once; none are the end."""
        deadline.left("Read")
        try:
            return await self._stream.receive(max(max_bytes, _AT_ONCE))
        except anyio.EndOfStream:
            return b""
        except _GONE as error:
            raise self._family.ReadError(error) from error

    def is_readable(self) -> bool:
        """Whether there is something to read already, or the end."""
        if self._readable is None:  # finding the socket behind a stream costs more than asking it
            raw = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610  # anyio's
            self._readable = select.poll()
            self._readable.register(raw, select.POLLIN)
        return bool(self._readable.poll(0))

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class AnyioTlsStream(AnyioStream):
    """TLS over another stream, which has its bytes.

    Args:
        stream: anyio's.
        family: As for `AnyioStream`.
        below: What it is over.
    """

    __slots__ = ("_below", "_tls")

    def __init__(self, stream: TLSStream, family: Any, below: AnyioStream) -> None:
        super().__init__(stream, family)
        self._below = below
        self._tls = stream.extra(TLSAttribute.ssl_object)  # noqa: S610  # anyio's

    def is_readable(self) -> bool:
        """Whether there is something to read already, here or below, or the end."""
        return self._below.is_readable() or holds_back(self._tls)


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
