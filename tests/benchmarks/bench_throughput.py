"""How many uncached reads a second, as callers grow; and how the cost of one grows with what a client holds.

Every measurement is a child process: so many callers, each asking again as soon as it is answered, for a
warm-up and then a window in which answers are counted. It is ended when the window is over, whatever its
callers wait for.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
import httpx2
from goals import GOALS
from harness import Effort, Report, Row, Spread, Table, in_child, in_order, judge
from quick_server import quick_server

from llm_config_sdk import AsyncConfigClient, ConfigClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

NAMESPACE: Final = "app/llm"
PATH: Final = "/api/v1/configs/app%2Fllm/model?env=development"
FULL_EFFORT: Final = Effort(rounds=3, turn=1.0)
SLOW_EFFORT: Final = Effort(rounds=3, turn=2.0)
SLOW: Final = 0.2  # seconds that the slow server takes
GRACE: Final = 15.0  # seconds that a child may need to start its callers and to answer
BASELINE: Final = "httpx"
ANSWERED: Final = "answered"
OURS: Final = "AsyncConfigClient"
OURS_SYNC: Final = "ConfigClient"


# --- Who asks ---------------------------------------------------------------------------------------


def ours_async(url: str, **options: Any) -> Callable[[], Awaitable[Any]]:
    client, keys = AsyncConfigClient(url, **options), itertools.count()
    return lambda: client.get_config(NAMESPACE, f"key{next(keys)}")


def httpx_async(url: str) -> Callable[[], Awaitable[Any]]:
    client = httpx.AsyncClient(base_url=url)

    async def get() -> Any:
        return (await client.get(PATH)).raise_for_status().json()

    return get


def httpx2_async(url: str) -> Callable[[], Awaitable[Any]]:
    client = httpx2.AsyncClient(base_url=url)

    async def get() -> Any:
        return (await client.get(PATH)).raise_for_status().json()

    return get


def ours_sync(url: str, **options: Any) -> Callable[[], Any]:
    client, keys = ConfigClient(url, **options), itertools.count()
    return lambda: client.get_config(NAMESPACE, f"key{next(keys)}")


def httpx_sync(url: str) -> Callable[[], Any]:
    client = httpx.Client(base_url=url)
    return lambda: client.get(PATH).raise_for_status().json()


def httpx2_sync(url: str) -> Callable[[], Any]:
    client = httpx2.Client(base_url=url)
    return lambda: client.get(PATH).raise_for_status().json()


Counts = list[dict[str, float]]
"""By round, what callers got, a second: answers, and errors by their name."""

ASYNC: Final[dict[str, Callable[[str], Callable[[], Awaitable[Any]]]]] = {
    OURS: ours_async,
    "AsyncConfigClient, transport='httpx2'": partial(ours_async, transport="httpx2"),
    BASELINE: httpx_async,
    "httpx2": httpx2_async,
}
SYNC: Final[dict[str, Callable[[str], Callable[[], Any]]]] = {
    OURS_SYNC: ours_sync,
    "ConfigClient, transport='httpx2'": partial(ours_sync, transport="httpx2"),
    BASELINE: httpx_sync,
    "httpx2": httpx2_sync,
}


# --- How many ---------------------------------------------------------------------------------------


def tasks(make: Callable[[], Callable[[], Awaitable[Any]]], counts: list[Counter[str]]) -> None:
    """Let tasks ask, each as soon as it is answered, in a thread that has the event loop."""

    async def call(ask: Callable[[], Awaitable[Any]], mine: Counter[str]) -> None:
        while True:
            try:
                await ask()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
                mine[type(error).__name__] += 1
                await asyncio.sleep(0)  # a call that fails at once must not keep the others from running
            else:
                mine[ANSWERED] += 1

    async def crowd() -> None:
        ask = make()
        await asyncio.gather(*(call(ask, mine) for mine in counts))

    threading.Thread(target=lambda: asyncio.run(crowd()), daemon=True).start()


def threads(make: Callable[[], Callable[[], Any]], counts: list[Counter[str]]) -> None:
    """Let threads ask, each as soon as it is answered."""
    ask = make()

    def call(mine: Counter[str]) -> None:
        while True:
            try:
                ask()
            except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
                mine[type(error).__name__] += 1
            else:
                mine[ANSWERED] += 1

    for mine in counts:
        threading.Thread(target=call, args=(mine,), daemon=True).start()


def counted(start: Callable[[list[Counter[str]]], None], callers: int, warm_up: float, window: float) -> Any:
    """Count what so many callers are answered within a window, from a thread that no event loop can block."""
    counts = [Counter[str]() for _ in range(callers)]
    start(counts)
    time.sleep(warm_up)
    before, began = _together(counts), time.perf_counter()
    time.sleep(window)
    after, seconds = _together(counts), time.perf_counter() - began
    return {name: count / seconds for name, count in (after - before).items()}


def _together(counts: Iterable[Counter[str]]) -> Counter[str]:
    together = Counter[str]()
    for mine in counts:
        together.update(mine.copy())
    return together


def one_crowd(
    case: str, callers: int, url: str, *, in_threads: bool, warm_up: float, window: float
) -> dict[str, float]:
    """Measure one case with so many callers, in a child process."""
    start: Any = (
        partial(threads, partial(SYNC[case], url))
        if in_threads
        else partial(tasks, partial(ASYNC[case], url))
    )
    return in_child(lambda: counted(start, callers, warm_up, window), warm_up + window + GRACE)


def crowds(
    name: str,
    title: str,
    url: str,
    sizes: Sequence[int],
    effort: Effort,
    *,
    warm_up: float,
    in_threads: bool = False,
) -> Table:
    """Measure all cases with each number of callers, in turns."""
    cases = list(SYNC if in_threads else ASYNC)
    rows = []
    for callers in sizes:
        taken: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
        for number in range(effort.rounds):
            for case in in_order(cases, number):
                taken[case].append(
                    one_crowd(case, callers, url, in_threads=in_threads, warm_up=warm_up, window=effort.turn)
                )
        rows += [_row(case, callers, counts, taken[BASELINE], effort) for case, counts in taken.items()]
    axis = "threads" if in_threads else "callers"
    return Table(name, title, "answers a second", BASELINE, rows, axis)


def _row(case: str, callers: int, counts: Counts, reference: Counts, effort: Effort) -> Row:
    rates = [each.get(ANSWERED, 0.0) for each in counts]
    failures = sum(rate for each in counts for name, rate in each.items() if name != ANSWERED)
    # Who answers nothing in the window is taken to have answered once.
    least = 1 / effort.turn
    ratios = [
        mine / max(other.get(ANSWERED, 0.0), least) for mine, other in zip(rates, reference, strict=True)
    ]
    beside = {"failures a second": round(failures / len(counts), 1)} if failures else {}
    return Row(case, Spread.of(rates), Spread.of(ratios), callers, beside)


# --- Together ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the crowds are, and how long they are watched. The second and the last two are judged."""

    sizes: Sequence[int] = (1, 10, 100, 500, 2_000)
    threads: Sequence[int] = (1, 10, 64)
    slow_callers: int = 500
    warm_up: float = 0.6  # seconds
    effort: Effort = FULL_EFFORT
    slow_effort: Effort = SLOW_EFFORT


