#!/usr/bin/env python3
"""Draw the plots of the documentation, from runs of the toolkit itself on a clock moved by hand.

`make docs` runs it; a test compares what it draws with what is committed. Each plot is drawn twice, for a
light and for a dark page.
"""

from __future__ import annotations

import io
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import matplotlib as mpl
from matplotlib.figure import Figure

from llm_config_resilience import ManualClock, Pipeline, Retry, RetryBudget, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGES: Final = Path(__file__).resolve().parents[2] / "docs" / "images"
SEED: Final = 7
SCHEMES: Final = {
    "light": {"text": "#374151", "grid": "#e5e7eb", "good": "#0f766e", "bad": "#b45309"},
    "dark": {"text": "#d1d5db", "grid": "#374151", "good": "#5eead4", "bad": "#fbbf24"},
}

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


# --- Drawing ------------------------------------------------------------------------------------


def draw_backoff(axes: Any, colours: dict[str, str]) -> None:
    """Draw when the retries of a thousand clients arrive."""
    times = [number * BIN_SECONDS for number in range(round(SHOWN_SECONDS / BIN_SECONDS))]
    axes.bar(times, arrivals("none"), BIN_SECONDS, align="edge", color=colours["bad"], label="without jitter")
    axes.bar(times, arrivals("full"), BIN_SECONDS, align="edge", color=colours["good"], label="full jitter")
    axes.set_xlabel("seconds since all of them failed")
    axes.set_ylabel("retries in 0.1 s")


def draw_storm(axes: Any, colours: dict[str, str]) -> None:
    """Draw what a backend gets in an outage."""
    axes.axvspan(OUTAGE.start, OUTAGE.stop, color=colours["grid"], alpha=0.5, linewidth=0)
    axes.step(range(STORM_SECONDS), storm(None), where="post", color=colours["bad"], label="without a budget")
    axes.step(
        range(STORM_SECONDS), storm(RetryBudget()), where="post", color=colours["good"], label="refund budget"
    )
    axes.set_ylim(0)
    axes.set_xlabel("seconds; the outage is shaded")
    axes.set_ylabel("requests a second")


PLOTS: Final[dict[str, Callable[[Any, dict[str, str]], None]]] = {
    "backoff": draw_backoff,
    "storm": draw_storm,
}


def svg(draw: Callable[[Any, dict[str, str]], None], colours: dict[str, str]) -> str:
    """Draw a plot, the same bytes every time."""
    settings: dict[str, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "llm-config-sdk",
        "font.family": "sans-serif",
        "text.color": colours["text"],
        "axes.labelcolor": colours["text"],
        "xtick.color": colours["text"],
        "ytick.color": colours["text"],
        "axes.edgecolor": colours["grid"],
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7, 3), layout="tight")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color=colours["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes, colours)
        axes.legend(frameon=False, loc="upper right")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in buffer.getvalue().splitlines())


def plots() -> Iterator[tuple[Path, Callable[[], str]]]:
    """Name every picture, and how it is made."""
    for name, draw in PLOTS.items():
        for scheme, colours in SCHEMES.items():
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
