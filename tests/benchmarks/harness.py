"""How benchmarks measure and report: in turns, in one run, as ratios, with their spread.

Every round gives each case one turn, in another order each time, so that a busy moment of the machine
strikes all of them. A ratio is taken within a round, between turns that are neighbours in time; what is
reported of the rounds is the median, with the quartiles beside it. What opens connections by the thousand, or
may not come back, runs in a child process that is ended when its time is up.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import json
import os
import platform
import select
import signal
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from goals import Goal

T = TypeVar("T")

MICROSECONDS: Final = 1e6
MILLISECONDS: Final = 1e3
TICK: Final = 1e-9  # seconds: the least that the clock can tell from nothing
DISTRIBUTIONS: Final = (
    "UnleashClient", "anyio", "cachetools", "httpcore", "httpcore2", "httpx", "httpx2", "hyx",
    "launchdarkly-server-sdk", "memray", "nopanic", "pybreaker", "pydantic", "pydantic-settings",
    "pyresilience", "pytest-httpserver", "requests", "stamina", "tenacity", "urllib3",
)  # fmt: skip


# --- What is reported -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds.

    Attributes:
        median: What it was in the middle round.
        low: The lower quartile.
        high: The upper quartile.
        least: The smallest.
    """

    median: float
    low: float
    high: float
    least: float

    @classmethod
    def of(cls, values: Iterable[float], scale: float = 1.0) -> Spread:
        """Summarise the figures of several rounds."""
        scaled = sorted(value * scale for value in values)
        low, median, high = (
            statistics.quantiles(scaled, n=4, method="inclusive") if len(scaled) > 1 else scaled * 3
        )
        return cls(*(round_to(value) for value in (median, low, high, scaled[0])))


@dataclass(frozen=True, slots=True)
class Row:
    """One case of a table.

    Attributes:
        case: What was measured.
        figure: The result, in the table's unit.
        ratio: The same beside the table's baseline, within each round; `None` for no comparison.
        at: Where on the table's axis, as a number of callers; `None` in a table without one.
        beside: More about it, by name: a success rate, failures.
    """

    case: str
    figure: Spread
    ratio: Spread | None = None
    at: float | None = None
    beside: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Table:
    """Cases that were measured together.

    Attributes:
        name: How goals and plots find it.
        title: What it shows.
        unit: Of its figures.
        baseline: The case that ratios are to; empty for none.
        rows: The cases.
        axis: What `Row.at` counts.
        note: What else to know when reading it.
        is_for_plot: Whether it is long, and of use only when drawn.
    """

    name: str
    title: str
    unit: str
    baseline: str
    rows: Sequence[Row]
    axis: str = ""
    note: str = ""
    is_for_plot: bool = False

    def find(self, case: str, at: float | None = None) -> Row:
        """Find a case."""
        return next(row for row in self.rows if row.case == case and row.at == at)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, and what was measured.

    Attributes:
        goal: What is asked, in words.
        figure: What was measured.
        bound: The least or the most that it may be, as text.
        met: Whether it is so.
        cause: Why it is not, where that was measured too.
    """

    goal: str
    figure: str
    bound: str
    met: bool
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What one benchmark found out."""

    title: str
    tables: Sequence[Table]
    verdicts: Sequence[Verdict] = ()


def round_to(value: float, digits: int = 4) -> float:
    """Round to so many significant digits: more would be noise."""
    return float(f"{value:.{digits}g}")


def judge(goal: Goal, figure: float, **facts: float) -> Verdict:
    """Compare a figure with a goal; `facts` are what was measured of the cause."""
    met = figure <= goal.bound if goal.sense == "at most" else figure >= goal.bound
    shown = f"{round_to(figure, 5):g}{goal.unit}"
    bound = f"{goal.sense} {goal.bound:g}{goal.unit}"
    known = {name: f"{round_to(value, 3):g}" for name, value in facts.items()}
    return Verdict(goal.text, shown, bound, met, "" if met else goal.cause.format(**known))


# --- Measuring --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a measurement is.

    Attributes:
        rounds: Turns that every case has.
        turn: Seconds that a turn takes, about; a turn is one call at least.
    """

    rounds: int
    turn: float

    @classmethod
    def smoke(cls) -> Effort:
        """Enough to see that it runs."""
        return cls(rounds=2, turn=0.0)


class Times:
    """Seconds a call, of every case in every round: on the clock, and of this process's processor time."""

    def __init__(self, cases: Iterable[str]) -> None:
        self.by_case: dict[str, list[float]] = {case: [] for case in cases}
        self.cpu_by_case: dict[str, list[float]] = {case: [] for case in self.by_case}

    def add(self, case: str, taken: tuple[float, float]) -> None:
        """Note a turn."""
        self.by_case[case].append(taken[0])
        self.cpu_by_case[case].append(taken[1])

    def cpu_rows(self, baseline: str, *, scale: float = MICROSECONDS) -> list[Row]:
        """Make rows of the processor time, which other processes and the server do not add to."""
        only_cpu = Times(self.cpu_by_case)
        only_cpu.by_case = self.cpu_by_case
        return only_cpu.rows(baseline, scale=scale)

    def rows(self, baseline: str, *, scale: float = MICROSECONDS, over: str = "") -> list[Row]:
        """Make rows of them.

        Args:
            baseline: The case that ratios are to.
            scale: Units in a second.
            over: A case whose cost is no part of the others', as that of a bare call.
        """
        extra = self._beyond(over) if over else self.by_case
        reference = extra[baseline]
        return [
            Row(
                case,
                Spread.of(values, scale),
                Spread.of(mine / (other or TICK) for mine, other in zip(values, reference, strict=True)),
            )
            for case, values in extra.items()
        ]

    def _beyond(self, case: str) -> dict[str, list[float]]:
        bare = self.by_case[case]
        return {
            name: [value - least for value, least in zip(values, bare, strict=True)]
            for name, values in self.by_case.items()
            if name != case
        }


