"""Try again, with patience and within limits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, cast

from llm_config_resilience.arguments import check_at_least, check_callable, check_count, check_has, check_is
from llm_config_resilience.directives import Again, Call, Directive, Wait
from llm_config_resilience.errors import RejectedError
from llm_config_resilience.rehearsal import rehearsal
from llm_config_resilience.strategies.budget import RetryBudget
from llm_config_resilience.strategies.conditions import matcher, retriable
from llm_config_resilience.strategies.cooldown import Cooldown
from llm_config_resilience.strategies.discards import closer_of
from llm_config_resilience.strategies.nesting import give_up, was_given_up
from llm_config_resilience.strategies.retry_after import seconds_to_wait
from llm_config_resilience.strategies.strategy import Strategy
from llm_config_resilience.strategies.tenacity_bridge import before_sleep, begin_state, judge, wait_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tenacity import BaseRetrying, RetryCallState

    from llm_config_resilience.context import Context
    from llm_config_resilience.strategies.budget import Budget
    from llm_config_resilience.strategies.conditions import Condition

#: Seconds a server may ask us to wait; what asks for more is told to the caller at once.
RETRY_AFTER_CAP: Final = 60.0


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
        retry_after_cap: The longest Retry-After that is waited for; a longer one ends the call at once.
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
        check_count(1, max_attempts=self.max_attempts)  # the first call is one of them
        check_at_least(0, initial_backoff=self.initial_backoff, max_backoff=self.max_backoff)
        check_at_least(0, retry_after_cap=self.retry_after_cap)
        check_at_least(1, backoff_multiplier=self.backoff_multiplier)  # below it would hurry, not back off
        if self.jitter not in ("full", "none"):
            raise ValueError(f"jitter must be 'full' or 'none', not {self.jitter!r}")
        plugs = {"stop": self.stop, "wait": self.wait, "retry": self.retry, "before_sleep": self.before_sleep}
        check_callable(**{name: plug for name, plug in plugs.items() if plug is not None})

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
        """Take over a tenacity controller's `stop`, `wait`, `retry` and `before_sleep`.

        Its `before`, `after` and `sleep` have no counterpart; events and the pipeline's clock do that.

        Raises:
            ValueError: It has a `retry_error_callback`: put a `Fallback` outside the `Retry` instead.
        """
        if retrying.retry_error_callback is not None:
            raise ValueError("retry_error_callback: put a Fallback outside the Retry instead")
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

    @property
    def is_plugged(self) -> bool:
        """Whether objects of tenacity's have a say."""
        return any((self.stop, self.wait, self.retry, self.before_sleep))

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


class _Default(Enum):
    """Tells "not given" from `None`."""

    OWN = "one of its own"

    def __repr__(self) -> str:
        return self.value


_OWN: Final = _Default.OWN


#: In a cooldown's place: there is always something to do before a call, or never.
_ALWAYS: Final = Cooldown(until=inf)
_NEVER: Final = Cooldown()


class _Tries:
    """What a retry remembers of one call."""

    __slots__ = ("retries", "state")

    def __init__(self, state: RetryCallState | None) -> None:
        self.retries = 0
        self.state = state


