#!/usr/bin/env python3
"""Draw the plots of the documentation, from runs of the toolkit itself on a clock moved by hand.

`make docs` runs it; a test compares what it draws with what is committed. Each plot is drawn twice, for a
light and for a dark page.
"""

from __future__ import annotations

import io
import math
import random
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from llm_config_resilience import (
    CacheFallback,
    CircuitBreaker,
    Failover,
    Hedge,
    ManualClock,
    MemoryStore,
    PerTarget,
    Pipeline,
    Quantile,
    Retry,
    RetryBudget,
    RetryPolicy,
    Timeout,
)
from llm_config_resilience.simulation import Latency, Outage, Run, Scenario, drawing, simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

IMAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "images"
SEED: Final = 7

# --- Figures ------------------------------------------------------------------------------------

CLIENTS: Final = 1000  # that fail together
BIN_SECONDS: Final = 0.1
SHOWN_SECONDS: Final = 5.0
EXACT: Final = 1e-9  # bins: what a sum of floats may be short of


def arrivals(jitter: Literal["full", "none"]) -> list[int]:
    """Count the retries of clients that fail together, by tenths of a second: three of each."""
    policy = RetryPolicy(max_attempts=4, initial_backoff=0.5, jitter=jitter)
    counts = [0] * round(SHOWN_SECONDS / BIN_SECONDS)
    draw = random.Random(SEED).random  # noqa: S311  # jitter, no secret
    for _ in range(CLIENTS):
        times: list[float] = []
        clock = ManualClock(0.0)

        def ask(times: list[float] = times, clock: ManualClock = clock) -> None:
            times.append(clock.monotonic())
            raise ConnectionError

        with suppress(ConnectionError):
            Pipeline(Retry(policy, budget=None), clock=clock, random=draw).call(ask)
        for time in times[1:]:
            counts[int(time / BIN_SECONDS + EXACT)] += 1
    return counts


CALLS_PER_SECOND: Final = 100
OUTAGE: Final = range(10, 40)  # seconds
STORM_SECONDS: Final = 60


def storm(budget: RetryBudget | None) -> list[int]:
    """Count the requests in each second before, in and after an outage; three attempts without a wait."""
    clock = ManualClock(0.0)
    stack = Pipeline(Retry(RetryPolicy(max_attempts=3, initial_backoff=0.0), budget=budget), clock=clock)
    counts = [0] * STORM_SECONDS
    second = 0

    def backend() -> None:
        counts[second] += 1
        if second in OUTAGE:
            raise ConnectionError

    for call in range(STORM_SECONDS * CALLS_PER_SECOND):
        second = call // CALLS_PER_SECOND
        with suppress(ConnectionError):
            stack.call(backend)
        clock.advance(1 / CALLS_PER_SECOND)
    return counts


#: The primary is away for a while, and in the middle of that its backup, too.
TWO_SERVERS: Final = Scenario(
    seconds=150.0,
    clients=20,
    servers=2,
    faults=(Outage(20.0, 110.0, server=0), Outage(45.0, 75.0, server=1)),
)


def whole_stack(servers: tuple[str, ...]) -> Pipeline:
    """Make what the client has by default, with shorter times, so that a few minutes show all of it."""
    return Pipeline(
        CacheFallback(MemoryStore(), key=lambda key: key, ttl=2.0, stale_if_error=3600.0),
        Timeout(10.0),
        Retry(),
        Failover(servers, failback_after=10.0),
        PerTarget(lambda server: CircuitBreaker(timeout=10.0, name=server)),
        Timeout(5.0),
    )


@cache
def outage() -> Run:
    """Run the whole stack through both outages."""
    return simulate(whole_stack, TWO_SERVERS, seed=SEED)


#: Most answers come soon, and a few take very long: a spread of 1.5 puts the 99th percentile at 33 medians.
LONG_TAIL: Final = Scenario(seconds=120.0, clients=20, rate=5.0, service_time=Latency(0.01, 1.5))
PERCENTILES: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


def hedging() -> Pipeline:
    """Make a second call beside one that is slower than nineteen in twenty."""
    return Pipeline(Timeout(5.0), Hedge(Quantile(0.95)))


