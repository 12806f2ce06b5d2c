"""The only place that calls, waits and spawns: two loops side by side, one a colour.

`drive` and `drive_async` are the same text but for `async` and `await` (a test compares them), and every
decision is made elsewhere: by the strategies, by `Route`, and by the plain functions at the end.
"""

from __future__ import annotations

import contextvars
import logging
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from llm_config_resilience.context import current_context
from llm_config_resilience.directives import Again, Call, Detach, Directive, Park, Raise, Return, Wait
from llm_config_resilience.errors import DeadlineExceededError, UsageError, trimmed
from llm_config_resilience.gate import Gate
from llm_config_resilience.route import FAILING, INWARD, OUTWARD, Route

if TYPE_CHECKING:
    from llm_config_resilience.context import Context


_log = logging.getLogger("llm_config_resilience")

#: What an `async def` returns; `Any` because a type checker would narrow the value to it.
_COROUTINE: Any = CoroutineType


class Flight:
    """Detached work, and what became of it."""

    __slots__ = ("abandoned", "branch", "error", "gate", "landed", "value")

    def __init__(self, branch: Context) -> None:
        self.branch: Context = branch
        self.gate: Gate = Gate()
        self.landed: bool = False
        self.abandoned: bool = False
        self.value: Any = None
        self.error: Exception | None = None


def drive(route: Route, ctx: Context) -> Any:  # noqa: C901, PLR0912, PLR0915 - one flat loop is the point
    """Take a call through a route: in, to the function or a scope, and out."""
    token = current_context.set(ctx)
    phase, at, over = INWARD, route.first, False
    hooks = route.entering[at]
    value: Any = None
    error: Exception | None = None
    directive: Directive | None = None
    try:
        while True:
            try:
                if phase == INWARD:
                    for at, hook in hooks:
                        directive = hook(ctx, at)
                        if directive is not None:
                            break
                    else:
                        at = route.end
                        if route.around is None:
                            ctx.calls += 1
                            # Without keywords there is no dictionary to copy.
                            value = ctx.fn(*ctx.args, **ctx.kwargs) if ctx.kwargs else ctx.fn(*ctx.args)
                            if type(value) is _COROUTINE:
                                refuse(value)
                        else:
                            value = route.around(ctx, at, route.proceed)
                        phase, hooks = OUTWARD, route.leaving[at]
                if directive is None and phase == OUTWARD:
                    for at, hook in hooks:
                        directive = hook(ctx, at, value)
                        if directive is not None:
                            break
                    else:
                        over = True
                        return value
                elif directive is None and phase == FAILING:
                    for at, hook in hooks:
                        directive = hook(ctx, at, error)
                        if directive is not None:
                            break
                    else:
                        break
                while directive is not None:
                    if isinstance(directive, Again):
                        if directive.delay > 0:
                            check_wait(ctx, at, directive.delay, error)
                            ctx.clock.sleep(directive.delay)
                        reenter(ctx, at)
                        phase, value, error, directive = INWARD, None, None, None
                    elif isinstance(directive, Return):
                        ctx.answer(at, directive, error)
                        phase, value, error, directive = OUTWARD, directive.value, None, None
                    elif isinstance(directive, Raise):
                        phase, value, error, directive = FAILING, None, caused(directive), None
                    elif isinstance(directive, Call):
                        asked = directive
                        try:
                            result = asked.fn(*asked.args)
                            if type(result) is _COROUTINE:
                                refuse(result)
                        except UsageError:
                            raise
                        except Exception as caught:
                            if asked.orelse is None:
                                raise
                            directive = asked.orelse(ctx, at, caught)
                        else:
                            directive = None if asked.then is None else asked.then(ctx, at, result)
                    elif isinstance(directive, Wait):
                        check_wait(ctx, at, directive.seconds, error)
                        ctx.clock.sleep(directive.seconds)
                        directive = None if directive.then is None else directive.then(ctx, at)
                    elif isinstance(directive, Park):
                        within = min(directive.within, ctx.remaining())
                        opened = ctx.clock.wait(directive.gate, within)
                        directive = parked(directive, ctx, at, opened=opened)
                    else:
                        flight = launch(route, ctx, at, directive)
                        if flight is not None and directive.within > 0:
                            ctx.clock.wait(flight.gate, min(directive.within, ctx.remaining()))
                        directive = landed(directive, flight, ctx)
                        flight = None
                hooks = route.rest(phase, at)
            except UsageError:
                raise
            except Exception as caught:  # noqa: BLE001 - the strategies judge it, and it is raised in the end
                phase, value, error, directive = FAILING, None, trimmed(caught), None
                hooks = route.failing[at]
        forget(ctx, route.start)  # slots may hold errors, whose tracebacks hold the frame
        over = True
        raise error  # type: ignore[misc]  # the loop ends here with an error in hand only
    finally:
        # What an error's traceback can reach must not reach the error.
        error = directive = None
        if not over:
            release(route, ctx, at)
        ctx.over = route.outermost
        try:  # noqa: SIM105 - suppress() costs a tenth of a call
            current_context.reset(token)
        except ValueError:
            pass  # an abandoned coroutine is closed in another context than it ran in


