"""How a call ended, as one event: the outermost hooks of every pipeline, which belong to no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_config_resilience.context import Context


def begun(ctx: Context, _at: int) -> None:
    """Note the time, where somebody listens."""
    ctx.began = ctx.pipeline.now()


def succeeded(ctx: Context, _at: int, _value: Any) -> None:
    """Tell of a value, where somebody asked for that."""
    details = {
        "seconds": _seconds(ctx),
        "calls": ctx.calls,
        "source": ctx.source,
        "degraded": ctx.degraded,
    }
    ctx.emit("succeeded", details=details)


def failed(ctx: Context, _at: int, error: Exception) -> None:
    """Tell of the error that the caller gets."""
    if ctx.listeners:
        ctx.emit("failed", error=error, details={"seconds": _seconds(ctx), "calls": ctx.calls})


def cancelled(ctx: Context, _at: int) -> None:
    """Tell that nobody waits any more."""
    if ctx.listeners:
        ctx.emit("cancelled", details={"seconds": _seconds(ctx), "calls": ctx.calls})


def _seconds(ctx: Context) -> float | None:
    """How long the call took; `None` where nobody listened as it began."""
    return None if ctx.began is None else ctx.pipeline.now() - ctx.began
