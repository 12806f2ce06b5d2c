"""A link: the relay of bytes between one client and the target, and the ways in which it breaks."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from llm_config_mock_server.hosts.port import arm_reset, shut

from .plan import READ_BYTES, Plan
from .trouble import Kind, Side, Trouble

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

PIECES_PER_SECOND: Final = 50  # that a limited bandwidth is dealt out in
CLOSE_SECONDS: Final = 0.5  # how long a goodbye may take
RESET_FLUSH_SECONDS: Final = 0.005  # between the last byte and an RST, which throws unread data away


class _Struck(Exception):  # noqa: N818 - not an error: the way out of both directions at once
    """The exchange met its trouble."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self.kind = kind


class Link:
    """One connection of a client, and the one to the target behind it."""

    def __init__(
        self,
        plan: Plan,
        changed: asyncio.Condition,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._plan = plan
        self._changed = changed
        self.task: asyncio.Task[None]
        self._reader = reader
        self._writer = writer
        self._behind: asyncio.StreamWriter | None = None
        self._trouble: Trouble | None = None
        self._delay = 0.0
        self._request_turn = False
        self._passed = 0
        self._is_tls = False
        self._is_reset = False
        self._sockets = [_socket(writer)]

    async def run(self) -> None:
        """Pass bytes on, in both directions, until both have ended or a trouble strikes."""
        await self._healed()
        context = self._plan.server_side()
        if context is not None:
            self._is_tls = True
            await self._writer.start_tls(context)
        first = await self._reader.read(READ_BYTES)
        if not first:
            return
        try:
            await self._begin_exchange()
            await self._pass_through(first)
        except* _Struck as several:
            await self._end(_kind_of(several))
        except* OSError:
            await self._end(Kind.RESET)  # a side tore its connection down: so do we

    async def _pass_through(self, first: bytes) -> None:
        # A target that refuses is a reset to the client: as near as an accepted connection comes to it.
        reader, self._behind = await self._plan.connect()
        self._sockets.append(_socket(self._behind))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump("request", self._reader, self._behind, first))
            group.create_task(self._pump("response", reader, self._writer, b""))

    @property
    def is_open(self) -> bool:
        """Whether a socket of it is."""
        return any(held.fileno() >= 0 for held in self._sockets)

    def abort(self) -> None:
        """Let go of both connections at once."""
        for held in self._sockets:
            if not self._is_reset and not self._is_tls:
                shut(held)
        for writer in (self._writer, self._behind):
            if writer is not None:
                writer.transport.abort()

    async def _pump(
        self, side: Side, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes
    ) -> None:
        while True:
            data = data or await reader.read(READ_BYTES)
            await self._healed()
            if not data:
                break
            if side == "request" and not self._request_turn:
                await self._begin_exchange()
            elif side == "response" and self._request_turn:
                self._request_turn = False
                await asyncio.sleep(self._delay)
                await self._healed()
            await self._pass_on(side, data, writer)
            data = b""
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()

    async def _begin_exchange(self) -> None:
        self._trouble, self._delay = self._plan.strike()
        self._request_turn = True
        self._passed = 0
        if self._trouble is not None and self._trouble.kind is Kind.HANG:
            raise _Struck(Kind.HANG)

    async def _pass_on(self, side: Side, data: bytes, writer: asyncio.StreamWriter) -> None:
        trouble = self._trouble
        if trouble is None or trouble.of != side:
            await self._write(data, writer, side)
            return
        left = trouble.after - self._passed
        self._passed += len(data)
        await self._write(data[:left], writer, side)
        if len(data) >= left:
            raise _Struck(trouble.kind)

    async def _write(self, data: bytes, writer: asyncio.StreamWriter, side: Side) -> None:
        while data:
            slow = self._plan.current(Kind.BANDWIDTH)
            size = len(data) if slow is None else max(1, int(slow.rate / PIECES_PER_SECOND))
            piece, data = data[:size], data[size:]
            writer.write(piece)
            await writer.drain()
            self._plan.passed[side] += len(piece)
            if slow is not None:
                await self._wait_for_change(len(piece) / slow.rate)
            await self._healed()

    async def _healed(self) -> None:
        while self._plan.current(Kind.BLACKHOLE) is not None:
            async with self._changed:
                await self._changed.wait()

    async def _wait_for_change(self, seconds: float) -> None:
        """Wait, but no longer than until a trouble comes or goes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait()

    async def _end(self, kind: Kind) -> None:
        match kind:
            case Kind.RESET:
                await asyncio.sleep(RESET_FLUSH_SECONDS)
                self._is_reset = True
                arm_reset(self._sockets[0])
            case Kind.HANG:
                await self._read_away()
            case Kind.HALF_CLOSE if self._writer.can_write_eof():
                self._writer.write_eof()
                await self._read_away()
            case _:
                # What is unread at a close makes it a reset, so it is read away first.
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(CLOSE_SECONDS):
                        if self._writer.can_write_eof():
                            self._writer.write_eof()
                            await self._read_away()
                        self._writer.close()
                        await self._writer.wait_closed()

    async def _read_away(self) -> None:
        while await self._reader.read(READ_BYTES):
            pass


def _kind_of(several: BaseExceptionGroup[_Struck]) -> Kind:
    struck = several.exceptions[0]
    return struck.kind if isinstance(struck, _Struck) else _kind_of(struck)


def _socket(writer: asyncio.StreamWriter) -> TransportSocket:
    held: TransportSocket = writer.get_extra_info("socket")
    return held
