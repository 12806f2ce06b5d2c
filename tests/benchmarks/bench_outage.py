"""What a backend gets while it is down, and how long it takes to recover: one client, and a fleet of 10,000.

Run on the toolkit's simulation, so time is virtual and every figure is the same each time. tenacity is really
called: its own `AsyncRetrying` sleeps on the simulation's event loop.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import tenacity
from goals import GOALS
from harness import Report, Row, Spread, Table, judge, show

from llm_config_resilience import (
    CircuitBreaker,
    Pipeline,
    RatioBudget,
    Retry,
    RetryBudget,
    RetryPolicy,
    Timeout,
    retriable,
)
from llm_config_resilience.simulation import Latency, Outage, Scenario, Slow, simulate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from llm_config_resilience import Budget, Strategy
    from llm_config_resilience.simulation import Policy, Run

SEED: Final = 7
POLICY: Final = RetryPolicy(max_attempts=3)
DEADLINE: Final = 10.0  # seconds, for a call
ATTEMPT: Final = 1.0  # seconds, for an attempt
DEFAULT: Final = "refund budget (the default)"

#: SETTLED for goal 6: a hundred calls a second, and a minute in which every one fails.
ONE_CLIENT: Final = Scenario(
    name="one client", clients=1, rate=100.0, seconds=60.0, faults=(Outage(0.0, 60.0, way="error"),)
)
FLEET: Final = 10_000  # clients, that call now and then
FLEET_RATE: Final = 1 / 30  # calls a second that each makes: as often as an entry of the client's cache ages
BUSY: Final = 50  # clients, that call a lot
BUSY_RATE: Final = 2.0
QUICK: Final = 5  # clients in place of each, in a run that only sees whether it runs
LOAD_OF_A_WORKER: Final = 62.5  # calls a second that there is one for
HEADROOM: Final = 1.5  # what the server can do, beside what it is usually asked for
WAITING: Final = 10.0  # seconds of such usual load that may wait in line: far more than anybody waits for


def fleet(clients: int, rate: float) -> Scenario:
    """Make a server slow down to a fiftieth for half a minute, with so many clients before it."""
    usual = clients * rate
    workers = max(1, round(usual / LOAD_OF_A_WORKER))
    return Scenario(
        name="fleet",
        clients=clients,
        rate=rate,
        seconds=150.0,
        workers=workers,
        service_time=Latency(workers / (HEADROOM * usual), 0.2),
        queue=round(WAITING * usual),
        patience=5.0,
        faults=(Slow(30.0, 60.0, 50.0),),
    )


# --- Policies ---------------------------------------------------------------------------------------


def ours(budget: Callable[[], Budget | None], *guards: Callable[[], Strategy]) -> Policy:
    """Make pipelines of a deadline, a retry with a budget, these guards, and a limit for each attempt."""

    def policy() -> Pipeline:
        made = [guard() for guard in guards]
        return Pipeline(Timeout(DEADLINE), Retry(POLICY, budget=budget()), *made, Timeout(ATTEMPT))

    return policy


def unlimited() -> None:
    """Make no budget."""


def once() -> Pipeline:
    """Make no second attempt."""
    return Pipeline(Timeout(ATTEMPT))


def with_tenacity() -> Callable[..., Awaitable[Any]]:
    """Call through tenacity, with the limits that it has not, and the same attempts and waits as ours."""
    attempt = Pipeline(Timeout(ATTEMPT))

    async def call(ask: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async def in_time() -> Any:
            return await attempt.call_async(ask, *args)

        retrying = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(POLICY.max_attempts),
            wait=tenacity.wait_random_exponential(POLICY.initial_backoff, max=POLICY.max_backoff),
            retry=tenacity.retry_if_exception(
                lambda error: isinstance(error, Exception) and retriable(error)
            ),
            reraise=True,
        )
        return await retrying(in_time)

    return call


#: What is worth the time with a whole fleet.
IN_A_FLEET: Final = ("one attempt", "tenacity", "no budget", DEFAULT, "refund budget, breaker")
POLICIES: Final[Mapping[str, Policy]] = {
    "one attempt": once,
    "tenacity": with_tenacity,
    "no budget": ours(unlimited),
    "ratio budget": ours(RatioBudget),
    DEFAULT: ours(RetryBudget),
    "no budget, breaker": ours(unlimited, CircuitBreaker),
    "refund budget, breaker": ours(RetryBudget, CircuitBreaker),
}


# --- Measuring --------------------------------------------------------------------------------------


def row(case: str, run: Run) -> Row:
    """Make a row of a run: the load beside what was asked for, and what became of the callers."""
    recovery = run.time_to_recover
    beside = {
        "success": round(run.success_rate, 4),
        "peak load": run.peak_load,
        "p99 ms": round(1000 * run.latency(0.99)),
        # A run without an end to it has none to tell.
        **({} if recovery is None else {"recovers after s": recovery}),
    }
    return Row(case, Spread.of([run.amplification_in_faults]), beside=beside)


def table(name: str, title: str, scenario: Scenario, policies: Sequence[str], note: str) -> Table:
    """Run a scenario with each of the policies."""
    rows = [row(case, simulate(POLICIES[case], scenario, seed=SEED, check=False)) for case in policies]
    return Table(name, title, "requests a call", "", rows, note=note)


def measure(*, quick: bool = False) -> Report:
    """Run the simulations."""
    clients, many_calls = (QUICK, QUICK) if quick else (FLEET, BUSY)
    slow = "While it is slow. A policy without a time to recover had not recovered 90 seconds later."
    one = table(
        "one client",
        "One client, 100 calls a second, a minute in which every call fails",
        ONE_CLIENT.with_options(seconds=5.0) if quick else ONE_CLIENT,
        list(POLICIES),
        "Three attempts each.",
    )
    many = table(
        "fleet",
        f"{clients:,} clients, {clients * FLEET_RATE:,.0f} calls a second, a server slow for half a minute",
        fleet(clients, FLEET_RATE),
        IN_A_FLEET,
        slow,
    )
    busy = table(
        "busy",
        f"{many_calls} clients, {many_calls * BUSY_RATE:.0f} calls a second, the same",
        fleet(many_calls, BUSY_RATE),
        IN_A_FLEET,
        slow,
    )
    figure = one.find(DEFAULT).figure.median
    return Report("Load in an outage", (one, many, busy), (judge(GOALS["amplification"], figure),))


def rows() -> list[dict[str, Any]]:
    """Return the figures flat: case, figure, unit, goal, and whether it is met (`None` without a goal)."""
    report, goal = measure(), GOALS["amplification"]
    found = []
    for shown in report.tables:
        for line in shown.rows:
            is_judged = shown.name == "one client" and line.case == DEFAULT
            found.append(
                {
                    "case": f"{shown.name}: {line.case}",
                    "figure": line.figure.median,
                    "unit": shown.unit,
                    "goal": goal.bound if is_judged else None,
                    "met": line.figure.median <= goal.bound if is_judged else None,
                    **line.beside,
                }
            )
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{show(measure(quick='--quick' in sys.argv))}\n")
