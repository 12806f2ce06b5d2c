"""tenacity's strategy objects, asked with a real `RetryCallState` on the pipeline's own clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tenacity import BaseRetrying, RetryCallState

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether tenacity's `retry` object wants another attempt."""

    again: bool


def begin_state(controller: BaseRetrying | None, ctx: Context) -> RetryCallState:
    """Make the state of a call whose first attempt begins now."""
    from tenacity import RetryCallState  # noqa: PLC0415 - loaded when a policy holds its objects

    state = RetryCallState(cast("BaseRetrying", controller), ctx.fn, ctx.args, ctx.kwargs)
    state.start_time = ctx.now()
    return state


def judge(
    policy: RetryPolicy,
    state: RetryCallState,
    ctx: Context,
    *,
    value: Any = None,
    error: Exception | None = None,
) -> Verdict:
    """Tell the state of an outcome, and ask the policy's `retry` object about it."""
    from tenacity import Future, TryAgain  # noqa: PLC0415 - loaded when a policy holds its objects

    failed = error is not None
    state.outcome = Future.construct(state.attempt_number, error if failed else value, failed)
    state.outcome_timestamp = ctx.now()
    if isinstance(error, TryAgain):
        return Verdict(again=True)
    return Verdict(again=policy.retry is not None and bool(policy.retry(state)))


def wait_of(policy: RetryPolicy, state: RetryCallState | None, ctx: Context, attempt: int) -> float:
    """Seconds to wait before the next attempt, by the policy's `wait` object or its own backoff."""
    if state is not None and policy.wait is not None:
        return float(policy.wait(state))
    return policy.backoff(attempt, ctx.random)
