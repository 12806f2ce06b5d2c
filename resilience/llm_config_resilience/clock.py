"""Time as an argument: the real clock, and one that tests move by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import TaskGroup

    from llm_config_resilience.gate import Gate

#: Turns of the event loop after which a virtual clock takes every other task to be waiting.
#: Starting a task and handing over a lock take two or three each.
_TURNS_UNTIL_IDLE = 20


class Expiry(Protocol):
    """An async context that cancels its body after some time, and swallows that cancellation."""

    @property
    def expired(self) -> bool:
        """Whether it did."""
        ...

    async def __aenter__(self) -> object:
        """Start the time."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """Stop the time."""
        ...


class Clock(Protocol):
    """What the engine needs of time. All durations are seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...

    def time(self) -> float:
        """Seconds since the epoch, which may be stepped: for what processes share."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait."""
        ...

    async def sleep_async(self, seconds: float, /) -> None:
        """Wait, letting other tasks run."""
        ...

    def wait(self, gate: Gate, seconds: float, /) -> bool:
        """Wait for a gate, at most so long; say whether it is open."""
        ...

    async def wait_async(self, gate: Gate, seconds: float, /) -> bool:
        """Wait for a gate, at most so long, letting other tasks run; say whether it is open."""
        ...

    def expiring(self, seconds: float, /) -> Expiry:
        """Bound the body of an `async with`."""
        ...


class SystemClock:
    """The machine's clock. Monotonic time is `time.monotonic`, so stepping the clock changes nothing."""

    monotonic: staticmethod[[], float] = staticmethod(time.monotonic)
    sleep: staticmethod[[float], None] = staticmethod(time.sleep)
    time: staticmethod[[], float] = staticmethod(time.time)

    def __repr__(self) -> str:
        return "SystemClock()"

    async def sleep_async(self, seconds: float) -> None:
        """Wait, letting other tasks run."""
        import anyio  # noqa: PLC0415 - sync users never need it

        await anyio.sleep(seconds)

    def wait(self, gate: Gate, seconds: float) -> bool:
        """Wait for a gate, at most so long; say whether it is open."""
        opened = threading.Event()
        gate.watch(opened.set)
        try:
            opened.wait(min(seconds, threading.TIMEOUT_MAX))
        finally:
            gate.unwatch(opened.set)
        return gate.is_open

    async def wait_async(self, gate: Gate, seconds: float) -> bool:
        """Wait for a gate, at most so long, letting other tasks run; say whether it is open."""
        import anyio  # noqa: PLC0415 - sync users never need it

        wake = _Waker(anyio.Event())
        gate.watch(wake)
        try:
            with anyio.move_on_after(seconds):
                await wake.event.wait()
        finally:
            gate.unwatch(wake)
        return gate.is_open

    def expiring(self, seconds: float) -> Expiry:
        """Bound the body of an `async with`, by the event loop's own means."""
        return _TrioExpiry(seconds) if in_trio() else _AsyncioExpiry(seconds)