class Retry(Strategy):
    """Repeat what is inside while it fails in a way that may pass.

        stack = Pipeline(Retry(RetryPolicy(max_attempts=5, initial_backoff=0.05), on=ConnectionError))
        price = stack.call(fetch, "EUR")

    Only `Exception` is ever retried, never an interrupt or a cancellation, and never a call that was turned
    away on this side. An error's `retry_after` (seconds, or an HTTP date) is honoured: the wait is at least
    that long, and never shorter than the policy's own. When a wait does not fit into the deadline, or the
    server asks for more than the policy's cap, or the budget is spent, the error is raised at once, as it is.

    *Results.* A result that the policy's `retry` object does not accept is closed (`aclose` or `close`) and
    the call repeated. The last one is returned, where tenacity would raise its `RetryError`.

    *Nesting.* Attempts do not multiply: the innermost `Retry` that takes an error for its own decides about
    it. When it gives up, those further out, in the same pipeline or in the one that called it, let the error
    pass, and so they do with errors raised from it. Both pipelines have to be on the same clock.

    *Cooldown.* What a server tells one caller with a 429, all callers of this strategy keep to: `Cooldown`.

    Args:
        policy: How often and how long in between; `RetryPolicy()` unless given.
        on: Which errors: exception classes, or a predicate. Unless given, the error's own `is_retriable`
            (then `is_transient`) decides, and `OSError` without one.
        budget: Limits what all calls together repeat. Left out it is one `RetryBudget` for this strategy;
            `None` is none.
        cooldown: What several strategies share that call the same server. Left out it is one for this
            strategy; `None` is none.
        name: For events.

    Raises:
        RateLimitedError: The server's cooldown outlasts the call's deadline; the call never ran.
    """

    role: ClassVar[str] = "retry"

    def __init__(
        self,
        policy: RetryPolicy | None = None,
        *,
        on: Condition = retriable,
        budget: Budget | _Default | None = _OWN,
        cooldown: Cooldown | _Default | None = _OWN,
        name: str = "",
    ) -> None:
        if policy is not None:
            check_is(RetryPolicy, policy=policy)
        self.name = name
        self.budget: Budget | None = RetryBudget() if budget is _OWN else budget
        self.cooldown: Cooldown | None = Cooldown() if cooldown is _OWN else cooldown
        if self.budget is not None:
            check_has("a Budget, such as RetryBudget()", "spend", "earn", budget=self.budget)
        self._on = on
        self._matches = matcher(on)
        self.reconfigure(RetryPolicy() if policy is None else policy)

    @property
    def policy(self) -> RetryPolicy:
        """How often and how long in between."""
        return self._policy

    def reconfigure(self, policy: RetryPolicy) -> None:
        """Take another policy; budget and cooldown stay, and calls on their way go on by the new one.

        Args:
            policy: The policy.
        """
        self._policy = policy
        self._controller = policy.to_tenacity() if policy.is_plugged else None
        #: Its `until` says whether there is anything to do before a call: one look at every call.
        self._look_at = _ALWAYS if self._controller is not None else self.cooldown or _NEVER

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Note the time, where a tenacity object may ask for it, and sit a cooldown out."""
        return self._prepare(ctx, at) if self._look_at.until else None

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Reward the budget, or try again on a result that the policy does not accept."""
        tries: _Tries | None = ctx.slots[at]
        if tries is None:
            if self.budget is not None and not self.budget.idle:
                self.budget.earn(ctx.clock, 0)
            return None
        if tries.state is not None and judge(self._policy, tries.state, ctx, value=value):
            return self._again(ctx, at, tries, None, value)
        if self.budget is not None:
            self.budget.earn(ctx.clock, tries.retries)
        if tries.retries:
            ctx.emit("recovered", at)
        return None

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Try again, if the error may pass and the limits allow."""
        if isinstance(error, RejectedError):
            return None
        tries: _Tries | None = ctx.slots[at]
        if tries is None:
            ctx.slots[at] = tries = _Tries(None)
        wanted = judge(self._policy, tries.state, ctx, error=error) if tries.state is not None else False
        if self._policy.retry is None:
            wanted = bool(self._matches(error))
        if not wanted:
            return None
        if was_given_up(ctx, error):
            give_up(ctx, at, error)
            return None
        return self._again(ctx, at, tries, error, None)

    def describe(self) -> dict[str, Any]:
        """Show the policy."""
        return {"policy": self._policy, "on": self._on, "budget": self.budget}

    def _prepare(self, ctx: Context, at: int) -> Directive | None:
        if self._controller is not None:
            ctx.slots[at] = _Tries(begin_state(self._controller, ctx))
        cooldown = self.cooldown
        if cooldown is None or not cooldown.until:
            return None
        wait = cooldown.left(ctx)
        if wait <= 0:
            return None
        wait += self._spread(ctx)
        if wait >= ctx.remaining():
            ctx.slots[at] = None
            raise cooldown.refuse(ctx, at, wait)
        return Wait(wait)

    def _again(
        self, ctx: Context, at: int, tries: _Tries, error: Exception | None, value: Any
    ) -> Directive | None:
        delay = wait_of(self._policy, tries.state, ctx, tries.retries + 1)
        asked = seconds_to_wait(error, ctx.clock)
        if asked is not None:
            # Jitter on top: the server told every client the same.
            delay = max(delay, asked + self._spread(ctx))
            if self.cooldown is not None:
                self.cooldown.heed(ctx, error, asked)
        if self.cooldown is not None and self.cooldown.until:
            delay = max(delay, self.cooldown.left(ctx))
        if tries.state is not None:
            tries.state.upcoming_sleep = delay
        reason = self._refusal(ctx, tries, delay, asked)
        if reason:
            self._give_up(ctx, at, error, reason)
            return None
        ctx.emit("retry", at, error=error, delay=delay)
        if tries.state is not None:
            before_sleep(self._policy, tries.state, delay)
        tries.retries += 1
        ctx.attempt += 1
        close = None if error is not None else closer_of(value, is_async=ctx.is_async)
        if close is None:
            return Again(delay)
        # Whether closing works is nobody's concern any more: either way the call goes on.
        return Call(close, then=lambda _ctx, _at, _none: Again(delay), orelse=_go_on(delay))

    def _give_up(self, ctx: Context, at: int, error: Exception | None, reason: str) -> None:
        if error is not None:
            give_up(ctx, at, error)
            if reason == "budget":
                error.add_note("not retried: the retry budget is spent")
        ctx.emit("gave_up", at, error=error, details={"reason": reason})

    def _refusal(self, ctx: Context, tries: _Tries, delay: float, asked: float | None) -> str:
        """Say why there is no further attempt; `""` if there is one. The budget pays last."""
        policy = self._policy
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

    def _spread(self, ctx: Context) -> float:
        """Seconds of jitter for those who were all told the same."""
        return self._policy.initial_backoff * ctx.random() if self._policy.jitter == "full" else 0.0


def _go_on(delay: float) -> Callable[[Context, int, Exception], Directive]:
    return lambda _ctx, _at, _error: Again(delay)
