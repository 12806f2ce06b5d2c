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


_CLIENT: Final = (
    "In processor time the ratio is {cpu}. It is {plain} for the same call without cache and resilience, and "
    "{httpcore} for httpcore's pool with json.loads and nothing else."
)
_THREADS: Final = (
    "Threads take turns at one interpreter, so processor time decides: an answer takes {ours} µs here, and "
    "{theirs} µs with httpx."
)

_FLAT: Final = (
    "Python's garbage collector goes through what all calls under way hold, sixty objects each, with every "
    "pass. With the collector off it is {uncollected}×."  # noqa: RUF001  # the sign is meant
)
_SLOW: Final = (
    "At most 100 requests are in flight unless `max_in_flight=` says more, so there cannot be more than 500 "
    "answers a second: there are {ours} here, and {theirs} with httpx."
)
_SUCCESS: Final = (
    "One call in a thousand fails in all its three attempts: ten are expected, twenty allowed, and chance "
    "makes more than that in one run of five hundred."
)
_IMPORT: Final = (
    "The SDK's own hundred modules are a fifth of it, and making sixty dataclasses is a third of that; "
    "`python -X importtime -c 'import llm_config_sdk'` has it module by module."
)

GOALS: Final[dict[str, Goal]] = {
    # --- 1: the engine ---
    "engine sync": Goal(
        "A call that succeeds through fallback, retry and breaker, beside nopanic, sync", "at most", 1.0
    ),
    "engine async": Goal(
        "A call that succeeds through fallback, retry and breaker, beside nopanic, async", "at most", 1.0
    ),
    # --- 2: one uncached read ---
    "client sync": Goal(
        "An uncached get_config, the full stack on, beside bare httpx, sync", "at most", 0.6, cause=_CLIENT
    ),
    "client async": Goal(
        "An uncached get_config, the full stack on, beside bare httpx, async", "at most", 0.65, cause=_CLIENT
    ),
    # --- 3: a cached read ---
    "cached": Goal("A cached get_config", "at most", 1.2, " µs"),
    "cached, LaunchDarkly": Goal(
        "LaunchDarkly's local evaluation, beside a cached get_config", "at least", 10
    ),
    "cached, Unleash": Goal("Unleash's local evaluation, beside a cached get_config", "at least", 10),
    # --- 4: throughput ---
    "500 callers": Goal("Throughput of 500 async callers, beside bare httpx", "at least", 30),
    "500 callers, httpx2": Goal("Throughput of 500 async callers, beside bare httpx2", "at least", 1.5),
    "500 callers, slow": Goal(
        "Throughput of 500 async callers of a server that takes 200 ms, beside bare httpx",
        "at least",
        10,
        cause=_SLOW,
    ),
    "flat": Goal("Throughput of 2,000 async callers, beside that of 10", "at least", 0.85, cause=_FLAT),
    "64 threads": Goal("Throughput of 64 threads, beside a bare httpx.Client", "at least", 3, cause=_THREADS),
    # --- 5: faults ---
    "success": Goal(
        "Success at 10 % errors, 10,000 calls, three attempts", "at least", 99.8, " %", cause=_SUCCESS
    ),
    "success, a backup": Goal(
        "Success at 10 % errors, 10,000 calls, with a backup that fails as often", "at least", 99.99, " %"
    ),
    "hedge, slow answers": Goal(
        "p99 with a hedge, beside p99 without, when one answer in 20 is slow", "at most", 0.5
    ),
    "hedge, slow endpoint": Goal(
        "p99 with a hedge, beside p99 without, when every answer of one endpoint is slow", "at most", 0.5
    ),
    # --- 6: load in an outage ---
    "amplification": Goal(
        "Requests a call of one client with three attempts, while every call fails, breaker off",
        "at most",
        1.05,
        unit="",
    ),
    # --- 7: footprint ---
    "import": Goal(
        "Importing the SDK, beside the four libraries with one model and one settings class",
        "at most",
        1.25,
        cause=_IMPORT,
    ),
    # --- 8: deadlines ---
    "early": Goal("A call ends after its deadline of 0.5 s, and not before", "at least", 0, " ms"),
    "late, median": Goal(
        "After that deadline, whatever the server does, the median of the worst case", "at most", 50, " ms"
    ),
    "late, worst": Goal("The same, the worst call of all", "at most", 50, " ms"),
    "401": Goal(
        "A program that starts with a token that is refused learns of it, at worst", "at most", 100, " ms"
    ),
    "snapshot": Goal(
        "A program that starts with no server there has its snapshot's answer, at worst", "at most", 50, " ms"
    ),
    "429, least": Goal("A call that is told to come again in 1 s waits for so long", "at least", 1000, " ms"),
    "429, most": Goal("And hardly longer", "at most", 1300, " ms"),
}