class ManualClock:
    """Virtual time for tests: it moves when told to, and when somebody sleeps on it.

    A sync sleep moves it at once. Async sleepers take turns: once every task has come to rest, the
    earliest is woken at its time, so ten tasks that sleep a second each take a second together. A task
    that waits for something real (a socket, a thread) looks at rest.

    Args:
        start: What `monotonic()` begins with, in seconds.
        epoch: What `time()` begins with, in seconds since 1970; the default is an arbitrary moment.
    """

    def __init__(self, start: float = 1000.0, *, epoch: float = 1_700_000_000.0) -> None:
        self._now = start
        self._ahead = epoch - start
        self._moved = threading.Condition()
        self._asleep: list[tuple[float, int]] = []
        self._ticket = itertools.count()
        #: Every sleep that was asked for, in seconds, in the order asked.
        self.sleeps: list[float] = []

    def __repr__(self) -> str:
        return f"ManualClock({self._now})"

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._now

    def time(self) -> float:
        """Virtual seconds since 1970."""
        return self._now + self._ahead

    def advance(self, seconds: float) -> None:
        """Move time on.

        Args:
            seconds: How far; not negative, the clock is monotonic.
        """
        if seconds < 0:
            raise ValueError("a monotonic clock does not go back; step_wall() moves the wall clock")
        with self._moved:
            self._now += seconds
            self._moved.notify_all()

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as an administrator or NTP does; monotonic time does not notice."""
        self._ahead += seconds

    def sleep(self, seconds: float) -> None:
        """Move time on by as much."""
        self.sleeps.append(seconds)
        self.advance(max(0.0, seconds))

    async def sleep_async(self, seconds: float) -> None:
        """Wait until time has come, moving it once nobody else has anything to do."""
        self.sleeps.append(seconds)
        await self.until(self._now + seconds)

    def wait(self, gate: Gate, seconds: float) -> bool:
        """Block this thread until the gate is open or another thread has moved time on."""
        until = self._now + seconds
        gate.watch(self._notify)
        try:
            with self._moved:
                self._moved.wait_for(lambda: gate.is_open or self._now >= until)
        finally:
            gate.unwatch(self._notify)
        return gate.is_open

    async def wait_async(self, gate: Gate, seconds: float) -> bool:
        """Wait for the gate, or until virtual time has come."""
        import anyio  # noqa: PLC0415 - sync users never need it

        wake = _Waker(anyio.Event())
        gate.watch(wake)
        try:
            async with _VirtualExpiry(self, seconds):
                await wake.event.wait()
        finally:
            gate.unwatch(wake)
        return gate.is_open

    def expiring(self, seconds: float) -> Expiry:
        """Bound the body of an `async with` in virtual time."""
        return _VirtualExpiry(self, seconds)

    def _notify(self) -> None:
        with self._moved:
            self._moved.notify_all()

    async def until(self, moment: float) -> None:
        """Wait until virtual time has come, moving it once nobody else has anything to do."""
        import anyio.lowlevel  # noqa: PLC0415 - sync users never need it

        if moment == float("inf"):
            await anyio.sleep_forever()
        ticket = (moment, next(self._ticket))
        heapq.heappush(self._asleep, ticket)
        try:
            await anyio.lowlevel.checkpoint()
            turns, seen = 0, None
            while self._now < moment:
                if turns == _TURNS_UNTIL_IDLE and self._asleep[0] == ticket:
                    self.advance(moment - self._now)
                    return
                await anyio.lowlevel.checkpoint()
                # Whenever somebody fell asleep, woke up or moved time, others may have got something to do.
                stir = (self._now, tuple(self._asleep))
                turns, seen = (min(turns + 1, _TURNS_UNTIL_IDLE), stir) if stir == seen else (0, stir)
        finally:
            self._asleep.remove(ticket)
            heapq.heapify(self._asleep)


def in_trio() -> bool:
    """Whether the code runs under trio; otherwise it is asyncio, where it is async at all."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


class _Waker:
    """Sets an event of this event loop from wherever it is called."""

    def __init__(self, event: Any) -> None:
        self.event = event
        if in_trio():
            import trio  # noqa: PLC0415 - loaded already

            self._soon: Any = trio.lowlevel.current_trio_token().run_sync_soon
            self._gone: type[Exception] = trio.RunFinishedError
        else:
            self._soon = asyncio.get_running_loop().call_soon_threadsafe
            self._gone = RuntimeError

    def __call__(self) -> None:
        try:
            self._soon(self.event.set)
        except self._gone:
            return  # the loop has ended, and who waited on it with it


class _AsyncioExpiry:
    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._timeout = asyncio.timeout(None if seconds == float("inf") else seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            self.expired = True
            return True
        return None


class _TrioExpiry:
    def __init__(self, seconds: float) -> None:
        import trio  # noqa: PLC0415 - loaded already

        self._scope = trio.move_on_after(seconds)

    @property
    def expired(self) -> bool:
        return self._scope.cancelled_caught

    async def __aenter__(self) -> None:
        self._scope.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._scope.__exit__(kind, error, trace)


class _VirtualExpiry:
    """A watcher task sleeps on the virtual clock beside the body, and cancels it."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        self.expired = False
        self._fired = False
        self._clock = clock
        self._moment = clock.monotonic() + seconds
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> None:
        import anyio  # noqa: PLC0415 - sync users never need it

        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._watch, self._group)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        import anyio  # noqa: PLC0415 - sync users never need it

        group, self._group = self._group, None
        if group is None:
            return None
        if not isinstance(error, anyio.get_cancelled_exc_class()):
            # The group would wrap it in an ExceptionGroup: end the watcher, and let it pass.
            group.cancel_scope.cancel()
            await group.__aexit__(None, None, None)
            return None
        swallowed = await group.__aexit__(kind, error, trace)
        self.expired = bool(swallowed) and self._fired
        return self.expired

    async def _watch(self, group: TaskGroup) -> None:
        await self._clock.until(self._moment)
        self._fired = True
        group.cancel_scope.cancel()
