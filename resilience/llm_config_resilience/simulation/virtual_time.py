"""An asyncio event loop whose time is a number: it jumps from one timer to the next, and never waits."""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from llm_config_resilience.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Mapping

    from llm_config_resilience.clock import Expiry
    from llm_config_resilience.gate import Gate

T = TypeVar("T")

#: What `time()` begins with, in seconds since 1970: an arbitrary moment, as `ManualClock` has it.
_EPOCH: Final = 1_700_000_000.0
#: Under asyncio its limits are the event loop's own, so they keep to a loop's virtual time.
_ASYNCIO: Final = SystemClock()


class StandstillError(RuntimeError):
    """Nothing is left to happen, and somebody still waits: for a gate nobody opens, or for the real world."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs asyncio code in virtual time, in the same order every time.

    Timers, `asyncio.sleep`, `asyncio.timeout` and anyio's limits all go by it. There are no sockets and no
    threads in it. Tasks are hashed by when they were made, not by where they lie in memory, because
    libraries that keep them in sets would wake or cancel them in another order in the next process.

    Args:
        start: What `time()` begins with, in seconds.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._numbers = itertools.count()
        super().__init__(_NoSockets(self.advance))
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move time on, as code that blocks the loop does.

        Args:
            seconds: How far.
        """
        self._now += seconds

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        return _Task(next(self._numbers), coro, loop=loop, **options)


class VirtualClock:
    """One machine's clock in a simulation: the loop's virtual time, and a wall clock of its own.

    Args:
        loop: Whose time it is.
        ahead: Seconds its wall clock is ahead of the others.
    """

    def __init__(self, loop: VirtualLoop, *, ahead: float = 0.0) -> None:
        self._loop = loop
        self._ahead = ahead
        self.monotonic: Callable[[], float] = loop.time
        self.sleep: Callable[[float], None] = loop.advance

    def __repr__(self) -> str:
        return f"VirtualClock({self.monotonic()})"

    def time(self) -> float:
        """Virtual seconds since 1970, on this machine."""
        return _EPOCH + self._loop.time() + self._ahead

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock, as an administrator or NTP does; monotonic time does not notice."""
        self._ahead += seconds

    async def sleep_async(self, seconds: float, /) -> None:
        """Wait in virtual time."""
        # A timer at infinity would have the loop leap from day to day for ever.
        await (self._loop.create_future() if seconds == inf else asyncio.sleep(seconds))

    def wait(self, gate: Gate, seconds: float, /) -> bool:
        """Refuse: nobody else could go on."""
        del gate, seconds
        raise RuntimeError("a simulation has one thread, which must not block: use the async methods")

    async def wait_async(self, gate: Gate, seconds: float, /) -> bool:
        """Wait for a gate, at most so long in virtual time; say whether it is open."""
        waiting = self._loop.create_future()

        def wake() -> None:
            if not waiting.done():
                waiting.set_result(None)

        timer = None if seconds == inf else self._loop.call_later(seconds, wake)
        gate.watch(wake)
        try:
            await waiting
        finally:
            gate.unwatch(wake)
            if timer is not None:
                timer.cancel()
        return gate.is_open

    def expiring(self, seconds: float, /) -> Expiry:
        """Bound the body of an `async with` in virtual time."""
        return _ASYNCIO.expiring(seconds)


@contextmanager
def seeded(seed: object) -> Generator[None]:
    """Have the `random` module draw by a seed in the body, for those who use it: tenacity's waits do."""
    before = random.getstate()
    random.seed(f"{seed}")
    try:
        yield
    finally:
        random.setstate(before)


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]], *, seed: object = 0) -> T:
    """Run a coroutine to its end in virtual time; what it leaves running is cancelled.

        async def main(loop: VirtualLoop) -> float:
            await asyncio.sleep(3600)
            return loop.time()

        assert run_virtually(main) == 3600

    Args:
        main: Given the loop, returns the coroutine.
        seed: Seeds the `random` module meanwhile.

    Returns:
        What the coroutine returned.

    Raises:
        StandstillError: It waits for what will never happen.
    """
    loop = VirtualLoop()
    try:
        with seeded(seed):
            try:
                return loop.run_until_complete(main(loop))
            finally:
                _clear_up(loop)
    finally:
        loop.close()


def _clear_up(loop: VirtualLoop) -> None:
    left = sorted(asyncio.all_tasks(loop), key=hash)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())


class _Task(asyncio.Task[Any]):
    """A task with a place in sets that is the same in every run."""

    def __init__(self, number: int, coro: Any, **options: Any) -> None:
        self._number = number  # first: it is hashed while it is made
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _NoSockets(selectors.BaseSelector):
    """Lets virtual time pass where a real selector would wait. Only the loop's own pipe may register."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self._advance = advance
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._keys:
            self._refuse()
        key = selectors.SelectorKey(fileobj, fileobj, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StandstillError("nothing is left to happen, and somebody still waits")
        if timeout > 0:
            self._advance(timeout)
        return []

    def close(self) -> None:
        self._keys.clear()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    @staticmethod
    def _refuse() -> NoReturn:
        raise RuntimeError(
            "a simulation has no sockets: give the client a transport that stays in the process"
        )
