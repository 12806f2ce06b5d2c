"""A pipeline compiled: for every place in it, which hooks come next. Pure data, no calls."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from llm_config_resilience.strategies.strategy import Scope, Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Where a call is: on its way in, on its way out with a value, on its way out with an error.
INWARD: Final = 0
OUTWARD: Final = 1
FAILING: Final = 2

Hooks = tuple[tuple[int, "Callable[..., Any]"], ...]
#: Hooks outside of every layer, by name.
Ends = dict[str, "Callable[..., Any]"]


class Route:
    """The layers from one scope (or the outside) to the next (or the called function).

    Tables are indexed by a layer's place in the whole pipeline: `entering[i]` are the `before` hooks from
    layer i inwards, the others the hooks of the layers outside i, inner ones first.
    """

    __slots__ = (
        "_layers",
        "_tails",
        "around",
        "end",
        "entering",
        "failing",
        "first",
        "leaving",
        "outermost",
        "proceed",
        "releasing",
        "start",
    )

    def __init__(
        self,
        layers: Sequence[Strategy],
        start: int,
        end: int,
        *,
        first: int,
        outermost: bool,
        around: Callable[..., Any] | None,
        proceed: Callable[..., Any] | None,
        ends: Ends | None = None,
    ) -> None:
        self._layers = layers
        self._tails: dict[int, Route] = {}
        self.start: int = start
        self.end: int = end
        #: Where a call comes in: after `start` in a tail, whose first layer has been asked before.
        self.first: int = first
        self.outermost: bool = outermost
        #: The scope that ends this route, and what runs inside it; `None` where the function does.
        self.around: Callable[..., Any] | None = around
        self.proceed: Callable[..., Any] | None = proceed
        ends = ends or {}
        self.entering: tuple[Hooks, ...] = _table(layers, "before", start, end, ends, inwards=True)
        self.leaving: tuple[Hooks, ...] = _table(layers, "succeeded", start, end, ends)
        self.failing: tuple[Hooks, ...] = _table(layers, "failed", start, end, ends)
        self.releasing: tuple[Hooks, ...] = _table(layers, "released", start, end, ends)

    def rest(self, phase: int, at: int) -> Hooks:
        """The hooks that follow those of layer `at`."""
        if phase == INWARD:
            return self.entering[at + 1]
        return self.leaving[at] if phase == OUTWARD else self.failing[at]

    def release(self, at: int) -> Hooks:
        """The `released` hooks of layer `at` and of those outside it."""
        return self.releasing[min(at + 1, self.end)]

    def tail(self, at: int) -> Route:
        """The part that goes on in the background when layer `at` detaches it."""
        if at not in self._tails:
            self._tails[at] = Route(
                self._layers,
                at,
                self.end,
                first=at + 1,
                outermost=True,
                around=self.around,
                proceed=self.proceed,
            )
        return self._tails[at]


def compile_route(
    layers: Sequence[Strategy],
    drive: Callable[[Route, Any], Any],
    name: str,
    ends: Ends | None = None,
    start: int = 0,
) -> Route:
    """Cut a pipeline at its scopes.

    Args:
        layers: All its strategies, outermost first.
        drive: The engine's loop for the colour.
        name: How the colour calls a scope: `"around"` or `"around_async"`.
        ends: Hooks outside of all layers.
        start: The first layer of the route.
    """
    for end in range(start, len(layers)):
        layer = layers[end]
        if _is_scope(layer, name):
            around = getattr(layer, name)
            proceed = partial(drive, compile_route(layers, drive, name, start=end + 1))
            break
    else:
        end, around, proceed = len(layers), None, None
    return Route(
        layers, start, end, first=start, outermost=start == 0, around=around, proceed=proceed, ends=ends
    )


def _is_scope(layer: Strategy, name: str) -> bool:
    return (
        isinstance(layer, Scope)
        and name in layer.hooks
        and getattr(type(layer), name) is not getattr(Scope, name)
    )


def _hook(layer: Strategy, name: str) -> Callable[..., Any] | None:
    if name not in layer.hooks or getattr(type(layer), name) is getattr(Strategy, name):
        return None
    hook: Callable[..., Any] = getattr(layer, name)
    return hook


def _table(
    layers: Sequence[Strategy], name: str, start: int, end: int, ends: Ends, *, inwards: bool = False
) -> tuple[Hooks, ...]:
    hooks = [(i, hook) for i in range(start, end) if (hook := _hook(layers[i], name)) is not None]
    last = ((start, ends[name]),) if name in ends else ()
    if inwards:
        inner = [tuple(pair for pair in hooks if pair[0] >= i) for i in range(end + 1)]
        # Asked once only, and not when a retry goes in again: that begins further in.
        return (*inner[:start], last + inner[start], *inner[start + 1 :])
    return tuple((*(pair for pair in reversed(hooks) if pair[0] < i), *last) for i in range(end + 1))
