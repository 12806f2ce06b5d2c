"""One async client, more than one event loop: each has connections of its own."""

import asyncio
import gc
import threading

import anyio
import pytest
import trio

from llm_config_sdk import AsyncConfigClient, InvalidRequestError

# A loop that ends leaves its open connections to the collector, which closes them and says so.
LEFT_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NAME = ("app/llm", "model")


@pytest.fixture
def client(server):
    server.put(*NAME, "gpt-4", env="production")
    return AsyncConfigClient(server.url, token=server.token("admin"), environment="production")


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # the first loop was ended with a connection open
@LEFT_OPEN
def test_a_client_goes_on_in_the_next_loop(client, server):
    async def ask():
        return await client.get_config(*NAME, fresh=True)

    async def ask_and_close():
        found = await ask()
        await client.aclose()
        return found

    for _ in range(2):
        assert trio.run(ask).source == "server"
    assert asyncio.run(ask_and_close()).source == "server"
    server.journal.assert_count(3)
    gc.collect()


@LEFT_OPEN
def test_what_one_loop_has_read_is_cached_for_the_other(client, server):
    async def ask():
        return await client.get_config(*NAME)

    async def last():
        found = await ask()
        await client.aclose()
        return found

    first = []
    thread = threading.Thread(target=lambda: first.append(trio.run(ask)))
    thread.start()
    thread.join(30)
    assert (first[0].source, asyncio.run(last()).source) == ("server", "cache")
    server.journal.assert_count(1)
    gc.collect()


@LEFT_OPEN
def test_loops_in_threads_at_the_same_time_share_a_client(client, server):
    answers, begun, over = [], threading.Barrier(4), threading.Barrier(4)

    async def ask():
        begun.wait(30)
        answers.extend([(await client.get_config(*NAME, fresh=True)).value for _ in range(10)])
        over.wait(30)

    async def ask_and_close():
        await ask()
        await client.aclose()

    threads = [threading.Thread(target=trio.run, args=[ask]) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(ask_and_close())
    for thread in threads:
        thread.join(30)
    assert answers == ["gpt-4"] * 40
    server.journal.assert_count(40)
    gc.collect()


def test_a_closed_client_is_closed_in_every_loop(client):
    async def ask():
        await client.get_config(*NAME)

    asyncio.run(client.aclose())
    for backend in ("asyncio", "trio"):
        with pytest.raises(InvalidRequestError, match="this client is closed"):
            anyio.run(ask, backend=backend)
