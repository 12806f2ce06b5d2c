"""A time limit; whether for the whole call or for an attempt is decided by its place."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.errors import DeadlineExceededError
from llm_config_resilience.strategies.strategy import Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llm_config_resilience.context import Context


class Timeout(Scope):
    """Bound what is inside in time.

    In async what is inside is cancelled when time is up. In sync nothing can be cancelled: the limit is the
    context's `deadline`, which every wait of the toolkit keeps to and which a called function finds by
    `current().remaining()`; a result that comes late is returned all the same, with a `"late"` event.

    Args:
        seconds: The limit, or a function of the call's arguments that gives it; `None` and `inf` are none.

    Raises:
        DeadlineExceededError: Time was up, here or in a limit further out.
    """

    role: ClassVar[str] = "timeout"

    def __init__(self, seconds: float | Callable[..., float | None] | None) -> None:
        if not callable(seconds) and seconds is not None and seconds <= 0:
            raise ValueError("a timeout must be more than 0 seconds")
        self._seconds = seconds
        #: The limit that is the same for every call; `None` where it has to be asked for.
        self._fixed = None if callable(seconds) else inf if seconds is None else seconds

    def before(self, ctx: Context, at: int) -> None:
        """Tighten the call's deadline."""
        ctx.slots[at] = outer = ctx.deadline
        now = ctx.pipeline.now()
        if outer <= now:
            raise DeadlineExceededError("the deadline passed before the call began")
        until = now + (self._fixed or self._limit(ctx))
        if until < outer:
            ctx.deadline = until

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Put the deadline back; say if the result is late."""
        del value
        outer, ctx.slots[at] = ctx.slots[at], None
        if ctx.deadline < outer:
            if ctx.listeners and ctx.now() > ctx.deadline:
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
        return {"seconds": self._seconds}

    def _limit(self, ctx: Context) -> float:
        if not callable(self._seconds):
            return self._fixed or inf
        limit = self._seconds(*ctx.args, **ctx.kwargs)
        return inf if limit is None else limit
