"""How the cost of a read grows with what a client holds: entries in its cache, endpoints.

A child process for each number, so that what one leaves in memory is no part of the next.
"""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from harness import Effort, Report, Row, Table, Times, in_child, in_turns
from quick_server import quick_server

from llm_config_sdk import CachePolicy, ConfigClient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NAMESPACE: Final = "app/llm"
LONG: Final = 3600.0  # seconds: nothing expires
ENTRIES: Final = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
ENDPOINTS: Final = (1, 2, 4, 16, 64)
ASKED: Final = 1_000  # names that are read in turn, drawn from all
SEED: Final = 7
OURS: Final = "get_config"
DICT: Final = "a dict of as many"
LIMIT: Final = 300.0  # seconds for one child; a million entries take 15 s to make on a quiet machine
READ_EFFORT: Final = Effort(rounds=30, turn=0.002)
CALL_EFFORT: Final = Effort(rounds=20, turn=0.05)


def read(url: str, entries: int, effort: Effort) -> dict[str, list[float]]:
    """Measure a cached read among so many entries."""
    keys = [f"key{number}" for number in range(entries)]
    plain = dict.fromkeys((NAMESPACE, key) for key in keys)
    drawn = random.Random(SEED)
    asked = [drawn.choice(keys) for _ in range(ASKED)]
    with ConfigClient(url, cache=CachePolicy(ttl=LONG, max_entries=entries + 1)) as client:
        client.get_config(NAMESPACE, "model")
        kept = client._core.cache._entries  # filled from inside: a million calls would take ten minutes
        one = kept[NAMESPACE, "model", "development"]
        gc.disable()
        for key in keys:
            entry = one.value.model_copy(update={"key": key})
            kept[NAMESPACE, key, "development"] = replace(one, value=entry)
        gc.enable()
        ours, theirs = _in_turn(asked), _in_turn(asked)
        times = in_turns(
            {
                OURS: lambda: client.get_config(NAMESPACE, next(ours)),
                DICT: lambda: plain.get((NAMESPACE, next(theirs))),
            },
            effort,
        )
    return times.by_case


def _in_turn(names: Sequence[str]) -> Any:
    while True:
        yield from names


def ask(url: str, endpoints: int, effort: Effort) -> dict[str, list[float]]:
    """Measure an uncached read of a client with so many endpoints, of which the first answers."""
    backups = [f"{url}/backup{number}" for number in range(endpoints - 1)]
    with ConfigClient(url, backups=backups) as client:
        times = in_turns({OURS: lambda: client.get_config(NAMESPACE, "model", fresh=True)}, effort)
    return times.by_case


def grown(sizes: Sequence[int], measure_one: Callable[[int], dict[str, list[float]]]) -> list[Row]:
    """Measure with each number; ratios are to the smallest."""
    rows: list[Row] = []
    first: dict[str, list[float]] = {}
    for size in sizes:
        by_case = in_child(partial(measure_one, size), LIMIT)
        first = first or by_case
        for case, values in by_case.items():
            times = Times([case, "first"])
            times.by_case = {case: values, "first": first[case]}
            row, _ = times.rows("first")
            rows.append(Row(case, row.figure, row.ratio, size))
    return rows


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    read_effort, call_effort = (Effort.smoke(), Effort.smoke()) if quick else (READ_EFFORT, CALL_EFFORT)
    entries, endpoints = (ENTRIES[:3], ENDPOINTS[:2]) if quick else (ENTRIES, ENDPOINTS)
    with quick_server() as server:
        by_entries = grown(entries, lambda size: read(server.url, size, read_effort))
        by_endpoints = grown(endpoints, lambda size: ask(server.url, size, call_effort))
    few, many = f"with {entries[0]}", f"with {endpoints[0]}"
    found = [
        Table("entries", "A cached read, by entries in the cache", "µs a call", few, by_entries, "entries"),
        Table("endpoints", "An uncached read, by endpoints", "µs a call", many, by_endpoints, "endpoints"),
    ]
    return Report("Growth", found)
