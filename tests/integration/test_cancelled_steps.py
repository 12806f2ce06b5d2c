"""A call may be cancelled wherever it waits: each of its steps once, and nothing is lost with it.

A client with one place is asked again after every cancellation. It answers at once, so no place, permit or
flight went; and it answers with what it was asked for, so no response was left over from the call before.
"""

import asyncio
import itertools
import types

import anyio
import pytest

from integration.footprint import nothing_left_behind
from llm_config_mock_server import MockServer
from llm_config_sdk import AsyncConfigClient, CachePolicy

AT_MOST = 500  # steps of one call: far more than there are
AMPLE = 10.0  # seconds
NAMESPACE, WANTED, OTHER = "app/llm", "wanted", "other"
NUMBERS = itertools.count()


@types.coroutine
def stepped(coroutine, at_step):
    """Run a coroutine, and call `at_step` with the number of each step that it waits at."""
    step, proceed = 0, lambda: coroutine.send(None)
    while True:
        try:
            waits_for = proceed()
        except StopIteration as end:
            return end.value
        step += 1
        at_step(step)
        try:
            came = yield waits_for
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is handed on
            proceed = lambda error=error: coroutine.throw(error)  # noqa: E731
        else:
            proceed = lambda came=came: coroutine.send(came)  # noqa: E731


async def cancelled_at(number, call):
    """Make a call, and cancel it as it waits for the n-th time; say whether it came to that."""
    with anyio.CancelScope() as scope:
        await stepped(call(), lambda step: scope.cancel() if step == number else None)
        return False
    return True


async def cancelled_natively_at(number, call):
    """The same by asyncio's own cancellation, which comes once."""
    task = None

    def at_step(step):
        if step == number:
            task.cancel()

    async def run():
        await stepped(call(), at_step)

    task = asyncio.get_running_loop().create_task(run())
    try:
        await task
    except asyncio.CancelledError:
        return True
    return False


@pytest.fixture(scope="module", params=["plain", "tls"])
def server(request):
    with MockServer(seed=1, tls=request.param == "tls") as running:
        for key in (WANTED, OTHER):
            running.put(NAMESPACE, key, key)
        yield running


@pytest.fixture(params=["asyncio", "asyncio, natively", "trio"])
def each_step(request):
    """Run a story once for every step of the call in it, until there are no more."""
    cancel = cancelled_natively_at if request.param.endswith("natively") else cancelled_at

    def run(story):
        steps = 0
        with nothing_left_behind():
            while anyio.run(story, cancel, steps + 1, backend=request.param.partition(",")[0]):
                steps += 1
                assert steps < AT_MOST
        return steps

    return run


@pytest.fixture
def client_of(server):
    verify = server.ssl_context if server.url.startswith("https") else True

    def make(**options):
        kept = {"token": server.token("admin"), "environment": "development", "verify": verify}
        return AsyncConfigClient(server.url, max_in_flight=1, timeout=AMPLE, **kept, **options)

    return make


async def answers(client):
    """Whether the client still does, with what it is asked for."""
    for key in (OTHER, WANTED, OTHER):
        entry = await client.get_config(NAMESPACE, key, fresh=True)
        assert entry.value == entry.key == key


@pytest.mark.parametrize("cache", [CachePolicy(), None], ids=["cached", "uncached"])
@pytest.mark.parametrize("kept", [False, True], ids=["a new connection", "a kept one"])
def test_a_read_may_be_cancelled_at_each_step(each_step, client_of, cache, kept):
    async def story(cancel, number):
        async with client_of(cache=cache) as client:
            if kept:
                await client.get_config(NAMESPACE, OTHER)
            cancelled = await cancel(number, lambda: client.get_config(NAMESPACE, WANTED))
            await answers(client)
            return cancelled

    assert each_step(story) > 0


def test_a_write_may_be_cancelled_at_each_step_and_happens_once_or_not_at_all(each_step, client_of, server):
    async def story(cancel, number):
        key = f"written{next(NUMBERS)}"
        async with client_of() as client:
            cancelled = await cancel(number, lambda: client.set_config(NAMESPACE, key, "new"))
            await answers(client)
            versions = [entry.version for entry in await client.list_configs(NAMESPACE) if entry.key == key]
            assert versions in ([], [1]) if cancelled else versions == [1]
            return cancelled

    assert each_step(story) > 0


def test_who_waits_in_line_may_be_cancelled_at_each_step(each_step, client_of):
    async def story(cancel, number):
        async with client_of() as client, anyio.create_task_group() as group:
            group.start_soon(client.get_config, NAMESPACE, OTHER)
            await anyio.lowlevel.checkpoint()
            cancelled = await cancel(number, lambda: client.get_config(NAMESPACE, WANTED))
            await answers(client)
            return cancelled

    assert each_step(story) > 0


def test_who_asks_for_others_too_may_be_cancelled_at_each_step(each_step, client_of):
    async def story(cancel, number):
        values = []

        async def follow(client):
            values.append((await client.get_config(NAMESPACE, WANTED)).value)

        async with client_of() as client:
            async with anyio.create_task_group() as group:

                def joined():
                    group.start_soon(follow, client)
                    group.start_soon(follow, client)
                    return client.get_config(NAMESPACE, WANTED)

                cancelled = await cancel(number, joined)
            assert values == [WANTED] * 2
            await answers(client)
            return cancelled

    assert each_step(story) > 0
