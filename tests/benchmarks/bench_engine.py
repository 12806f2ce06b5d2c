"""What a successful call costs, side by side in one run: minima of interleaved rounds.

Run it by hand: `python tests/benchmarks/bench_engine.py`. Figures are microseconds over a bare call; what is
judged is the ratio to nopanic and to tenacity in the same run.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import nopanic
import tenacity

from llm_config_resilience import Bulkhead, CircuitBreaker, Fallback, Pipeline, Retry, Timeout

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

#: Calls a round, and rounds: long enough for the timer, short enough to fall between other work.
CALLS = 1_000
ROUNDS = 250


def work() -> int:
    return 1


async def work_async() -> int:
    return 1


def three(**options: Any) -> Pipeline:
    return Pipeline(Fallback(0), Retry(), CircuitBreaker(), **options)


def five() -> Pipeline:
    return Pipeline(Fallback(0), Timeout(5.0), Retry(), CircuitBreaker(), Bulkhead(100))


def peer(fn: Callable[..., Any]) -> Callable[..., Any]:
    layers = (nopanic.fallback(0), nopanic.retry(attempts=3), nopanic.circuit_breaker())
    for layer in reversed(layers):
        fn = layer(fn)
    return fn


def count(_event: object) -> None:
    """Hear of what is worth noticing, and do nothing."""


class Counting:
    """Hears of every call's end, and does nothing."""

    wants = frozenset({"succeeded", "failed"})

    def __call__(self, event: object) -> None:
        pass


def sync_cases() -> dict[str, Callable[[], Any]]:
    stack, listened, counted = three(), three(listeners=[count]), three(listeners=[Counting()])
    most = five()
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(3))
    theirs = peer(work)
    return {
        "bare": lambda: work(),  # noqa: PLW0108 - the others pay for their lambda too  # noqa: PLW0108  # a call as the others are
        "three layers": lambda: stack.call(work),
        "three layers, decorated": stack(work),
        "three layers, a listener": lambda: listened.call(work),
        "three layers, calls counted": lambda: counted.call(work),
        "five layers": lambda: most.call(work),
        "nopanic, three layers": theirs,
        "tenacity.Retrying": lambda: retrying(work),
    }


def async_cases() -> dict[str, Callable[[], Awaitable[Any]]]:
    stack, listened = three(), three(listeners=[count])
    most = five()
    retrying = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3))
    return {
        "bare": lambda: work_async(),  # noqa: PLW0108 - likewise  # noqa: PLW0108  # a call as the others are
        "three layers": lambda: stack.call_async(work_async),
        "three layers, a listener": lambda: listened.call_async(work_async),
        "five layers": lambda: most.call_async(work_async),
        "nopanic, three layers": peer(work_async),
        "tenacity.AsyncRetrying": lambda: retrying(work_async),
    }


def measure(cases: dict[str, Callable[[], Any]]) -> dict[str, float]:
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, call in cases.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                call()
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS)
    return best


async def measure_async(cases: dict[str, Callable[[], Awaitable[Any]]]) -> dict[str, float]:
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, call in cases.items():
            began = time.perf_counter()
            for _ in range(CALLS):
                await call()
            best[name] = min(best[name], (time.perf_counter() - began) / CALLS)
    return best


def show(title: str, best: dict[str, float]) -> None:
    print(f"{title:30} {'extra':>9} {'of nopanic':>12} {'of tenacity':>12}")  # noqa: T201 - a script that reports
    extra = {name: seconds - best["bare"] for name, seconds in best.items()}
    fastest = extra["nopanic, three layers"]
    best_known = next(seconds for name, seconds in extra.items() if name.startswith("tenacity"))
    for name, seconds in extra.items():
        print(f"  {name:28} {seconds * 1e6:6.2f} us {seconds / fastest:12.2f} {seconds / best_known:12.3f}")  # noqa: T201


if __name__ == "__main__":
    show("sync", measure(sync_cases()))
    show("async", asyncio.run(measure_async(async_cases())))
