"""A second call beside one that is slow; the first to succeed wins."""

from __future__ import annotations

import contextvars
from bisect import bisect_left, insort
from collections import deque
from functools import partial
from math import ceil, inf
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.arguments import check_above, check_at_least, check_count
from llm_config_resilience.background import Background
from llm_config_resilience.errors import DeadlineExceededError, trimmed
from llm_config_resilience.gate import Gate
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.conditions import matcher, transient
from llm_config_resilience.strategies.discards import discard, discard_async
from llm_config_resilience.strategies.strategy import Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.budget import Budget
    from llm_config_resilience.strategies.conditions import Condition, Predicate

#: "The Tail at Scale" (Dean and Barroso, 2013): a second request after the 95th percentile costs 5 %.
_QUANTILE = 0.95
#: Calls a quantile is taken of, and calls there must have been: one in twenty lies beyond the 95th
#: percentile.
_WINDOW = 200
_MINIMUM = 20
#: Threads for sync calls, as many as `concurrent.futures` has at most by default.
_MAX_THREADS = 32


class Quantile:
    """A delay learned from the latency of earlier calls: so many of them were quicker.

    Args:
        share: Of the calls, above 0 and below 1.
        initial: Seconds until enough calls were seen; without it none is hedged until then.
        window: The last calls it is taken of.
        minimum: Calls that must have been seen.
    """

    def __init__(
        self,
        share: float = _QUANTILE,
        *,
        initial: float = inf,
        window: int = _WINDOW,
        minimum: int = _MINIMUM,
    ) -> None:
        check_above(0, share=share)
        if not share < 1:
            raise ValueError(f"share must be above 0 and below 1, not {share!r}")
        check_at_least(0, initial=initial)
        check_count(1, minimum=minimum, window=window)
        if window < minimum:
            raise ValueError(f"window must hold the minimum of {minimum} calls, not {window}")
        self._share = share
        self._initial = initial
        self._window = window
        self._minimum = minimum
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self._lock = new_lock()

    def __repr__(self) -> str:
        return f"Quantile({self._share}: {self.seconds:g} s after {len(self._recent)} calls)"

    @property
    def seconds(self) -> float:
        """The delay as it stands."""
        with self._lock:
            seen = len(self._sorted)
            if seen < self._minimum:
                return self._initial
            return self._sorted[ceil(self._share * seen) - 1]

    def record(self, seconds: float) -> None:
        """Take note of a call that succeeded.

        Args:
            seconds: How long its caller waited for it. A hedged call counts whole: the slow one would have
                taken longer still, so hedging does not teach that calls are quick.
        """
        with self._lock:
            self._recent.append(seconds)
            insort(self._sorted, seconds)
            if len(self._recent) > self._window:
                del self._sorted[bisect_left(self._sorted, self._recent.popleft())]


