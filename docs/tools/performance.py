#!/usr/bin/env python3
"""Write docs/performance.md, and draw its plots, from the figures that `make performance` measured.

`make docs` runs it too; a test compares what it makes with what is committed.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import plots

from llm_config_resilience.simulation import drawing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
FIGURES: Final = DOCS / "performance.json"
PAGE: Final = DOCS / "performance.md"

NOTE: Final = "<!-- Written by docs/tools/performance.py from performance.json: run `make performance`. -->"
INTRO: Final = """\
# Performance

This project beside what people would use instead, measured by a command that anyone can repeat:
`make performance` measures everything and writes this page; `make bench` only measures, and
`make bench BENCH=client` does a part of it.

How to read the figures:

- Everything in a table was measured **in turns**, in one run: in each round every case has one turn, in
  another order each time, so that a busy moment of the machine strikes all of them.
- A **ratio** is taken between turns of the same round. What is shown is the median of the rounds, with the
  quartiles in brackets. Ratios carry over to other machines; microseconds do not.
- The server is the smallest one that a client is content with, one asyncio process of its own, so that what
  is measured is the client. `tests/benchmarks/` has all of it.
"""

QUIET: Final = 0.2  # cores that other programs may take
BUSY: Final = """\
**The machine was busy with other things.** Ratios of processor time hold. Times, throughput and what
is judged by them are worse than on a machine that is left alone."""

#: By benchmark: what to know before its tables, and the plots that stand before them.
SECTIONS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "engine": (
        """\
What the toolkit adds to a call of a function that does nothing. Each library does what it has: tenacity and
stamina retry only, pybreaker is a breaker only, hyx has no sync side.""",
        (),
    ),
    "client": (
        """\
One caller, over a connection that is kept. `get_config` reads, validates and keeps an entry, with deadline,
retry, failover and breaker around it; the others parse JSON. A raw socket is the limit, and on the clock it
waits for two programs to be woken: the quieter a machine is, the more of every figure that is.""",
        ("client",),
    ),
    "cached": (
        """\
A read that needs no server. Ratios are to `get_config`: 10 is ten times as slow.""",
        (),
    ),
    "throughput": (
        """\
Callers that ask again as soon as they are answered: answers a second, and the ratio to bare httpx with as
many callers. At most a hundred requests are under way at once (`max_in_flight`); beyond it callers wait in
line. What throughput loses between 10 callers and 2,000 goes to Python's garbage collector, as a table of its
own shows: a program with thousands of calls under way gains by a collector that is told to be patient.""",
        ("throughput",),
    ),
    "growth": ("How the cost of a read grows with what a client holds.", ("entries",)),
    "faults": (
        "Calls at a steady rate, each measured from the moment it was due.",
        ("errors", "failover"),
    ),
    "outage": ("Simulated, on a clock moved by hand: the same in every run.", ()),
    "deadlines": (
        "Calls whose answer has no end, and programs that start while no server is of help.",
        (),
    ),
    "footprint": ("Memory, allocations, imports.", ()),
    "server": ("The reference server of this project, beside one that tests often use.", ()),
}

#: By plot: what somebody is told who does not see it, and what to see in it.
PLOTS: Final = {
    "client": (
        "Bars: one uncached read beside bare httpx, sync and async",
        "Bars that end before the line are quicker than bare httpx, which does less.",
    ),
    "throughput": (
        "Lines: answers a second, by the number of async callers",
        "From one caller to two thousand: who keeps answering, and who does not.",
    ),
    "entries": (
        "Lines: microseconds of a cached read, by entries in the cache",
        "The client's line rises where a plain dict's does.",
    ),
    "errors": (
        "Bars: the share of calls that succeed, by case, at the highest share of errors",
        "The last rows of the first table below: what was read before is answered, whatever servers do.",
    ),
    "failover": (
        "Areas: answers a second by primary and backup, while the primary goes down and comes back",
        "The primary is killed, and the backup answers at once. When it is back, it is preferred again.",
    ),
}
DRAWN_FROM: Final = "Drawn by `make docs` from the figures of this page."

MILLION: Final = 1_000_000  # from which `g` writes powers
ROOM: Final = 1.5  # times the highest figure: a legend has room above all of them

Figures = dict[str, Any]

# --- Tables -------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Write a figure with three significant digits, or all of a large one."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004  # digits before the point are enough
        return f"{value:,.0f}"
    return f"{value:.3g}"


def ratio(spread: Mapping[str, float]) -> str:
    """Write a ratio with its quartiles."""
    return f"{number(spread['median'])} ({number(spread['low'])} to {number(spread['high'])})"


def table_of(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; what is not in the first column is a figure."""
    lines = ["| " + " | ".join(headings) + " |", "|---|" + "---:|" * (len(headings) - 1)]
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join(lines)


