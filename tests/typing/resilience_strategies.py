"""Types of limits, hedges, flights, chaos, stores and `testing`: checked by mypy and pyright, never run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

from llm_config_resilience import (
    Bulkhead,
    CacheFallback,
    Chaos,
    Codec,
    Event,
    Hedge,
    JsonCodec,
    Pipeline,
    Quantile,
    RateLimit,
    RedisStore,
    RetryBudget,
    SingleFlight,
    SqliteStore,
    Store,
)
from llm_config_resilience.testing import capture_events, resilience_test_mode


class Text:
    def encode(self, value: Any, /) -> bytes:
        return str(value).encode()

    def decode(self, data: bytes, /) -> Any:
        return data.decode()


codecs: list[Codec] = [JsonCodec(), Text()]
stores: list[Store] = [SqliteStore(Path("a.db"), codec=Text()), SqliteStore("a.db"), RedisStore("redis://x")]

stack = Pipeline(
    SingleFlight(key=len),
    CacheFallback(stores[0], key="key", ttl=5),
    Hedge(Quantile(0.9, initial=1.0), max_hedges=2, on=OSError, budget=RetryBudget()),
    Hedge(0.5),
    RateLimit(60, burst=10, per=60.0, wait=False),
    Bulkhead(10, max_queue=20, name="db"),
    Chaos(0.2, ConnectionError, (0.1, 0.5), result=None, when=bool, seed=7),
)

assert_type(stack.call(len, "text"), int)

with resilience_test_mode(max_attempts=None), capture_events() as events:
    assert_type(events, list[Event])
