"""At most so many calls at once, and a bounded queue for the rest."""

from __future__ import annotations

from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.arguments import check_count
from llm_config_resilience.directives import Directive, Park, Raise
from llm_config_resilience.errors import BulkheadFullError
from llm_config_resilience.gate import Gate
from llm_config_resilience.locks import new_lock, renew_in_child
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context

#: Seconds before the deadline at which waiting ends. A place in the last moment is of no use, and a wait that
#: the deadline itself ended would look like a slow backend to a breaker. Event loops keep milliseconds.
_LAST_MOMENT = 0.001


class _Place:
    """What a call holds that may run. Those of a process are all alike, and are no good in another one."""

    __slots__ = ()


class _Waiter:
    """A call in the queue."""

    __slots__ = ("admitted", "gate")

    def __init__(self) -> None:
        self.gate = Gate()
        self.admitted = False


class Bulkhead(Strategy):
    """Let at most so many calls run at once, so that one slow backend does not take everything.

        price = Pipeline(Bulkhead(20, max_queue=100)).call(fetch, "EUR")

    The next ones wait in a queue, first come first served, until just before their deadline; a cancelled one
    leaves it or passes its place on. Threads and tasks of any event loop may share one.

    Args:
        max_concurrent: Calls that may run at once.
        max_queue: Calls that may wait besides.
        name: For events and errors.

    Raises:
        BulkheadFullError: The queue is full, or no place became free before the deadline. The call never ran.
    """

    role: ClassVar[str] = "bulkhead"

    def __init__(self, max_concurrent: int, max_queue: int = 0, *, name: str = "") -> None:
        check_count(1, max_concurrent=max_concurrent)
        check_count(0, max_queue=max_queue)
        self.name = name
        self._max_concurrent = max_concurrent
        self._max_queue = max_queue
        self._lock = new_lock()
        self._begin()
        renew_in_child(self)

    def _begin(self) -> None:
        self._place = _Place()
        # Taking from a list and putting back are atomic: no lock while there is room.
        self._free = [self._place] * self._max_concurrent
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"Bulkhead({self.running} of {self._max_concurrent} running, {self.waiting} waiting)"

    @property
    def running(self) -> int:
        """Calls that hold a place."""
        return self._max_concurrent - len(self._free)

    @property
    def waiting(self) -> int:
        """Calls in the queue."""
        return len(self._queue)

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Take a place, or join the queue."""
        if not self._queue:
            try:
                ctx.slots[at] = self._free.pop()
            except IndexError:
                return self._join(ctx, at)
            return None
        return self._join(ctx, at)

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Give the place back."""
        del value
        if ctx.slots[at] is not self._place:
            return
        ctx.slots[at] = None
        self._free.append(self._place)
        if self._queue:
            self._pass_on()

    def failed(self, ctx: Context, at: int, error: Exception) -> None:
        """Give the place back."""
        del error
        self.released(ctx, at)

    def released(self, ctx: Context, at: int) -> None:
        """Leave the queue, or give the place back."""
        held = ctx.slots[at]
        if held is None:
            return
        ctx.slots[at] = None
        if held is not self._place:
            if isinstance(held, _Place):
                return  # it was the parent process's
            with self._lock:
                if not held.admitted:
                    self._queue.pop(held, None)
                    return
        self._free.append(self._place)
        if self._queue:
            self._pass_on()

    def renew_after_fork(self) -> None:
        """In a forked child, free every place: those who hold one are in the parent."""
        self._begin()

    def describe(self) -> dict[str, Any]:
        """Show the limits."""
        return {"max_concurrent": self._max_concurrent, "max_queue": self._max_queue}

    def _join(self, ctx: Context, at: int) -> Directive:
        left = ctx.remaining()
        if left <= _LAST_MOMENT:
            return self._reject(ctx, at, "and there is no time to wait")
        with self._lock:
            full = len(self._queue) >= self._max_queue
            if not full:
                ctx.slots[at] = waiter = _Waiter()
                self._queue[waiter] = None
                # A place may have been put back since we looked.
                self._admit()
                within = inf if left == inf else left - _LAST_MOMENT
                return Park(waiter.gate, then=self._enter, orelse=self._give_up, within=within)
        return self._reject(ctx, at, f"and {self._max_queue} wait")

    def _pass_on(self) -> None:
        """Let others in after a place was put back."""
        with self._lock:
            self._admit()

    def _admit(self) -> None:
        """Let those in for whom there is a place. The lock is held."""
        while self._queue:
            try:
                self._free.pop()
            except IndexError:
                return
            waiter, _ = self._queue.popitem(last=False)
            waiter.admitted = True
            waiter.gate.open()

    def _enter(self, ctx: Context, at: int) -> None:
        ctx.slots[at] = self._place

    def _give_up(self, ctx: Context, at: int, _error: Exception) -> Directive:
        self.released(ctx, at)
        return self._reject(ctx, at, "and no place became free before the deadline")

    def _reject(self, ctx: Context, at: int, why: str) -> Directive:
        label = f"bulkhead {self.name!r}" if self.name else "the bulkhead"
        error = BulkheadFullError(f"{label} is full: {self._max_concurrent} calls run {why}", name=self.name)
        ctx.emit("rejected", at, error=error)
        return Raise(error)
