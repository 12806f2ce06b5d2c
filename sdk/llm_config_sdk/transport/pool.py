"""How many exchanges may run at once, and the connections that lie idle in between: bookkeeping alone."""

from __future__ import annotations

import os
import threading
from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from llm_config_sdk.transport.connection import AsyncConnection, Connection

if TYPE_CHECKING:
    from llm_config_sdk.transport.exchange import Endpoint

ConnectionT = TypeVar("ConnectionT", Connection, AsyncConnection)


class Waiter:
    """Somebody in the queue for a slot; `event` is of threading or of anyio."""

    __slots__ = ("event",)

    def __init__(self, event: Any) -> None:
        self.event = event


class Pool(Generic[ConnectionT]):
    """How many exchanges may run, first come, first served, and the connections that are idle.

    Bookkeeping alone: it never waits. It belongs to one process, and in async to one event loop.

    Args:
        limit: Exchanges at once.
    """

    def __init__(self, limit: int) -> None:
        self.pid = os.getpid()
        self._free = limit
        self._queue: deque[Waiter] = deque()
        self._lock = threading.Lock()
        self._idle: defaultdict[tuple[str, str, int], deque[ConnectionT]] = defaultdict(deque)

    def take(self, new_event: Any) -> Waiter | None:
        """Take a slot now (`None`), or join the queue."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            waiter = Waiter(new_event())
            self._queue.append(waiter)
            return waiter

    def give_back(self) -> None:
        """Pass a slot on to the first in the queue, or keep it for whoever comes."""
        with self._lock:
            if self._queue:
                self._queue.popleft().event.set()
            else:
                self._free += 1

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue; a slot that was handed over at the last moment is passed on."""
        with self._lock:
            try:
                self._queue.remove(waiter)
            except ValueError:
                handed_over = True
            else:
                handed_over = False
        if handed_over:
            self.give_back()

    def pop_idle(self, endpoint: Endpoint) -> tuple[ConnectionT | None, list[ConnectionT]]:
        """Take the connection given back last that still stands; the others are to be closed."""
        idle = self._idle[endpoint.scheme, endpoint.host, endpoint.port]
        dead: list[ConnectionT] = []
        self._drop_oldest(idle, dead)
        while True:
            try:
                connection = idle.pop()
            except IndexError:
                return None, dead
            if not connection.is_expired():
                return connection, dead
            dead.append(connection)

    def _drop_oldest(self, idle: deque[ConnectionT], dead: list[ConnectionT]) -> None:
        """Look at the far end of the list, too, which nobody takes from while there are few calls."""
        try:
            oldest = idle.popleft()
        except IndexError:
            return
        if oldest.has_idled_too_long():
            dead.append(oldest)
        else:
            idle.appendleft(oldest)

    def push_idle(self, endpoint: Endpoint, connection: ConnectionT) -> None:
        """Keep a connection for the next exchange."""
        self._idle[endpoint.scheme, endpoint.host, endpoint.port].append(connection)

    def drain(self) -> list[ConnectionT]:
        """Take every idle connection, to be closed."""
        drained: list[ConnectionT] = []
        for idle in list(self._idle.values()):
            while idle:
                drained.append(idle.pop())
        return drained
