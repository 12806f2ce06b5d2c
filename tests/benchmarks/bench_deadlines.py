"""How late a call ends whose answer has no end, and how soon a program starts that no server helps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from endless_server import ANSWERS, endless_server
from goals import GOALS
from harness import MILLISECONDS, Report, Row, Spread, Table, in_order, judge, round_to

from llm_config_mock_server import MockServer, error
from llm_config_sdk import (
    AsyncConfigClient,
    ConfigClient,
    RequestTimeoutError,
    ResiliencePolicy,
    UnauthorizedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NAMESPACE: Final = "app/llm"
KEY: Final = "model"
SEED: Final = 7
DEADLINE: Final = 0.5  # seconds
RETRY_AFTER: Final = 1  # seconds
ROUNDS: Final = 8  # of calls that take half a second, 16 a round
FEW_ROUNDS: Final = 3  # of calls that take a second, 4 a round
MANY_ROUNDS: Final = 20  # of calls that take milliseconds
UNBROKEN: Final = ResiliencePolicy(breaker=None)  # an open circuit would end calls at once

Family = Literal["httpx", "httpx2"]
WAYS: Final[tuple[tuple[str, Family], ...]] = tuple(product(("sync", "async"), ("httpx", "httpx2")))


# --- Calls ------------------------------------------------------------------------------------------


def timed(call: Callable[[], Any], expected: type[Exception] | None) -> float:
    """Seconds until a call ends in the way that it has to."""
    began = time.perf_counter()
    try:
        call()
    except Exception as caught:
        ended = time.perf_counter()
        if expected is None or not isinstance(caught, expected):
            raise
    else:
        ended = time.perf_counter()
        assert expected is None, f"it was answered, and {expected} was expected"
    return ended - began


def lateness(read: Callable[[], object]) -> float:
    """Seconds from its deadline until a call ends."""
    return timed(read, RequestTimeoutError) - DEADLINE


@contextlib.contextmanager
def reading(colour: str, *args: Any, **options: Any) -> Iterator[Callable[[], object]]:
    """Make a client, and a function that reads an entry through it; in async, on a loop that is kept."""
    if colour == "sync":
        with ConfigClient(*args, **options) as client:
            yield lambda: client.get_config(NAMESPACE, KEY, fresh=True)
        return
    with asyncio.Runner() as runner:
        asking = AsyncConfigClient(*args, **options)
        try:
            yield lambda: runner.run(asking.get_config(NAMESPACE, KEY, fresh=True))
        finally:
            runner.run(asking.aclose())


def first_read(colour: str, *args: Any, **options: Any) -> object:
    """Make a client and read, as a program does that starts."""
    if colour == "sync":
        with ConfigClient(*args, **options) as client:
            return client.get_config(NAMESPACE, KEY)

    async def main() -> object:
        async with AsyncConfigClient(*args, **options) as client:
            return await client.get_config(NAMESPACE, KEY)

    return asyncio.run(main())


def rounds_of(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each in turns."""
    found: dict[str, list[float]] = {case: [] for case in cases}
    for number in range(rounds):
        for case in in_order(list(cases), number):
            found[case].append(cases[case]())
    return found


def rows(found: Mapping[str, Sequence[float]]) -> list[Row]:
    """Make rows of seconds, with the worst beside the median."""
    return [
        Row(
            case,
            Spread.of(values, MILLISECONDS),
            beside={"worst": round_to(max(values) * MILLISECONDS)},
        )
        for case, values in found.items()
    ]


# --- Deadlines --------------------------------------------------------------------------------------


def deadlines(rounds: int) -> Table:
    """See how long after its deadline a call ends, whatever the server does."""
    with contextlib.ExitStack() as stack:
        addresses = stack.enter_context(endless_server())
        cases: dict[str, Callable[[], float]] = {}
        for (colour, family), kind in product(WAYS, ANSWERS):
            read = stack.enter_context(
                reading(
                    colour,
                    addresses[kind],
                    timeout=DEADLINE,
                    transport=family,
                    resilience=UNBROKEN,
                    cache=None,
                    trust_env=False,
                )
            )
            cases[f"{kind}, {colour}, {family}"] = partial(lateness, read)
        return Table(
            "lateness",
            f"How long after its deadline of {DEADLINE:g} s a call ends",
            "ms",
            "",
            rows(rounds_of(cases, rounds)),
        )


# --- Starting ---------------------------------------------------------------------------------------


def starts(rounds: int) -> Table:
    """See how long a program that starts waits for a server that refuses it, or is not there."""
    with MockServer(seed=SEED) as refusing, tempfile.TemporaryDirectory() as folder:
        with MockServer(seed=SEED) as dead:
            dead.put(NAMESPACE, KEY, "gpt-4")
            known = {"token": dead.token(), "snapshot": str(Path(folder) / "snapshot.json")}
            first_read("sync", dead.url, **known)
            address = dead.url
        cases: dict[str, Callable[[], float]] = {}
        for colour, family in WAYS:
            refused = partial(first_read, colour, refusing.url, token="wrong", transport=family)
            cases[f"401, {colour}, {family}"] = partial(timed, refused, UnauthorizedError)
            alone = partial(first_read, colour, address, transport=family, **known)
            cases[f"no server, a snapshot, {colour}, {family}"] = partial(timed, alone, None)
        rounds_of(cases, 1)  # imports what is imported at the first use
        title = "From making a client to its first answer or error"
        return Table("starts", title, "ms", "", rows(rounds_of(cases, rounds)))


# --- Rate limits ------------------------------------------------------------------------------------


def rate_limits(rounds: int) -> Table:
    """See how long a call waits that is told to come again in a second."""
    limited = error("RATE_LIMIT_EXCEEDED", retry_after=RETRY_AFTER)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(MockServer(seed=SEED))
        server.put(NAMESPACE, KEY, "gpt-4")
        cases: dict[str, Callable[[], float]] = {}
        for colour, family in WAYS:
            read = stack.enter_context(
                reading(colour, server.url, token=server.token(), transport=family, cache=None)
            )

            def once_refused(read: Callable[[], object] = read) -> float:
                server.script("GET", limited)
                return timed(read, None)

            cases[f"{colour}, {family}"] = once_refused
        return Table(
            "429",
            f"A call whose first answer is 429 with Retry-After: {RETRY_AFTER}",
            "ms",
            "",
            rows(rounds_of(cases, rounds)),
        )


# --- Together ---------------------------------------------------------------------------------------


def worst(table: Table, word: str = "") -> float:
    """Find the worst figure of the cases with a word in their name."""
    return max(row.beside["worst"] for row in table.rows if word in row.case)


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    logging.getLogger("llm_config_sdk").setLevel(logging.CRITICAL)  # each incident would be a line
    many, some, few = (1, 1, 1) if quick else (MANY_ROUNDS, ROUNDS, FEW_ROUNDS)
    late, start, limited = deadlines(some), starts(many), rate_limits(few)
    verdicts = [
        judge(GOALS["early"], min(row.figure.least for row in late.rows)),
        judge(GOALS["late, median"], max(row.figure.median for row in late.rows)),
        judge(GOALS["late, worst"], worst(late)),
        judge(GOALS["401"], worst(start, "401")),
        judge(GOALS["snapshot"], worst(start, "snapshot")),
        judge(GOALS["429, least"], min(row.figure.least for row in limited.rows)),
        judge(GOALS["429, most"], worst(limited)),
    ]
    return Report("Deadlines", (late, start, limited), verdicts)
