"""One strategy a target: every endpoint has a circuit of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_config_resilience.strategies.per_key import PerKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.strategy import Strategy


class PerTarget(PerKey):
    """Hand each call to the strategy of its target; stands inside a `Failover`.

        Pipeline(Retry(), Failover(urls), PerTarget(lambda url: CircuitBreaker(name=url)))

    Args:
        factory: Makes the strategy of a target, when that is first used; given the target if it has a
            required parameter, else nothing. Not a scope.
        name: For events.
    """

    def __init__(
        self, factory: Callable[[Any], Strategy] | Callable[[], Strategy], *, name: str = ""
    ) -> None:
        super().__init__(factory, key=_target, name=name)

    def key_of(self, ctx: Context) -> Any:
        """Return the target of a call."""
        return ctx.target


def _target(target: Any, *_args: Any, **_kwargs: Any) -> Any:
    """Name the target, which a failover makes the first argument."""
    return target
