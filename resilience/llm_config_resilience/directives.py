"""What a strategy answers when the engine asks it: data, never an action.

A strategy decides and the engine acts, so one definition serves sync code, asyncio and trio.
Every hook may return one of these, or `None` for "nothing to say".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_resilience.context import Context
    from llm_config_resilience.gate import Gate


@dataclass(slots=True)
class Return:
    """Answer from this layer outwards.

    Args:
        value: The answer.
        degraded: Whether it is second best (a fallback's, a stale one). Caches never store it.
        source: Where it comes from, for `Answer.source`: `"cache"`, `"stale"`, `"fallback"`, …
        error: What made it necessary; in `failed` that is the error in hand unless given.
        age: How old it is, in seconds, for `Answer.age`.
        index: Which of several sources gave it, from 0, for `Answer.index`.
    """

    value: Any
    degraded: bool = False
    source: str = ""
    error: Exception | None = None
    age: float | None = None
    index: int | None = None


@dataclass(slots=True)
class Again:
    """Enter once more just inside this layer, whose own `before` is not asked again.

    Args:
        delay: Seconds to wait first.
    """

    delay: float = 0.0


@dataclass(slots=True)
class Wait:
    """Wait, then go on as if the hook had answered `None`.

    A wait that does not fit into the call's deadline is not begun: `DeadlineExceededError`.

    Args:
        seconds: How long.
        then: Asked after the wait. Its directive is performed next; `None` means what it means in the
            hook that waits.
    """

    seconds: float
    then: Callable[[Context, int], Directive | None] | None = None


@dataclass(slots=True)
class Park:
    """Wait until another call opens a gate.

    While parked the layer counts as entered: a cancelled call gets `released`, which must
    leave the queue (or pass the place on, where the gate was opened at the same moment).

    Args:
        gate: The gate.
        then: Asked once the gate is open. Its directive is performed next; `None` means what
            it means in the hook that parked.
        orelse: Asked when `within` or the call's deadline passed first, with the error; it
            gives back itself what the layer holds. Without it the error is raised, after
            `released`.
        within: Seconds to wait at most; never longer than the call's deadline.
    """

    gate: Gate
    then: Callable[[Context, int], Directive | None] | None = None
    orelse: Callable[[Context, int, Exception], Directive | None] | None = None
    within: float = float("inf")


class Call:
    """Have a function called (awaited where it is awaitable), and judge its result.

    Args:
        fn: The function.
        *args: Its arguments.
        then: Given the result. Its directive is performed next; `None` means what it means
            in the hook that asked.
        orelse: Given the error, likewise. Without it the error leaves this layer outwards.
    """

    __slots__ = ("args", "fn", "orelse", "then")

    def __init__(
        self,
        fn: Callable[..., Any],
        *args: Any,
        then: Callable[[Context, int, Any], Directive | None] | None = None,
        orelse: Callable[[Context, int, Exception], Directive | None] | None = None,
    ) -> None:
        self.fn: Callable[..., Any] = fn
        self.args: tuple[Any, ...] = args
        self.then: Callable[[Context, int, Any], Directive | None] | None = then
        self.orelse: Callable[[Context, int, Exception], Directive | None] | None = orelse

    def __repr__(self) -> str:
        return f"Call({self.fn!r}, *{self.args!r})"


@dataclass(slots=True)
class Raise:
    """Replace the error, from this layer outwards.

    Raising inside `failed` instead would leave a reference cycle behind.

    Args:
        error: The new error.
        cause: Its `__cause__`; without one the error keeps what it has.
    """

    error: Exception
    cause: BaseException | None = None


@dataclass(slots=True)
class Detach:
    """Let what is inside this layer run in the background, and answer without it.

    The work runs on a fork of the context that has no deadline; this layer's own `succeeded`
    or `failed` judges its outcome, layers further out do not see it. The layer's slot goes with it. Only
    from `before`.

    Args:
        within: Seconds to wait for the outcome before answering: 0 is
            stale-while-revalidate, more is stale-if-slow.
        instead: The answer when that is not enough, or what makes it then; `None` of it waits on.
    """

    within: float
    instead: Return | Callable[[], Return | None]


Directive: TypeAlias = Return | Again | Wait | Park | Call | Raise | Detach
