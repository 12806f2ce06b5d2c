"""The thread in which the proxy listens, from start to close, and how other threads steer it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.hosts.port import BACKLOG, Port, shut

from .link import Link
from .plan import READ_BYTES, Plan
from .trouble import Kind

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

CONTROL_SECONDS: Final = 10.0  # how long the proxy's own thread may take to obey: far beyond what it needs
_TURNS_TO_BEGIN: Final = 10  # of the event loop, from accepting a connection to serving it: three, and some
_TURNS_TO_CLOSE: Final = 100  # of the event loop, from aborting a connection to closing its socket


class Running:
    """The proxy's thread, from start to close."""

    def __init__(self, plan: Plan, port: Port) -> None:
        self._plan = plan
        self._port = port
        self._owner = os.getpid()
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._changed = asyncio.Condition()
        self._listener: socket.socket | None = None
        # Taken by name: a policy of the application (uvloop's) may give loops without real sockets.
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._run, name=f"fault-proxy-{port.number}", daemon=True)
        self._thread.start()
        if plan.current(Kind.REFUSE) is None:
            self.listen()

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open now."""
        return len(self._links)

    def listen(self) -> None:
        """Take connections; where it does already, nothing changes."""
        self._do(self._listen)

    def stop_listening(self) -> None:
        """Refuse connections, and drop the open ones."""
        self._do(self._stop_listening)

    def drop(self) -> None:
        """Close every open connection, once."""
        self._do(self._drop)

    def tell(self) -> None:
        """Wake whoever waits for a trouble to be healed."""
        self._do(self._tell)

    def close(self) -> None:
        """Stop, and end the thread; in a forked child, only let go of the socket."""
        if os.getpid() == self._owner:
            self._do(self._stop_listening)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        elif self._listener is not None:
            self._listener.close()

    def _do(self, action: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError("this proxy belongs to the parent process")
        if threading.current_thread() is self._thread:
            raise RuntimeError("the proxy cannot be steered from its own thread")
        asyncio.run_coroutine_threadsafe(action(), self._loop).result(CONTROL_SECONDS)

    # --- In the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        if self._server is not None:
            return
        self._listener = self._port.listen()
        self._server = await asyncio.start_server(
            self._connected, sock=self._listener, limit=READ_BYTES, backlog=BACKLOG
        )

    async def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None and self._listener is not None:
            self._loop.remove_reader(self._listener)
            shut(self._listener)
            # What was accepted and has not begun becomes a link first, to be dropped like the others.
            for _ in range(_TURNS_TO_BEGIN):
                await asyncio.sleep(0)
            server.close()
        await self._drop()

    async def _drop(self) -> None:
        links = set(self._links)
        for link in links:
            link.task.cancel()
        if links:
            await asyncio.wait([link.task for link in links])
        for _ in range(_TURNS_TO_CLOSE):
            if not any(link.is_open for link in links):
                break
            await asyncio.sleep(0)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # No coroutine: a task that is cancelled before its first step could not let go of anything.
        self._plan.connections += 1
        link = Link(self._plan, self._changed, reader, writer)
        link.task = self._loop.create_task(self._serve(link))
        self._links.add(link)
        link.task.add_done_callback(lambda _: self._ended(link))

    async def _serve(self, link: Link) -> None:
        # A side went, a handshake failed, or the link was dropped: all are ordinary here.
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await link.run()

    def _ended(self, link: Link) -> None:
        link.abort()
        self._links.discard(link)
