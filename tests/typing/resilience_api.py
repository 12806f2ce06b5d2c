"""The toolkit's public types, checked by mypy and pyright and never run."""

from __future__ import annotations

from typing import ClassVar, assert_type

import pybreaker
import tenacity

from llm_config_resilience import (
    Again,
    Answer,
    Budget,
    CacheFallback,
    CircuitBreaker,
    CircuitSettings,
    CircuitState,
    Condition,
    Context,
    Cooldown,
    Directive,
    Entry,
    Event,
    EventKind,
    Failover,
    Fallback,
    Generational,
    Listener,
    ManualClock,
    MemoryStore,
    PerKey,
    PerTarget,
    Pipeline,
    RatioBudget,
    Retry,
    RetryBudget,
    RetryPolicy,
    Return,
    Store,
    Strategy,
    TargetStatus,
    Timeout,
    current,
    retriable,
)


def length(text: str) -> int:
    return len(text)


async def length_async(text: str) -> int:
    return len(text)


def spare(error: Exception) -> int:
    return len(str(error))


stack = Pipeline(
    Fallback(0, spare),
    CacheFallback(MemoryStore(), key=length, ttl=5, stale_if_error=60),
    Timeout(10),
    Retry(RetryPolicy.default(), on=(OSError, TimeoutError), budget=RetryBudget()),
    Failover(["a", "b"], on=lambda error: isinstance(error, OSError)),
    PerTarget(CircuitBreaker),
    Timeout(None),
    Timeout(length, thread=True, max_threads=4),
    name="typed",
    listeners=[lambda event: event.kind],
    clock=ManualClock(),
)

assert_type(stack.call(length, "text"), int)
assert_type(stack.answer(length, "text"), Answer[int])
assert_type(current(), Context | None)


@stack
def decorated(text: str) -> int:
    return len(text)


@stack
async def decorated_async(text: str) -> int:
    return len(text)


assert_type(decorated("text"), int)


async def main() -> None:
    assert_type(await stack.call_async(length_async, "text"), int)
    assert_type(await stack.call_async(length, "text"), int)
    assert_type(await stack.answer_async(length_async, "text"), Answer[int])
    assert_type(await stack.answer_async(length, "text"), Answer[int])
    assert_type(await decorated_async("text"), int)


# --- Strategies, one by one ---


class MissingError(Exception):
    """An error that is an answer."""


class Counter:
    """A listener that asks for what it wants."""

    wants: ClassVar[frozenset[EventKind]] = frozenset({"succeeded", "failed"})

    def __call__(self, event: Event) -> None:
        assert_type(event.kind, EventKind)


class Stubborn(Strategy):
    """A strategy of one's own."""

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        return Again(0.5) if ctx.attempt < 3 else Return(str(error), degraded=True, age=1.5, index=0)


conditions: list[Condition] = [OSError, (OSError, MissingError), retriable, lambda error: "x" in str(error)]
listeners: list[Listener] = [Counter(), lambda event: event.details]
budgets: list[Budget] = [RetryBudget(), RatioBudget(0.1)]
store: Store = MemoryStore()
versions: Generational = MemoryStore()

breaker = CircuitBreaker(
    5,
    2,
    60.0,
    max_probes=3,
    failure_rate=0.5,
    slow_after=2.0,
    slow_rate=0.8,
    window=10.0,
    minimum_calls=20,
    exclude=[MissingError, lambda error: "x" in str(error)],
    listeners=[pybreaker.CircuitBreakerListener()],
    storage=pybreaker.CircuitMemoryStorage("closed"),
    refresh_every=1.0,
    name="typed",
)
assert_type(breaker.state, CircuitState)
assert_type(breaker.settings, CircuitSettings)
assert_type(breaker.last_failure, BaseException | None)
assert_type(CircuitBreaker.from_pybreaker(breaker.pybreaker, max_probes=2), CircuitBreaker)
breaker.reconfigure(timeout=30.0)
breaker.force_open()
breaker.force_closed()
breaker.reset()
breaker.refresh()

retry = Retry(RetryPolicy.conservative(), on=conditions[0], budget=None, cooldown=Cooldown(), name="retry")
retry.reconfigure(RetryPolicy.aggressive().with_options(jitter="none"))
assert_type(RetryPolicy.from_tenacity(tenacity.Retrying()), RetryPolicy)
assert_type(retry.policy.to_tenacity(), tenacity.BaseRetrying)
assert_type(retry.budget, Budget | None)

failover = Failover(
    ["a", "b"],
    on=conditions[1],
    failback_after=30.0,
    failure_threshold=3,
    failure_rate=0.5,
    success_threshold=2,
)
failover.reconfigure(failback_after=10.0)
assert_type(failover.health, tuple[TargetStatus, ...])

cache = CacheFallback(
    store,
    key=length,
    ttl=5.0,
    stale_while_revalidate=5.0,
    stale_if_error=60.0,
    stale_if_slow=0.5,
    negative_on=MissingError,
    negative_ttl=1.0,
)
cache.reconfigure(ttl=10.0)
cache.forget("text")
assert_type(versions.set_if("key", Entry(1, 0.0), 5.0, versions.generation("key")), bool)

circuits = PerKey(lambda key: CircuitBreaker(name=str(key)), key=length, max_keys=100)
assert_type(circuits.of(4), Strategy)

answer = Pipeline(Stubborn(), Fallback(0, on=conditions[2]), listeners=listeners).answer(length, "text")
assert_type(answer, Answer[int])
assert_type(answer.age, float | None)
assert_type(answer.index, int | None)