def plain_table(table: Figures) -> str:
    """Write a table that has no axis: a line a case."""
    rows = table["rows"]
    beside = list(dict.fromkeys(name for row in rows for name in row["beside"]))
    has_ratio = any(row["ratio"] for row in rows)
    has_spread = has_ratio and any(row["figure"]["low"] != row["figure"]["high"] for row in rows)
    headings = ["", table["unit"]]
    if has_spread:
        headings.append("quartiles")
    if has_ratio:
        headings.append(f"ratio to {table['baseline']}")

    def cells_of(row: Figures) -> list[str]:
        figure = row["figure"]
        cells = [row["case"], number(figure["median"])]
        if has_spread:
            cells.append(f"{number(figure['low'])} to {number(figure['high'])}")
        if has_ratio:
            spread = row["ratio"]
            is_one = not has_spread or row["case"] == table["baseline"]
            cells.append(number(spread["median"]) if is_one else ratio(spread))
        return [*cells, *cells_beside(row, beside)]

    return table_of([*headings, *beside], map(cells_of, rows))


def cells_beside(row: Figures, names: Iterable[str]) -> list[str]:
    """Write what a row says besides its figure; a share keeps its digits, for they are what counts."""
    found = row["beside"]
    return [
        "" if name not in found else f"{found[name]:g}" if name.endswith("%") else number(found[name])
        for name in names
    ]


def place_of(at: float) -> str:
    """Write a place on an axis."""
    return f"{at:,.0f}" if at >= MILLION else f"{at:,g}"


def crossed_table(table: Figures) -> str:
    """Write a table with an axis: a line a case, a column a place."""
    rows = table["rows"]
    places = list(dict.fromkeys(row["at"] for row in rows))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    found = {(row["case"], row["at"]): row for row in rows}

    def cell(row: Figures) -> str:
        text = number(row["figure"]["median"])
        if row["ratio"] and row["case"] != table["baseline"]:
            text += f" ({number(row['ratio']['median'])}×)"  # noqa: RUF001  # the sign is meant
        for name, value in row["beside"].items():
            text += f"; {number(value)} {name}"
        return text

    headings = [table["axis"], *map(place_of, places)]
    return table_of(headings, ([case, *(cell(found[case, place]) for place in places)] for case in cases))


def listed_table(table: Figures) -> str:
    """Write a table with an axis whose cases have several figures each: a line each, place by place."""
    beside = list(table["rows"][0]["beside"])
    rows = (
        [row["case"], f"{row['at']:g}", number(row["figure"]["median"]), *cells_beside(row, beside)]
        for row in table["rows"]
    )
    return table_of(["", table["axis"], table["unit"], *beside], rows)


def written(table: Figures) -> str:
    """Write one table, with its title and its note."""
    if not table["axis"]:
        body = plain_table(table)
    elif all(len(row["beside"]) > 1 for row in table["rows"]):
        body = listed_table(table)
    else:
        body = crossed_table(table)
    unit = "" if table["unit"] in body else f" ({table['unit']})"
    note = f"\n\n{table['note']}" if table["note"] else ""
    return f"**{table['title']}**{unit}\n\n{body}{note}"


# --- The page -----------------------------------------------------------------------------------------


