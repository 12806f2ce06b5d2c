"""How many uncached reads a second, as callers grow; and how the cost of one grows with what a client holds.

Every measurement is a child process: so many callers, each asking again as soon as it is answered, for a
warm-up and then a window in which answers are counted. It is ended when the window is over, whatever its
callers wait for.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
import httpx2
from goals import GOALS
from harness import MICROSECONDS, Report, Row, Spread, Table, in_child, in_order, judge
from quick_server import quick_server

from llm_config_sdk import AsyncConfigClient, ConfigClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

NAMESPACE: Final = "app/llm"
PATH: Final = "/api/v1/configs/app%2Fllm/model?env=development"
SLOW: Final = 0.2  # seconds that the slow server takes
GRACE: Final = 15.0  # seconds that a child may need to start its callers and to answer
BASELINE: Final = "httpx"
ANSWERED: Final = "answered"
CPU: Final = "µs of processor time"  # of the client, for an answer
OURS: Final = "AsyncConfigClient"
OURS_SYNC: Final = "ConfigClient"


@dataclass(frozen=True, slots=True)
class Watch:
    """How a crowd is watched.

    Attributes:
        warm_up: Seconds before answers are counted.
        window: Seconds in which they are.
        rounds: How often.
    """

    warm_up: float
    window: float
    rounds: int

    @property
    def least(self) -> float:
        """One answer in the window, as a rate."""
        return 1 / self.window


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

PATIENT: Final = (50_000, 20, 50)
UNCOLLECTED: Final = "gc.disable()"
COLLECTORS: Final[dict[str, Callable[[], object]]] = {
    "as Python has it": lambda: None,
    f"gc.set_threshold{PATIENT}": lambda: gc.set_threshold(*PATIENT),
    UNCOLLECTED: gc.disable,
}
"""What Python's garbage collector is told: its passes go through what all calls under way hold."""


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
    before, began, began_cpu = _together(counts), time.perf_counter(), time.process_time()
    time.sleep(window)
    after, seconds, cpu = _together(counts), time.perf_counter() - began, time.process_time() - began_cpu
    made = after - before
    rates = {name: count / seconds for name, count in made.items()}
    return {**rates, CPU: cpu * MICROSECONDS / max(1, made[ANSWERED])}


def _together(counts: Iterable[Counter[str]]) -> Counter[str]:
    together = Counter[str]()
    for mine in counts:
        together.update(mine.copy())
    return together


def one_crowd(case: str, callers: int, url: str, watch: Watch, *, in_threads: bool) -> dict[str, float]:
    """Measure one case with so many callers, in a child process."""
    start: Any = (
        partial(threads, partial(SYNC[case], url))
        if in_threads
        else partial(tasks, partial(ASYNC[case], url))
    )
    return in_child(
        lambda: counted(start, callers, watch.warm_up, watch.window), watch.warm_up + watch.window + GRACE
    )


def crowds(
    name: str, title: str, url: str, sizes: Mapping[int, Watch], *, in_threads: bool = False
) -> list[Table]:
    """Measure all cases with each number of callers, in turns: answers, and processor time of one."""
    cases = list(SYNC if in_threads else ASYNC)
    answers, costs = [], []
    for callers, watch in sizes.items():
        taken: dict[str, Counts] = {case: [] for case in cases}
        for number in range(watch.rounds):
            for case in in_order(cases, number):
                taken[case].append(one_crowd(case, callers, url, watch, in_threads=in_threads))
        for case, counts in taken.items():
            answers.append(_rate(case, callers, counts, taken[BASELINE], watch))
            costs.append(Row(case, Spread.of(each[CPU] for each in counts), at=callers))
    axis = "threads" if in_threads else "callers"
    note = "Who answers nothing while it is watched is taken, for ratios, to have answered once."
    return [
        Table(name, title, "answers a second", BASELINE, answers, axis, note),
        Table(f"{name} cpu", f"{title}: the client's processor time", "µs an answer", "", costs, axis),
    ]


