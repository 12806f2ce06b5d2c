"""What the engine adds to a call, beside other libraries: success, a retry, an open circuit, a cached value.

The function that is called does nothing, so what remains above a bare call is the library's. No delay
between attempts; no timeouts. What a library lacks is left out: stamina has no breaker, pybreaker no retry,
hyx no sync side and no cache.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import hyx.circuitbreaker
import hyx.fallback
import hyx.retry
import nopanic
import pybreaker
import stamina
import tenacity
from goals import GOALS
from harness import Effort, Report, Table, in_turns, in_turns_async, judge
from pyresilience import CacheConfig, CircuitBreakerConfig, FallbackConfig, RetryConfig, resilient

from llm_config_resilience import (
    Bulkhead,
    CacheFallback,
    CircuitBreaker,
    Fallback,
    MemoryStore,
    Pipeline,
    Retry,
    RetryPolicy,
    Timeout,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ATTEMPTS: Final = 3
LONG: Final = 3600.0  # seconds: nothing expires, no circuit is probed
OURS: Final = "here: fallback, retry and breaker"
FASTEST: Final = "nopanic: fallback, retry and breaker"
OURS_BREAKER: Final = "here: breaker"
FASTEST_BREAKER: Final = "nopanic: breaker"
OURS_RETRY: Final = "here: retry and breaker"
FASTEST_RETRY: Final = "nopanic: retry and breaker"
OURS_CACHE: Final = "here: cache"
FASTEST_CACHE: Final = "nopanic: cache"
BARE: Final = "bare"

FULL_EFFORT: Final = Effort(rounds=120, turn=0.001)

#: By situation: what ratios are to.
BASELINES: Final = {
    "success": FASTEST,
    "retry": FASTEST_RETRY,
    "rejection": FASTEST_BREAKER,
    "cache": FASTEST_CACHE,
}
TITLES: Final = {
    "success": "A call that succeeds",
    "retry": "A call that fails once, then succeeds",
    "rejection": "A call turned away by an open circuit",
    "cache": "A value that is cached",
}


class FlakyError(ConnectionError):
    """What may pass."""


def work() -> int:
    return 1


async def work_async() -> int:
    return 1


def flaky() -> Callable[[], int]:
    """A function that fails at every other call."""
    fails = False

    def call() -> int:
        nonlocal fails
        fails = not fails
        if fails:
            raise FlakyError
        return 1

    return call


def flaky_async() -> Callable[[], Awaitable[int]]:
    call = flaky()

    async def call_async() -> int:
        return call()

    return call_async


def broken() -> int:
    raise FlakyError


async def broken_async() -> int:
    raise FlakyError


# --- Here -------------------------------------------------------------------------------------------


def no_wait() -> Retry:
    return Retry(RetryPolicy(max_attempts=ATTEMPTS, initial_backoff=0.0), on=FlakyError)


def three() -> Pipeline:
    return Pipeline(Fallback(0), no_wait(), CircuitBreaker())


def five() -> Pipeline:
    return Pipeline(Fallback(0), Timeout(LONG), no_wait(), CircuitBreaker(), Bulkhead(100))


def two() -> Pipeline:
    return Pipeline(no_wait(), CircuitBreaker(failure_rate=1.0))


def opened() -> Pipeline:
    breaker = CircuitBreaker(timeout=LONG)
    breaker.force_open()
    return Pipeline(breaker)


def cached() -> Pipeline:
    return Pipeline(CacheFallback(MemoryStore(), key="model", ttl=LONG))


# --- Others -----------------------------------------------------------------------------------------


def all_of(*layers: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wrap a function in decorators, the first outermost."""

    def wrap(fn: Any) -> Any:
        for layer in reversed(layers):
            fn = layer(fn)
        return fn

    return wrap


def nopanic_breaker(**options: Any) -> Any:
    return nopanic.circuit_breaker(reset_timeout=LONG, **options)


def nopanic_retry() -> Any:
    return nopanic.retry(attempts=ATTEMPTS, on=FlakyError, backoff=0.0)


def resilient_retry() -> RetryConfig:
    return RetryConfig(max_attempts=ATTEMPTS, delay=0.0, jitter=False)


def resilient_breaker() -> CircuitBreakerConfig:
    return CircuitBreakerConfig(recovery_timeout=LONG)


def stamina_retry(fn: Any) -> Any:
    at_once = {"wait_initial": 0, "wait_max": 0, "wait_jitter": 0}
    return stamina.retry(on=FlakyError, attempts=ATTEMPTS, timeout=None, **at_once)(fn)