def goals(figures: Figures) -> Iterator[str]:
    """Say which goals are met; and of the others why not, where that was measured."""
    verdicts = [verdict for report in figures["benchmarks"].values() for verdict in report["verdicts"]]
    missed = [verdict for verdict in verdicts if not verdict["met"]]
    yield "## Goals"
    yield f"{len(verdicts) - len(missed)} of {len(verdicts)} are met."
    yield table_of(
        ["", "measured", "goal", "met"],
        (
            [verdict["goal"], verdict["figure"], verdict["bound"], "yes" if verdict["met"] else "**no**"]
            for verdict in verdicts
        ),
    )
    if missed:
        yield "Not met, and why:"
        yield "\n".join(
            f"- {verdict['goal']}: {verdict['figure']}, {verdict['bound']}. "
            + (verdict["cause"] or "The cause has not been measured.")
            for verdict in missed
        )


def picture(name: str) -> str:
    """Show a plot, the one for the page's colours."""
    alternative, caption = PLOTS[name]
    told = {"light": alternative, "dark": "The same, for a dark page"}
    pictures = [
        f"![{told[scheme]}](images/performance-{name}-{scheme}.svg#only-{scheme})"
        for scheme in drawing.SCHEMES
    ]
    return "\n".join([*pictures, "", f"{caption} {DRAWN_FROM}", "{ .caption }"])


def sections(figures: Figures) -> Iterator[str]:
    """Write what each benchmark found."""
    for name, report in figures["benchmarks"].items():
        intro, shown = SECTIONS[name]
        yield f"## {report['title']}"
        yield f"{intro} `make bench BENCH={name}`, {report['seconds']} s.".strip()
        yield from map(picture, shown)
        yield from (written(table) for table in report["tables"] if not table["is_for_plot"])


