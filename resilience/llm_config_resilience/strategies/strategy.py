"""What a strategy is: answers to the engine's four questions, and, for a scope, something around."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.directives import Directive

#: The questions, in the order they may come up.
HOOKS = frozenset({"before", "succeeded", "failed", "released"})
#: How a scope wraps what is inside it, by colour.
_AROUND = frozenset({"around", "around_async"})


class Strategy:
    """One layer of a pipeline: it decides, and the engine acts on its directives.

    A strategy does no I/O, waits for nothing and reads no clock but the context's, so one definition
    serves sync code, asyncio and trio. It may be shared by pipelines, threads and event loops: what it
    remembers of one call lies in `ctx.slots[at]`. Hooks that are not overridden cost nothing.
    """

    #: What it is, in the terms of the order lint: `"retry"`, `"breaker"`, …
    role: ClassVar[str] = ""
    #: The hooks this instance wants of those it has.
    hooks: frozenset[str] = HOOKS

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Judge a call on its way in; raising rejects it.

        Args:
            ctx: The call.
            at: This layer's index in the pipeline.
        """

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Judge a result on its way out.

        Args:
            ctx: The call.
            at: This layer's index in the pipeline.
            value: The result.
        """

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Judge an error on its way out. To replace it answer `Raise`, do not raise.

        Args:
            ctx: The call.
            at: This layer's index in the pipeline.
            error: The error.
        """

    def released(self, ctx: Context, at: int) -> None:
        """Give back what `before` took: the call was cancelled or interrupted.

        It may come while one of the other hooks was at work, so what is held must be known by the slot.

        Args:
            ctx: The call.
            at: This layer's index in the pipeline.
        """

    def describe(self) -> dict[str, Any]:
        """Settings worth showing, by name, for `Pipeline.describe`."""
        return {}


class Scope(Strategy):
    """A layer that wraps what is inside it, because it runs branches at once or bounds them from outside.

    In a colour whose `around` is overridden the four hooks are not asked; in one where it is not, the
    scope is an ordinary strategy. (So a timeout is flat in sync, and a scope in async.) An instance that
    leaves one out of its `hooks` is an ordinary strategy in that colour as well.
    """

    hooks: frozenset[str] = HOOKS | _AROUND

    def around(self, ctx: Context, at: int, proceed: Callable[[Context], Any]) -> Any:
        """Run what is inside.

        Args:
            ctx: The call.
            at: This layer's index in the pipeline.
            proceed: Runs everything inside with the context given: this one, or a `ctx.fork()`.
        """
        raise NotImplementedError

    async def around_async(self, ctx: Context, at: int, proceed: Callable[[Context], Awaitable[Any]]) -> Any:
        """Run what is inside, in async.

        Args:
            ctx: The call.
            at: This layer's index in the pipeline.
            proceed: Runs everything inside with the context given: this one, or a `ctx.fork()`.
        """
        raise NotImplementedError
