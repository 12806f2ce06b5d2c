"""The default stack behind a client, as a few figures that a user may change.

Reads go through cache, deadline, retry, failover and a circuit breaker an endpoint; writes through deadline,
retry (of what never left) and the primary's breaker. The strategies themselves are the toolkit's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from llm_config_resilience import (
    CacheFallback,
    CircuitBreaker,
    Failover,
    PerTarget,
    Pipeline,
    ResilienceError,
    Retry,
    RetryBudget,
    RetryPolicy,
    Timeout,
)
from llm_config_sdk.contract import ErrorCategory
from llm_config_sdk.errors import LLMConfigError, TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_config_resilience import Clock, Listener, Store, Strategy
    from llm_config_resilience.strategies.conditions import Condition
    from llm_config_sdk.operations import Call
    from llm_config_sdk.transport import Endpoint

ATTEMPT_TIMEOUT: Final = 5.0  # seconds, for one attempt: half of a call's default total


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When an endpoint is given a rest. The defaults are the guide's.

    Attributes:
        failure_threshold: Failures in a row that open the circuit.
        success_threshold: Successful probes in a row that close it.
        timeout: Seconds until the first probe.
    """

    failure_threshold: int = 5
    success_threshold: int = 2
    timeout: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How long a read may be answered without a server. All times are seconds.

    Attributes:
        ttl: How long an entry is fresh: served without asking.
        stale_while_revalidate: How much longer it is served while one call renews it in the background.
        stale_if_error: How long after `ttl` it stands in when no server answers.
        stale_if_slow: How long to wait before a stale entry stands in; `None` waits the call out.
        max_entries: How many entries are kept.
    """

    ttl: float = 30.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 24 * 3600.0
    stale_if_slow: float | None = None
    max_entries: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ResiliencePolicy:
    """What a client does when servers fail.

    Attributes:
        retry: How often and how long in between; `None` tries once.
        breaker: When an endpoint is given a rest; `None` never.
        attempt_timeout: Seconds for one attempt, within the call's total; `None` leaves it the total.
        failback_after: Seconds until a failed endpoint is preferred again.
    """

    retry: RetryPolicy | None = field(default_factory=RetryPolicy.default)
    breaker: BreakerPolicy | None = field(default_factory=BreakerPolicy)
    attempt_timeout: float | None = ATTEMPT_TIMEOUT
    failback_after: float = 30.0


class Stack:
    """The pipelines behind one client, and what they share: breakers, endpoints' health, retry budget.

    Args:
        policy: The figures; `None` for one plain call, in time.
        endpoints: The primary, then the backups.
        cache: Where reads are kept, with its policy; `None` for no cache.
        listeners: Who hears of events.
        clock: Time; a `ManualClock` in tests.

    Attributes:
        reads: For what changes nothing.
        cached_reads: The same behind the cache, if there is one.
        writes: For what must not be repeated unless it never left.
        repeatable_writes: For what may be repeated, on the primary alone.
        plain: One try at the primary.
        breakers: One circuit breaker an endpoint, where the policy asks for them.
    """

    def __init__(
        self,
        policy: ResiliencePolicy | None,
        endpoints: Sequence[Endpoint],
        *,
        cache: tuple[Store, CachePolicy] | None = None,
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
    ) -> None:
        plain = policy is None
        policy = (
            ResiliencePolicy(retry=None, breaker=None, attempt_timeout=None) if policy is None else policy
        )
        self.policy = policy
        primary = endpoints[:1]
        budget = RetryBudget()
        self.breakers = _breakers(policy.breaker)
        within = [self.breakers] if self.breakers is not None else []
        deadline = Timeout(_total_timeout)
        to_any = Failover(primary if plain else endpoints, failback_after=policy.failback_after)
        to_primary = Failover(primary, failback_after=policy.failback_after)

        def pipeline(name: str, *outer: Strategy, may_retry: Condition, target: Failover) -> Pipeline:
            retry = [Retry(policy.retry, on=may_retry, budget=budget)] if policy.retry is not None else []
            layers = (*outer, deadline, *retry, target, *within)
            return Pipeline(*layers, name=name, listeners=listeners, clock=clock)

        self.reads = pipeline("read", may_retry=is_worth_repeating, target=to_any)
        self.cached_reads = self.reads
        if cache is not None:
            kept = _cache_layer(*cache)
            self.cached_reads = pipeline("read", kept, may_retry=is_worth_repeating, target=to_any)
        self.writes = pipeline("write", may_retry=was_never_sent, target=to_primary)
        self.repeatable_writes = pipeline("write", may_retry=is_worth_repeating, target=to_primary)
        self.plain = Pipeline(deadline, Failover(primary), name="plain", listeners=listeners, clock=clock)

    def pipeline_for(self, call: Call[Any]) -> Pipeline:
        """Choose by what the call does to the server."""
        if call.operation.is_read:
            return self.reads
        return self.repeatable_writes if call.is_repeatable else self.writes

    def close(self) -> None:
        """End background work."""
        for pipeline in (self.reads, self.cached_reads, self.writes, self.repeatable_writes):
            pipeline.close()


def is_outage(error: Exception) -> bool:
    """Whether there is no answer: what a stale value or a fallback may stand in for.

    What is not found, denied or invalid is an answer, and so is a secret that cannot be decrypted.
    """
    if not isinstance(error, LLMConfigError):
        return isinstance(error, ResilienceError)
    is_servers = error.category in {ErrorCategory.SERVER, ErrorCategory.SYSTEM}
    return error.is_transient or error.is_rate_limited or (is_servers and not error.is_critical)


def is_worth_repeating(error: Exception) -> bool:
    """Whether a call that may be seen twice is tried again."""
    return bool(getattr(error, "is_retriable", False))


def was_never_sent(error: Exception) -> bool:
    """Whether the server provably saw nothing, so that even a write may be tried again."""
    return isinstance(error, TransportError) and error.never_sent


def _is_an_answer(error: type[BaseException] | BaseException) -> bool:
    """Whether a breaker ignores the error: the endpoint answered, and is well."""
    return isinstance(error, LLMConfigError) and not error.is_transient


def _breakers(policy: BreakerPolicy | None) -> PerTarget | None:
    if policy is None:
        return None

    def breaker(endpoint: Endpoint) -> CircuitBreaker:
        return CircuitBreaker(
            policy.failure_threshold,
            policy.success_threshold,
            policy.timeout,
            exclude=[_is_an_answer],
            name=endpoint.url,
        )

    return PerTarget(breaker, name="breaker")


def _cache_layer(store: Store, policy: CachePolicy) -> CacheFallback:
    return CacheFallback(
        store,
        key=cache_key,
        ttl=policy.ttl,
        stale_while_revalidate=policy.stale_while_revalidate,
        stale_if_error=policy.stale_if_error,
        stale_if_slow=policy.stale_if_slow,
        on=is_outage,
    )


def cache_key(call: Call[Any], timeout: float | None) -> tuple[str | None, ...]:
    """Name the value that a call reads."""
    del timeout
    return call.namespace, call.key, call.environment.value if call.environment else None


def _total_timeout(call: Call[Any], timeout: float | None) -> float | None:
    del call
    return timeout
