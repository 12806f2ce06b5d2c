"""Minutes of mixed load through faults on two clients: memory stays flat, and what is taken comes back.

    make soak               ten minutes
    make soak SOAK=1800     half an hour

One sync client in threads and one async client in tasks read, write, watch, run into timeouts and are
cancelled, while a server in a process of its own breaks a third of the answers and goes away now and then.
What is bounded is filled first: each client writes until it remembers as many writes for an audit as it ever
will, and the parser of JSON reads as many short strings as it ever keeps. Then what this process holds is
looked at every second. It fails if memory or what Python has allocated grows, by a line fitted to the least
of each spell in the second half, or if descriptors, threads or slots are not back when the load is over.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pydantic_core

from integration.footprint import busy, open_files, wait_until
from llm_config_mock_server import (
    MockServer,
    close,
    drip,
    error,
    garbage,
    hang,
    latency,
    reset,
    stall,
    truncate,
)
from llm_config_resilience import RetryPolicy
from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    LLMConfigError,
    ResiliencePolicy,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SECONDS: Final = 600.0
WARM_UP: Final = 1 / 2  # of the time: until allocators have once held the most that they ever will
SPELL: Final = 20.0  # seconds; in each there are moments with few calls in flight, whose blocks are thousands
SPANS: Final = 6  # parts of the time whose medians are told
LIMITS: Final = {  # what may be gained in a minute, which has 10,000 calls or more
    "memory": 0.5,  # MiB: 50 bytes a call
    "blocks": 1000,  # one call in ten leaves something behind; the samples themselves are a quarter of it
}
SEED: Final = 20
NAMESPACE: Final = "app/llm"
KEYS: Final = [f"key-{number}" for number in range(200)]
MISSING: Final = [f"no-{key}" for key in KEYS[:20]]  # few: the log remembers of each that it was not found
SHORT_STRINGS: Final = 200_000  # many times what pydantic's parser of JSON keeps, 16,384
THREADS, TASKS, SLOTS = 8, 32, 8
PAUSE: Final = 0.1  # seconds at most that a caller rests between two calls
UP, DOWN = 8.0, 1.0  # seconds that the server stays, and stays away
MIB: Final = 1024 * 1024
OPTIONS: Final[dict[str, Any]] = {
    "environment": "production",
    "resilience": ResiliencePolicy(
        retry=RetryPolicy(initial_backoff=0.001, max_backoff=0.01),
        breaker=BreakerPolicy(timeout=0.2),
        attempt_timeout=0.2,
    ),
    "cache": CachePolicy(ttl=0.2, stale_while_revalidate=0.2, max_entries=100),
    "timeout": 0.4,
    "max_in_flight": SLOTS,
}


# --- The server, in a process of its own ------------------------------------------------------------


def serve() -> None:
    """Serve, with faults and outages, until standard input ends; print the address and a token first."""
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    steps = [
        reset(),
        close(),
        truncate(),
        garbage(),
        hang(),
        stall(),
        drip(0.01),
        latency(0.02),
        error("SERVICE_UNAVAILABLE"),
        error("RATE_LIMIT_EXCEEDED", retry_after=0.05),
    ]
    with MockServer(seed=SEED, journal_size=10) as server:
        for key in KEYS:
            server.put(NAMESPACE, key, 0, env="production")
        server.chaos(0.3, steps, match="*")
        sys.stdout.write(json.dumps([server.url, server.token("admin")]) + "\n")
        sys.stdout.flush()
        while not over.wait(UP):
            server.stop()
            over.wait(DOWN)
            server.start()


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """Run it for a while; gives the address and a token."""
    words = [sys.executable, "-m", "integration.soak", "--serve"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url, token = json.loads(process.stdout.readline())
        yield url, token
    finally:
        process.kill()
        process.communicate()


# --- The load ---------------------------------------------------------------------------------------


class Load:
    """What callers do until it is over, and what came of it."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.broken: list[BaseException] = []

    def next_call(self, client: Any, draw: random.Random) -> Callable[[], Any]:
        """Fill what the client remembers; then anything."""
        if is_full(client):
            return self.draw_call(client, draw)
        return partial(client.set_config, NAMESPACE, draw.choice(KEYS), draw.random())

    def draw_call(self, client: Any, draw: random.Random) -> Callable[[], Any]:
        """Draw what a caller does next."""
        key = draw.choice(KEYS)
        calls: list[Callable[[], Any]] = [
            partial(client.get_config, NAMESPACE, key),
            partial(client.get_config, NAMESPACE, key, fresh=True),
            partial(client.with_options(timeout=0.2).get_config, NAMESPACE, key),
            partial(client.set_config, NAMESPACE, key, draw.random()),
            partial(client.get_many, [(NAMESPACE, key), (NAMESPACE, draw.choice(MISSING))]),
            client.health_check,
        ]
        return draw.choice(calls)

    def call(self, client: ConfigClient, number: int) -> None:
        """Call, as a thread does."""
        draw = random.Random(f"{SEED} {number}")
        while not self.over.wait(draw.uniform(0, PAUSE)):
            try:
                self.next_call(client, draw)()
            except LLMConfigError as failed:
                self.outcomes[type(failed).__name__] += 1
            except BaseException as failed:  # noqa: BLE001  # it is told at the end
                self.broken.append(failed)
                return
            else:
                self.outcomes["answered"] += 1

    def watch(self, client: ConfigClient) -> None:
        """Watch for a moment, again and again, in the background."""
        while not self.over.is_set():
            watch = client.on_change(lambda _: None, NAMESPACE, interval=0.1)
            self.over.wait(0.5)
            watch.close()

    async def call_async(self, client: AsyncConfigClient, number: int) -> None:
        """Call, as a task does; every third call is cancelled, if it is not quick."""
        draw = random.Random(f"{SEED} async {number}")
        while not self.over.is_set():
            try:
                async with asyncio.timeout(draw.choice([0.0, 0.01, 0.1, *[60.0] * 6])):
                    await self.next_call(client, draw)()
            except LLMConfigError as failed:
                self.outcomes[type(failed).__name__] += 1
            except TimeoutError:
                self.outcomes["cancelled"] += 1
            else:
                self.outcomes["answered"] += 1
            await asyncio.sleep(draw.uniform(0, 4 * PAUSE))

    async def watch_async(self, client: AsyncConfigClient) -> None:
        """As `watch`."""
        while not self.over.is_set():
            watch = client.on_change(lambda _: None, NAMESPACE, interval=0.1)
            await asyncio.sleep(0.5)
            watch.close()

    def run_async(self, client: AsyncConfigClient, at_rest: threading.Event) -> None:
        """Run an event loop of callers; close the client when all has been looked at."""

        async def main() -> None:
            async with client, asyncio.TaskGroup() as group:
                for number in range(TASKS):
                    group.create_task(self.call_async(client, number))
                await self.watch_async(client)
                while not at_rest.is_set():  # noqa: ASYNC110  # it is a thread that tells
                    await asyncio.sleep(0.01)

        try:
            asyncio.run(main())
        except BaseException as failed:  # noqa: BLE001  # it is told at the end
            self.broken.append(failed)


