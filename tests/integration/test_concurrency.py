"""Crowds on one client, through faults and cancellations: afterwards every permit is back, and it works.

Seconds of real time on real sockets. What each caller does is drawn from a seed; when, is the machine's.
"""

import asyncio
import random
import socket
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

import anyio
import httpx
import httpx2
import pytest

from integration.footprint import PATIENCE, busy, nothing_left_behind, wait_until
from llm_config_mock_server import (
    MockServer,
    close,
    error,
    garbage,
    hang,
    latency,
    malformed,
    ok,
    reset,
    respond,
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

SEED = 20
THREADS, TASKS, CANCELLED = 64, 2_000, 1_000
CALLS = 20  # of each thread
UNHURRIED = 60.0  # seconds
SLOTS = 16
NAMESPACE = "app/llm"
KEYS = [f"key-{number}" for number in range(20)]
QUICK_STORM = [
    reset(),
    close(),
    truncate(),
    garbage(),
    malformed(),
    latency(0.01),
    error("SERVICE_UNAVAILABLE"),
    error("RATE_LIMIT_EXCEEDED", retry_after=0.05),
    error("NOT_FOUND"),
    respond(200, headers={"connection": "close"}),
]
STORM = [*QUICK_STORM, hang(), stall()]
POLICY = ResiliencePolicy(
    retry=RetryPolicy(initial_backoff=0.001, max_backoff=0.01),
    breaker=BreakerPolicy(timeout=0.05),
    attempt_timeout=0.2,
)
OPTIONS = {
    "environment": "production",
    "resilience": POLICY,
    "cache": CachePolicy(ttl=0.05, stale_while_revalidate=0.05),
    "timeout": 0.5,
}


@pytest.fixture
def server():
    with MockServer(seed=SEED) as running:
        running.token("admin")
        for key in KEYS:
            running.put(NAMESPACE, key, 0, env="production")
        yield running


@contextmanager
def storm(server, steps):
    """Let a third of the requests meet with something."""
    with server.chaos(0.3, steps, match="*"):
        yield


def one_call(client, draw):
    """Draw what a caller does."""
    key = draw.choice(KEYS)
    return draw.choice(
        [
            partial(client.get_config, NAMESPACE, key),
            partial(client.get_config, NAMESPACE, key, fresh=True),
            partial(client.list_configs, NAMESPACE),
            partial(client.set_config, NAMESPACE, key, draw.random()),
            partial(client.set_config, NAMESPACE, key, 1, idempotency_key=f"key-{draw.random()}"),
            partial(client.get_many, [(NAMESPACE, key), (NAMESPACE, "nothing")]),
            client.health_check,
        ]
    )


def check_recovery(client, check):
    """The circuit closes again in a moment, and nothing is taken."""
    assert wait_until(check), "the client does not recover"
    assert wait_until(lambda: busy(client) == ""), busy(client)


def is_well(call):
    try:
        call()
    except LLMConfigError:
        return False
    return True


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
def test_threads_go_through_a_storm_and_leave_the_client_whole(server, family):
    became = []  # adding to a list is one step, and adding to a number is not

    def visit(number):
        draw = random.Random(f"{SEED} {number}")
        for _ in range(CALLS):
            try:
                one_call(client, draw)()
            except LLMConfigError as caught:
                became.append(type(caught).__name__)
            else:
                became.append("answered")

    with nothing_left_behind():
        client = ConfigClient(
            server.url, token=server.token("admin"), transport=family, max_in_flight=SLOTS, **OPTIONS
        )
        with storm(server, STORM):
            threads = [threading.Thread(target=visit, args=[number]) for number in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        check_recovery(client, lambda: is_well(partial(client.get_config, NAMESPACE, KEYS[0], fresh=True)))
        client.close()
    outcomes = Counter(became)
    assert outcomes.total() == THREADS * CALLS
    assert outcomes["answered"]
    assert len(outcomes) > 2, f"hardly a storm: {outcomes}"


@pytest.mark.parametrize(("backend", "family"), [("asyncio", "httpx"), ("trio", "httpx2")])
def test_tasks_go_through_a_storm_and_leave_the_client_whole(server, backend, family):
    outcomes = Counter()
    options = {
        **OPTIONS,
        "timeout": UNHURRIED,
        "resilience": replace(POLICY, breaker=None, attempt_timeout=None),
    }

    async def visit(client, number):
        draw = random.Random(f"{SEED} {number}")
        for patience in (draw.choice([0.0, 0.001, 0.02, 0.1]), draw.choice([0.5, UNHURRIED])):
            outcome = "cancelled"
            with anyio.move_on_after(patience):
                try:
                    await one_call(client, draw)()
                except LLMConfigError as caught:
                    outcome = type(caught).__name__
                else:
                    outcome = "answered"
            outcomes[outcome] += 1

    async def main():
        running = len(anyio.get_running_tasks())
        async with AsyncConfigClient(
            server.url, token=server.token("admin"), transport=family, max_in_flight=SLOTS, **options
        ) as client:
            with storm(server, QUICK_STORM):
                async with anyio.create_task_group() as group:
                    for number in range(TASKS):
                        group.start_soon(visit, client, number)
            await client.get_config(NAMESPACE, KEYS[0], fresh=True)
            await settled(lambda: not busy(client))
        await settled(lambda: len(anyio.get_running_tasks()) == running)

    with nothing_left_behind():
        anyio.run(main, backend=backend)
    assert min(outcomes["cancelled"], outcomes["answered"]) > TASKS / 10
    assert len(outcomes) > 4, f"hardly a storm: {outcomes}"


async def settled(is_so):
    """Wait for what a task is about to do."""
    with anyio.fail_after(PATIENCE):
        while not is_so():  # noqa: ASYNC110  # there is no event to wait for: it looks from outside
            await anyio.sleep(0.01)


# --- A thousand cancelled at every point ------------------------------------------------------------


@contextmanager
def nobody_accepts():
    """A port where a connection is never made: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


STEPS = [0, 1, 2, 3, 5, 8, 13, 21, 34, 55]  # of the event loop, until a request is cancelled
STORMS = [
    # asyncio's own cancellation goes through anyio's shields, which httpcore puts around its cleaning up.
    ("asyncio", "own httpx"),
    ("asyncio", "own httpx2"),
    ("asyncio", "injected httpx"),
    ("asyncio", "injected httpx2"),
    ("asyncio, by a scope", "own httpx"),
    ("asyncio, by a scope", "injected httpx"),
    ("trio", "own httpx2"),
    ("trio", "injected httpx"),
]


@pytest.mark.parametrize(("cancellation", "wire"), STORMS)
def test_a_thousand_requests_cancelled_at_any_point_leave_the_client_working(server, cancellation, wire):
    kind, family = wire.split()
    library = {"httpx": httpx, "httpx2": httpx2}[family]
    limits = library.Limits(max_connections=SLOTS, keepalive_expiry=0.002)  # so that they expire, too
    cancel = cancelled_by_tasks if cancellation == "asyncio" else cancelled_by_scopes

    async def main():
        async with library.AsyncClient(limits=limits, trust_env=False) as injected:
            own = {"transport": family, "max_in_flight": SLOTS}
            options = {"http_client": injected} if kind == "injected" else own
            options |= {"token": server.token("admin"), "cache": None, "environment": "production"}
            with nobody_accepts() as full:
                await storm_of_cancellations(full, cancel, options)  # connecting, and in line for it
            for step in (
                hang(),  # waiting for the answer
                stall(),  # in the middle of it
                respond(200, {}, headers={"connection": "close"}),  # at its end, closing
                ok(),  # wherever it is
            ):
                with server.script("*", step, repeat="last"):
                    await storm_of_cancellations(server.url, cancel, options)
            async with AsyncConfigClient(server.url, **options) as client:
                for _ in range(2 * SLOTS):
                    assert (await client.get_config(NAMESPACE, KEYS[0])).value == 0
                assert busy(client) == ""

    with nothing_left_behind():
        anyio.run(main, backend=cancellation.partition(",")[0])


async def storm_of_cancellations(url, cancel, options):
    """A fifth of the requests, in two waves."""
    draw = random.Random(f"{SEED} {url}")
    async with AsyncConfigClient(url, resilience=None, **options) as client:
        for _ in range(2):
            await cancel(client, [draw.choice(STEPS) for _ in range(CANCELLED // 10)])
        await settled(lambda: not busy(client))


async def cancelled_by_tasks(client, steps):
    tasks = [asyncio.create_task(attempt(client)) for _ in steps]
    for step in range(max(steps) + 1):
        for task, last in zip(tasks, steps, strict=True):
            if last == step:
                task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)


async def cancelled_by_scopes(client, steps):
    async def leave(last):
        async with anyio.create_task_group() as group:
            group.start_soon(attempt, client)
            for _ in range(last):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for last in steps:
            group.start_soon(leave, last)


async def attempt(client):
    with suppress(LLMConfigError):  # it was quicker than its cancellation
        await client.get_config(NAMESPACE, KEYS[0])
