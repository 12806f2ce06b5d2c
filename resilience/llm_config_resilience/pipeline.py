"""Strategies in an order, compiled once, called often."""

from __future__ import annotations

import functools
import inspect
import random as random_module
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from llm_config_resilience import ending
from llm_config_resilience.arguments import check_callable, check_has
from llm_config_resilience.background import Background
from llm_config_resilience.clock import SystemClock
from llm_config_resilience.context import AsyncContext, Context
from llm_config_resilience.engine import drive, drive_async
from llm_config_resilience.errors import PipelineOrderWarning
from llm_config_resilience.events import hearers
from llm_config_resilience.order import lint
from llm_config_resilience.route import Ends, compile_route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from llm_config_resilience.clock import Clock
    from llm_config_resilience.events import EventKind, Listener
    from llm_config_resilience.strategies.strategy import Strategy

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

#: One for all: pipelines meet in `current()` only if they share their clock.
_SYSTEM_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """A value, and how it came about.

    Args:
        value: What the call returned, or what stood in for it.
        source: `"call"`, `"cache"`, `"stale"`, `"fallback"`, or what a strategy of yours says.
        answered_by: The label of the layer that answered; `""` for the called function.
        degraded: Whether the value is second best.
        error: What made a degraded value necessary, without its traceback.
        attempts: The number of the last attempt.
        calls: How often the function was called, all targets and attempts together.
        target: The target that answered, under a `Failover`.
        age: How old the value is, in seconds, if it comes from a cache.
        index: Which of a fallback's sources gave it, from 0.
    """

    value: T
    source: str
    answered_by: str
    degraded: bool
    error: Exception | None
    attempts: int
    calls: int
    target: Any
    age: float | None = None
    index: int | None = None


