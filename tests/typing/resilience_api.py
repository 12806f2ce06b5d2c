"""The toolkit's public types, checked by mypy and pyright and never run."""

from __future__ import annotations

from typing import assert_type

from llm_config_resilience import (
    Answer,
    CacheFallback,
    CircuitBreaker,
    Context,
    Failover,
    Fallback,
    ManualClock,
    MemoryStore,
    PerTarget,
    Pipeline,
    Retry,
    RetryBudget,
    RetryPolicy,
    Timeout,
    current,
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
