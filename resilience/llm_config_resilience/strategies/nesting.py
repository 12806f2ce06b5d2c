"""Retries inside retries: the inner one's decision about an error is the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llm_config_resilience.errors import AllTargetsFailedError

if TYPE_CHECKING:
    from llm_config_resilience.context import Context

#: Where an error carries the ticket of the call in which a retry gave it up. A number, because an error that
#: held the call itself would never be freed.
_MARK: Final = "_llm_config_given_up"

#: How far an error's causes are followed: longer chains are cycles, or nobody's plan.
_MAX_CHAIN: Final = 50


def give_up(ctx: Context, at: int, error: Exception) -> None:
    """Tell the next retry further out that this error had its attempts.

    Args:
        ctx: The call.
        at: The layer of the retry that gives up.
        error: The error.
    """
    outer: Context | None = ctx
    if not _has_retry(ctx, at):
        outer = ctx.parent
        while outer is not None and not _has_retry(outer, len(outer.pipeline.layers)):
            outer = outer.parent
    if outer is not None:
        vars(error)[_MARK] = outer.take_ticket()


def was_given_up(ctx: Context, error: Exception) -> bool:
    """Whether a retry further in gave this error up, or what it was raised from, in this very call.

    Args:
        ctx: The call.
        error: The error.
    """
    return ctx.ticket is not None and _carries(error, ctx.ticket)


def _has_retry(ctx: Context, before: int) -> bool:
    return any(layer.role == "retry" for layer in ctx.pipeline.layers[:before])


def _carries(error: BaseException, ticket: int) -> bool:
    link: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        if link is None:
            return False
        if vars(link).get(_MARK) == ticket:
            return True
        if isinstance(link, AllTargetsFailedError):
            return all(_carries(part, ticket) for part in link.exceptions)
        link = link.__cause__ or link.__context__
    return False