@dataclass(frozen=True, slots=True)
class LayerDescription:
    """One layer: its label, its class and the settings worth showing."""

    label: str
    kind: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.label}({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"


@dataclass(frozen=True, slots=True)
class PipelineDescription:
    """What a pipeline is made of, outermost layer first; `str()` has a line a layer."""

    name: str
    layers: tuple[LayerDescription, ...]
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [self.name or "pipeline"]
        lines += [f"{'  ' * depth}{layer}" for depth, layer in enumerate(self.layers, 1)]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


class Pipeline:
    """Strategies around any callable, sync or async.

        stack = Pipeline(Fallback({}), Retry(), CircuitBreaker(), name="prices")
        prices = stack.call(fetch, "EUR")
        prices = await stack.call_async(fetch_async, "EUR")

    Args:
        *strategies: Outermost first. One strategy may be in several pipelines, and then shares its state.
        name: For events and descriptions.
        listeners: Called with each `Event`, or with the kinds in its `wants`; one that raises breaks nothing.
        clock: A `ManualClock` in tests.
        random: Draws at least 0 and below 1, for jitter.

    Warns:
        PipelineOrderWarning: The order is a known mistake.
    """

    def __init__(
        self,
        *strategies: Strategy,
        name: str = "",
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
        random: Callable[[], float] | None = None,
    ) -> None:
        for number, layer in enumerate(strategies, 1):
            check_has("a strategy", "hooks", "role", **{f"layer {number}": layer})
        for listener in listeners:
            check_callable(listener=listener)
        if clock is not None:
            check_has("a Clock, such as ManualClock()", "monotonic", "sleep", clock=clock)
        self.name = name
        self.layers = strategies
        self.listeners: tuple[Listener, ...] = tuple(listeners)
        self.hearers: dict[EventKind, tuple[Listener, ...]] = hearers(self.listeners)
        self.clock: Clock = _SYSTEM_CLOCK if clock is None else clock
        #: Bound here once: every call asks.
        self.now: Callable[[], float] = self.clock.monotonic
        self.random: Callable[[], float] = random_module.random if random is None else random
        self.blank: list[Any] = [None] * len(strategies)
        self.labels: tuple[str, ...] = _labels(strategies)
        self.background: Background = Background()
        self._warnings = tuple(lint(strategies))
        for warning in self._warnings:
            warnings.warn(warning, PipelineOrderWarning, stacklevel=2)
        ends: Ends = {"failed": ending.failed, "released": ending.cancelled}
        if self.listeners:
            ends["before"] = ending.begun
        if self.hearers["succeeded"]:
            ends["succeeded"] = ending.succeeded
        self._route = compile_route(strategies, drive, "around", ends)
        self._route_async = compile_route(strategies, drive_async, "around_async", ends)

    def __repr__(self) -> str:
        return f"Pipeline({', '.join(self.labels)}{f', name={self.name!r}' if self.name else ''})"

    def call(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call a function through the pipeline.

        Args:
            fn: The function. Under a `Failover` it gets the target before its other arguments.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            What the function returned, or what a strategy answered in its place.

        Raises:
            UsageError: The function is async.
            ResilienceError: A strategy turned the call away or ended it.
            Exception: Whatever the function raised last, as it is.
        """
        value: T = drive(self._route, Context(self, fn, args, kwargs))
        return value

    @overload
    def call_async(
        self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def call_async(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, T]: ...
    def call_async(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a function through the pipeline, in asyncio or trio.

        Args:
            fn: The function, async or not: what it returns is awaited if it can be. Under a `Failover` it
                gets the target before its other arguments.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            A coroutine of what the function returned, or of what a strategy answered in its place.

        Raises:
            ResilienceError: A strategy turned the call away or ended it.
            Exception: Whatever the function raised last, as it is.
        """
        return drive_async(self._route_async, AsyncContext(self, fn, args, kwargs))

    def answer(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Answer[T]:
        """Call a function as `call` does, and say how the value came about.

        Args:
            fn: The function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.
        """
        ctx = Context(self, fn, args, kwargs)
        return _answer(drive(self._route, ctx), ctx)

    @overload
    async def answer_async(
        self, fn: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any
    ) -> Answer[T]: ...
    @overload
    async def answer_async(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Answer[T]: ...
    async def answer_async(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Answer[Any]:
        """Call a function as `call_async` does, and say how the value came about.

        Args:
            fn: The function, async or not.
            *args: Its arguments.
            **kwargs: Its keyword arguments.
        """
        ctx = AsyncContext(self, fn, args, kwargs)
        return _answer(await drive_async(self._route_async, ctx), ctx)

    def __call__(self, fn: F) -> F:
        """Decorate a function, `def` or `async def`."""
        check_callable(fn=fn)
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def through_async(*args: Any, **kwargs: Any) -> Any:
                return await drive_async(self._route_async, AsyncContext(self, fn, args, kwargs))

            return cast("F", through_async)

        @functools.wraps(fn)
        def through(*args: Any, **kwargs: Any) -> Any:
            return drive(self._route, Context(self, fn, args, kwargs))

        return cast("F", through)

    def describe(self) -> PipelineDescription:
        """Say what the pipeline is made of, for people and for tests."""
        layers = tuple(
            LayerDescription(label, type(layer).__name__, layer.describe())
            for label, layer in zip(self.labels, self.layers, strict=True)
        )
        return PipelineDescription(self.name, layers, self._warnings)

    def drain(self, timeout: float | None = None) -> bool:
        """Block until no work runs in the background; say whether that came in time.

        Args:
            timeout: Seconds to wait at most; `None` for as long as it takes.
        """
        return self.background.drain(timeout)

    async def drain_async(self) -> None:
        """Wait until no work runs in the background."""
        await self.background.drain_async()

    def close(self) -> None:
        """Take no more background work and cancel what runs as tasks; calls still go through."""
        self.background.close()


def _answer(value: T, ctx: Context) -> Answer[T]:
    return Answer(
        value,
        ctx.source,
        ctx.answered_by,
        ctx.degraded,
        ctx.error,
        ctx.attempt,
        ctx.calls,
        ctx.target,
        ctx.age,
        ctx.index,
    )


def _labels(strategies: Sequence[Strategy]) -> tuple[str, ...]:
    names = [getattr(layer, "name", "") or layer.role or type(layer).__name__.lower() for layer in strategies]
    return tuple(
        f"{name}-{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)
    )
