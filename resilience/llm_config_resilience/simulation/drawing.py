"""A run as a picture: what callers got and what servers were asked, second by second. Needs matplotlib."""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from llm_config_resilience.simulation.figures import Ending, Run

Scheme = Literal["light", "dark"]

SCHEMES: Final[Mapping[Scheme, Mapping[str, str]]] = {
    "light": {
        "text": "#374151",
        "grid": "#e5e7eb",
        "good": "#0f766e",
        "bad": "#b45309",
        "well": "#99f6e4",
        "second best": "#fde68a",
        "ill": "#fca5a5",
    },
    "dark": {
        "text": "#d1d5db",
        "grid": "#374151",
        "good": "#5eead4",
        "bad": "#fbbf24",
        "well": "#115e59",
        "second best": "#854d0e",
        "ill": "#991b1b",
    },
}
"""Colours by what they stand for, on a light and on a dark page."""

#: What is stacked, from below: a colour, a label, and the endings that belong to it.
_BANDS: Final[tuple[tuple[str, str, tuple[Ending, ...]], ...]] = (
    ("well", "answered by a server or a fresh cache", ("call", "cache")),
    ("second best", "answered by something stale", ("stale", "fallback")),
    ("ill", "not answered", ("failed", "rejected")),
)
_LINES: Final = ("-", "--", ":", "-.")
_INCHES: Final = (7.0, 3.6)


def settings(colours: Mapping[str, str]) -> dict[str, Any]:
    """Return matplotlib's settings for a page: the same bytes every time, text as text."""
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "llm-config-sdk",
        "font.family": "sans-serif",
        "text.color": colours["text"],
        "axes.labelcolor": colours["text"],
        "xtick.color": colours["text"],
        "ytick.color": colours["text"],
        "axes.edgecolor": colours["grid"],
    }


def prepare(axes: Any, colours: Mapping[str, str]) -> None:
    """Take off what distracts from the figures."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=colours["grid"], linewidth=0.6)
    axes.set_axisbelow(True)


def draw(run: Run, axes: Any, colours: Mapping[str, str]) -> None:
    """Draw what became of the calls, what each server got, and how many circuits were open.

    Args:
        run: The run.
        axes: matplotlib's axes.
        colours: One of `SCHEMES`.
    """
    seconds = range(ceil(run.scenario.seconds))
    for start, end in _spells(run):
        axes.axvspan(start, end, color=colours["grid"], alpha=0.5, linewidth=0)
    bands = [
        [sum(run.ended.get(ending, Counter[int]())[second] for ending in endings) for second in seconds]
        for _, _, endings in _BANDS
    ]
    axes.stackplot(
        seconds,
        *bands,
        colors=[colours[colour] for colour, _, _ in _BANDS],
        labels=[label for _, label, _ in _BANDS],
        step="post",
        linewidth=0,
    )
    for number, (server, load) in enumerate(sorted(run.load.items())):
        style = _LINES[number % len(_LINES)]
        requests = [load[second] for second in seconds]
        axes.step(
            seconds,
            requests,
            where="post",
            color=colours["good"],
            linestyle=style,
            linewidth=1.2,
            label=f"requests that {server} got",
        )
    if run.transitions:
        share = [count / run.scenario.clients for count in _open_circuits(run, len(seconds))]
        top = axes.get_ylim()[1]
        axes.step(
            seconds,
            [top * part for part in share],
            where="post",
            color=colours["bad"],
            linewidth=1.2,
            label="clients with an open circuit (all: full height)",
        )
    axes.set_xlim(0, len(seconds))
    axes.set_ylim(0)
    axes.set_xlabel("seconds; what went wrong is shaded")
    axes.set_ylabel("a second")


def save(run: Run, path: str | PathLike[str], *, scheme: Scheme = "light") -> None:
    """Draw a run into a file, as SVG, PNG or PDF by its name.

    Args:
        run: The run.
        path: The file.
        scheme: Whether the page it is for is light or dark.

    Raises:
        ImportError: matplotlib is not installed (extra `plots`).
        ValueError: matplotlib knows no such kind of file.
        OSError: The file cannot be written.
    """
    import matplotlib as mpl  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - an extra

    plots: Any = mpl  # its types are partly unknown
    colours = SCHEMES[scheme]
    with plots.rc_context(settings(colours)):
        figure: Any = Figure(figsize=_INCHES, layout="tight")
        axes = figure.add_subplot()
        prepare(axes, colours)
        draw(run, axes, colours)
        axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(0, -0.22), ncols=2)
        figure.savefig(path, transparent=str(path).endswith(".svg"))


def _spells(run: Run) -> list[tuple[float, float]]:
    """When something was wrong, as spells that do not overlap: shades would add up."""
    spells: list[tuple[float, float]] = []
    for start, end in sorted((fault.start, fault.end) for fault in run.scenario.faults):
        if spells and start <= spells[-1][1]:
            spells[-1] = (spells[-1][0], max(end, spells[-1][1]))
        else:
            spells.append((start, end))
    return spells


def _open_circuits(run: Run, seconds: int) -> list[int]:
    """Count the clients that have an open circuit at the beginning of each second."""
    state: dict[tuple[int, str], str] = {}
    counts: list[int] = []
    changes = iter(run.transitions)
    change = next(changes, None)
    for second in range(seconds):
        while change is not None and change.time <= second:
            state[change.client, change.circuit] = change.state
            change = next(changes, None)
        counts.append(len({client for (client, _), what in state.items() if what == "opened"}))
    return counts
