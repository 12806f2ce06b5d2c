"""The socket host: a server on a loopback port, in a thread of its own, that can break the wire."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Final, cast

from .port import BACKLOG, Port, arm_reset, shut
from .wire import Action, Move, Send, Sleep, Wire

if TYPE_CHECKING:
    import ssl
    from asyncio.trsock import TransportSocket
    from collections.abc import Callable

    from llm_config_mock_server.core import Core
    from llm_config_mock_server.messages import At

READ_BYTES: Final = 65_536  # that wait to be looked at; no more are taken from the kernel meanwhile
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
        self._open: set[_Connection] = set()
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
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connection, sock=listener, ssl=self._tls, backlog=BACKLOG)
        await stopping.wait()
        # Shut down before it is closed: a forked child may hold a copy, which would keep the port listening.
        loop.remove_reader(listener)
        shut(listener)
        # What was accepted becomes a connection first, to be dropped like the others; a TLS handshake
        # that hangs is not waited for.
        if beginning := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(beginning, timeout=ACCEPT_SECONDS)
        server.close()
        # Every other task of this loop is a handshake.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        closing = [connection.socket for connection in self._open]
        for connection in tuple(self._open):
            connection.abort()
        for _ in range(TURNS_TO_CLOSE):
            if all(held.fileno() < 0 for held in closing):
                break
            await asyncio.sleep(0)

    def _connection(self) -> _Connection:
        return _Connection(self._core, self._clock, self._open, is_tls=self._tls is not None)


class _Connection(asyncio.Protocol):
    """Drives one connection over a real socket: each move of the wire is made as soon as it can be.

    Args:
        core: What answers.
        clock: What reads the time.
        open_ones: Where the connection is as long as it lasts.
        is_tls: Whether TLS lies between the wire and the socket.
    """

    def __init__(
        self, core: Core, clock: Callable[[], At], open_ones: set[_Connection], *, is_tls: bool
    ) -> None:
        self._core = core
        self._clock = clock
        self._open = open_ones
        self._is_tls = is_tls
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._has_ended = False  # the client's direction
        self._action: Action | None = None  # what is waited for, or `None` while nothing is
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False  # what was written last is not with the kernel yet
        self._is_closing = False
        self._is_reset = False
        self._is_lost = False
        self._unread = 0  # bytes that are still read away after the last reply

    # --- What asyncio tells -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(0)  # to be told when the kernel has every byte
        self.socket: TransportSocket = transport.get_extra_info("socket")
        peer: str = (transport.get_extra_info("peername") or ("",))[0]
        self._moves = Wire(self._core, self._clock, peer).run()
        self._open.add(self)
        self._go_on(None)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            self._unread -= len(data)
            if self._unread <= 0:
                self.abort()
            return
        self._received += data
        if self._action is Move.READ:
            self._go_on(self._taken())
        elif len(self._received) > READ_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._has_ended = True
        if self._is_closing or (isinstance(self._action, Sleep) and self._action.for_listener):
            self.abort()
        elif self._action is Move.READ:
            self._go_on(self._taken())
        return not self._is_tls  # the server's direction stays open; under TLS there is no such thing

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        if isinstance(self._action, Send):
            self._go_on(b"")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the client went, or the server stops: both are ordinary here
        self._is_lost = self._has_ended = True
        if not isinstance(self._action, Sleep) or self._action.for_listener:
            self._finish()  # else what was asked for still takes effect, in its time

    # --- What the wire says ---------------------------------------------------------------------------

    def abort(self) -> None:
        """Let go of the connection at once."""
        # Shut down before it is closed: a forked child may hold a copy, which would keep it open.
        if not self._is_tls and not self._is_reset:
            shut(self.socket)
        self._transport.abort()
        self._finish()

    def _finish(self) -> None:
        self._open.discard(self)
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._moves.close()
        except Exception as error:  # noqa: BLE001 - as in `_go_on`
            self._core.defects.append(error)

    def _go_on(self, answer: bytes | None) -> None:
        """Make moves until one has to be waited for; the first one is asked for with `None`."""
        self._action = None
        try:
            while True:
                action = next(self._moves) if answer is None else self._moves.send(answer)
                answer = self._do(action)
                if answer is None:
                    self._action = action
                    return
        except StopIteration:
            self.abort()
        except Exception as error:  # noqa: BLE001 - a defect of this host must reach the test, not the loop's log
            self._core.defects.append(error)
            self.abort()

    def _do(self, action: Action) -> bytes | None:
        """Make a move, and return what it led to, or `None` where that is not there yet."""
        match action:
            case Send(data, ends):
                return self._send(data, ends=ends)
            case Sleep(seconds):
                self._timer = self._loop.call_later(seconds, self._go_on, b"")
            case Move.READ:
                return self._taken() if self._received or self._has_ended else None
            case Move.HALF_CLOSE:
                if self._transport.can_write_eof():
                    self._transport.write_eof()
                return b""
            case Move.RESET:
                self._timer = self._loop.call_later(RESET_FLUSH_SECONDS, self._reset)
            case Move.CLOSE | Move.LINGER:
                self._goodbye(linger=action is Move.LINGER)
        return None

    def _taken(self) -> bytes:
        data = bytes(self._received)
        self._received.clear()
        if len(data) > READ_BYTES and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    def _send(self, data: bytes, *, ends: bool) -> bytes | None:
        if self._is_lost:
            self._finish()
            return None
        if ends and _CORK is not None and not self._is_tls:
            self.socket.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        self._transport.write(data)
        return None if self._is_full else b""

    def _reset(self) -> None:
        arm_reset(self.socket)
        self._is_reset = True
        self.abort()

    def _goodbye(self, *, linger: bool) -> None:
        """Close after the last reply, without losing it to an RST over bytes that nobody read."""
        self._is_closing = True
        if self._is_tls:
            self._timer = self._loop.call_later(TLS_CLOSE_SECONDS, self.abort)
            self._transport.close()
            return
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        if not linger or self._has_ended:
            self.abort()
            return
        self._unread = LINGER_BYTES
        self._timer = self._loop.call_later(LINGER_SECONDS, self.abort)
        self._transport.resume_reading()
