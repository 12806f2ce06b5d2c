"""A time limit; whether for the whole call or for an attempt is decided by its place."""

from __future__ import annotations

import contextvars
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.arguments import check_above, check_count
from llm_config_resilience.background import Background
from llm_config_resilience.errors import BulkheadFullError, DeadlineExceededError, trimmed
from llm_config_resilience.gate import Gate
from llm_config_resilience.rehearsal import rehearsal
from llm_config_resilience.strategies.discards import discard
from llm_config_resilience.strategies.strategy import Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llm_config_resilience.context import Context


_rehearsal = rehearsal.get

#: Threads for sync calls, as many as `concurrent.futures` has at most by default.
_MAX_THREADS = 32


class _Run:
    """A call in a thread, and what became of it."""

    def __init__(self, branch: Context) -> None:
        self.branch = branch
        self.gate = Gate()
        self._value: Any = None
        self._error: BaseException | None = None
        # Whoever takes it says how the call ended; taking from a list is atomic.
        self._say = [None]

    def work(self, proceed: Callable[[Context], Any], at: int) -> None:
        """Make the call; discard what comes when nobody waits any more."""
        try:
            self._value = proceed(self.branch)
        except BaseException as caught:  # noqa: BLE001 - the caller gets it
            self._error = trimmed(caught)
        if self.settle():
            self.gate.open()
            return
        error, value = self._error, self._value
        self._error = self._value = None
        if self.branch.expired():
            self.branch.emit("late", at, error=error)
        discard(value)
        del error

    def settle(self) -> bool:
        """End the call, whichever side is first; say whether this one was."""
        try:
            self._say.pop()
        except IndexError:
            return False
        return True

    def abandon(self) -> None:
        """Want no result any more; close the one there is."""
        if not self.settle():
            value, self._value, self._error = self._value, None, None
            discard(value)

    def outcome(self) -> Any:
        """Return the result, or raise the error."""
        value, error = self._value, self._error
        # A traceback holds the frames of the call, and these what it was called with.
        self._value = self._error = None
        if error is None:
            return value
        try:
            raise error
        finally:
            del error


class Timeout(Scope):
    """Bound what is inside in time.

        Pipeline(Timeout(10.0), Retry(), Timeout(2.0))  # a whole call, and each of its attempts

    In async what is inside is cancelled when time is up. In sync nothing can be cancelled: the limit is the
    context's `deadline`, which every wait of the toolkit keeps to and which a called function finds by
    `current().remaining()`; a result that comes late is returned all the same, with a `"late"` event.

    With `thread=True` a sync call runs in a thread, with the caller's context variables, and its caller waits
    no longer than the limit. The thread cannot be stopped: it goes on until the function returns, and keeps
    what the layers inside gave it (a bulkhead's place); they see the outcome when it comes. A late result is
    closed, if it has `close`, with a `"late"` event. While every thread is taken, calls are rejected: in the
    caller's own thread the limit would not hold. A call without a limit stays in its caller's thread.

    Args:
        seconds: The limit, or a function of the call's arguments that gives it; `None` and `inf` are none.
        thread: Whether sync calls run in a thread. Async calls are the same either way.
        max_threads: Threads at most, and so calls at once, those included that nobody waits for any more.

    Raises:
        DeadlineExceededError: Time was up, here or in a limit further out.
        BulkheadFullError: No thread is free. The call never ran.
    """

    role: ClassVar[str] = "timeout"

    def __init__(
        self,
        seconds: float | Callable[..., float | None] | None,
        *,
        thread: bool = False,
        max_threads: int = _MAX_THREADS,
    ) -> None:
        if not callable(seconds) and seconds is not None:
            check_above(0, seconds=seconds)
        check_count(1, max_threads=max_threads)
        # As many jobs as threads: a call must not wait for a thread.
        self._threads = Background(max_threads, max_threads) if thread else None
        if self._threads is None:
            self.hooks: frozenset[str] = Scope.hooks - {"around"}
        self._seconds = seconds
        #: The limit that is the same for every call; `None` where it has to be asked for.
        self._fixed = None if callable(seconds) else inf if seconds is None else seconds

    def before(self, ctx: Context, at: int) -> None:
        """Tighten the call's deadline."""
        outer, now = ctx.deadline, ctx.pipeline.now()
        ctx.slots[at] = outer
        if outer <= now:
            raise DeadlineExceededError("the deadline passed before the call began")
        until = now + (self._fixed or self._limit(ctx))
        if until < outer:
            ctx.deadline = until

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Put the deadline back; say if the result is late."""
        del value
        outer, deadline = ctx.slots[at], ctx.deadline
        ctx.slots[at] = None
        if deadline < outer:
            # `ctx.listeners`, spelt out: this is asked at every call.
            if (ctx.pipeline.listeners or _rehearsal() is not None) and ctx.now() > deadline:
                ctx.emit("late", at)
            ctx.deadline = outer

    def failed(self, ctx: Context, at: int, error: Exception) -> None:
        """Put the deadline back."""
        if ctx.listeners and ctx.deadline < ctx.slots[at] and ctx.expired():
            ctx.emit("timed_out", at, error=error)
        self.released(ctx, at)

    def released(self, ctx: Context, at: int) -> None:
        """Put the deadline back."""
        if ctx.slots[at] is not None:
            ctx.deadline, ctx.slots[at] = ctx.slots[at], None

    def around(self, ctx: Context, at: int, proceed: Callable[[Context], Any]) -> Any:
        """Make the call in a thread, and wait for it until time is up."""
        run = None
        try:
            self.before(ctx, at)
            if ctx.deadline == inf:
                return proceed(ctx)
            run = _Run(ctx.fork())
            self._start(ctx, at, run, proceed)
            ctx.clock.wait(run.gate, ctx.remaining())
            timely = not run.settle()
            ctx.join(run.branch)
            if timely:
                return run.outcome()
            error = DeadlineExceededError(f"no answer within {self._limit(ctx):g} s")
            ctx.emit("timed_out", at, error=error)
        except BaseException:
            if run is not None:
                run.abandon()
            raise
        finally:
            self.released(ctx, at)
        try:
            raise error
        finally:
            del error

    async def around_async(self, ctx: Context, at: int, proceed: Callable[[Context], Awaitable[Any]]) -> Any:
        """Cancel what is inside when time is up."""
        self.before(ctx, at)
        try:
            if ctx.deadline == ctx.slots[at]:  # no tighter than the limit further out, which will cancel
                return await proceed(ctx)
            expiry = ctx.clock.expiring(ctx.remaining())
            value = None
            async with expiry:
                value = await proceed(ctx)
            if not expiry.expired:
                return value
            error = DeadlineExceededError(f"no answer within {self._limit(ctx):g} s")
            ctx.emit("timed_out", at, error=error)
        finally:
            self.released(ctx, at)
        try:
            raise error
        finally:
            del error

    def describe(self) -> dict[str, Any]:
        """Show the limit."""
        return {"seconds": self._seconds, **({} if self._threads is None else {"thread": True})}

    def _start(self, ctx: Context, at: int, run: _Run, proceed: Callable[[Context], Any]) -> None:
        job = partial(contextvars.copy_context().run, partial(run.work, proceed, at))
        if self._threads is None or not self._threads.run(job):
            error = BulkheadFullError("no thread is free for a call with a timeout")
            ctx.emit("rejected", at, error=error)
            raise error

    def _limit(self, ctx: Context) -> float:
        if not callable(self._seconds):
            return self._fixed or inf
        limit = self._seconds(*ctx.args, **ctx.kwargs)
        return inf if limit is None else limit