def rejecting(call: Callable[[], Any], rejection: type[BaseException]) -> Callable[[], Any]:
    """Call what is turned away."""

    def rejected() -> None:
        with contextlib.suppress(rejection):
            call()

    return rejected


def rejecting_async(
    call: Callable[[], Awaitable[Any]], rejection: type[BaseException]
) -> Callable[[], Awaitable[Any]]:
    async def rejected() -> None:
        with contextlib.suppress(rejection):
            await call()

    return rejected


def tripped(call: Callable[[], Any]) -> Callable[[], Any]:
    """Fail until the circuit is open."""
    for _ in range(20):
        with contextlib.suppress(Exception):
            call()
    return call


async def tripped_async(call: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    for _ in range(20):
        with contextlib.suppress(Exception):
            await call()
    return call


# --- Sync -------------------------------------------------------------------------------------------


def sync_cases() -> dict[str, dict[str, Callable[[], Any]]]:
    stack, most, retrying, opened_here, kept = three(), five(), two(), opened(), cached()
    theirs = tenacity.Retrying(stop=tenacity.stop_after_attempt(ATTEMPTS))
    breaker = pybreaker.CircuitBreaker(reset_timeout=LONG)
    breaker_open = pybreaker.CircuitBreaker(reset_timeout=LONG)
    breaker_open.open()
    fails = [flaky() for _ in range(6)]
    return {
        "success": {
            BARE: lambda: work(),  # noqa: PLW0108  # the others pay for their lambda too
            OURS: lambda: stack.call(work),
            "here: the same, as a decorator": three()(work),
            "here: with a timeout and a bulkhead": lambda: most.call(work),
            FASTEST: all_of(nopanic.fallback(0), nopanic_retry(), nopanic_breaker())(work),
            "pyresilience: fallback, retry and breaker": resilient(
                retry=resilient_retry(), circuit_breaker=resilient_breaker(), fallback=FallbackConfig(0)
            )(work),
            "pybreaker: breaker": lambda: breaker.call(work),
            "tenacity: retry": lambda: theirs(work),
            "stamina: retry": stamina_retry(work),
        },
        "retry": {
            BARE: _twice(flaky()),
            OURS_RETRY: partial(retrying.call, fails[0]),
            FASTEST_RETRY: all_of(nopanic_retry(), nopanic_breaker(min_calls=10**9))(fails[1]),
            "pyresilience: retry and breaker": resilient(
                retry=resilient_retry(), circuit_breaker=resilient_breaker()
            )(fails[2]),
            "tenacity: retry": partial(theirs, fails[3]),
            "stamina: retry": stamina_retry(fails[4]),
        },
        "rejection": {
            BARE: lambda: work(),  # noqa: PLW0108  # as above
            OURS_BREAKER: rejecting(lambda: opened_here.call(work), pybreaker.CircuitBreakerError),
            FASTEST_BREAKER: rejecting(tripped(nopanic_breaker()(broken)), nopanic.CircuitOpen),
            "pyresilience: breaker": rejecting(
                tripped(resilient(circuit_breaker=resilient_breaker())(broken)), Exception
            ),
            "pybreaker: breaker": rejecting(
                lambda: breaker_open.call(work), pybreaker.CircuitBreakerError
            ),
        },
        "cache": {
            BARE: lambda: work(),  # noqa: PLW0108  # as above
            OURS_CACHE: lambda: kept.call(work),
            FASTEST_CACHE: nopanic.cache(ttl=LONG)(work),
            "pyresilience: cache": resilient(cache=CacheConfig(ttl=LONG))(work),
        },
    }  # fmt: skip


def _twice(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Call what fails and then succeeds, with nothing but a loop."""

    def call() -> Any:
        try:
            return fn()
        except FlakyError:
            return fn()

    return call


# --- Async ------------------------------------------------------------------------------------------


async def async_cases() -> dict[str, dict[str, Callable[[], Awaitable[Any]]]]:
    stack, most, retrying, opened_here, kept = three(), five(), two(), opened(), cached()
    theirs = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(ATTEMPTS))
    breaker = pybreaker.CircuitBreaker(reset_timeout=LONG)
    breaker_open = pybreaker.CircuitBreaker(reset_timeout=LONG)
    breaker_open.open()
    fails = [flaky_async() for _ in range(6)]

    async def in_context() -> int:
        with breaker.calling():
            return await work_async()

    async def in_open_context() -> int:
        with breaker_open.calling():
            return await work_async()

    async def nothing(*_args: Any, **_more: Any) -> int:
        return 0

    def hyx_breaker() -> Any:
        return hyx.circuitbreaker.consecutive_breaker(recovery_time_secs=LONG)

    hyx_retry = hyx.retry.retry(on=FlakyError, attempts=ATTEMPTS, backoff=0.0)
    return {
        "success": {
            BARE: lambda: work_async(),  # noqa: PLW0108  # the others pay for their lambda too
            OURS: lambda: stack.call_async(work_async),
            "here: the same, as a decorator": three()(work_async),
            "here: with a timeout and a bulkhead": lambda: most.call_async(work_async),
            FASTEST: all_of(nopanic.fallback(0), nopanic_retry(), nopanic_breaker())(work_async),
            "pyresilience: fallback, retry and breaker": resilient(
                retry=resilient_retry(), circuit_breaker=resilient_breaker(), fallback=FallbackConfig(0)
            )(work_async),
            "hyx: fallback, retry and breaker": all_of(
                hyx.fallback.fallback(nothing), hyx_retry, hyx_breaker()
            )(work_async),
            "pybreaker: breaker": in_context,
            "tenacity: retry": lambda: theirs(work_async),
            "stamina: retry": stamina_retry(work_async),
        },
        "retry": {
            BARE: _twice_async(flaky_async()),
            OURS_RETRY: partial(retrying.call_async, fails[0]),
            FASTEST_RETRY: all_of(nopanic_retry(), nopanic_breaker(min_calls=10**9))(fails[1]),
            "pyresilience: retry and breaker": resilient(
                retry=resilient_retry(), circuit_breaker=resilient_breaker()
            )(fails[2]),
            "hyx: retry and breaker": all_of(hyx_retry, hyx_breaker())(fails[3]),
            "tenacity: retry": partial(theirs, fails[4]),
            "stamina: retry": stamina_retry(fails[5]),
        },
        "rejection": {
            BARE: lambda: work_async(),  # noqa: PLW0108  # as above
            OURS_BREAKER: rejecting_async(
                lambda: opened_here.call_async(work_async), pybreaker.CircuitBreakerError
            ),
            FASTEST_BREAKER: rejecting_async(
                await tripped_async(nopanic_breaker()(broken_async)), nopanic.CircuitOpen
            ),
            "pyresilience: breaker": rejecting_async(
                await tripped_async(resilient(circuit_breaker=resilient_breaker())(broken_async)), Exception
            ),
            "hyx: breaker": rejecting_async(await tripped_async(hyx_breaker()(broken_async)), Exception),
            "pybreaker: breaker": rejecting_async(in_open_context, pybreaker.CircuitBreakerError),
        },
        "cache": {
            BARE: lambda: work_async(),  # noqa: PLW0108  # as above
            OURS_CACHE: lambda: kept.call_async(work_async),
            FASTEST_CACHE: nopanic.cache(ttl=LONG)(work_async),
            "pyresilience: cache": resilient(cache=CacheConfig(ttl=LONG))(work_async),
        },
    }  # fmt: skip


def _twice_async(fn: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    async def call() -> Any:
        try:
            return await fn()
        except FlakyError:
            return await fn()

    return call


# --- Together ---------------------------------------------------------------------------------------


async def measure_async(effort: Effort) -> list[Table]:
    tables = []
    for situation, cases in (await async_cases()).items():
        times = await in_turns_async(cases, effort)
        tables.append(_table(situation, "async", times))
    return tables


def measure_sync(effort: Effort) -> list[Table]:
    return [_table(situation, "sync", in_turns(cases, effort)) for situation, cases in sync_cases().items()]


def _table(situation: str, colour: str, times: Any) -> Table:
    baseline = BASELINES[situation]
    title = f"{TITLES[situation]}, {colour}"
    return Table(
        f"{situation} {colour}",
        title,
        "µs above a bare call",
        baseline,
        times.rows(baseline, over=BARE),
    )


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    effort = Effort.smoke() if quick else FULL_EFFORT
    # stamina logs each retry unless it is told not to; nobody else does.
    stamina.instrumentation.set_on_retry_hooks([])
    tables = [*measure_sync(effort), *asyncio.run(measure_async(effort))]
    verdicts = [
        judge(GOALS[f"engine {colour}"], table.find(OURS).ratio.median)
        for colour in ("sync", "async")
        for table in tables
        if table.name == f"success {colour}"
    ]
    return Report("The engine", tables, verdicts)
