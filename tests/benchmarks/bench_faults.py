"""How long calls take, and how many succeed, while servers fail: errors, slow answers, a failover and back.

Calls come at a steady rate, whether earlier ones have been answered or not, and each is measured from the
moment it was due: whoever waits longer is not asked less often. The same requests are struck in every run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import httpx
import pybreaker
import tenacity
from goals import GOALS
from harness import MILLISECONDS, Report, Row, Spread, Table, in_child, in_order, judge, round_to
from quick_server import RunningServer, quick_server

from llm_config_resilience import Hedge, Pipeline
from llm_config_sdk import AsyncConfigClient, BreakerPolicy, CachePolicy, ResiliencePolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

NAMESPACE: Final = "app/llm"
KEY: Final = "model"
PATH: Final = "/api/v1/configs/app%2Fllm/model?env=development"
ATTEMPTS: Final = 3
JUDGED_RATE: Final = 0.1
SLOW: Final = 0.3  # seconds more that slow answers take
SLOW_SHARE: Final = 0.05
HEDGE_AFTER: Final = 0.03  # seconds; well above what a quick answer takes
PATIENCE: Final = 12.0  # seconds for the last answers of a run; a client's own limit is 10
GRACE: Final = 60.0  # seconds for a child beyond that

BARE: Final = "httpx"
BY_HAND: Final = "httpx, tenacity and pybreaker by hand"
OURS: Final = "AsyncConfigClient, one endpoint"
OURS_BACKUP: Final = "AsyncConfigClient, a backup that fails as often"
OURS_KNOWN: Final = "AsyncConfigClient, the last value known"
UNHEDGED: Final = "without a hedge"
HEDGED: Final = "with a hedge"


@dataclass(frozen=True, slots=True)
class Scale:
    """How many calls, and how close together."""

    calls: int = 1_000
    judged_calls: int = 5_000
    a_second: float = 400.0
    rounds: int = 2
    error_shares: Sequence[float] = (0.0, 0.01, 0.1, 0.3)
    before_outage: float = 2.0  # seconds, also those of the outage and those after it


SMOKE: Final = Scale(
    calls=30, judged_calls=30, a_second=300.0, rounds=1, error_shares=(0.1,), before_outage=0.5
)


# --- Who asks ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def bare(primary: str, backup: str) -> AsyncIterator[Any]:
    del backup
    async with httpx.AsyncClient(base_url=primary) as client:

        async def get() -> Any:
            return (await client.get(PATH)).raise_for_status().json()

        yield get


@contextlib.asynccontextmanager
async def by_hand(primary: str, backup: str) -> AsyncIterator[Any]:
    del backup
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    async with httpx.AsyncClient(base_url=primary) as client:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        async def get() -> Any:
            with breaker.calling():
                return (await client.get(PATH)).raise_for_status().json()

        yield get


@contextlib.asynccontextmanager
async def one_endpoint(primary: str, backup: str) -> AsyncIterator[Any]:
    del backup
    async with AsyncConfigClient(primary) as client:
        yield lambda: client.get_config(NAMESPACE, KEY, fresh=True)


@contextlib.asynccontextmanager
async def with_backup(primary: str, backup: str) -> AsyncIterator[Any]:
    async with AsyncConfigClient(primary, backups=[backup]) as client:
        yield lambda: client.get_config(NAMESPACE, KEY, fresh=True)


@contextlib.asynccontextmanager
async def known(primary: str, backup: str) -> AsyncIterator[Any]:
    """Every value is stale at once, so that each call asks a server; an old one stands in for an error."""
    del backup
    async with AsyncConfigClient(primary, cache=CachePolicy(ttl=0.0)) as client:
        yield lambda: client.get_config(NAMESPACE, KEY)


@contextlib.asynccontextmanager
async def hedged(primary: str, backup: str) -> AsyncIterator[Any]:
    """The toolkit's hedge around two clients: who is not answered soon asks the backup as well."""
    hedge = Pipeline(Hedge(HEDGE_AFTER))
    async with AsyncConfigClient(primary) as first, AsyncConfigClient(backup) as second:

        async def get() -> Any:
            clients = iter((first, second))
            return await hedge.call_async(lambda: next(clients).get_config(NAMESPACE, KEY, fresh=True))

        yield get


ASKING: Final = {
    BARE: bare,
    BY_HAND: by_hand,
    OURS: one_endpoint,
    OURS_BACKUP: with_backup,
    OURS_KNOWN: known,
}
HEDGING: Final = {UNHEDGED: with_backup, HEDGED: hedged}