def in_order(cases: Sequence[str], number: int) -> Iterable[str]:
    """Order the cases of a round: each begins with another one, and every second runs backwards."""
    shift = number % len(cases)
    turned = [*cases[shift:], *cases[:shift]]
    return turned if number % 2 else reversed(turned)


def _calls(seconds: float, turn: float) -> int:
    return max(1, round(turn / max(seconds, TICK)))


def in_turns(cases: Mapping[str, Callable[[], Any]], effort: Effort, *, warm_up: int = 20) -> Times:
    """Measure what one call of each costs."""
    calls = {case: _calls(_time(call, warm_up)[0], effort.turn) for case, call in cases.items()}
    times = Times(cases)
    gc.collect()
    for number in range(effort.rounds):
        for case in in_order(list(cases), number):
            times.add(case, _time(cases[case], calls[case]))
    return times


def _time(call: Callable[[], Any], calls: int) -> tuple[float, float]:
    began_cpu, began = time.process_time(), time.perf_counter()
    for _ in range(calls):
        call()
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return (ended - began) / calls, (ended_cpu - began_cpu) / calls


async def in_turns_async(
    cases: Mapping[str, Callable[[], Awaitable[Any]]], effort: Effort, *, warm_up: int = 20
) -> Times:
    """Measure what awaiting one call of each costs."""
    calls = {case: _calls((await _time_async(call, warm_up))[0], effort.turn) for case, call in cases.items()}
    times = Times(cases)
    gc.collect()
    for number in range(effort.rounds):
        for case in in_order(list(cases), number):
            times.add(case, await _time_async(cases[case], calls[case]))
    return times


async def _time_async(call: Callable[[], Awaitable[Any]], calls: int) -> tuple[float, float]:
    began_cpu, began = time.process_time(), time.perf_counter()
    for _ in range(calls):
        await call()
    ended, ended_cpu = time.perf_counter(), time.process_time()
    return (ended - began) / calls, (ended_cpu - began_cpu) / calls


def in_child(function: Callable[[], T], limit: float) -> T:
    """Run a function in a child process, and end it when it has answered or `limit` seconds are over.

    Nothing of it is tidied up: closing what 2,000 callers of a collapsed pool hold may take minutes.

    Raises:
        TimeoutError: It did not answer.
        RuntimeError: It failed; its traceback is on standard error.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(function, writing)
    os.close(writing)
    try:
        with os.fdopen(reading, "rb") as pipe:
            if not select.select([pipe], [], [], limit)[0]:
                raise TimeoutError(f"no answer within {limit:g} s")
            answer = pipe.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not answer:
        raise RuntimeError("a measurement failed")
    result: T = json.loads(answer)
    return result


def _be_child(function: Callable[[], Any], writing: int) -> None:
    # Every full pass of the collector would look at all that the parent has imported, peers and all, and copy
    # its pages: that is this harness's doing, and costs whoever keeps most calls going most.
    gc.freeze()
    try:
        with os.fdopen(writing, "w") as pipe:
            json.dump(function(), pipe)
    except BaseException:  # noqa: BLE001  # whatever it is, it must not go on into the parent's code
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


# --- Writing down -----------------------------------------------------------------------------------


class Company:
    """How busy other programs kept the machine meanwhile: where they did, microseconds say little."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), _busy_seconds(), _own_seconds()

    def cores(self) -> float | None:
        """Cores that others used, in the mean; `None` where the system does not say."""
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        others = (busy - self._busy) - (_own_seconds() - self._own)
        return round(max(0.0, others) / (time.monotonic() - self._began), 2)


def _busy_seconds() -> float | None:
    try:
        line = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return None
    user, nice, system = (int(word) for word in line.split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


def machine() -> dict[str, Any]:
    """Say what it was measured on, and with which versions."""
    versions = {}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": versions,
    }


def as_data(report: Report) -> dict[str, Any]:
    """Make JSON of a report."""
    return asdict(report)


def show(report: Report) -> str:
    """Write a report as text."""
    lines = [f"\n=== {report.title}"]
    for table in report.tables:
        if table.is_for_plot:
            continue
        of = f"of {table.baseline}" if table.baseline else ""
        lines += ["", f"{table.title} ({table.unit})"]
        where = f"{table.axis:>12}" if table.axis else ""
        lines.append(f"  {'':<44}{where}{'median':>10}{'quartiles':>20}{'ratio':>9}  {of}")
        lines += [f"  {_shown(row, table)}" for row in table.rows]
    lines += ["", *(_shown_verdict(verdict) for verdict in report.verdicts)]
    return "\n".join(lines)


def _shown(row: Row, table: Table) -> str:
    at = f"{row.at:>12,g}" if table.axis and row.at is not None else ""
    figure = row.figure
    spread = f"{figure.low:g} - {figure.high:g}"
    ratio = ""
    if row.ratio is not None:
        ratio = f"{row.ratio.median:>9.3g}  {row.ratio.low:.3g} - {row.ratio.high:.3g}"
    beside = "".join(f"  {name} {value:g}" for name, value in row.beside.items())
    return f"{row.case:<44}{at}{figure.median:>10,g}{spread:>20}{ratio}{beside}".rstrip()


def _shown_verdict(verdict: Verdict) -> str:
    word = "met    " if verdict.met else "NOT MET"
    cause = f": {verdict.cause}" if verdict.cause else ""
    return f"  {word} {verdict.goal}: {verdict.figure} ({verdict.bound}){cause}"
