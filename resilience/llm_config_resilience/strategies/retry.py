"""Try again, with patience and within limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from llm_config_resilience.directives import Again, Directive
from llm_config_resilience.errors import RejectedError
from llm_config_resilience.rehearsal import rehearsal
from llm_config_resilience.strategies.budget import RetryBudget
from llm_config_resilience.strategies.conditions import matcher, retriable
from llm_config_resilience.strategies.retry_after import seconds_to_wait
from llm_config_resilience.strategies.strategy import HOOKS, Strategy
from llm_config_resilience.strategies.tenacity_bridge import begin_state, judge, wait_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import BaseRetrying, RetryCallState

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.budget import Budget
    from llm_config_resilience.strategies.conditions import Condition

#: Seconds a server may ask us to wait; what asks for more is told to the caller at once.
RETRY_AFTER_CAP = 60.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how long in between. All times are seconds.

    Args:
        max_attempts: Calls in all, the first included.
        initial_backoff: The first wait's upper bound.
        max_backoff: Every wait's upper bound, but for what a server asks for.
        backoff_multiplier: Growth from one wait to the next.
        jitter: `"full"` waits between 0 and the bound, so that clients do not come back in step; `"none"`
            waits the bound itself.
        retry_after_cap: A longer Retry-After ends the call at once.
        stop: A tenacity `stop` object instead of `max_attempts`.
        wait: A tenacity `wait` object instead of backoff and jitter.
        retry: A tenacity `retry` object; it decides in place of the strategy's `on`, about results too.
        before_sleep: Called with tenacity's `RetryCallState` before each wait.
    """

    max_attempts: int = 3
    initial_backoff: float = 0.1
    max_backoff: float = 10.0
    backoff_multiplier: float = 2.0
    jitter: Literal["full", "none"] = "full"
    retry_after_cap: float = RETRY_AFTER_CAP
    stop: Callable[[RetryCallState], bool] | None = None
    wait: Callable[[RetryCallState], float] | None = None
    retry: Callable[[RetryCallState], bool] | None = None
    before_sleep: Callable[[RetryCallState], object] | None = None

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError("max_attempts counts the first call: at least 1")
        if min(self.initial_backoff, self.max_backoff, self.retry_after_cap) < 0:
            raise ValueError("waits are 0 seconds or more")
        if self.backoff_multiplier < 1:
            raise ValueError("backoff_multiplier below 1 would hurry, not back off")
        if self.jitter not in ("full", "none"):
            raise ValueError(f"jitter is 'full' or 'none', not {self.jitter!r}")

    @classmethod
    def default(cls) -> RetryPolicy:
        """Three attempts, 0.1 s doubling up to 10 s: the platform's `default` preset."""
        return cls()

    @classmethod
    def aggressive(cls) -> RetryPolicy:
        """Five attempts, 0.05 s growing by half up to 1 s, for cheap calls that must get through."""
        return cls(max_attempts=5, initial_backoff=0.05, max_backoff=1.0, backoff_multiplier=1.5)

    @classmethod
    def conservative(cls) -> RetryPolicy:
        """Two attempts, 0.5 s tripling up to 30 s, for costly calls."""
        return cls(max_attempts=2, initial_backoff=0.5, max_backoff=30.0, backoff_multiplier=3.0)

    @classmethod
    def from_tenacity(cls, retrying: BaseRetrying) -> RetryPolicy:
        """Take over a tenacity controller's strategy objects."""
        return cls(
            stop=retrying.stop,
            wait=cast("Callable[[RetryCallState], float]", retrying.wait),
            retry=retrying.retry,
            before_sleep=retrying.before_sleep,
        )

    def to_tenacity(self) -> BaseRetrying:
        """Make a `tenacity.Retrying` that decides as this policy does."""
        import tenacity  # noqa: PLC0415 - loaded when asked for

        return tenacity.Retrying(
            stop=self.stop or tenacity.stop_after_attempt(self.max_attempts),
            wait=self.wait or self._tenacity_wait(),
            retry=self.retry
            or tenacity.retry_if_exception(cast("Callable[[BaseException], bool]", retriable)),
            before_sleep=cast("Callable[[RetryCallState], None] | None", self.before_sleep),
            reraise=True,
        )

    def with_options(self, **changes: Any) -> RetryPolicy:
        """Copy the policy with some settings changed."""
        return replace(self, **changes)

    def backoff(self, attempt: int, draw: Callable[[], float]) -> float:
        """Seconds to wait after an attempt.

        Args:
            attempt: The attempt's number, from 1.
            draw: Gives at least 0 and below 1.
        """
        try:
            bound = min(self.max_backoff, self.initial_backoff * self.backoff_multiplier ** (attempt - 1))
        except OverflowError:
            bound = self.max_backoff
        return bound * draw() if self.jitter == "full" else bound

    def _tenacity_wait(self) -> Any:
        import tenacity  # noqa: PLC0415 - loaded when asked for

        kind = tenacity.wait_random_exponential if self.jitter == "full" else tenacity.wait_exponential
        return kind(multiplier=self.initial_backoff, max=self.max_backoff, exp_base=self.backoff_multiplier)


class _Default:
    def __repr__(self) -> str:
        return "a RetryBudget of its own"


