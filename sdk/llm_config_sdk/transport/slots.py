"""How many exchanges may run at once, and the line of those who wait: first come, first served, in time."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from llm_config_resilience.clock import in_trio
from llm_config_resilience.locks import new_lock
from llm_config_sdk.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, MutableMapping

MAX_IN_FLIGHT: Final = 100  # requests; throughput is flat from 8 to 200 against a quick server


class Turn:
    """An event of asyncio that one task waits for. Of asyncio's own each is five objects, and each wait two.

    Python's collector goes through them all again and again while two thousand calls stand in the line.
    """

    __slots__ = ("_come",)

    def __init__(self) -> None:
        self._come: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """Let the task go on. One that was cancelled will see that its turn has come."""
        if not self._come.done():
            self._come.set_result(None)

    def wait(self) -> Awaitable[None]:
        """Wait until it is set."""
        return self._come


class _Now:
    """What nobody has to wait for, without a coroutine to say so."""

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


NOW: Final = _Now()


class Slots:
    """How many exchanges may run. Bookkeeping alone: it never waits.

    It belongs to one process, and in async to one event loop.

    Args:
        limit: Exchanges at once.
    """

    def __init__(self, limit: int) -> None:
        self.pid: int = os.getpid()
        self._free = limit
        self._queue: deque[Any] = deque()  # events of threading, of trio, and `Turn`s
        self._lock = threading.Lock()

    def take(self, new_event: Callable[[], Any]) -> Any:
        """Take a slot now (`None`), or join the line: the event that is returned is set when one is there."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            event = new_event()
            self._queue.append(event)
            return event

    def give_back(self) -> None:
        """Pass a slot on to the first in the line, or keep it for whoever comes."""
        with self._lock:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1

    def leave(self, event: Any) -> None:
        """Leave the line; a slot that was handed over at the last moment is passed on."""
        with self._lock:
            try:
                self._queue.remove(event)
            except ValueError:
                handed_over = True
            else:
                handed_over = False
        if handed_over:
            self.give_back()


S = TypeVar("S", bound=Slots)


class Line(Generic[S]):
    """Whoever wants a slot of a transport.

    Args:
        limit: Exchanges at once.
        make: Makes the slots, from the limit.

    Raises:
        InvalidRequestError: The limit is none.
    """

    def __init__(self, limit: Any, make: Callable[[int], S]) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidRequestError(f"max_in_flight must be a whole number from 1, not {limit!r:.80}")
        self._limit = limit
        self._make = make
        self._pools: MutableMapping[Any, S] = WeakKeyDictionary()
        self._making = new_lock()

    def _pool_of(self, owner: object) -> S:
        """The slots of a transport, or of an event loop; a child process begins with some of its own."""
        pool = self._pools.get(owner)
        if pool is not None and pool.pid == os.getpid():
            return pool
        with self._making:
            pool = self._pools.get(owner)
            if pool is None or pool.pid != os.getpid():
                self._pools[owner] = pool = self._make(self._limit)
            return pool

    def _wait(self, pool: S, event: threading.Event, timeout: float | None) -> bool:
        """Wait to be served, `timeout` seconds at most; say whether that came about."""
        served: bool = False
        try:
            served = event.wait(timeout)
        finally:
            if not served:
                pool.leave(event)
        return served

    def _take_async(self, pool: S) -> Any:
        """Take a slot now (`None`), or join the line as a task of asyncio or trio. As `Slots.take`."""
        return pool.take(sys.modules["trio"].Event if in_trio() else Turn)

    async def _wait_async(self, pool: S, event: Any) -> None:
        """Wait to be served, for as long as the caller's scope lets it."""
        served = False
        try:
            await event.wait()
            served = True
        finally:
            if not served:
                pool.leave(event)


def running_loop() -> Any:
    """The event loop that the caller runs in, of asyncio or trio."""
    return sys.modules["trio"].lowlevel.current_trio_token() if in_trio() else asyncio.get_running_loop()
