"""A store in Redis can be made; there need be no Redis."""

from llm_config_resilience import CacheFallback, Pipeline, RedisStore

store = RedisStore("redis://127.0.0.1:1/0", timeout=0.1)
assert Pipeline(CacheFallback(store, key="rate", ttl=1.0)).call(lambda: "fetched") == "fetched"
