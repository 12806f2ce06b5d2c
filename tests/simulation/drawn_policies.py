"""Policies drawn from a seed: any order and any figures that somebody might choose."""

from __future__ import annotations

import random
from functools import partial

import tenacity

from llm_config_resilience import (
    Bulkhead,
    CacheFallback,
    Chaos,
    CircuitBreaker,
    Failover,
    Fallback,
    Hedge,
    MemoryStore,
    PerTarget,
    Pipeline,
    Quantile,
    RateLimit,
    RatioBudget,
    Retry,
    RetryBudget,
    RetryPolicy,
    SingleFlight,
    Timeout,
    retriable,
    transient,
)


def drawn_policy(seed):
    """A factory of pipelines; every one that it makes is the same."""

    def policy(servers):
        draw = random.Random(f"policy {seed}")
        layers = []
        if draw.random() < 0.2:
            layers.append(Fallback("fallback"))
        if draw.random() < 0.5:
            layers.append(_cache(draw))
        layers.append(Timeout(draw.choice((0.5, 2.0, 10.0))))
        if draw.random() < 0.3:
            layers.append(SingleFlight(_key))
        if draw.random() < 0.15:
            layers.append(RateLimit(draw.choice((2.0, 10.0)), 3, wait=draw.random() < 0.5))
        layers.append(_retry(draw))
        layers += _guards(draw, servers)
        if draw.random() < 0.4:
            layers.append(Bulkhead(draw.choice((1, 2, 5)), draw.choice((0, 1, 5))))
        if draw.random() < 0.2:
            layers.append(_hedge(draw))
        if draw.random() < 0.5:
            layers.append(Timeout(draw.choice((0.2, 1.0))))
        if draw.random() < 0.1:
            layers.append(Chaos(0.1, latency=(0.0, 0.3)))
        return Pipeline(*layers)

    return policy


def _key(*args):
    return args[-1]


def _is_an_answer(error):
    return not transient(error)


def _cache(draw):
    return CacheFallback(
        MemoryStore(draw.choice((1, 100))),
        key=_key,
        ttl=draw.choice((0.0, 1.0, 5.0)),
        stale_while_revalidate=draw.choice((0.0, 3.0)),
        stale_if_error=draw.choice((0.0, 5.0, 30.0)),
        stale_if_slow=draw.choice((None, 0.05, 0.3)),
    )


def _retry(draw):
    if draw.random() < 0.15:
        policy = RetryPolicy.from_tenacity(
            tenacity.Retrying(
                stop=tenacity.stop_after_attempt(3),
                wait=tenacity.wait_random_exponential(0.1, max=2.0),
                retry=tenacity.retry_if_exception(retriable),
            )
        )
    else:
        policy = RetryPolicy(
            max_attempts=draw.choice((2, 3, 5)), initial_backoff=draw.choice((0.0, 0.1, 0.5)), max_backoff=5.0
        )
    # Small ones, so that the few calls of a small world spend them.
    budget = draw.choice((RetryBudget(50), RetryBudget(25), RatioBudget(0.1, 0.2, 5.0), None))
    return Retry(policy, budget=budget)


def _guards(draw, servers):
    if draw.random() < 0.15:
        return []
    breaker = partial(
        CircuitBreaker,
        draw.choice((1, 3, 5)),
        draw.choice((1, 2)),
        draw.choice((0.5, 2.0, 5.0)),
        max_probes=draw.choice((1, 2)),
        failure_rate=draw.choice((None, 0.5)),
        minimum_calls=5,
        patience=draw.choice((1, 4)),
        exclude=[_is_an_answer],
    )
    if len(servers) == 1:
        return [breaker()]
    failover = Failover(
        servers, failback_after=draw.choice((1.0, 5.0)), failure_threshold=draw.choice((1, 2))
    )
    return [failover, PerTarget(breaker)]


def _hedge(draw):
    return Hedge(draw.choice((0.02, 0.2, Quantile(0.9, minimum=5))), max_hedges=draw.choice((1, 2)))