async def drive_async(route: Route, ctx: Context) -> Any:  # noqa: C901, PLR0912, PLR0915 - one flat loop is the point
    """Take a call through a route: in, to the function or a scope, and out."""
    token = current_context.set(ctx)
    phase, at, over = INWARD, route.first, False
    hooks = route.entering[at]
    value: Any = None
    error: Exception | None = None
    directive: Directive | None = None
    try:
        while True:
            try:
                if phase == INWARD:
                    for at, hook in hooks:
                        directive = hook(ctx, at)
                        if directive is not None:
                            break
                    else:
                        at = route.end
                        if route.around is None:
                            ctx.calls += 1
                            # Without keywords there is no dictionary to copy.
                            value = ctx.fn(*ctx.args, **ctx.kwargs) if ctx.kwargs else ctx.fn(*ctx.args)
                            if type(value) is _COROUTINE or hasattr(value, "__await__"):
                                value = await value
                        else:
                            value = await route.around(ctx, at, route.proceed)
                        phase, hooks = OUTWARD, route.leaving[at]
                if directive is None and phase == OUTWARD:
                    for at, hook in hooks:
                        directive = hook(ctx, at, value)
                        if directive is not None:
                            break
                    else:
                        over = True
                        return value
                elif directive is None and phase == FAILING:
                    for at, hook in hooks:
                        directive = hook(ctx, at, error)
                        if directive is not None:
                            break
                    else:
                        break
                while directive is not None:
                    if isinstance(directive, Again):
                        if directive.delay > 0:
                            check_wait(ctx, at, directive.delay, error)
                            await ctx.clock.sleep_async(directive.delay)
                        reenter(ctx, at)
                        phase, value, error, directive = INWARD, None, None, None
                    elif isinstance(directive, Return):
                        ctx.answer(at, directive, error)
                        phase, value, error, directive = OUTWARD, directive.value, None, None
                    elif isinstance(directive, Raise):
                        phase, value, error, directive = FAILING, None, caused(directive), None
                    elif isinstance(directive, Call):
                        asked = directive
                        try:
                            result = asked.fn(*asked.args)
                            if type(result) is _COROUTINE or hasattr(result, "__await__"):
                                result = await result
                        except UsageError:
                            raise
                        except Exception as caught:
                            if asked.orelse is None:
                                raise
                            directive = asked.orelse(ctx, at, caught)
                        else:
                            directive = None if asked.then is None else asked.then(ctx, at, result)
                    elif isinstance(directive, Wait):
                        check_wait(ctx, at, directive.seconds, error)
                        await ctx.clock.sleep_async(directive.seconds)
                        directive = None if directive.then is None else directive.then(ctx, at)
                    elif isinstance(directive, Park):
                        within = min(directive.within, ctx.remaining())
                        opened = await ctx.clock.wait_async(directive.gate, within)
                        directive = parked(directive, ctx, at, opened=opened)
                    else:
                        flight = launch_async(route, ctx, at, directive)
                        if flight is not None and directive.within > 0:
                            await ctx.clock.wait_async(flight.gate, min(directive.within, ctx.remaining()))
                        directive = landed(directive, flight, ctx)
                        flight = None
                hooks = route.rest(phase, at)
            except UsageError:
                raise
            except Exception as caught:  # noqa: BLE001 - the strategies judge it, and it is raised in the end
                phase, value, error, directive = FAILING, None, trimmed(caught), None
                hooks = route.failing[at]
        forget(ctx, route.start)  # slots may hold errors, whose tracebacks hold the frame
        over = True
        raise error  # type: ignore[misc]  # the loop ends here with an error in hand only
    finally:
        # What an error's traceback can reach must not reach the error.
        error = directive = None
        if not over:
            release(route, ctx, at)
        ctx.over = route.outermost
        try:  # noqa: SIM105 - suppress() costs a tenth of a call
            current_context.reset(token)
        except ValueError:
            pass  # an abandoned coroutine is closed in another context than it ran in


def launch(route: Route, ctx: Context, at: int, asked: Detach) -> Flight | None:
    """Send what is inside a layer into the background; `None` if there is no room."""
    flight = Flight(ctx.detach())
    flight.abandoned = asked.within <= 0
    job = partial(contextvars.copy_context().run, partial(fly, route.tail(at), flight))
    return launched(flight, ctx, at, running=ctx.pipeline.background.run(job))


