"""tenacity's strategy objects, asked with a real `RetryCallState` on the pipeline's own clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from tenacity import BaseRetrying, RetryCallState

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.retry import RetryPolicy


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
) -> bool:
    """Tell the state of an outcome; say whether the policy's `retry` object wants another attempt."""
    from tenacity import Future, TryAgain  # noqa: PLC0415 - loaded when a policy holds its objects

    failed = error is not None
    state.outcome = Future.construct(state.attempt_number, error if failed else value, failed)
    state.outcome_timestamp = ctx.now()
    if isinstance(error, TryAgain):
        return policy.retry is not None
    return policy.retry is not None and bool(policy.retry(state))


def wait_of(policy: RetryPolicy, state: RetryCallState | None, ctx: Context, attempt: int) -> float:
    """Seconds to wait before the next attempt, by the policy's `wait` object or its own backoff."""
    if state is not None and policy.wait is not None:
        return float(policy.wait(state))
    return policy.backoff(attempt, ctx.random)


def before_sleep(policy: RetryPolicy, state: RetryCallState, delay: float) -> None:
    """Tell the policy's `before_sleep` of the wait, and make the state ready for the next attempt."""
    from tenacity import RetryAction  # noqa: PLC0415 - loaded when a policy holds its objects

    state.next_action = RetryAction(delay)
    state.idle_for += delay
    if policy.before_sleep is not None:
        policy.before_sleep(state)
    state.prepare_for_next_attempt()
