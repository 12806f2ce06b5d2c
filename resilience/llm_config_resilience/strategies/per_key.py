"""One strategy a key: every tenant, host or endpoint has a circuit of its own."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Final

from llm_config_resilience.arguments import check_callable, check_count
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.strategy import Scope, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.directives import Directive

#: Strategies kept unless told otherwise: a circuit takes about 3 kB.
_MAX_KEYS: Final = 1024


class PerKey(Strategy):
    """Hand each call to the strategy of its key.

        Pipeline(Retry(), PerKey(lambda tenant: CircuitBreaker(name=tenant), key=lambda tenant, *_: tenant))

    There are `max_keys` strategies at most. The one longest unused goes first, and with it what it knew: an
    open circuit too, if nobody asked for that key while so many others were asked for. Calls on their way
    keep the strategy they began with.

    Args:
        factory: Makes the strategy of a key, when that is first used; given the key if it has a required
            parameter, else nothing. Not a scope.
        key: A function of the call's arguments that gives the key; hashable.
        max_keys: Strategies kept at most.
        name: For events.
    """

    role: ClassVar[str] = "breaker"

    def __init__(
        self,
        factory: Callable[[Any], Strategy] | Callable[[], Strategy],
        *,
        key: Callable[..., Any],
        max_keys: int = _MAX_KEYS,
        name: str = "",
    ) -> None:
        check_callable(factory=factory, key=key)
        check_count(1, max_keys=max_keys)
        self.name = name
        self._factory: Callable[..., Strategy] = factory
        self._key = key
        self._max_keys = max_keys
        self._takes_key = any(
            parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
            for parameter in inspect.signature(factory).parameters.values()
        )
        self._lock = new_lock()
        self._strategies: OrderedDict[Any, Strategy] = OrderedDict()

    @property
    def strategies(self) -> dict[Any, Strategy]:
        """The strategies there are, by key, the one longest unused first."""
        with self._lock:
            return dict(self._strategies)

    def of(self, key: Any) -> Strategy:
        """Return the strategy of a key; make it if need be.

        Args:
            key: The key; hashable.
        """
        strategy = self._strategies.get(key)
        if strategy is not None:
            try:  # noqa: SIM105 - suppress() costs as much as the rest of it
                self._strategies.move_to_end(key)
            except KeyError:
                pass  # another thread let it go in between
            return strategy
        with self._lock:
            if key not in self._strategies:
                self._strategies[key] = self._make(key)
            strategy = self._strategies[key]
            while len(self._strategies) > self._max_keys:
                self._strategies.popitem(last=False)
        return strategy

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Choose the strategy of this call, and ask it."""
        strategy = self.of(self.key_of(ctx))
        if ctx.chosen is None:
            ctx.chosen = {}
        ctx.chosen[at] = strategy
        return strategy.before(ctx, at)

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Ask the strategy of this call."""
        return self._chosen(ctx, at).succeeded(ctx, at, value)

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Ask the strategy of this call."""
        return self._chosen(ctx, at).failed(ctx, at, error)

    def released(self, ctx: Context, at: int) -> None:
        """Ask the strategy of this call, if one was chosen yet."""
        if ctx.chosen is not None and at in ctx.chosen:
            ctx.chosen[at].released(ctx, at)

    def describe(self) -> dict[str, Any]:
        """Show the strategies there are."""
        return {str(key): strategy for key, strategy in self.strategies.items()}

    def key_of(self, ctx: Context) -> Any:
        """Return the key of a call."""
        return self._key(*ctx.args, **ctx.kwargs)

    def _chosen(self, ctx: Context, at: int) -> Strategy:
        if ctx.chosen is None:
            raise RuntimeError("a strategy was asked how a call ended that it did not see begin")
        strategy: Strategy = ctx.chosen[at]
        return strategy

    def _make(self, key: Any) -> Strategy:
        strategy = self._factory(key) if self._takes_key else self._factory()
        if isinstance(strategy, Scope):
            raise TypeError(f"{type(strategy).__name__} is a scope and cannot differ by key")
        return strategy
