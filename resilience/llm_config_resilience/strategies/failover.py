"""Switch to a backup when a target fails, and go back when it is well again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.directives import Again, Directive, Raise
from llm_config_resilience.errors import AllTargetsFailedError, RejectedError
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.conditions import matcher, transient
from llm_config_resilience.strategies.strategy import Strategy
from llm_config_resilience.strategies.target_health import HealthSettings, TargetHealth, TargetStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.conditions import Condition


class _Tour:
    """The targets one call has tried, with what they answered."""

    __slots__ = ("args", "failures", "index", "order")

    def __init__(self, args: tuple[Any, ...], order: Sequence[int]) -> None:
        self.args = args
        self.order = order
        self.index = 0
        self.failures: tuple[tuple[Any, Exception], ...] = ()

    @property
    def place(self) -> int:
        """The present target's place in the order of preference."""
        return self.order[self.index]


class Failover(Strategy):
    """Give the called function a target as its first argument, and the next one when a target fails.

        stack = Pipeline(Failover(["https://a.example.com", "https://b.example.com"]))
        stack.call(lambda url, currency: f"GET {url}/{currency}", "EUR")

    The first target is the primary: it is preferred whenever it is well, and calls stay with the one they
    found until then. A target that fails is ejected, and asked last, for `failback_after` seconds the first
    time, longer and jittered each time after that. Then one call at a time probes it before the others; after
    `success_threshold` successes it is readmitted, a failure ejects it again. The last one that is well is
    never ejected.

    An error that is not in `on` is an answer: it ends the search and counts as a success. Calls that are
    turned away on this side (an open circuit) go on to the next target and say nothing about this one.

    Args:
        targets: What to hand to the function, in order of preference.
        on: Which errors: exception classes, or a predicate. Unless given, transient ones: the error's own
            `is_transient` decides, and `OSError` without one; a circuit that is open counts too.
        failback_after: Seconds a target is ejected the first time; also those after which a probe that hangs
            is given up.
        failure_threshold: Failures in a row that eject a target.
        failure_rate: Ejects it as well, when this share (above 0, up to 1) of its calls in the window failed.
        window: Seconds that `failure_rate` looks back.
        minimum_calls: Calls there must be in the window before `failure_rate` says anything.
        success_threshold: Probes that have to succeed before it is preferred again.
        name: For events.

    Raises:
        AllTargetsFailedError: More than one target was tried, and all that were failed; where there was only
            one, its own error is raised.
    """

    role: ClassVar[str] = "failover"

    def __init__(
        self,
        targets: Sequence[Any],
        *,
        on: Condition = transient,
        failback_after: float = 30.0,
        failure_threshold: int = 1,
        failure_rate: float | None = None,
        window: float = 10.0,
        minimum_calls: int = 20,
        success_threshold: int = 2,
        name: str = "",
    ) -> None:
        if isinstance(targets, (str, bytes)):
            raise TypeError(f"targets must be several, in a list: [{targets!r:.80}]")
        if not targets:
            raise ValueError("a failover needs a target")
        self.name = name
        self._targets = tuple(targets)
        self._on = on
        self._matches = matcher(on)
        self._settings = HealthSettings(
            failback_after, failure_threshold, failure_rate, window, minimum_calls, success_threshold
        )
        self._health = [TargetHealth(self._settings) for _ in self._targets]
        self._in_order = tuple(range(len(self._targets)))
        #: How many targets are ejected: with none, every call goes in the order of preference.
        self._ejected = 0
        self._lock = new_lock()

    @property
    def targets(self) -> tuple[Any, ...]:
        """The targets, in order of preference."""
        return self._targets

    @property
    def settings(self) -> HealthSettings:
        """The figures in force."""
        return self._settings

    @property
    def health(self) -> tuple[TargetStatus, ...]:
        """How the targets are, in order of preference."""
        with self._lock:
            return tuple(
                TargetStatus(
                    target,
                    "well" if health.is_well else "ejected",
                    health.failures,
                    health.ejections,
                    health.probe is not None,
                )
                for target, health in zip(self._targets, self._health, strict=True)
            )

    def reconfigure(self, **changes: Any) -> None:
        """Change thresholds and times; what is known of the targets stays.

        Args:
            **changes: Figures by the names that the constructor gives them.
        """
        with self._lock:
            self._settings = replace(self._settings, **changes)
            for health in self._health:
                fresh = TargetHealth(self._settings).window
                if fresh is None or health.window is None or fresh.seconds != health.window.seconds:
                    health.window = fresh

    def before(self, ctx: Context, at: int) -> None:
        """Choose where to begin."""
        ctx.slots[at] = tour = _Tour(ctx.args, self._in_order)
        if self._ejected:
            tour.order = self._order(ctx.now(), tour)
        self._aim(ctx, tour)

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Note that the target is well."""
        del value
        self._count_success(ctx, at)
        self._leave(ctx, at)

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Go on to the next target, if another one may do better."""
        tour: _Tour = ctx.slots[at]
        if not self._matches(error):
            self._count_success(ctx, at)
            self._leave(ctx, at)
            return None
        if isinstance(error, RejectedError):
            self._end_probe(tour)
        else:
            self._count_failure(ctx, at, error)
        tour.failures += ((ctx.target, error),)
        if tour.index + 1 < len(tour.order) and not ctx.expired():
            tour.index += 1
            self._aim(ctx, tour)
            ctx.emit("failed_over", at, error=error)
            return Again()
        self._leave(ctx, at)
        return Raise(AllTargetsFailedError.of(tour.failures)) if len(tour.failures) > 1 else None

    def released(self, ctx: Context, at: int) -> None:
        """Give up; a target that our own deadline ended the wait for has failed."""
        tour: _Tour | None = ctx.slots[at]
        if tour is None:
            return
        if ctx.expired():
            self._count_failure(ctx, at, TimeoutError("no answer before the deadline"))
        else:
            self._end_probe(tour)
        self._leave(ctx, at)

    def describe(self) -> dict[str, Any]:
        """Show targets and times."""
        return {"targets": self._targets, "failback_after": self._settings.failback_after}

    def _order(self, now: float, tour: _Tour) -> list[int]:
        """The one to probe first, if there is one; then those that are well; then the ejected ones."""
        with self._lock:
            well = [place for place in self._in_order if self._health[place].is_well]
            ejected = [place for place in self._in_order if not self._health[place].is_well]
            due = next((place for place in ejected if self._health[place].may_be_probed(now)), None)
            # Probing is for the sake of a target that would be preferred to the one in use.
            if due is None or (well and due > well[0]):
                return well + ejected
            self._health[due].begin_probe(tour, now + self._settings.failback_after)
            ejected.remove(due)
            return [due, *well, *ejected]

    def _aim(self, ctx: Context, tour: _Tour) -> None:
        ctx.target = self._targets[tour.place]
        ctx.args = (ctx.target, *tour.args)

    def _leave(self, ctx: Context, at: int) -> None:
        """Put the arguments back."""
        ctx.args, ctx.slots[at] = ctx.slots[at].args, None

    def _end_probe(self, tour: _Tour) -> None:
        with self._lock:
            self._health[tour.place].end_probe(tour)

    def _count_success(self, ctx: Context, at: int) -> None:
        tour: _Tour = ctx.slots[at]
        health = self._health[tour.place]
        if health.is_untouched:
            return
        with self._lock:
            health.end_probe(tour)
            readmitted = health.succeed(ctx.now(), self._settings)
            self._ejected -= readmitted
        if readmitted:
            ctx.emit("readmitted", at)

    def _count_failure(self, ctx: Context, at: int, error: Exception) -> None:
        tour: _Tour = ctx.slots[at]
        health = self._health[tour.place]
        with self._lock:
            now = ctx.now()
            probed = health.end_probe(tour)
            is_too_many = health.fail(now, self._settings, probed=probed)
            is_last = health.is_well and self._ejected + 1 == len(self._targets)
            if not is_too_many or is_last:
                return
            self._ejected += health.is_well
            seconds = health.eject(now, self._settings, ctx.random)
        ctx.emit("ejected", at, error=error, delay=seconds)
