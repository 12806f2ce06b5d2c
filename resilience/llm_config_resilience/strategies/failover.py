"""Switch to a backup when a target fails, and go back when it is well again."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.directives import Again, Directive, Raise
from llm_config_resilience.errors import AllTargetsFailedError
from llm_config_resilience.strategies.conditions import matcher, transient
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.conditions import Condition

#: Seconds a target that failed is left alone.
_FAILBACK_AFTER = 30.0


class _Health:
    """What is known of a target."""

    __slots__ = ("ejected_until",)

    def __init__(self) -> None:
        self.ejected_until = 0.0


class _Tour:
    """The targets one call has tried, with what they answered."""

    __slots__ = ("args", "failures", "index", "order")

    def __init__(self, args: tuple[Any, ...], order: list[int]) -> None:
        self.args = args
        self.order = order
        self.index = 0
        self.failures: list[tuple[Any, Exception]] = []


class Failover(Strategy):
    """Give the called function a target as its first argument, and the next one when a target fails.

    The first target is the primary: it is preferred whenever it is well. A target that failed is asked last
    for `failback_after` seconds; when all are in that state, all are asked. An error that is not in `on` is
    an answer, and ends the search.

    Args:
        targets: What to hand to the function, in order of preference.
        on: Which errors: exception classes, or a predicate. Unless given, transient ones: the error's own
            `is_transient` decides, and `OSError` without one; a circuit that is open counts too.
        failback_after: Seconds until a target that failed is preferred again.
        name: For events.

    Raises:
        AllTargetsFailedError: Every target failed; where there is only one, its own error is raised.
    """

    role: ClassVar[str] = "failover"

    def __init__(
        self,
        targets: Sequence[Any],
        *,
        on: Condition = transient,
        failback_after: float = _FAILBACK_AFTER,
        name: str = "",
    ) -> None:
        if not targets:
            raise ValueError("a failover needs a target")
        self.name = name
        self._targets = tuple(targets)
        self._on = on
        self._matches = matcher(on)
        self._failback_after = failback_after
        self._health = [_Health() for _ in self._targets]
        self._lock = threading.Lock()

    @property
    def targets(self) -> tuple[Any, ...]:
        """The targets, in order of preference."""
        return self._targets

    def before(self, ctx: Context, at: int) -> None:
        """Choose where to begin."""
        order = list(range(len(self._targets)))
        if any(health.ejected_until for health in self._health):
            now = ctx.now()
            order.sort(key=lambda index: self._health[index].ejected_until > now)
        ctx.slots[at] = tour = _Tour(ctx.args, order)
        self._aim(ctx, tour)

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Note that the target is well."""
        del value
        self._readmit(ctx, at)
        self.released(ctx, at)

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Go on to the next target, if another one may do better."""
        tour: _Tour = ctx.slots[at]
        if not self._matches(error):
            self.released(ctx, at)
            return None
        self._eject(ctx, at, error)
        tour.failures.append((ctx.target, error))
        tour.index += 1
        if tour.index < len(tour.order):
            self._aim(ctx, tour)
            ctx.emit("failed_over", at, error=error)
            return Again()
        self.released(ctx, at)
        return Raise(AllTargetsFailedError.of(tour.failures)) if len(tour.failures) > 1 else None

    def released(self, ctx: Context, at: int) -> None:
        """Put the arguments back."""
        if ctx.slots[at] is not None:
            ctx.args, ctx.slots[at] = ctx.slots[at].args, None

    def describe(self) -> dict[str, Any]:
        """Show targets and times."""
        return {"targets": self._targets, "failback_after": self._failback_after}

    def _aim(self, ctx: Context, tour: _Tour) -> None:
        ctx.target = self._targets[tour.order[tour.index]]
        ctx.args = (ctx.target, *tour.args)

    def _eject(self, ctx: Context, at: int, error: Exception) -> None:
        tour: _Tour = ctx.slots[at]
        health = self._health[tour.order[tour.index]]
        now = ctx.now()
        with self._lock:
            fresh = health.ejected_until <= now
            health.ejected_until = now + self._failback_after
        if fresh and len(self._targets) > 1:
            ctx.emit("ejected", at, error=error, delay=self._failback_after)

    def _readmit(self, ctx: Context, at: int) -> None:
        tour: _Tour = ctx.slots[at]
        health = self._health[tour.order[tour.index]]
        if health.ejected_until:
            health.ejected_until = 0.0
            ctx.emit("readmitted", at)