_DEFAULT = _Default()


class _Tries:
    """What a retry remembers of one call."""

    __slots__ = ("retries", "state")

    def __init__(self, state: RetryCallState | None) -> None:
        self.retries = 0
        self.state = state


class Retry(Strategy):
    """Repeat what is inside while it fails in a way that may pass.

    Only `Exception` is ever retried, never an interrupt or a cancellation, and never a call that was turned
    away on this side. An error's `retry_after` (seconds) is honoured: the wait is at least that long. When a
    wait does not fit into the deadline, or the server asks for more than the policy's cap, or the budget is
    spent, the error is raised at once, as it is.

    Args:
        policy: How often and how long in between; `RetryPolicy()` unless given.
        on: Which errors: exception classes, or a predicate. Unless given, the error's own `is_retriable`
            (then `is_transient`) decides, and `OSError` without one.
        budget: Limits what all calls together repeat. Left out it is one `RetryBudget` for this strategy;
            `None` is none.
        name: For events.
    """

    role: ClassVar[str] = "retry"

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        on: Condition = retriable,
        budget: Budget | _Default | None = _DEFAULT,
        name: str = "",
    ) -> None:
        self.policy = RetryPolicy() if policy is None else policy
        self.name = name
        self.budget: Budget | None = RetryBudget() if isinstance(budget, _Default) else budget
        self._on = on
        self._matches = matcher(on)
        self._plugged = any((self.policy.stop, self.policy.wait, self.policy.retry, self.policy.before_sleep))
        self._controller = self.policy.to_tenacity() if self._plugged else None
        self._judges_results = self.policy.retry is not None
        unused = set[str]()
        if not self._plugged:
            unused.add("before")
        if self.budget is None and not self._judges_results:
            unused.add("succeeded")
        self.hooks = HOOKS - unused

    def before(self, ctx: Context, at: int) -> None:
        """Note the time, where a tenacity object may ask for it."""
        ctx.slots[at] = _Tries(begin_state(self._controller, ctx))

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Reward the budget, or try again on a result that the policy does not accept."""
        tries: _Tries | None = ctx.slots[at]
        if tries is None and (self.budget is None or self.budget.idle):
            return None
        if self._judges_results and tries is not None and tries.state is not None:
            verdict = judge(self.policy, tries.state, ctx, value=value)
            if verdict.again:
                return self._again(ctx, at, tries, None)
        if self.budget is not None and (tries is not None or not self.budget.idle):
            self.budget.earn(ctx.clock, 0 if tries is None else tries.retries)
        if ctx.attempt > 1:
            ctx.emit("recovered", at)
        return None

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Try again, if the error may pass and the limits allow."""
        if isinstance(error, RejectedError):
            return None
        tries: _Tries | None = ctx.slots[at]
        if tries is None:
            ctx.slots[at] = tries = _Tries(None)
        if tries.state is not None and self.policy.retry is not None:
            if not judge(self.policy, tries.state, ctx, error=error).again:
                return None
        elif not self._matches(error):
            return None
        elif tries.state is not None:
            judge(self.policy, tries.state, ctx, error=error)
        return self._again(ctx, at, tries, error)

    def describe(self) -> dict[str, Any]:
        """Show the policy."""
        return {"policy": self.policy, "on": self._on, "budget": self.budget}

    def _again(self, ctx: Context, at: int, tries: _Tries, error: Exception | None) -> Directive | None:
        delay = wait_of(self.policy, tries.state, ctx, tries.retries + 1)
        asked = seconds_to_wait(error, ctx.clock)
        if asked is not None:
            # Jitter on top: the server told every client the same.
            spread = self.policy.initial_backoff if self.policy.jitter == "full" else 0.0
            delay = max(delay, asked + spread * ctx.random())
        if tries.state is not None:
            tries.state.upcoming_sleep = delay
        reason = self._refusal(ctx, tries, delay, asked)
        if reason:
            if error is not None and reason == "budget":
                error.add_note("not retried: the retry budget is spent")
            ctx.emit("gave_up", at, error=error, details={"reason": reason})
            return None
        ctx.emit("retry", at, error=error, delay=delay)
        if tries.state is not None:
            if self.policy.before_sleep is not None:
                self.policy.before_sleep(tries.state)
            tries.state.prepare_for_next_attempt()
        tries.retries += 1
        ctx.attempt += 1
        return Again(delay)

    def _refusal(self, ctx: Context, tries: _Tries, delay: float, asked: float | None) -> str:
        """Say why there is no further attempt; `""` if there is one. The budget pays last."""
        policy = self.policy
        if tries.state is not None and policy.stop is not None:
            spent = policy.stop(tries.state)
        else:
            spent = tries.retries + 1 >= policy.max_attempts
        drill = rehearsal.get()
        if drill is not None and drill.max_attempts is not None:
            spent = spent or tries.retries + 1 >= drill.max_attempts
        if spent:
            return "attempts"
        if asked is not None and asked > policy.retry_after_cap:
            return "retry-after"
        if delay >= ctx.remaining():
            return "deadline"
        if self.budget is not None and not self.budget.spend(ctx.clock, tries.retries):
            return "budget"
        return ""
