"""What one uncached `get_config` costs, beside the ways of asking the same thing that it replaces.

One caller, one quick server, connections kept alive. Every case parses what it gets; the client's own cases
validate it into an entry, too. `get_config` is measured three times, with the full stack on: for an entry
that is known and no longer fresh, with `fresh=True`, and for names that were never asked for before, which
are also validated and encoded, and take a new place in the cache. Applications ask for the same few names
again and again, so the first two are judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from typing import TYPE_CHECKING, Any, Final

import httpcore
import httpx
import httpx2
import pybreaker
import requests
import tenacity
from goals import GOALS
from harness import Effort, Report, Table, Times, Verdict, in_turns, in_turns_async, judge
from quick_server import RunningServer, quick_server
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from llm_config_sdk import AsyncConfigClient, CachePolicy, ConfigClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

NAMESPACE: Final = "app/llm"
PATH: Final = "/api/v1/configs/app%2Fllm/model?env=development"
BASELINE: Final = "httpx"
EXPIRED: Final = "get_config, no longer fresh"
NEW: Final = "get_config, a new key"
FRESH: Final = "get_config, fresh=True"
PLAIN: Final = "get_config, no cache, no resilience"
POOL: Final = "httpcore"
ATTEMPTS: Final = 3
NEVER_FRESH: Final = CachePolicy(ttl=0)
BODY_CHUNK: Final = 65_536

FULL_EFFORT: Final = Effort(rounds=120, turn=0.02)


def new_keys() -> Iterator[str]:
    """Names, none of which was asked for before."""
    return (f"key{number}" for number in itertools.count())


def raw_request(server: RunningServer) -> bytes:
    host, port = server.address
    return f"GET {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def missing(reply: bytes) -> bool:
    """Whether more of a reply is to come."""
    head, found, body = reply.partition(b"\r\n\r\n")
    if not found:
        return True
    length = int(head.lower().split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
    return len(body) < length


# --- Sync -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def raw_socket(server: RunningServer) -> Iterator[Callable[[], Any]]:
    request = raw_request(server)
    with socket.create_connection(server.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def get() -> Any:
            connection.sendall(request)
            reply = connection.recv(BODY_CHUNK)
            while missing(reply):
                reply += connection.recv(BODY_CHUNK)
            return json.loads(reply.partition(b"\r\n\r\n")[2])

        yield get


@contextlib.contextmanager
def by_hand(server: RunningServer) -> Iterator[Callable[[], Any]]:
    """What people put together: tenacity around pybreaker around httpx."""
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    with httpx.Client(base_url=server.url) as client:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        @breaker
        def get() -> Any:
            return client.get(PATH).raise_for_status().json()

        yield get


@contextlib.contextmanager
def requests_with_retry(server: RunningServer) -> Iterator[Callable[[], Any]]:
    """What the platform's example client does."""
    url = f"{server.url}{PATH}"
    with requests.Session() as session:
        retry = Retry(total=ATTEMPTS, backoff_factor=0.1, status_forcelist=(500, 502, 503, 504))
        session.mount("http://", HTTPAdapter(max_retries=retry))

        def get() -> Any:
            reply = session.get(url, timeout=5)
            reply.raise_for_status()
            return reply.json()

        yield get


@contextlib.contextmanager
def sync_cases(server: RunningServer) -> Iterator[dict[str, Callable[[], Any]]]:
    url, keys = f"{server.url}{PATH}", new_keys()
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(httpx.Client())
        bare2 = stack.enter_context(httpx2.Client())
        pool = stack.enter_context(httpcore.ConnectionPool())
        ours = stack.enter_context(ConfigClient(server.url))
        expired = stack.enter_context(ConfigClient(server.url, cache=NEVER_FRESH))
        ours2 = stack.enter_context(ConfigClient(server.url, transport="httpx2"))
        plain = stack.enter_context(ConfigClient(server.url, resilience=None, cache=None))
        injected = stack.enter_context(ConfigClient(server.url, http_client=bare))
        yield {
            EXPIRED: lambda: expired.get_config(NAMESPACE, "model"),
            NEW: lambda: ours.get_config(NAMESPACE, next(keys)),
            FRESH: lambda: ours.get_config(NAMESPACE, "model", fresh=True),
            "get_config, transport='httpx2'": lambda: ours2.get_config(NAMESPACE, next(keys)),
            "get_config, an injected httpx client": lambda: injected.get_config(NAMESPACE, next(keys)),
            PLAIN: lambda: plain.get_config(NAMESPACE, "model"),
            "raw socket": stack.enter_context(raw_socket(server)),
            POOL: lambda: json.loads(pool.request("GET", url).content),
            BASELINE: lambda: bare.get(url).json(),
            "httpx2": lambda: bare2.get(url).json(),
            "requests and urllib3's Retry": stack.enter_context(requests_with_retry(server)),
            "httpx, tenacity and pybreaker by hand": stack.enter_context(by_hand(server)),
        }


