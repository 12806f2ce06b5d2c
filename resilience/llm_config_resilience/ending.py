"""How a call ended, as one event: the outermost hooks of every pipeline, which belong to no layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_config_resilience.context import Context


def begun(ctx: Context, _at: int) -> None:
    """Note the time, where somebody listens."""
    ctx.began = ctx.now()


def succeeded(ctx: Context, _at: int, _value: Any) -> None:
    """Tell of a value, where somebody asked for that."""
    details = {"source": ctx.source, "degraded": ctx.degraded, "calls": ctx.calls}
    ctx.emit("succeeded", details=details | _duration(ctx))


def failed(ctx: Context, _at: int, error: Exception) -> None:
    """Tell of the error that the caller gets."""
    ctx.emit("failed", error=error, details={"calls": ctx.calls} | _duration(ctx))


def cancelled(ctx: Context, _at: int) -> None:
    """Tell that nobody waits any more."""
    ctx.emit("cancelled", details={"calls": ctx.calls} | _duration(ctx))


def _duration(ctx: Context) -> dict[str, Any]:
    return {} if ctx.began is None else {"seconds": ctx.now() - ctx.began}