def collected(url: str, sizes: Mapping[int, Watch]) -> Table:
    """Measure our own tasks by what the collector is told, in turns."""

    def counted_so(tell: Callable[[], object], callers: int, watch: Watch) -> Any:
        tell()
        return counted(partial(tasks, partial(ASYNC[OURS], url)), callers, watch.warm_up, watch.window)

    rows = []
    for callers, watch in sizes.items():
        limit, taken = watch.warm_up + watch.window + GRACE, defaultdict[str, list[float]](list)
        for number in range(watch.rounds):
            for case in in_order(list(COLLECTORS), number):
                made = in_child(partial(counted_so, COLLECTORS[case], callers, watch), limit)
                taken[case].append(made.get(ANSWERED, 0.0))
        rows += [Row(case, Spread.of(rates), at=callers) for case, rates in taken.items()]
    title = f"Callers that are tasks, {OURS}, by what Python's garbage collector is told"
    return Table("collector", title, "answers a second", "", rows, "callers")


def _rate(case: str, callers: int, counts: Counts, reference: Counts, watch: Watch) -> Row:
    rates = [each.get(ANSWERED, 0.0) for each in counts]
    failures = sum(rate for each in counts for name, rate in each.items() if name not in {ANSWERED, CPU})
    others = [max(each.get(ANSWERED, 0.0), watch.least) for each in reference]
    ratios = [mine / other for mine, other in zip(rates, others, strict=True)]
    beside = {"failures a second": round(failures / len(counts), 1)} if failures else {}
    return Row(case, Spread.of(rates), Spread.of(ratios), callers, beside)


# --- Together ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the crowds are, and how each is watched. Judged are the second and the last two."""

    tasks: Mapping[int, Watch]
    threads: Mapping[int, Watch]
    slow: Mapping[int, Watch]


FEW: Final = Watch(warm_up=0.4, window=0.8, rounds=3)
MANY: Final = Watch(warm_up=1.2, window=2.0, rounds=3)  # a collapsed pool has to come to its answers
LONG: Final = Watch(warm_up=1.2, window=6.0, rounds=3)  # and they come a hundred at once
GLIMPSE: Final = Watch(warm_up=0.1, window=0.15, rounds=1)

FULL: Final = Scale(
    tasks={1: FEW, 10: FEW, 100: FEW, 500: MANY, 2_000: MANY},
    threads={1: FEW, 10: FEW, 64: FEW},
    slow={500: LONG},
)
SMOKE: Final = Scale(
    tasks=dict.fromkeys((1, 2, 4), GLIMPSE),
    threads=dict.fromkeys((1, 2), GLIMPSE),
    slow={4: Watch(warm_up=0.1, window=0.5, rounds=1)},
)


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    scale = SMOKE if quick else FULL
    sizes = list(scale.tasks)
    some, many, most = sizes[1], sizes[-2], sizes[-1]
    with quick_server() as server:
        by_tasks = crowds("async", "Callers that are tasks", server.url, scale.tasks)
        by_threads = crowds("threads", "Callers that are threads", server.url, scale.threads, in_threads=True)
        by_collector = collected(server.url, {size: scale.tasks[size] for size in (some, most)})
    with quick_server(delay=SLOW) as server:
        slow = crowds("slow", "Callers that are tasks; the server takes 200 ms", server.url, scale.slow)

    def flatness(table: Table, case: str) -> float:
        """The throughput of most callers beside that of some."""
        return table.find(case, most).figure.median / max(table.find(case, some).figure.median, FEW.least)

    at_many = by_tasks[0].find(OURS, many)
    theirs = by_tasks[0].find("httpx2", many).figure.median
    verdicts = [
        judge(GOALS["500 callers"], at_many.ratio.median),
        judge(GOALS["500 callers, httpx2"], at_many.figure.median / max(theirs, MANY.least)),
        judge(
            GOALS["500 callers, slow"],
            slow[0].find(OURS, max(scale.slow)).ratio.median,
            ours=slow[0].find(OURS, max(scale.slow)).figure.median,
            theirs=slow[0].find(BASELINE, max(scale.slow)).figure.median,
        ),
        judge(
            GOALS["flat"],
            flatness(by_tasks[0], OURS),
            uncollected=flatness(by_collector, UNCOLLECTED),
        ),
        judge(
            GOALS["64 threads"],
            by_threads[0].find(OURS_SYNC, max(scale.threads)).ratio.median,
            ours=by_threads[1].find(OURS_SYNC, max(scale.threads)).figure.median,
            theirs=by_threads[1].find(BASELINE, max(scale.threads)).figure.median,
        ),
    ]
    return Report("Throughput", [*by_tasks, by_collector, *by_threads, *slow], verdicts)
