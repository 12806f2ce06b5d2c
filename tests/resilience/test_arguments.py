"""A wrong argument is refused where it is given, by its name, and with what was wanted in its place."""

from functools import partial
from math import nan

import pytest

from llm_config_resilience import (
    Bulkhead,
    CacheFallback,
    Chaos,
    CircuitBreaker,
    Failover,
    Fallback,
    Hedge,
    MemoryStore,
    PerKey,
    PerTarget,
    Pipeline,
    Quantile,
    RateLimit,
    RatioBudget,
    RedisStore,
    Retry,
    RetryBudget,
    RetryPolicy,
    SqliteStore,
    Timeout,
)

KEPT = partial(CacheFallback, MemoryStore(), key=1)

WRONG_KIND = [
    (partial(Bulkhead, "1"), "max_concurrent must be a whole number, not '1'"),
    (partial(Bulkhead, 1.5), "max_concurrent must be a whole number, not 1.5"),
    (partial(Bulkhead, True), "max_concurrent must be a whole number, not True"),
    (partial(Bulkhead, 1, max_queue=None), "max_queue must be a whole number, not None"),
    (partial(CircuitBreaker, "5"), "failure_threshold must be a whole number, not '5'"),
    (partial(CircuitBreaker, timeout="60"), "timeout must be a number, not '60'"),
    (partial(CircuitBreaker, failure_rate="half"), "failure_rate must be a number, not 'half'"),
    (partial(CircuitBreaker, refresh_every=[]), r"refresh_every must be a number, not \[\]"),
    (partial(Chaos, "often"), "fault_rate must be a number, not 'often'"),
    (partial(Chaos, latency="1"), "latency must be a number, not '1'"),
    (partial(Failover, "https://a.example"), r"targets must be several, in a list: \['https://a.example'\]"),
    (partial(Failover, ["a"], failback_after="1"), "failback_after must be a number, not '1'"),
    (partial(Failover, ["a"], on=404), "on must be exception classes or a predicate, not 404"),
    (
        partial(Fallback, 0, on=("OSError",)),
        r"on must be exception classes or a predicate, not \('OSError',\)",
    ),
    (partial(Hedge, "1"), "delay must be a number, not '1'"),
    (partial(Quantile, "0.9"), "share must be a number, not '0.9'"),
    (partial(MemoryStore, "9"), "max_entries must be a whole number, not '9'"),
    (partial(SqliteStore, "x", timeout="1"), "timeout must be a number, not '1'"),
    (partial(RedisStore, 6379), "client must be a URL or a client of redis-py, not 6379"),
    (partial(PerTarget, CircuitBreaker()), "factory must be a function, not <CircuitBreaker"),
    (partial(PerKey, CircuitBreaker, key="tenant"), "key must be a function, not 'tenant'"),
    (partial(RateLimit, "9"), "rate must be a number, not '9'"),
    (partial(RatioBudget, "0.2"), "ratio must be a number, not '0.2'"),
    (partial(RetryBudget, 1.5), "quota must be a whole number, not 1.5"),
    (partial(Retry, 5), "policy must be a RetryPolicy, not 5"),
    (partial(Retry, RetryPolicy), "policy must be a RetryPolicy, not the class RetryPolicy itself"),
    (partial(Retry, budget=0.2), r"budget must be a Budget, such as RetryBudget\(\), not 0.2"),
    (partial(RetryPolicy, "3"), "max_attempts must be a whole number, not '3'"),
    (partial(RetryPolicy, max_backoff="1"), "max_backoff must be a number, not '1'"),
    (partial(RetryPolicy, stop=5), "stop must be a function, not 5"),
    (partial(Timeout, "5"), "seconds must be a number, not '5'"),
    (partial(KEPT, ttl="30"), "ttl must be a number, not '30'"),
    (partial(CacheFallback, {}, key=1, ttl=1), r"store must be a Store, such as MemoryStore\(\), not {}"),
    (partial(Pipeline, Retry(), 5), "layer 2 must be a strategy, not 5"),
    (partial(Pipeline, Retry), "layer 1 must be a strategy, not the class Retry itself"),
    (partial(Pipeline, listeners=[5]), "listener must be a function, not 5"),
    (partial(Pipeline, clock=5), r"clock must be a Clock, such as ManualClock\(\), not 5"),
    (partial(Pipeline(), 5), "fn must be a function, not 5"),
]

OUT_OF_BOUNDS = [
    (partial(Bulkhead, 0), "max_concurrent must be 1 or more, not 0"),
    (partial(CircuitBreaker, timeout=0), "timeout must be more than 0, not 0"),
    (partial(CircuitBreaker, failure_rate=50), "failure_rate must be a share, from 0 to 1, not 50"),
    (partial(CircuitBreaker, slow_rate=0), "slow_rate must be more than 0, not 0"),
    (
        partial(Chaos, latency=(2, 1)),
        r"latency must be seconds, or the least and the most of them, not \(2, 1\)",
    ),
    (partial(Hedge, -1), "delay must be 0 or more, not -1"),
    (partial(RateLimit, nan), "rate must be more than 0, not nan"),
    (partial(RetryPolicy, 0), "max_attempts must be 1 or more, not 0"),
    (partial(RetryPolicy, backoff_multiplier=0.5), "backoff_multiplier must be 1 or more, not 0.5"),
    (partial(RetryPolicy, jitter="half"), "jitter must be 'full' or 'none', not 'half'"),
    (partial(Timeout, nan), "seconds must be more than 0, not nan"),
    (partial(KEPT, ttl=nan), "ttl must be 0 or more, not nan"),
    (partial(KEPT, ttl=1, stale_if_slow=-1), "stale_if_slow must be 0 or more, not -1"),
]


@pytest.mark.parametrize(("make", "said"), WRONG_KIND)
def test_what_is_of_the_wrong_kind_is_refused(make, said):
    with pytest.raises(TypeError, match=said):
        make()


@pytest.mark.parametrize(("make", "said"), OUT_OF_BOUNDS)
def test_what_is_out_of_bounds_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


class Whole:
    """As the integers of numpy are."""

    def __init__(self, number):
        self.number = number

    def __index__(self):
        return self.number

    def __lt__(self, other):
        return self.number < other


def test_numbers_of_other_libraries_are_numbers():
    assert Bulkhead(Whole(3)).describe()["max_concurrent"].number == 3
