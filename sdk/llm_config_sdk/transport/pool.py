"""The connections that lie idle between exchanges: bookkeeping alone."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Generic, TypeVar

from llm_config_sdk.transport.connection import AsyncConnection, Connection
from llm_config_sdk.transport.slots import Slots

if TYPE_CHECKING:
    from llm_config_sdk.transport.exchange import Endpoint

ConnectionT = TypeVar("ConnectionT", Connection, AsyncConnection)


class Pool(Slots, Generic[ConnectionT]):
    """Slots, and the connections that are idle.

    Args:
        limit: Exchanges at once.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._idle: defaultdict[tuple[str, str, int], deque[ConnectionT]] = defaultdict(deque)

    def pop_idle(self, endpoint: Endpoint) -> tuple[ConnectionT | None, list[ConnectionT]]:
        """Take the connection given back last that still stands; the others are to be closed."""
        idle = self._idle[endpoint.scheme, endpoint.host, endpoint.port]
        dead: list[ConnectionT] = []
        for each in tuple(self._idle.values()):
            self._drop_oldest(each, dead)
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

    def take_back(self, endpoint: Endpoint, connection: ConnectionT) -> bool:
        """Take a connection back that was pushed; say whether it was still there."""
        try:
            self._idle[endpoint.scheme, endpoint.host, endpoint.port].remove(connection)
        except ValueError:
            return False
        return True

    def drain(self) -> list[ConnectionT]:
        """Take every idle connection, to be closed."""
        drained: list[ConnectionT] = []
        for idle in list(self._idle.values()):
            while idle:
                drained.append(idle.pop())
        return drained