class _Race:
    """The calls made at once for one caller, and what became of them."""

    def __init__(self, may_pass: Predicate) -> None:
        self.gate = Gate()
        self.winner: Context | None = None
        self.value: Any = None
        #: Whether a budget was asked for a hedge.
        self.asked = False
        self._may_pass = may_pass
        self._branches: list[Context] = []
        self._running = 0
        self._over = False
        self._errors: dict[int, BaseException] = {}
        self._decisive: BaseException | None = None
        self._lock = new_lock()

    def enter(self, ctx: Context) -> Context | None:
        """Make a branch; `None` if the race is over."""
        with self._lock:
            if self._over:
                return None
            self._running += 1
            branch = ctx.fork()
            self._branches.append(branch)
            return branch

    def won(self, branch: Context, value: Any) -> bool:
        """Take a result; say whether it is the first."""
        with self._lock:
            if self._over:
                return False
            self.winner, self.value = branch, value
            self._end()
            return True

    def lost(self, branch: Context, error: BaseException | None) -> None:
        """Take an error; the race is over if it decides the call, or nobody is left."""
        with self._lock:
            self._running -= 1
            if self._over:
                return
            if error is not None:
                self._errors[self._branches.index(branch)] = error
                if not isinstance(error, Exception) or not self._may_pass(error):
                    self._decisive = error
            if self._decisive is not None or not self._running:
                self._end()

    @property
    def calls(self) -> int:
        """How often the function was called, all branches together."""
        return sum(branch.calls for branch in self._branches)

    @property
    def won_by_hedge(self) -> bool:
        """Whether another call than the first succeeded."""
        return self.winner is not None and self.winner is not self._branches[0]

    def finish(self) -> None:
        """Take no further results: those that run are to be cancelled, or have no time left."""
        with self._lock:
            self._over = True

    def abandon(self) -> Any:
        """Want no result any more; return the one there is, to be closed."""
        with self._lock:
            self._over = True
            value, self.value = self.value, None
            self._errors.clear()
            self._decisive = None
            return value

    def outcome(self, ctx: Context) -> Any:
        """Return the winner's result, or raise what the call without hedges would have raised."""
        calls = ctx.calls + self.calls
        winner, value = self.winner, self.value
        error = self._decisive or self._errors.get(min(self._errors, default=0))
        # A traceback holds the frames of its branch, and these the race.
        self.abandon()
        if winner is not None:
            ctx.join(winner)
        ctx.calls = calls
        if winner is not None:
            return value
        try:
            raise DeadlineExceededError("no answer within the deadline") if error is None else error
        finally:
            del error

    def _end(self) -> None:
        self._over = True
        self.gate.open()