# --- What becomes of calls --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    Attributes:
        due: When it was to begin, in seconds since the first.
        seconds: How long after that it ended.
        outcome: `ok`, or the error's class.
        endpoint: Who answered; empty where that is not known.
    """

    due: float
    seconds: float
    outcome: str
    endpoint: str


OK: Final = "ok"
NOT_ANSWERED: Final = "not answered"


async def paced(ask: Callable[[], Awaitable[Any]], calls: int, a_second: float) -> list[Call]:
    """Make calls at a steady rate."""
    done: list[Call] = []
    began = time.perf_counter()

    async def call(due: float) -> None:
        outcome, endpoint = OK, ""
        try:
            endpoint = getattr(await ask(), "endpoint", None) or ""
        except Exception as error:  # noqa: BLE001  # whatever it is, it is counted
            outcome = type(error).__name__
        done.append(Call(due, time.perf_counter() - began - due, outcome, endpoint))

    tasks = []
    for number in range(calls):
        due = number / a_second
        early = began + due - time.perf_counter()
        if early > 0:
            await asyncio.sleep(early)
        tasks.append(asyncio.create_task(call(due)))
    _, pending = await asyncio.wait(tasks, timeout=PATIENCE)
    done += [Call(calls / a_second, PATIENCE, NOT_ANSWERED, "")] * len(pending)
    return done


def one_run(case: str, primary: str, backup: str, calls: int, a_second: float) -> dict[str, Any]:
    """Measure one case, in a child process."""

    async def run() -> dict[str, Any]:
        opened = (ASKING | HEDGING)[case](primary, backup)  # and not closed: the process ends, and all of it
        ask = await opened.__aenter__()
        await ask_until_it_answers(ask)
        done = await paced(ask, calls, a_second)
        return {
            "seconds": [call.seconds for call in done if call.outcome == OK],
            "failures": Counter(call.outcome for call in done if call.outcome != OK),
        }

    # Not `asyncio.run`, which waits for what is still under way.
    limit = calls / a_second + PATIENCE + GRACE
    try:
        return in_child(lambda: asyncio.new_event_loop().run_until_complete(run()), limit)
    except TimeoutError:  # an event loop that its own queue keeps from everything else
        return {"seconds": [], "failures": {NOT_ANSWERED: calls}}


async def ask_until_it_answers(ask: Callable[[], Awaitable[Any]]) -> None:
    """Open a connection before the clock runs."""
    for _ in range(20):
        with contextlib.suppress(Exception):
            await ask()
            return


def percentile(values: Sequence[float], share: float) -> float:
    """Of all calls that succeeded, in milliseconds."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return round_to(ranked[min(len(ranked) - 1, int(share * len(ranked)))] * MILLISECONDS)


def summary(case: str, runs: Sequence[dict[str, Any]], at: float | None = None) -> Row:
    """Make a row of the runs of one case: p99 of each, and beside it what became of all calls together."""
    together = [seconds for run in runs for seconds in run["seconds"]]
    failed = sum(sum(run["failures"].values()) for run in runs)
    each = Spread.of(percentile(run["seconds"], 0.99) for run in runs)
    beside = {
        "ms at p50": percentile(together, 0.5),
        "ms at p99.9": percentile(together, 0.999),
        "success %": round(100 * len(together) / max(1, len(together) + failed), 4),
        "calls": len(together) + failed,
    }
    return Row(case, each, None, at, beside)


# --- Together ---------------------------------------------------------------------------------------


def through_errors(scale: Scale) -> Table:
    """Measure each case at each share of errors."""
    rows = []
    for share in scale.error_shares:
        runs: dict[str, list[dict[str, Any]]] = {case: [] for case in ASKING}
        for number in range(scale.rounds):
            for case in in_order(list(ASKING), number):
                is_judged = share == JUDGED_RATE and case in {OURS, OURS_BACKUP}
                calls = scale.judged_calls if is_judged else scale.calls
                # New servers for each turn, so that all of them meet the same errors.
                with (
                    quick_server(errors=share, seed=2 * number + 1) as primary,
                    quick_server(errors=share, seed=2 * number + 2) as backup,
                ):
                    runs[case].append(one_run(case, primary.url, backup.url, calls, scale.a_second))
        rows += [summary(case, taken, 100 * share) for case, taken in runs.items()]
    return Table(
        "errors",
        "Calls while servers answer 503",
        "ms at p99",
        "",
        rows,
        "% errors",
        "A run of five failures opens a circuit for a minute, as the platform's guide has it.",
    )


