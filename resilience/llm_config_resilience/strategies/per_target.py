"""One strategy a target: every endpoint has a circuit of its own."""

from __future__ import annotations

import inspect
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.strategies.strategy import HOOKS, Scope, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.directives import Directive


class PerTarget(Strategy):
    """Hand each call to the strategy of its target; stands inside a `Failover`.

        Pipeline(Retry(), Failover(urls), PerTarget(lambda url: CircuitBreaker(name=url)))

    Args:
        factory: Makes the strategy of a target, when that is first used; given the target if it has a
            required parameter, else nothing. Not a scope.
        name: For events.
    """

    role: ClassVar[str] = "breaker"

    def __init__(self, factory: Callable[..., Strategy], *, name: str = "") -> None:
        self.name = name
        self._factory = factory
        self._takes_target = any(
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
            for parameter in inspect.signature(factory).parameters.values()
        )
        self._lock = threading.Lock()
        self._strategies: dict[Any, Strategy] = {}
        self.hooks = HOOKS

    @property
    def strategies(self) -> dict[Any, Strategy]:
        """The strategies made so far, by target."""
        return dict(self._strategies)

    def of(self, target: Any) -> Strategy:
        """Return the strategy of a target; make it if need be.

        Args:
            target: The target; hashable.
        """
        strategy = self._strategies.get(target)
        if strategy is None:
            with self._lock:
                if target not in self._strategies:
                    self._strategies[target] = self._make(target)
                strategy = self._strategies[target]
        return strategy

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Ask the target's strategy."""
        return self.of(ctx.target).before(ctx, at)

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Ask the target's strategy."""
        return self.of(ctx.target).succeeded(ctx, at, value)

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Ask the target's strategy."""
        return self.of(ctx.target).failed(ctx, at, error)

    def released(self, ctx: Context, at: int) -> None:
        """Ask the target's strategy."""
        self.of(ctx.target).released(ctx, at)

    def describe(self) -> dict[str, Any]:
        """Show the strategies made so far."""
        return {str(target): strategy for target, strategy in self._strategies.items()}

    def _make(self, target: Any) -> Strategy:
        strategy = self._factory(target) if self._takes_target else self._factory()
        if isinstance(strategy, Scope):
            raise TypeError(f"{type(strategy).__name__} is a scope and cannot differ by target")
        return strategy
