"""Something to answer with when the call failed."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.directives import Call, Directive, Return
from llm_config_resilience.strategies.conditions import matcher
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.conditions import Condition


class Fallback(Strategy):
    """Answer from the first source that has an answer, when what is inside failed.

        price = Pipeline(Fallback(last_known_price, 1.0), Retry()).call(fetch, "EUR")

    The answer is marked degraded: no cache stores it. `Answer.source` is `"fallback"`, `Answer.answered_by`
    this layer, `Answer.index` the source's place, and `Answer.error` says what made it necessary. If every
    source fails too, the original error goes on, with a note for each source.

    Args:
        *sources: Values, or callables (async ones too, under `call_async`). A callable takes the error if it
            has a required parameter for it, else nothing. A sync source under async runs on the loop.
        on: Which errors: exception classes, or a predicate.
        name: For events and `Answer.answered_by`.
    """

    role: ClassVar[str] = "fallback"

    def __init__(self, *sources: Any, on: Condition = Exception, name: str = "") -> None:
        if not sources:
            raise ValueError("a fallback needs a source; use Fallback(None) to answer with None")
        self._sources = sources
        self._matches = matcher(on)
        self._on = on
        self._takes_error = [callable(source) and _takes_error(source) for source in sources]
        self.name = name

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Ask the first source."""
        return self._ask(ctx, at, error, 0) if self._matches(error) else None

    def describe(self) -> dict[str, Any]:
        """Show how many sources there are, not their values."""
        return {"sources": len(self._sources), "on": self._on}

    def _ask(self, ctx: Context, at: int, error: Exception, index: int) -> Directive | None:
        if index == len(self._sources):
            return None
        source = self._sources[index]

        def then(ctx: Context, at: int, value: Any) -> Directive:
            ctx.emit("fell_back", at, error=error, details={"source": index})
            return Return(value, degraded=True, source="fallback", index=index)

        def orelse(ctx: Context, at: int, failure: Exception) -> Directive | None:
            error.add_note(f"fallback source {index} failed: {type(failure).__name__}: {failure}")
            ctx.emit("source_failed", at, error=failure, details={"source": index})
            return self._ask(ctx, at, error, index + 1)

        if not callable(source):
            return then(ctx, at, source)
        return Call(source, *([error] if self._takes_error[index] else ()), then=then, orelse=orelse)


def _takes_error(source: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return any(
        parameter.kind is parameter.VAR_POSITIONAL
        or (
            parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.default is parameter.empty
        )
        for parameter in parameters
    )