def launch_async(route: Route, ctx: Context, at: int, asked: Detach) -> Flight | None:
    """Send what is inside a layer into the background; `None` if there is no room."""
    flight = Flight(ctx.detach())
    flight.abandoned = asked.within <= 0
    job = partial(fly_async, route.tail(at), flight)
    return launched(flight, ctx, at, running=ctx.pipeline.background.spawn(job))


def launched(flight: Flight, ctx: Context, at: int, *, running: bool) -> Flight | None:
    """Pass what the layer holds of the call on to the branch, or have it given back."""
    if running:
        ctx.slots[at] = None
        return flight
    ctx.pipeline.layers[at].released(ctx, at)
    return None


def fly(route: Route, flight: Flight) -> None:
    """Run detached work to its end."""
    try:
        flight.value = drive(route, flight.branch)
        flight.landed = True
    except Exception as caught:  # noqa: BLE001 - whoever waits gets it, or a listener
        lost(route, flight, caught)
    finally:
        flight.gate.open()
        del flight


async def fly_async(route: Route, flight: Flight) -> None:
    """Run detached work to its end."""
    try:
        flight.value = await drive_async(route, flight.branch)
        flight.landed = True
    except Exception as caught:  # noqa: BLE001 - whoever waits gets it, or a listener
        lost(route, flight, caught)
    finally:
        flight.gate.open()
        del flight


def refuse(coroutine: CoroutineType[Any, Any, Any]) -> None:
    """Close a coroutine that sync code was handed, and say so."""
    name = coroutine.__qualname__
    coroutine.close()
    raise UsageError(f"call() was handed a coroutine by {name}(); use await call_async(...) for it")


def check_wait(ctx: Context, at: int, seconds: float, error: Exception | None) -> None:
    """Refuse a wait that does not fit into the deadline."""
    left = ctx.remaining()
    if seconds > left:
        ctx.pipeline.layers[at].released(ctx, at)
        raise DeadlineExceededError(
            f"a wait of {seconds:.3f} s does not fit into the {left:.3f} s left"
        ) from error


def reenter(ctx: Context, at: int) -> None:
    """Make the layers inside forget the last pass."""
    forget(ctx, at + 1)
    ctx.renew()


def forget(ctx: Context, first: int) -> None:
    """Empty the slots of a layer and of all inside it, in other scopes too."""
    ctx.slots[first:] = ctx.pipeline.blank[first:]


def caused(directive: Raise) -> Exception:
    """Take the error out of a `Raise`, with its cause."""
    if directive.cause is not None:
        directive.error.__cause__ = directive.cause
    return directive.error


def parked(asked: Park, ctx: Context, at: int, *, opened: bool) -> Directive | None:
    """Judge the end of a wait at a gate."""
    if opened:
        return None if asked.then is None else asked.then(ctx, at)
    error = DeadlineExceededError("no place became free in the time allowed")
    if asked.orelse is not None:
        return asked.orelse(ctx, at, error)
    ctx.pipeline.layers[at].released(ctx, at)
    return Raise(error)


def landed(asked: Detach, flight: Flight | None, ctx: Context) -> Directive | None:
    """Answer with the outcome of detached work if there is one, or without it; wait on if that cannot be."""
    if flight is not None and (flight.landed or flight.error is not None) and not flight.abandoned:
        return brought(flight, ctx)
    instead = asked.instead if isinstance(asked.instead, Return) else asked.instead()
    if flight is None:
        return instead
    if instead is None:
        return Park(
            flight.gate,
            then=lambda ctx, _: brought(flight, ctx),
            orelse=lambda _, __, error: given_up(flight, error),
        )
    flight.abandoned = True
    return instead


def brought(flight: Flight, ctx: Context) -> Directive:
    """Answer with the outcome of detached work."""
    if flight.error is not None:
        return Raise(flight.error)
    ctx.join(flight.branch)
    return Return(flight.value, degraded=ctx.degraded, source=ctx.source, error=ctx.error)


def given_up(flight: Flight, error: Exception) -> Directive:
    """Wait for detached work no longer."""
    flight.abandoned = True
    return Raise(error)


def lost(route: Route, flight: Flight, error: Exception) -> None:
    """Keep the error of detached work for who waits, or tell the listeners."""
    if flight.abandoned:
        flight.branch.emit("background_failed", route.start, error=error)
    else:
        flight.error = error


def release(route: Route, ctx: Context, at: int) -> None:
    """Have every layer that was entered give back what it took."""
    for index, hook in route.release(at):
        try:
            hook(ctx, index)
        except Exception:  # noqa: BLE001 - a cancellation arrives intact, and the other layers are asked too
            _log.exception("%s could not give back what it held", ctx.pipeline.labels[index])
    forget(ctx, route.start)