def machine(figures: Figures) -> str:
    """Say where it was measured."""
    found, others = figures["machine"], figures["machine"]["cores_of_others"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    busy = f"\n\n{BUSY}" if (others or 0.0) > QUIET else ""
    return (
        f"Measured on {found['python']}, {found['system']} with {found['cores']} cores"
        f"{'' if others is None else f', of which other programs took {others:g} meanwhile'}. "
        f"Versions: {versions}. "
        "All figures, with quartiles and minima, are in [performance.json](performance.json)."
        f"{busy}"
    )


def page(figures: Figures) -> str:
    """Write the page."""
    failed = ", ".join(figures["failed"])
    missing = [f"Not here, for they did not end well in this run: {failed}."] if failed else []
    parts = [NOTE, INTRO.rstrip(), machine(figures), *missing, *goals(figures), *sections(figures)]
    return "\n\n".join(parts) + "\n"


# --- Plots --------------------------------------------------------------------------------------------


def found_table(figures: Figures, benchmark: str, name: str) -> Figures:
    """Find a table."""
    tables: list[Figures] = figures["benchmarks"][benchmark]["tables"]
    return next(table for table in tables if table["name"] == name)


def draw_client(figures: Figures, axes: Any, colours: dict[str, str]) -> None:
    """Draw what a read costs beside bare httpx."""
    sync, in_async = found_table(figures, "client", "sync"), found_table(figures, "client", "async")
    ratios = {row["case"]: row["ratio"]["median"] for row in in_async["rows"]}
    cases = [row["case"] for row in sync["rows"] if row["case"] in ratios][::-1]
    both = {row["case"]: row["ratio"]["median"] for row in sync["rows"]}
    axes.barh([place + 0.2 for place in range(len(cases))], [both[case] for case in cases], 0.38,
              color=colours["good"], label="sync")  # fmt: skip
    axes.barh([place - 0.2 for place in range(len(cases))], [ratios[case] for case in cases], 0.38,
              color=colours["bad"], label="async")  # fmt: skip
    axes.axvline(1.0, color=colours["text"], linewidth=0.8)
    axes.set_yticks(range(len(cases)), cases)
    axes.set_xlabel("time of one read, beside httpx")


def draw_lines(table: Figures, axes: Any, colours: dict[str, str], *, label: str, unit: str) -> None:
    """Draw a table with an axis: our cases in one colour, the others in another."""
    cases = list(dict.fromkeys(row["case"] for row in table["rows"]))
    seen = {"good": 0, "bad": 0}
    for case in cases:
        rows = [row for row in table["rows"] if row["case"] == case]
        side = "good" if "Client" in case or "get_config" in case else "bad"
        style = ("-", "--", ":")[seen[side]]
        seen[side] += 1
        axes.plot(
            [row["at"] for row in rows], [row["figure"]["median"] for row in rows], style, marker="o",
            markersize=3, color=colours[side], label=case,
        )  # fmt: skip
    places = list(dict.fromkeys(row["at"] for row in table["rows"]))
    axes.set_xscale("log")
    axes.minorticks_off()
    axes.set_xticks(places, [place_of(place) for place in places])
    axes.set_xlabel(label)
    axes.set_ylabel(unit)


def draw_throughput(figures: Figures, axes: Any, colours: dict[str, str]) -> None:
    """Draw answers a second."""
    table = found_table(figures, "throughput", "async")
    draw_lines(table, axes, colours, label="callers", unit="answers a second")
    axes.set_ylim(0, axes.get_ylim()[1] * ROOM)


def draw_entries(figures: Figures, axes: Any, colours: dict[str, str]) -> None:
    """Draw what a cached read costs."""
    table = found_table(figures, "growth", "entries")
    draw_lines(table, axes, colours, label="entries in the cache", unit="µs")
    axes.set_ylim(0, axes.get_ylim()[1] * ROOM)


def draw_errors(figures: Figures, axes: Any, colours: dict[str, str]) -> None:
    """Draw how many calls succeed."""
    table = found_table(figures, "faults", "errors")
    places = list(dict.fromkeys(row["at"] for row in table["rows"]))
    most = [row for row in table["rows"] if row["at"] == places[-1]][::-1]
    shares = [row["beside"]["success %"] for row in most]
    sides = ["good" if "Client" in row["case"] else "bad" for row in most]
    axes.barh(range(len(most)), shares, 0.6, color=[colours[side] for side in sides])
    axes.set_yticks(range(len(most)), [row["case"] for row in most])
    axes.set_xlabel(f"% of calls that succeed, at {places[-1]:g} % errors")


def draw_failover(figures: Figures, axes: Any, colours: dict[str, str]) -> None:
    """Draw who answered."""
    table = found_table(figures, "faults", "timeline")
    by_who: dict[str, list[Figures]] = {}
    for row in table["rows"]:
        by_who.setdefault(row["case"], []).append(row)
    times = [row["at"] for row in by_who["the primary"]]
    heights = {who: [row["figure"]["median"] for row in rows] for who, rows in by_who.items()}
    axes.stackplot(
        times, heights["the primary"], heights["the backup"], heights["nobody"],
        colors=[colours["good"], colours["bad"], colours["text"]],
        labels=["by the primary", "by the backup", "not at all"],
    )  # fmt: skip
    axes.set_ylim(0, ROOM * max(map(sum, zip(*heights.values(), strict=True))))
    axes.set_xlabel("seconds")
    axes.set_ylabel("answers a second")


DRAWN: Final[dict[str, Callable[[Figures, Any, dict[str, str]], None]]] = {
    "client": draw_client,
    "throughput": draw_throughput,
    "entries": draw_entries,
    "errors": draw_errors,
    "failover": draw_failover,
}


def files(figures: Figures) -> Iterator[tuple[Path, Callable[[], str]]]:
    """Name everything that follows from the figures, and how it is made."""
    yield PAGE, partial(page, figures)
    shown = [name for report in figures["benchmarks"] for name in SECTIONS[report][1]]
    for name in shown:
        draw = DRAWN[name]
        for scheme, colours in drawing.SCHEMES.items():
            path = plots.IMAGES / f"performance-{name}-{scheme}.svg"
            yield path, partial(plots.svg, partial(draw, figures), colours)


def read() -> Figures:
    """Read the figures."""
    figures: Figures = json.loads(FIGURES.read_text())
    return figures


def main() -> None:
    """Write and draw what differs from what is there."""
    for path, make in files(read()):
        text = make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path.name}\n")


if __name__ == "__main__":
    main()