SMOKE: Final = Scale(
    sizes=(1, 2, 4, 8),
    threads=(1, 2),
    slow_callers=4,
    warm_up=0.1,
    effort=Effort(1, 0.15),
    slow_effort=Effort(1, 0.5),
)


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    scale = SMOKE if quick else Scale()
    with quick_server() as server:
        by_tasks = crowds(
            "async", "Callers that are tasks", server.url, scale.sizes, scale.effort, warm_up=scale.warm_up
        )
        by_threads = crowds(
            "threads", "Callers that are threads", server.url, scale.threads, scale.effort,
            warm_up=scale.warm_up, in_threads=True,
        )  # fmt: skip
    with quick_server(delay=SLOW) as server:
        slow = crowds(
            "slow", "Callers that are tasks; the server takes 200 ms", server.url, [scale.slow_callers],
            scale.slow_effort, warm_up=scale.warm_up,
        )  # fmt: skip
    some, many, most = scale.sizes[1], scale.sizes[-2], scale.sizes[-1]
    least = 1 / scale.effort.turn

    def beside(ours: Row, other: Row) -> float:
        return ours.figure.median / max(other.figure.median, least)

    at_many = by_tasks.find(OURS, many)
    verdicts = [
        judge(GOALS["500 callers"], at_many.ratio.median),
        judge(GOALS["500 callers, httpx2"], beside(at_many, by_tasks.find("httpx2", many))),
        judge(GOALS["500 callers, slow"], slow.find(OURS, scale.slow_callers).ratio.median),
        judge(GOALS["flat"], beside(by_tasks.find(OURS, most), by_tasks.find(OURS, some))),
        judge(GOALS["64 threads"], by_threads.find(OURS_SYNC, scale.threads[-1]).ratio.median),
    ]
    return Report("Throughput", [by_tasks, by_threads, slow], verdicts)