def through_slowness(name: str, title: str, scale: Scale, **slowness: float) -> Table:
    """Measure with and without a hedge."""
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in HEDGING}
    for number in range(scale.rounds):
        for case in in_order(list(HEDGING), number):
            with quick_server(seed=number, **slowness) as primary, quick_server() as backup:
                runs[case].append(one_run(case, primary.url, backup.url, scale.calls, scale.a_second))
    rows = [summary(case, taken) for case, taken in runs.items()]
    return Table(name, title, "ms at p99", "", rows, note=f"A hedge after {HEDGE_AFTER * MILLISECONDS:g} ms.")


async def failover(scale: Scale, primary: RunningServer, backup: RunningServer) -> list[Call]:
    """Call at a steady rate, while the primary goes down and comes back."""
    policy = ResiliencePolicy(failback_after=0.5, breaker=BreakerPolicy(timeout=0.5))
    loop = asyncio.get_running_loop()
    async with AsyncConfigClient(primary.url, backups=[backup.url], resilience=policy) as client:
        ask = partial(client.get_config, NAMESPACE, KEY, fresh=True)
        await ask_until_it_answers(ask)
        rate = scale.a_second / 2
        calls = asyncio.ensure_future(paced(ask, round(3 * scale.before_outage * rate), rate))
        await asyncio.sleep(scale.before_outage)
        await loop.run_in_executor(None, primary.stop)
        await asyncio.sleep(scale.before_outage)
        await loop.run_in_executor(None, primary.start)
        return await calls


def through_failover(scale: Scale) -> list[Table]:
    """Measure an outage of the primary: by phase, and by quarters of a second for the plot."""
    with quick_server() as primary, quick_server() as backup:
        done = asyncio.run(failover(scale, primary, backup))
        names = {primary.url: "the primary", backup.url: "the backup", "": "nobody"}
    long = scale.before_outage
    phases = {
        "before": (0.0, long),
        "the primary is down": (long, 2 * long),
        "it is back": (2 * long, 3 * long),
    }
    rows = []
    for phase, (begin, end) in phases.items():
        calls = [call for call in done if begin <= call.due < end]
        run = {
            "seconds": [call.seconds for call in calls if call.outcome == OK],
            "failures": Counter(call.outcome for call in calls if call.outcome != OK),
        }
        row = summary(phase, [run])
        by_primary = sum(names.get(call.endpoint) == "the primary" for call in calls)
        rows.append(
            Row(
                phase,
                row.figure,
                beside={**row.beside, "by the primary %": round(100 * by_primary / len(calls))},
            )
        )
    bin_seconds = long / 8
    timeline = [
        Row(
            who,
            Spread.of([sum(names.get(call.endpoint) == who for call in calls) / bin_seconds]),
            None,
            number * bin_seconds,
            {"ms at p99": percentile([call.seconds for call in calls], 0.99)},
        )
        for number in range(24)
        for calls in [[call for call in done if number == int(call.due / bin_seconds)]]
        for who in ("the primary", "the backup", "nobody")
    ]
    note = "The primary's process is killed, and started again on its port. A first probe after 0.5 s."
    return [
        Table("failover", "Calls through a failover and back", "ms at p99", "", rows, note=note),
        Table(
            "timeline",
            "Who answered, through a failover and back",
            "a second",
            "",
            timeline,
            "seconds",
            is_for_plot=True,
        ),
    ]


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    scale = SMOKE if quick else Scale()
    logging.disable(logging.CRITICAL)  # each failed call is logged, which is not what is measured
    errors = through_errors(scale)
    some = through_slowness(
        "slow answers", f"Calls while {SLOW_SHARE:.0%} of the primary's answers take 300 ms more", scale,
        slow=SLOW, slow_share=SLOW_SHARE,
    )  # fmt: skip
    every = through_slowness(
        "slow endpoint", "Calls while each of the primary's answers takes 300 ms more", scale, delay=SLOW
    )
    at = 100 * JUDGED_RATE
    verdicts = [
        judge(GOALS["success"], errors.find(OURS, at).beside["success %"]),
        judge(GOALS["success, a backup"], errors.find(OURS_BACKUP, at).beside["success %"]),
        *(
            judge(
                GOALS[f"hedge, {table.name}"],
                table.find(HEDGED).figure.median / max(table.find(UNHEDGED).figure.median, 0.001),
            )
            for table in (some, every)
        ),
    ]
    return Report("Latency through faults", [errors, some, every, *through_failover(scale)], verdicts)
