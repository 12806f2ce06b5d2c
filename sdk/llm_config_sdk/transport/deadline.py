"""A deadline that holds on the socket.

httpx's timeouts bound one read each, so a server that drips a byte at a time is never late. These
network backends stand between httpcore and the socket and clamp every connect, handshake, read and
write to what is left of the exchange. httpcore documents the interface, and both families have it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable


class Deadline:
    """When the exchange that a connection carries has to be over.

    A connection carries one exchange at a time, so it has one of these for its life.

    Args:
        family: `httpcore` or `httpcore2`, for its timeout exceptions.
    """

    __slots__ = ("_family", "at")

    def __init__(self, family: Any) -> None:
        self._family = family
        self.at: float | None = None

    def start(self, timeout: float | None) -> None:
        """Begin an exchange that may take `timeout` seconds."""
        self.at = None if timeout is None else time.monotonic() + timeout

    def left(self, phase: str) -> float | None:
        """Seconds that are left; raises the family's timeout for the phase (`Read`, …) where none are."""
        if self.at is None:
            return None
        left = self.at - time.monotonic()
        if left <= 0:
            raise getattr(self._family, f"{phase}Timeout")("the deadline has passed")
        return left


class DeadlineBackend:
    """The sync network backend."""

    def __init__(self, inner: Any, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline decides
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> DeadlineStream:
        """Connect within what is left."""
        left = self._deadline.left("Connect")
        stream = self._inner.connect_tcp(host, port, left, local_address, socket_options)
        return DeadlineStream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore asks for it between connection attempts."""
        self._inner.sleep(seconds)


class DeadlineStream:
    """The sync network stream."""

    def __init__(self, inner: Any, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  # the deadline decides
        """Read within what is left."""
        data: bytes = self._inner.read(max_bytes, self._deadline.left("Read"))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  # the deadline decides
        """Write within what is left."""
        self._inner.write(buffer, self._deadline.left("Write"))

    def close(self) -> None:
        """Close the socket."""
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  # the deadline decides
    ) -> DeadlineStream:
        """Shake hands within what is left."""
        stream = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left("Connect"))
        return DeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Ask the stream below."""
        return self._inner.get_extra_info(info)


class AsyncDeadlineBackend:
    """The async network backend, for asyncio and trio."""

    def __init__(self, inner: Any, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # the deadline decides
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncDeadlineStream:
        """Connect within what is left."""
        left = self._deadline.left("Connect")
        stream = await self._inner.connect_tcp(host, port, left, local_address, socket_options)
        return AsyncDeadlineStream(stream, self._deadline)

    async def sleep(self, seconds: float) -> None:
        """Sleep, as httpcore asks for it between connection attempts."""
        await self._inner.sleep(seconds)


class AsyncDeadlineStream:
    """The async network stream."""

    def __init__(self, inner: Any, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  # the deadline decides
        """Read within what is left."""
        data: bytes = await self._inner.read(max_bytes, self._deadline.left("Read"))
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  # the deadline decides
        """Write within what is left."""
        await self._inner.write(buffer, self._deadline.left("Write"))

    async def aclose(self) -> None:
        """Close the socket."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002  # the deadline decides
    ) -> AsyncDeadlineStream:
        """Shake hands within what is left."""
        stream = await self._inner.start_tls(ssl_context, server_hostname, self._deadline.left("Connect"))
        return AsyncDeadlineStream(stream, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        """Ask the stream below."""
        return self._inner.get_extra_info(info)