def waiting() -> Pipeline:
    """Wait for the one call."""
    return Pipeline(Timeout(5.0))


@cache
def tail(policy: Callable[[], Pipeline]) -> Run:
    """Run a policy against servers with a long tail."""
    return simulate(policy, LONG_TAIL, seed=SEED)


# --- Drawing ------------------------------------------------------------------------------------


def draw_backoff(axes: Any, colours: Mapping[str, str]) -> None:
    """Draw when the retries of a thousand clients arrive."""
    times = [number * BIN_SECONDS for number in range(round(SHOWN_SECONDS / BIN_SECONDS))]
    axes.bar(times, arrivals("none"), BIN_SECONDS, align="edge", color=colours["bad"], label="without jitter")
    axes.bar(times, arrivals("full"), BIN_SECONDS, align="edge", color=colours["good"], label="full jitter")
    axes.set_xlabel("seconds since all of them failed")
    axes.set_ylabel("retries in 0.1 s")


def draw_storm(axes: Any, colours: Mapping[str, str]) -> None:
    """Draw what a backend gets in an outage."""
    axes.axvspan(OUTAGE.start, OUTAGE.stop, color=colours["grid"], alpha=0.5, linewidth=0)
    axes.step(range(STORM_SECONDS), storm(None), where="post", color=colours["bad"], label="without a budget")
    axes.step(
        range(STORM_SECONDS), storm(RetryBudget()), where="post", color=colours["good"], label="refund budget"
    )
    axes.set_ylim(0)
    axes.set_xlabel("seconds; the outage is shaded")
    axes.set_ylabel("requests a second")


def draw_hedge(axes: Any, colours: Mapping[str, str]) -> None:
    """Draw how long calls take, the slow ones spread out."""
    places = [-math.log10(1 - percentile / 100) for percentile in PERCENTILES]
    for policy, colour, label in (
        (waiting, "bad", "one call"),
        (hedging, "good", "a second one beside a slow one"),
    ):
        times = [1000 * tail(policy).latency(percentile / 100) for percentile in PERCENTILES]
        axes.plot(places, times, marker="o", markersize=3, color=colours[colour], label=label)
    axes.set_xticks(places, [f"{percentile:g} %" for percentile in PERCENTILES])
    axes.set_ylim(0)
    axes.set_xlabel("so many of the calls take no longer")
    axes.set_ylabel("ms")


def draw_outage(axes: Any, colours: Mapping[str, str]) -> None:
    """Draw what cache, failover and breakers make of two outages."""
    drawing.draw(outage(), axes, colours)


PLOTS: Final[dict[str, Callable[[Any, Mapping[str, str]], None]]] = {
    "backoff": draw_backoff,
    "hedge": draw_hedge,
    "outage": draw_outage,
    "storm": draw_storm,
}
LEGENDS: Final[dict[Callable[[Any, Mapping[str, str]], None], dict[str, Any]]] = {
    draw_outage: {"loc": "upper left", "bbox_to_anchor": (0, -0.22), "ncols": 2, "fontsize": "small"},
    draw_hedge: {"loc": "upper left"},
}


def svg(draw: Callable[[Any, Mapping[str, str]], None], colours: Mapping[str, str]) -> str:
    """Draw a plot, the same bytes every time."""
    legend = LEGENDS.get(draw, {"loc": "upper right"})
    with mpl.rc_context(drawing.settings(colours)):
        figure = Figure(figsize=(7, 3.6 if "bbox_to_anchor" in legend else 3), layout="tight")
        axes = figure.add_subplot()
        drawing.prepare(axes, colours)
        draw(axes, colours)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, **legend)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def plots() -> Iterator[tuple[Path, Callable[[], str]]]:
    """Name every picture, and how it is made."""
    for name, draw in PLOTS.items():
        for scheme, colours in drawing.SCHEMES.items():
            yield (
                IMAGES / f"{name}-{scheme}.svg",
                lambda draw=draw, colours=colours: svg(draw, colours),
            )


def main() -> None:
    """Draw every plot that differs from what is there."""
    for path, make in plots():
        text = make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"drew {path.name}\n")


if __name__ == "__main__":
    main()
