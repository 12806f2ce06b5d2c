"""What the figures are to be, as data; docs/performance.md lists each with what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """What one figure is to be.

    Attributes:
        text: What is asked, for the table of goals.
        sense: Which side is good.
        bound: The figure.
        unit: Written behind figures, with its space where it has one.
        cause: Why it is not met; only what was measured belongs here.
    """

    text: str
    sense: Literal["at most", "at least"]
    bound: float
    unit: str = "×"  # noqa: RUF001  # the sign is meant
    cause: str = ""


GOALS: Final[dict[str, Goal]] = {
    # --- 1: the engine ---
    **{
        f"engine {situation} {colour}": Goal(f"{what}, {colour}, beside nopanic", "at most", 1.0)
        for situation, what in (
            ("success", "A call that succeeds, through three layers"),
            ("retry", "A call that fails once, then succeeds"),
            ("rejection", "A call turned away by an open circuit"),
            ("cache", "A value that is cached"),
        )
        for colour in ("sync", "async")
    },
    # --- 2: one uncached read ---
    "client sync": Goal("An uncached get_config, the full stack on, beside bare httpx, sync", "at most", 0.6),
    "client async": Goal("The same, async", "at most", 0.65),
    # --- 4: throughput ---
    "500 callers": Goal("Throughput of 500 async callers, beside bare httpx", "at least", 30),
    "500 callers, httpx2": Goal("The same, beside bare httpx2", "at least", 1.5),
    "500 callers, slow": Goal(
        "Throughput of 500 async callers of a server that takes 200 ms, beside bare httpx", "at least", 10
    ),
    "flat": Goal("Throughput of 2,000 async callers, beside that of 10", "at least", 0.85),
    "64 threads": Goal("Throughput of 64 threads, beside a bare httpx.Client", "at least", 3),
}
