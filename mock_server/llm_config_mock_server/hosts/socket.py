"""The socket host: a server on a loopback port, in a thread of its own, that can break the wire."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Final

from .port import BACKLOG, Port, arm_reset, shut
from .wire import Action, Move, Send, Sleep, Wire

if TYPE_CHECKING:
    import ssl
    from asyncio.trsock import TransportSocket
    from collections.abc import Callable

    from llm_config_mock_server.core import Core
    from llm_config_mock_server.messages import At

READ_BYTES: Final = 65_536  # at once
RESET_FLUSH_SECONDS: Final = 0.005  # between the last byte and an RST, which throws unread data away
LINGER_SECONDS: Final = 0.5  # how long an unread body is read away, so that the reply survives the close
LINGER_BYTES: Final = 16 * 1024 * 1024  # and how much of it
ACCEPT_SECONDS: Final = 0.05  # how long an accepted connection may take to begin, when the server stops
TURNS_TO_CLOSE: Final = 100  # of the event loop, from aborting a connection to closing its socket
TLS_CLOSE_SECONDS: Final = 0.5  # how long a TLS goodbye may take
_CORK: Final[int | None] = getattr(socket, "TCP_CORK", None)  # holds the last segment back; Linux has it


class SocketHost:
    """Serves a core on a TCP port, from an event loop in a daemon thread.

    Args:
        core: What answers.
        interface: The address to listen on.
        port: The port; 0 takes a free one at the first start and keeps it.
        clock: What reads the time.
        tls: The server's side of TLS, or `None` for plain HTTP.
    """

    def __init__(
        self,
        core: Core,
        *,
        interface: str,
        port: int,
        clock: Callable[[], At],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is bound before `start`."""
        self._core = core
        self._interface = interface
        self._wanted_port = port
        self._clock = clock
        self._tls = tls
        self._port: Port | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._owner = 0
        self._open: dict[asyncio.Task[None], TransportSocket] = {}
        self._listener: socket.socket | None = None

    @property
    def port(self) -> int:
        """The port, which stays the same until `close`.

        Raises:
            RuntimeError: The host was never started.
        """
        if self._port is None:
            raise RuntimeError("the server has no port before it is started")
        return self._port.number

    @property
    def is_running(self) -> bool:
        """Whether the port answers."""
        return self._thread is not None

    def start(self) -> None:
        """Listen. Starting what runs changes nothing.

        Raises:
            OSError: The port cannot be had.
        """
        if self._thread is not None:
            return
        if self._port is None:
            self._port = Port(self._interface, self._wanted_port)
        listener = self._port.listen()
        self._listener = listener
        self._owner = os.getpid()
        # Taken by name: a policy of the application (uvloop's) may give loops without real sockets.
        self._loop = asyncio.SelectorEventLoop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(self._loop, listener, self._stopping),
            name=f"mock-server-{self.port}",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections and drop the open ones; the port stays ours. Stopping twice changes nothing."""
        thread, loop, stopping, listener = self._thread, self._loop, self._stopping, self._listener
        self._thread = self._loop = self._stopping = self._listener = None
        if thread is None or loop is None or stopping is None or listener is None:
            return
        if os.getpid() != self._owner:
            # A forked child has the parent's sockets but not its thread: let go, and disturb nothing.
            listener.close()
            return
        loop.call_soon_threadsafe(stopping.set)
        thread.join()

    def close(self) -> None:
        """Stop, and give the port back."""
        self.stop()
        port, self._port = self._port, None
        if port is not None:
            port.close()

    # --- In the thread --------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, listener: socket.socket, stopping: asyncio.Event) -> None:
        try:
            loop.run_until_complete(self._serve(listener, stopping))
        finally:
            loop.close()

    async def _serve(self, listener: socket.socket, stopping: asyncio.Event) -> None:
        server = await asyncio.start_server(
            self._connected, sock=listener, ssl=self._tls, limit=READ_BYTES, backlog=BACKLOG
        )
        await stopping.wait()
        # Shut down before it is closed: a forked child may hold a copy, which would keep the port listening.
        asyncio.get_running_loop().remove_reader(listener)
        shut(listener)
        # What was accepted becomes a connection first, to be dropped like the others; a TLS handshake
        # that hangs is not waited for.
        beginning = asyncio.all_tasks() - {asyncio.current_task(), *self._open}
        if beginning:
            await asyncio.wait(beginning, timeout=ACCEPT_SECONDS)
        server.close()
        closing = list(self._open.values())
        # Every other task of this loop is a connection of ours, or a handshake.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        for _ in range(TURNS_TO_CLOSE):
            if all(held.fileno() < 0 for held in closing):
                break
            await asyncio.sleep(0)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: a task that is cancelled before its first step could not let go of anything.
        connection = _Connection(self._core, self._clock, reader, writer, is_tls=self._tls is not None)
        task = asyncio.get_running_loop().create_task(self._converse(connection))
        self._open[task] = connection.socket
        task.add_done_callback(lambda task: self._ended(task, connection))

    async def _converse(self, connection: _Connection) -> None:
        try:
            await connection.serve()
        except (ConnectionError, TimeoutError, asyncio.CancelledError):
            pass  # the client went, or the server stops: both are ordinary here
        except Exception as error:  # noqa: BLE001 - a defect of this host must reach the test, not the loop's log
            self._core.defects.append(error)

    def _ended(self, task: asyncio.Task[None], connection: _Connection) -> None:
        connection.abort()
        self._open.pop(task, None)


class _Connection:
    """Drives one connection over a real socket."""

    def __init__(
        self,
        core: Core,
        clock: Callable[[], At],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        is_tls: bool,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._is_tls = is_tls
        self._is_reset = False
        peer: str = (writer.get_extra_info("peername") or ("",))[0]
        self._wire = Wire(core, clock, peer)
        self.socket: TransportSocket = writer.get_extra_info("socket")
        # `drain` is to mean that the kernel has every byte.
        writer.transport.set_write_buffer_limits(0)

    def abort(self) -> None:
        """Let go of the connection at once."""
        # Shut down before it is closed: a forked child may hold a copy, which would keep it open.
        if not self._is_tls and not self._is_reset:
            shut(self.socket)
        self._writer.transport.abort()

    async def serve(self) -> None:
        """Do what the wire says until it has had enough."""
        moves = self._wire.run()
        try:
            action = next(moves)
            while True:
                action = moves.send(await self._do(action))
        except StopIteration:
            return
        finally:
            moves.close()

    async def _do(self, action: Action) -> bytes:
        match action:
            case Send(data, ends):
                await self._send(data, ends=ends)
            case Sleep(seconds, for_listener):
                await asyncio.sleep(seconds)
                if for_listener and self._reader.at_eof():
                    raise ConnectionResetError("the client went")
            case Move.READ:
                return await self._reader.read(READ_BYTES)
            case Move.HALF_CLOSE:
                if self._writer.can_write_eof():
                    self._writer.write_eof()
            case Move.RESET:
                await asyncio.sleep(RESET_FLUSH_SECONDS)
                arm_reset(self.socket)
                self._is_reset = True
                self._writer.transport.abort()
            case Move.CLOSE | Move.LINGER:
                await self._goodbye(linger=action is Move.LINGER)
        return b""

    async def _send(self, data: bytes, *, ends: bool) -> None:
        if ends and _CORK is not None and not self._is_tls:
            self.socket.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        self._writer.write(data)
        await self._writer.drain()

    async def _goodbye(self, *, linger: bool) -> None:
        """Close after the last reply, without losing it to an RST over bytes that nobody read."""
        if self._is_tls:
            self._writer.close()
            with contextlib.suppress(TimeoutError, OSError):
                await asyncio.wait_for(self._writer.wait_closed(), TLS_CLOSE_SECONDS)
            return
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        if linger:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    left = LINGER_BYTES
                    while left > 0 and (chunk := await self._reader.read(READ_BYTES)):
                        left -= len(chunk)