# --- Async ------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def raw_socket_async(server: RunningServer) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    request, loop = raw_request(server), asyncio.get_running_loop()
    with socket.create_connection(server.address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)

        async def get() -> Any:
            await loop.sock_sendall(connection, request)
            reply = await loop.sock_recv(connection, BODY_CHUNK)
            while missing(reply):
                reply += await loop.sock_recv(connection, BODY_CHUNK)
            return json.loads(reply.partition(b"\r\n\r\n")[2])

        yield get


@contextlib.asynccontextmanager
async def by_hand_async(server: RunningServer) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """The same in async, where pybreaker has to be used as a context."""
    breaker = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    async with httpx.AsyncClient(base_url=server.url) as client:

        @tenacity.retry(
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
            retry=tenacity.retry_if_exception_type(httpx.HTTPError),
            reraise=True,
        )
        async def get() -> Any:
            with breaker.calling():
                return (await client.get(PATH)).raise_for_status().json()

        yield get


@contextlib.asynccontextmanager
async def async_cases(server: RunningServer) -> AsyncIterator[dict[str, Callable[[], Awaitable[Any]]]]:
    url, keys = f"{server.url}{PATH}", new_keys()
    async with contextlib.AsyncExitStack() as stack:
        bare = await stack.enter_async_context(httpx.AsyncClient())
        bare2 = await stack.enter_async_context(httpx2.AsyncClient())
        pool = await stack.enter_async_context(httpcore.AsyncConnectionPool())
        ours = await stack.enter_async_context(AsyncConfigClient(server.url))
        expired = await stack.enter_async_context(AsyncConfigClient(server.url, cache=NEVER_FRESH))
        ours2 = await stack.enter_async_context(AsyncConfigClient(server.url, transport="httpx2"))
        plain = await stack.enter_async_context(AsyncConfigClient(server.url, resilience=None, cache=None))
        injected = await stack.enter_async_context(AsyncConfigClient(server.url, http_client=bare))

        async def from_bare() -> Any:
            return (await bare.get(url)).json()

        async def from_bare2() -> Any:
            return (await bare2.get(url)).json()

        async def from_pool() -> Any:
            return json.loads((await pool.request("GET", url)).content)

        yield {
            EXPIRED: lambda: expired.get_config(NAMESPACE, "model"),
            NEW: lambda: ours.get_config(NAMESPACE, next(keys)),
            FRESH: lambda: ours.get_config(NAMESPACE, "model", fresh=True),
            "get_config, transport='httpx2'": lambda: ours2.get_config(NAMESPACE, next(keys)),
            "get_config, an injected httpx client": lambda: injected.get_config(NAMESPACE, next(keys)),
            PLAIN: lambda: plain.get_config(NAMESPACE, "model"),
            "raw socket": await stack.enter_async_context(raw_socket_async(server)),
            POOL: from_pool,
            BASELINE: from_bare,
            "httpx2": from_bare2,
            "httpx, tenacity and pybreaker by hand": await stack.enter_async_context(by_hand_async(server)),
        }


# --- Together ---------------------------------------------------------------------------------------


async def measure_async(server: RunningServer, effort: Effort) -> list[Table]:
    async with async_cases(server) as cases:
        return tables("async", await in_turns_async(cases, effort))


def measure_sync(server: RunningServer, effort: Effort) -> list[Table]:
    with sync_cases(server) as cases:
        return tables("sync", in_turns(cases, effort))


def tables(colour: str, times: Times) -> list[Table]:
    title = f"One uncached read, {colour}"
    note = "The client's own processor time: waiting for the server, and other programs, are no part of it."
    cpu = times.cpu_rows(BASELINE)
    return [
        Table(colour, title, "µs a call", BASELINE, times.rows(BASELINE)),
        Table(f"{colour} cpu", f"{title}: processor time", "µs a call", BASELINE, cpu, note=note),
    ]


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    effort = Effort.smoke() if quick else FULL_EFFORT
    with quick_server() as server:
        found = [*measure_sync(server, effort), *asyncio.run(measure_async(server, effort))]
    by_name = {table.name: table for table in found}
    verdicts = [verdict(by_name[colour], by_name[f"{colour} cpu"]) for colour in ("sync", "async")]
    return Report("One uncached read", found, verdicts)


def verdict(table: Table, cpu: Table) -> Verdict:
    """Judge the dearer of the two ways to ask again."""
    dearer = max((EXPIRED, FRESH), key=lambda case: table.find(case).ratio.median)
    return judge(
        GOALS[f"client {table.name}"],
        table.find(dearer).ratio.median,
        cpu=cpu.find(dearer).ratio.median,
        plain=cpu.find(PLAIN).ratio.median,
        httpcore=cpu.find(POOL).ratio.median,
    )
