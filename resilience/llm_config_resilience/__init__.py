"""Resilience strategies, written once for sync, asyncio and trio.

from llm_config_resilience import CircuitBreaker, Fallback, Pipeline, Retry

stack = Pipeline(Fallback("unknown"), Retry(), CircuitBreaker())
stack.call(fetch, "https://…")
await stack.call_async(fetch_async, "https://…")
"""

import logging

from llm_config_resilience.clock import Clock, ManualClock, SystemClock
from llm_config_resilience.context import Context, current
from llm_config_resilience.directives import Again, Call, Detach, Directive, Park, Raise, Return, Wait
from llm_config_resilience.errors import (
    AllTargetsFailedError,
    BulkheadFullError,
    CircuitOpenError,
    DeadlineExceededError,
    PipelineOrderWarning,
    RateLimitedError,
    RejectedError,
    ResilienceError,
    UsageError,
)
from llm_config_resilience.events import Event, EventKind, Listener
from llm_config_resilience.gate import Gate
from llm_config_resilience.pipeline import Answer, LayerDescription, Pipeline, PipelineDescription
from llm_config_resilience.stores.codec import Codec, JsonCodec
from llm_config_resilience.stores.memory import MemoryStore
from llm_config_resilience.stores.redis import RedisStore
from llm_config_resilience.stores.sqlite import SqliteStore
from llm_config_resilience.stores.store import Entry, Generational, Store
from llm_config_resilience.strategies.budget import Budget, RatioBudget, RetryBudget
from llm_config_resilience.strategies.bulkhead import Bulkhead
from llm_config_resilience.strategies.cache_fallback import CacheFallback
from llm_config_resilience.strategies.chaos import Chaos
from llm_config_resilience.strategies.circuit import CircuitSettings, CircuitState
from llm_config_resilience.strategies.circuit_breaker import CircuitBreaker
from llm_config_resilience.strategies.conditions import Condition, retriable, transient, unavailable
from llm_config_resilience.strategies.cooldown import Cooldown
from llm_config_resilience.strategies.failover import Failover
from llm_config_resilience.strategies.fallback import Fallback
from llm_config_resilience.strategies.hedge import Hedge, Quantile
from llm_config_resilience.strategies.per_key import PerKey
from llm_config_resilience.strategies.per_target import PerTarget
from llm_config_resilience.strategies.rate_limit import RateLimit
from llm_config_resilience.strategies.retry import Retry, RetryPolicy
from llm_config_resilience.strategies.single_flight import SingleFlight
from llm_config_resilience.strategies.strategy import Scope, Strategy
from llm_config_resilience.strategies.target_health import TargetStatus
from llm_config_resilience.strategies.timeout import Timeout

__all__ = [
    "Again",
    "AllTargetsFailedError",
    "Answer",
    "Budget",
    "Bulkhead",
    "BulkheadFullError",
    "CacheFallback",
    "Call",
    "Chaos",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitSettings",
    "CircuitState",
    "Clock",
    "Codec",
    "Condition",
    "Context",
    "Cooldown",
    "DeadlineExceededError",
    "Detach",
    "Directive",
    "Entry",
    "Event",
    "EventKind",
    "Failover",
    "Fallback",
    "Gate",
    "Generational",
    "Hedge",
    "JsonCodec",
    "LayerDescription",
    "Listener",
    "ManualClock",
    "MemoryStore",
    "Park",
    "PerKey",
    "PerTarget",
    "Pipeline",
    "PipelineDescription",
    "PipelineOrderWarning",
    "Quantile",
    "Raise",
    "RateLimit",
    "RateLimitedError",
    "RatioBudget",
    "RedisStore",
    "RejectedError",
    "ResilienceError",
    "Retry",
    "RetryBudget",
    "RetryPolicy",
    "Return",
    "Scope",
    "SingleFlight",
    "SqliteStore",
    "Store",
    "Strategy",
    "SystemClock",
    "TargetStatus",
    "Timeout",
    "UsageError",
    "Wait",
    "current",
    "retriable",
    "transient",
    "unavailable",
]

# Where an application sets no logging up, Python would print what a library logs to stderr.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# Errors and reprs name the place users import from.
for _member in [globals()[_name] for _name in __all__]:
    if hasattr(_member, "__qualname__") and _member.__module__.startswith(f"{__name__}."):
        _member.__module__ = __name__