class Hedge(Scope):
    """Make the call again beside one that is slow, and take the first success.

        stack = Pipeline(Timeout(2.0), Hedge(Quantile(0.95)))
        price = await stack.call_async(fetch_async, "EUR")

    For calls that may be repeated. An error that may pass does not end the call while another one is under
    way; any other error does. When all fail the caller gets the error of the first call: the one it would
    have got without hedging. Before the delay is over an error is just an error, for a `Retry` outside.

    In async the losers are cancelled. In sync calls run in threads, whose losers run to their end unseen;
    while all threads are busy calls are made in the caller's own, without hedges; and a call ends at its
    deadline, whatever it is at. In both, a result that comes too late is closed, if it has `aclose` or
    `close`.

    Args:
        delay: Seconds to wait for a call before the next is made, or a `Quantile`.
        max_hedges: Calls made besides the first.
        on: Errors that another call may overcome: exception classes, or a predicate; transient ones unless
            given.
        budget: Pays for hedges, such as the `budget` of a `Retry` further out; `None` is none. A hedge that
            wins is refunded.
        max_threads: Threads for sync calls.
        name: For events.

    Raises:
        DeadlineExceededError: In sync, no call succeeded within the deadline.
    """

    role: ClassVar[str] = "hedge"

    def __init__(
        self,
        delay: float | Quantile,
        max_hedges: int = 1,
        *,
        on: Condition = transient,
        budget: Budget | None = None,
        max_threads: int = _MAX_THREADS,
        name: str = "",
    ) -> None:
        if not isinstance(delay, Quantile):
            check_at_least(0, delay=delay)
        check_count(1, max_hedges=max_hedges, max_threads=max_threads)
        self.name = name
        self.budget = budget
        self._delay = delay
        self._max_hedges = max_hedges
        self._on = on
        self._matches = matcher(on)
        # As many jobs as threads: a call must not wait for a thread.
        self._threads = Background(max_threads, max_threads)

    def around(self, ctx: Context, at: int, proceed: Callable[[Context], Any]) -> Any:
        """Run what is inside in threads."""
        race, began = _Race(self._matches), ctx.now()
        if not self._start(race, race.enter(ctx), proceed):
            return proceed(ctx)
        try:
            for hedges in range(self._max_hedges):
                if ctx.clock.wait(race.gate, self._patience(ctx)) or not self._affords(ctx, at, race, hedges):
                    break
                if not self._start(race, race.enter(ctx), proceed):
                    self._refund(ctx)
                    break
            ctx.clock.wait(race.gate, ctx.remaining())
            race.finish()
        except BaseException:
            ctx.calls += race.calls
            discard(race.abandon())
            raise
        self._learn(ctx, race, ctx.now() - began)
        return race.outcome(ctx)

    async def around_async(self, ctx: Context, at: int, proceed: Callable[[Context], Awaitable[Any]]) -> Any:
        """Run what is inside in tasks."""
        import anyio  # noqa: PLC0415 - sync users never need it

        race, began = _Race(self._matches), ctx.now()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run_async, race, race.enter(ctx), proceed)
                for hedges in range(self._max_hedges):
                    if await ctx.clock.wait_async(race.gate, self._patience(ctx)):
                        break
                    if not self._affords(ctx, at, race, hedges):
                        break
                    tasks.start_soon(self._run_async, race, race.enter(ctx), proceed)
                await ctx.clock.wait_async(race.gate, ctx.remaining())
                race.finish()
                tasks.cancel_scope.cancel()
        except BaseException:
            ctx.calls += race.calls
            await discard_async(race.abandon())
            raise
        self._learn(ctx, race, ctx.now() - began)
        return race.outcome(ctx)

    def describe(self) -> dict[str, Any]:
        """Show the delay and the limits."""
        return {"delay": self._delay, "max_hedges": self._max_hedges, "on": self._on, "budget": self.budget}

    def _start(self, race: _Race, branch: Context | None, proceed: Callable[[Context], Any]) -> bool:
        if branch is None:
            return False
        job = partial(contextvars.copy_context().run, partial(_run, race, branch, proceed))
        started = self._threads.run(job)
        if not started:
            race.lost(branch, None)
        return started

    async def _run_async(
        self, race: _Race, branch: Context | None, proceed: Callable[[Context], Awaitable[Any]]
    ) -> None:
        if branch is None:
            return
        try:
            value = await proceed(branch)
        except Exception as error:  # noqa: BLE001 - the caller gets it
            race.lost(branch, trimmed(error))
        except BaseException as error:
            race.lost(branch, error)
            raise
        else:
            if not race.won(branch, value):
                await discard_async(value)

    def _patience(self, ctx: Context) -> float:
        delay = self._delay.seconds if isinstance(self._delay, Quantile) else self._delay
        return min(delay, ctx.remaining())

    def _affords(self, ctx: Context, at: int, race: _Race, hedges: int) -> bool:
        if ctx.expired():
            return False
        if self.budget is not None:
            race.asked = True
            if not self.budget.spend(ctx.clock, hedges + self._has_company(ctx)):
                return False
        ctx.emit("hedged", at, details={"calls": hedges + 2})
        return True

    def _refund(self, ctx: Context) -> None:
        if self.budget is not None:
            self.budget.earn(ctx.clock, 1)

    def _learn(self, ctx: Context, race: _Race, seconds: float) -> None:
        if race.winner is None:
            return
        if isinstance(self._delay, Quantile):
            self._delay.record(seconds)
        if self.budget is None:
            return
        if race.won_by_hedge:
            self.budget.earn(ctx.clock, 1)
        elif not race.asked and not self.budget.idle and not self._has_company(ctx):
            self.budget.earn(ctx.clock, 0)

    def _has_company(self, ctx: Context) -> bool:
        """Whether a `Retry` in the pipeline tells the same budget of the call."""
        return any(
            layer is not self and getattr(layer, "budget", None) is self.budget
            for layer in ctx.pipeline.layers
        )


def _run(race: _Race, branch: Context, proceed: Callable[[Context], Any]) -> None:
    try:
        value = proceed(branch)
    except Exception as error:  # noqa: BLE001 - the caller gets it
        race.lost(branch, trimmed(error))
    except BaseException as error:  # noqa: BLE001 - the caller gets it
        race.lost(branch, error)
    else:
        if not race.won(branch, value):
            discard(value)
