"""What a read costs that needs no server: here, in feature-flag clients, in a cache of one's own.

LaunchDarkly's and Unleash's clients are offline: their flags come from test data and from a bootstrap, and
nothing is sent. What a dict costs is the limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Final

import cachetools
import ldclient
from goals import GOALS
from harness import Effort, Report, Table, in_turns, in_turns_async, judge
from ldclient.integrations.test_data import TestData
from quick_server import RunningServer, quick_server
from UnleashClient import UnleashClient
from UnleashClient.cache import FileCache

from llm_config_sdk import AsyncConfigClient, CachePolicy, ConfigClient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

NAMESPACE: Final = "app/llm"
KEY: Final = "model"
LONG: Final = 3600.0  # seconds: nothing expires
OURS: Final = "get_config"
LAUNCHDARKLY: Final = "LaunchDarkly, variation"
UNLEASH: Final = "Unleash, get_variant"
DICT: Final = "a dict"
FULL_EFFORT: Final = Effort(rounds=150, turn=0.001)

FEATURES: Final = {
    "version": 1,
    "features": [
        {
            "name": KEY,
            "enabled": True,
            "strategies": [{"name": "default", "parameters": {}}],
            "variants": [
                {
                    "name": "gpt-4",
                    "weight": 1000,
                    "weightType": "variable",
                    "stickiness": "default",
                    "payload": {"type": "string", "value": "gpt-4"},
                    "overrides": [],
                }
            ],
        }
    ],
}


@contextlib.contextmanager
def launchdarkly() -> Iterator[Callable[[], Any]]:
    flags = TestData.data_source()
    flags.update(flags.flag(KEY).variations("gpt-4", "gpt-3").variation_for_all(0))
    client = ldclient.LDClient(ldclient.Config("no key", update_processor_class=flags, send_events=False))
    context = ldclient.Context.builder("bench").build()
    try:
        yield lambda: client.variation(KEY, context, "none")
    finally:
        client.close()


@contextlib.contextmanager
def unleash() -> Iterator[dict[str, Callable[[], Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        cache = FileCache("bench", directory=folder)
        cache.bootstrap_from_dict(FEATURES)
        client = UnleashClient(
            url="http://127.0.0.1:9/api",  # never asked
            app_name="bench",
            disable_metrics=True,
            disable_registration=True,
            cache=cache,
        )
        client.initialize_client(fetch_toggles=False)
        who = {"userId": "bench"}
        try:
            yield {
                "Unleash, is_enabled": lambda: client.is_enabled(KEY, who),
                UNLEASH: lambda: client.get_variant(KEY, who),
            }
        finally:
            client.destroy()


def locked_cache() -> Callable[[], Any]:
    """A cache of cachetools, which asks its users to lock it."""
    cache: cachetools.TTLCache[tuple[str, str], str] = cachetools.TTLCache(10_000, LONG)
    cache[NAMESPACE, KEY] = "gpt-4"
    lock = threading.Lock()

    def get() -> str | None:
        with lock:
            return cache.get((NAMESPACE, KEY))

    return get


@contextlib.contextmanager
def sync_cases(server: RunningServer) -> Iterator[dict[str, Callable[[], Any]]]:
    kept = {(NAMESPACE, KEY): "gpt-4"}
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(ConfigClient(server.url, cache=CachePolicy(ttl=LONG)))
        client.get_config(NAMESPACE, KEY)
        yield {
            OURS: lambda: client.get_config(NAMESPACE, KEY),
            "get_config, env='staging'": _in_staging(client),
            "get_str": lambda: client.get_str(NAMESPACE, KEY),
            LAUNCHDARKLY: stack.enter_context(launchdarkly()),
            **stack.enter_context(unleash()),
            "cachetools, TTLCache and a lock": locked_cache(),
            DICT: lambda: kept.get((NAMESPACE, KEY)),
        }


def _in_staging(client: ConfigClient) -> Callable[[], Any]:
    # The quick server knows one environment; what it sent is kept as if it were another's.
    entry = client.get_config(NAMESPACE, KEY).model_copy(update={"environment": "staging"})
    cache = client._core.cache
    cache._entries[NAMESPACE, KEY, "staging"] = type(cache._entries[NAMESPACE, KEY, "development"])(
        entry, cache._now()
    )
    return lambda: client.get_config(NAMESPACE, KEY, env="staging")


async def measure_async(server: RunningServer, effort: Effort) -> Table:
    async with AsyncConfigClient(server.url, cache=CachePolicy(ttl=LONG)) as client:
        await client.get_config(NAMESPACE, KEY)
        kept = {(NAMESPACE, KEY): "gpt-4"}

        async def from_dict() -> str | None:
            return kept.get((NAMESPACE, KEY))

        cases: dict[str, Callable[[], Awaitable[Any]]] = {
            OURS: lambda: client.get_config(NAMESPACE, KEY),
            "get_str": lambda: client.get_str(NAMESPACE, KEY),
            f"{DICT}, behind an async def": from_dict,
        }
        times = await in_turns_async(cases, effort)
    return Table("async", "A cached read, async", "µs a call", OURS, times.rows(OURS))


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    effort = Effort.smoke() if quick else FULL_EFFORT
    logging.disable(logging.WARNING)  # both clients tell that they are offline, which is no part of a read
    with quick_server() as server:
        with sync_cases(server) as cases:
            times = in_turns(cases, effort)
        sync = Table("sync", "A cached read, sync", "µs a call", OURS, times.rows(OURS))
        found = [sync, asyncio.run(measure_async(server, effort))]
    logging.disable(logging.NOTSET)
    verdicts = [
        judge(GOALS["cached"], sync.find(OURS).figure.median),
        judge(GOALS["cached, LaunchDarkly"], sync.find(LAUNCHDARKLY).ratio.median),
        judge(GOALS["cached, Unleash"], sync.find(UNLEASH).ratio.median),
    ]
    return Report("A cached read", found, verdicts)