# --- Looking ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds at a moment: memory in MiB, and numbers; `blocks` are Python's allocations."""

    at: float
    memory: float
    blocks: int
    descriptors: int
    threads: int
    slots: int


def taken(client: Any) -> int:
    """Count a client's slots that are out."""
    transport = client._transport
    return sum(transport._limit - pool._free for pool in list(transport._pools.values()))


def sample(at: float, *clients: Any) -> Sample:
    """Look, when what nobody can reach any more is gone."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        at,
        pages * os.sysconf("SC_PAGE_SIZE") / MIB,
        sys.getallocatedblocks(),
        open_files().total(),
        threading.active_count(),
        sum(map(taken, clients)),
    )


def fill_parser() -> None:
    """Let the parser of JSON keep as many strings as it ever will."""
    ids = json.dumps([f"{number:036}" for number in range(SHORT_STRINGS)])
    pydantic_core.from_json(ids.encode())


def is_full(client: Any) -> bool:
    """Say whether a client remembers as many writes as it ever will."""
    writes = client._core.ledger._writes
    return len(writes) == writes.maxlen


def is_no_more_than(before: Sample) -> bool:
    """Say whether descriptors and threads are back where they were."""
    return open_files().total() <= before.descriptors and threading.active_count() <= before.threads


def growth(samples: Sequence[Sample], name: str) -> float:
    """How much of a figure is gained in a minute, by a line fitted to the least of each spell."""
    figure = attrgetter(name)
    least = [min(spell, key=figure) for _, spell in groupby(samples, lambda it: it.at // SPELL)]
    return 60 * statistics.linear_regression([it.at for it in least], list(map(figure, least))).slope


def table(samples: Sequence[Sample]) -> str:
    """Write the median of each figure in each part of the time."""
    end = samples[-1].at
    spans = [[it for it in samples if it.at * SPANS // (end + 1) == span] for span in range(SPANS)]
    lines = ["until second  " + "".join(f"{round(span[-1].at):>10,}" for span in spans if span)]
    for name in ("memory", "blocks", "descriptors", "threads", "slots"):
        medians = [statistics.median(getattr(it, name) for it in span) for span in spans if span]
        figures = (f"{it:.2f}" if name == "memory" else f"{it:,.0f}" for it in medians)
        lines.append(
            f"{name + (' MiB' if name == 'memory' else ''):<14}"
            + "".join(f"{figure:>10}" for figure in figures)
        )
    return "\n".join(lines)


def soak(seconds: float) -> list[str]:
    """Run; print what was seen, and return what is wrong."""
    logging.getLogger("llm_config_sdk").setLevel(logging.CRITICAL)  # each incident would be a line
    fill_parser()
    load, at_rest, samples, wrong = Load(), threading.Event(), list[Sample](), list[str]()
    with server() as (url, token):
        before = sample(0.0)
        client = ConfigClient(url, token=token, **OPTIONS)
        asking = AsyncConfigClient(url, token=token, **OPTIONS)
        loop = threading.Thread(target=load.run_async, args=[asking, at_rest])
        callers = [threading.Thread(target=load.call, args=[client, number]) for number in range(THREADS)]
        callers.append(threading.Thread(target=load.watch, args=[client]))
        for thread in (loop, *callers):
            thread.start()
        while not (is_full(client) and is_full(asking)) and not load.broken:
            load.over.wait(0.1)
        began = time.monotonic()
        while (at := time.monotonic() - began) < seconds and not load.broken:
            samples.append(sample(at, client, asking))
            load.over.wait(1.0)
        load.over.set()
        for thread in callers:
            thread.join()
        if not wait_until(lambda: not busy(client) and not busy(asking)):
            wrong.append(f"slots did not come back: sync {busy(client)}, async {busy(asking)}")
        at_rest.set()
        loop.join()
        client.close()
        gc.collect()
        if not wait_until(lambda: is_no_more_than(before)):
            wrong.append(f"held before: {before}, and after: {sample(0.0)}")
        after = sample(0.0)
    wrong += [f"a call ended with {failed!r}" for failed in load.broken]
    warm = [it for it in samples if it.at >= WARM_UP * seconds]
    if not warm or warm[-1].at - warm[0].at < SPELL:
        return [*wrong, "too short to fit a line"]
    gained = {name: growth(warm, name) for name in LIMITS}
    wrong += [
        f"{name} grows by {gained[name]:,.2f} a minute, and {limit:g} is the limit"
        for name, limit in LIMITS.items()
        if gained[name] > limit
    ]
    calls = load.outcomes.total()
    sys.stdout.write(
        f"{table(samples)}\n\n{calls:,} calls in {seconds:g} s: "
        + ", ".join(f"{count:,} {name}" for name, count in load.outcomes.most_common())
        + f"\nIn the second half, memory grows by {gained['memory']:.2f} MiB a minute (at most "
        f"{LIMITS['memory']:g}), Python's blocks by {gained['blocks']:,.0f} (at most {LIMITS['blocks']:,}).\n"
        f"Held before and after: {before.descriptors} and {after.descriptors} descriptors, "
        f"{before.threads} and {after.threads} threads.\n"
    )
    return wrong


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("seconds", nargs="?", type=float, default=SECONDS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.serve:
        with suppress(KeyboardInterrupt):
            serve()
        return 0
    wrong = soak(told.seconds)
    for line in wrong:
        sys.stderr.write(f"{line}\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
