"""The default stack behind a client, as a few figures that a user may change.

Reads go through cache, deadline, retry, failover and a circuit breaker an endpoint; writes through deadline,
retry (of what never left) and the primary's breaker. The strategies themselves are the toolkit's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from llm_config_resilience import (
    CacheFallback,
    CircuitBreaker,
    Cooldown,
    DeadlineExceededError,
    Failover,
    PerTarget,
    Pipeline,
    RateLimit,
    ResilienceError,
    Retry,
    RetryBudget,
    RetryPolicy,
    SingleFlight,
    Timeout,
)
from llm_config_resilience.arguments import check_above, check_at_least, check_count, check_is
from llm_config_sdk.cache import FirstLook, SecondLook
from llm_config_sdk.contract import ErrorCategory, Module
from llm_config_sdk.errors import LLMConfigError, TransportError
from llm_config_sdk.hints import is_still_running
from llm_config_sdk.shared import Announcement
from llm_config_sdk.snapshot import FirstReads
from llm_config_sdk.status import EndpointStatus
from llm_config_sdk.transport import waited_in_line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from llm_config_resilience import Clock, Context, Directive, Listener, Store, Strategy
    from llm_config_sdk.cache import EntryCache
    from llm_config_sdk.operations import Call
    from llm_config_sdk.sealing import EncryptionKey
    from llm_config_sdk.shared import SharedCache
    from llm_config_sdk.snapshot import SnapshotStore
    from llm_config_sdk.status import CircuitState
    from llm_config_sdk.transport import Endpoint

ATTEMPT_TIMEOUT: Final = 5.0  # seconds, for one attempt: half of a call's default total
UNEXPLAINED_LIMIT_WAIT: Final = 1.0  # seconds; the 0.5 server's bucket is full again by then
UNEXPLAINED_LIMIT_ATTEMPTS: Final = 2  # in all; the 0.5 server bans an address after ten refusals
_GRACE: Final = 0.02  # seconds; see `TotalTimeout`


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When an endpoint is given a rest. The defaults are the guide's.

    Attributes:
        failure_threshold: Failures in a row that open the circuit.
        success_threshold: Successful probes in a row that close it.
        timeout: Seconds until the first probe.
        patience: How many times as many failures it can take to open it where failures are usual, so that
            chance does not (`llm_config_resilience.CircuitBreaker` says more); with 1, `failure_threshold`
            always is enough.
    """

    failure_threshold: int = 5
    success_threshold: int = 2
    timeout: float = 60.0
    patience: float = 4.0

    def __post_init__(self) -> None:
        check_count(1, failure_threshold=self.failure_threshold, success_threshold=self.success_threshold)
        check_above(0, timeout=self.timeout)
        check_at_least(1, patience=self.patience)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How long a read may be answered without a server. All times are seconds.

    Attributes:
        ttl: How long an entry is fresh: served without asking.
        stale_while_revalidate: How much longer it is served while one call renews it in the background.
        stale_if_error: How long after `ttl` it stands in when no server answers.
        stale_if_slow: How long to wait before a stale entry stands in; `None` waits the call out.
        max_entries: How many entries are kept.
        redis: The URL of a Redis through which clients share entries, word of what was written, and the state
            of circuit breakers; left out, nothing is shared.
        encryption_key: A Fernet key (`cryptography.fernet.Fernet.generate_key()`): secrets are shared too,
            encrypted. Left out, they stay in memory.
    """

    ttl: float = 30.0
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 24 * 3600.0
    stale_if_slow: float | None = None
    max_entries: int = 10_000
    redis: str | None = field(default=None, repr=False)  # may carry a password
    encryption_key: EncryptionKey | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_at_least(0, ttl=self.ttl, stale_while_revalidate=self.stale_while_revalidate)
        check_at_least(0, stale_if_error=self.stale_if_error)
        if self.stale_if_slow is not None:
            check_at_least(0, stale_if_slow=self.stale_if_slow)
        check_count(1, max_entries=self.max_entries)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPolicy:
    """How many requests a client sends to one endpoint; what comes too early waits, within its deadline.

    Attributes:
        rate: Requests a second, in the long run.
        burst: Requests at once, after a pause.
    """

    rate: float
    burst: int = 1

    def __post_init__(self) -> None:
        check_above(0, rate=self.rate)
        check_count(1, burst=self.burst)

    @classmethod
    def server_0_5(cls, *, processes: int = 1) -> RateLimitPolicy:
        """Stay below what the platform's 0.5 server allows an address, so that it never bans it.

        It allows ten requests a second and ten at once. This keeps to eight and five, so that requests which
        the network delays by up to half a second, and bunches, do not break its limit either.

        Args:
            processes: How many clients share the address, in this process or in others, 5 at most: each gets
                its part. More could exceed the limit by beginning at once.
        """
        if not 1 <= processes <= _SERVER_0_5_BURST:
            raise ValueError(f"processes must be 1 to {_SERVER_0_5_BURST}")
        return cls(rate=_SERVER_0_5_RATE / processes, burst=_SERVER_0_5_BURST // processes)


_SERVER_0_5_RATE: Final = 8.0  # requests a second, of the 10 that PLATFORM.md names
_SERVER_0_5_BURST: Final = 5  # requests at once, of the 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ResiliencePolicy:
    """What a client does when servers fail, and so that they do not.

    Attributes:
        retry: How often and how long in between; `None` tries once.
        breaker: When an endpoint is given a rest; `None` never.
        attempt_timeout: Seconds for one attempt, within the call's total; `None` leaves it the total.
        failback_after: Seconds until a failed endpoint is preferred again.
        rate_limit: How many requests each endpoint gets, retries and all; `None` for no limit.
    """

    retry: RetryPolicy | None = field(default_factory=RetryPolicy.default)
    breaker: BreakerPolicy | None = field(default_factory=BreakerPolicy)
    attempt_timeout: float | None = ATTEMPT_TIMEOUT
    failback_after: float = 30.0
    rate_limit: RateLimitPolicy | None = None

    def __post_init__(self) -> None:
        if self.retry is not None:
            check_is(RetryPolicy, retry=self.retry)
        if self.breaker is not None:
            check_is(BreakerPolicy, breaker=self.breaker)
        if self.rate_limit is not None:
            check_is(RateLimitPolicy, rate_limit=self.rate_limit)
        if self.attempt_timeout is not None:
            check_above(0, attempt_timeout=self.attempt_timeout)
        check_at_least(0, failback_after=self.failback_after)


_RETRY_QUOTA: Final = 500  # tokens; the AWS SDKs' standard retry mode
_PLAIN: Final = ResiliencePolicy(retry=None, breaker=None, attempt_timeout=None)


class Stack:
    """The pipelines behind one client, and what they share: breakers, endpoints' health, retry budget.

    Args:
        policy: The figures; `None` for one plain call, in time.
        endpoints: The primary, then the backups.
        cache: Where reads are kept; `None` for no cache.
        snapshot: What earlier runs knew; `None` for nothing.
        strict: Whether no older value stands in for an answer.
        limits: Rate limits to share with another stack; left out, the policy's own.
        listeners: Who hears of events.
        clock: Time; a `ManualClock` in tests.

    Attributes:
        policy: The figures.
        breakers: One circuit breaker an endpoint, where the policy asks for them.
        limits: One rate limit an endpoint, where the policy asks for them.
        budget: What repeating all calls together may do.
        reads: For what changes nothing.
        cached_reads: The same behind cache and snapshot, with one call for all who ask at once.
        writes: For what must not be repeated unless it never left.
        repeatable_writes: For what may be repeated, on the primary alone.
        plain: One try at the primary.
    """

    def __init__(
        self,
        policy: ResiliencePolicy | None,
        endpoints: Sequence[Endpoint],
        *,
        cache: EntryCache | None = None,
        snapshot: SnapshotStore | None = None,
        strict: bool = False,
        limits: PerTarget | None = None,
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
    ) -> None:
        self.policy: ResiliencePolicy = policy or _PLAIN
        self._snapshot = snapshot
        self._strict = strict
        self._listeners = listeners
        self._clock = clock
        self._shared = cache.shared if cache is not None else None
        self.breakers: PerTarget | None = _breakers(self.policy.breaker, self._shared)
        self.limits: PerTarget | None = limits if limits is not None else _limits(self.policy.rate_limit)
        self.budget: RetryBudget = RetryBudget(_RETRY_QUOTA)
        retry = self.policy.retry
        repeat: list[Strategy] = []
        resend: list[Strategy] = []
        if retry is not None:
            cooldown = Cooldown()  # a limit that a write meets holds for reads, too
            repeat = [PatientRetry(retry, on=is_worth_repeating, budget=self.budget, cooldown=cooldown)]
            resend = [PatientRetry(retry, on=is_worth_resending, budget=self.budget, cooldown=cooldown)]
        # What an open circuit turns away uses up no limit.
        guard = [each for each in (self.breakers, self.limits) if each is not None]
        deadline = TotalTimeout()
        self._endpoints = endpoints
        self._to_any = to_any = self._failover(endpoints if policy is not None else endpoints[:1])
        to_primary = self._failover(endpoints[:1])
        together = [SingleFlight(_entry_key)] if policy is not None else []
        told = [Announcement(self._shared)] if self._shared is not None else []
        self._deadline = deadline
        self._together = together
        self._uncached = (*repeat, to_any, *guard)
        self.reads: Pipeline = self._pipeline("read", deadline, *repeat, to_any, *guard)
        self.cached_reads: Pipeline = self._behind(cache)
        self.writes: Pipeline = self._pipeline("write", *told, deadline, *resend, to_primary, *guard)
        self.repeatable_writes: Pipeline = self._pipeline(
            "write", *told, deadline, *repeat, to_primary, *guard
        )
        self.plain: Pipeline = self._pipeline("plain", deadline, to_primary)
        self._owned: tuple[Pipeline, ...] = (
            self.reads,
            self.cached_reads,
            self.writes,
            self.repeatable_writes,
            self.plain,
        )

    def with_cache(self, cache: EntryCache | None) -> Stack:
        """Copy with another cache, or none; all else is shared."""
        twin = copy.copy(self)
        twin.cached_reads = self._behind(cache)
        twin._owned = (twin.cached_reads,)  # noqa: SLF001  # a copy of this class
        return twin

    def limits_for(self, policy: ResiliencePolicy | None) -> PerTarget | None:
        """Return the rate limits, where another policy has the same: copies of a client share them."""
        wanted = policy.rate_limit if policy is not None else None
        return self.limits if wanted == self.policy.rate_limit else None

    def pipeline_for(self, call: Call[Any]) -> Pipeline:
        """Choose by what the call does to the server."""
        if call.operation.is_read:
            return self.reads
        return self.repeatable_writes if call.is_repeatable else self.writes

    def budget_left(self) -> float | None:
        """What is left of the retry budget, as a share of the whole; `None` without retries."""
        return self.budget.tokens / _RETRY_QUOTA if self.policy.retry is not None else None

    def endpoint_status(self) -> tuple[EndpointStatus, ...]:
        """Say how every endpoint is, the primary first."""
        ejected = {health.target for health in self._to_any.health if health.state == "ejected"}
        return tuple(
            self._status_of(endpoint, is_primary=number == 0, is_ejected=endpoint in ejected)
            for number, endpoint in enumerate(self._endpoints)
        )

    def _status_of(self, endpoint: Endpoint, *, is_primary: bool, is_ejected: bool) -> EndpointStatus:
        breaker = self.breakers.strategies.get(endpoint) if self.breakers is not None else None
        circuit: CircuitState = "closed"
        failure: BaseException | None = None
        if isinstance(breaker, CircuitBreaker):
            circuit, failure = breaker.state, breaker.last_failure
        return EndpointStatus(
            url=endpoint.url,
            role="primary" if is_primary else "backup",
            circuit=circuit,
            is_ejected=is_ejected,
            last_failure=str(failure) if failure is not None else None,
        )

    def close(self) -> None:
        """End background work."""
        for pipeline in self._owned:
            pipeline.close()

    def _behind(self, cache: EntryCache | None) -> Pipeline:
        layers: list[Strategy] = []
        if self._snapshot is not None:
            layers.append(_snapshot_layer(self._snapshot, cache, strict=self._strict))
        if cache is not None:
            looked_at = FirstLook(cache) if self._together else cache
            layers.append(_cache_layer(cache.policy, looked_at, strict=self._strict))
        layers += (self._deadline, *self._together)
        if cache is not None and self._together:
            layers.append(
                CacheFallback(SecondLook(cache), key=_entry_key, ttl=cache.policy.ttl, name="again")
            )
        if cache is not None and cache.shared is not None:
            layers.append(_shared_layer(cache.policy, cache.shared, strict=self._strict))
        return self._pipeline("read", *layers, *self._uncached)

    def _failover(self, endpoints: Sequence[Endpoint]) -> Failover:
        return Failover(endpoints, on=is_endpoints_fault, failback_after=self.policy.failback_after)

    def _pipeline(self, name: str, *layers: Strategy) -> Pipeline:
        return Pipeline(*layers, name=name, listeners=self._listeners, clock=self._clock)


def is_outage(error: Exception) -> bool:
    """Whether there is no answer: what a stale value or a fallback may stand in for.

    What is not found, denied or invalid is an answer, and so is a secret that cannot be decrypted.
    """
    if not isinstance(error, LLMConfigError):
        return isinstance(error, ResilienceError)
    is_servers = error.category in {ErrorCategory.SERVER, ErrorCategory.SYSTEM}
    return error.is_transient or error.is_rate_limited or (is_servers and not error.is_critical)


def is_absent(error: LLMConfigError) -> bool:
    """Whether the platform says that there is no such entry; never of a missing route, version or user."""
    return type(error).taxonomy_code == "NOT_FOUND" and error.is_not_found and error.module is Module.CONFIG


def is_worth_repeating(error: Exception) -> bool:
    """Whether a call that may be seen twice is tried again; never where the caller is not let in.

    A server that says 429 and not for how long is asked twice in all: it may ban who insists. A conflict is
    with this call's own earlier attempt, where that still runs under the idempotency key that both carry.
    """
    if not isinstance(error, LLMConfigError):
        return bool(getattr(error, "is_retriable", False))
    if is_unexplained_limit(error) and (error.attempts or 1) >= UNEXPLAINED_LIMIT_ATTEMPTS:
        return False
    if is_still_running(error) and (error.attempts or 1) > 1:
        return True
    return error.is_retriable and not error.is_unauthorized


def is_unexplained_limit(error: Exception) -> bool:
    """Whether there were too many requests, and the server does not say when there may be more."""
    return isinstance(error, LLMConfigError) and error.is_rate_limited and error.retry_after is None


def was_never_sent(error: Exception) -> bool:
    """Whether the server provably saw nothing, so that even a write may be tried again."""
    return isinstance(error, TransportError) and error.never_sent


def is_worth_resending(error: Exception) -> bool:
    """Whether a call that must not be seen twice is tried again."""
    return was_never_sent(error) and is_worth_repeating(error)


def is_endpoints_fault(error: Exception) -> bool:
    """Whether another endpoint may do better: this one fails, or is given a rest.

    Waiting for one of the client's own connections, in vain, says nothing of an endpoint.
    """
    return bool(getattr(error, "is_transient", False)) and not waited_in_line(error)


def _is_an_answer(error: type[BaseException] | BaseException) -> bool:
    """Whether a breaker ignores the error: the endpoint answered and is well, or was not asked."""
    return isinstance(error, LLMConfigError) and not is_endpoints_fault(error)


def _breakers(policy: BreakerPolicy | None, shared: SharedCache | None) -> PerTarget | None:
    if policy is None:
        return None

    def breaker(endpoint: Endpoint) -> CircuitBreaker:
        return CircuitBreaker(
            policy.failure_threshold,
            policy.success_threshold,
            policy.timeout,
            patience=policy.patience,
            exclude=[_is_an_answer],
            storage=shared.circuit_storage(endpoint.url) if shared is not None else None,
            name=endpoint.url,
        )

    return PerTarget(breaker, name="breaker")


def _limits(policy: RateLimitPolicy | None) -> PerTarget | None:
    if policy is None:
        return None

    def limit(endpoint: Endpoint) -> RateLimit:
        return RateLimit(policy.rate, policy.burst, name=endpoint.url)

    return PerTarget(limit, name="rate_limit")


def _cache_layer(policy: CachePolicy, store: Store, *, strict: bool) -> CacheFallback:
    if strict:
        policy = _without_stale(policy)
    return CacheFallback(
        store,
        key=_entry_key,
        ttl=policy.ttl,
        stale_while_revalidate=policy.stale_while_revalidate,
        stale_if_error=policy.stale_if_error,
        stale_if_slow=policy.stale_if_slow,
        on=is_outage,
    )


def _shared_layer(policy: CachePolicy, shared: SharedCache, *, strict: bool) -> CacheFallback:
    # Within the deadline, and once for all who ask. What is renewed in the background is the local cache's.
    return CacheFallback(
        shared,
        key=_entry_key,
        ttl=policy.ttl,
        stale_if_error=0.0 if strict else policy.stale_if_error,
        on=is_outage,
        name="shared",
    )


def _without_stale(policy: CachePolicy) -> CachePolicy:
    return replace(policy, stale_while_revalidate=0.0, stale_if_error=0.0, stale_if_slow=None)


def _snapshot_layer(snapshot: SnapshotStore, cache: EntryCache | None, *, strict: bool) -> CacheFallback:
    # While a cache holds an entry, the snapshot says nothing of it, so `max_wait` is for first reads alone.
    return CacheFallback(
        FirstReads(snapshot, cache.get) if cache is not None else snapshot,
        key=_entry_key,
        ttl=0.0,
        stale_if_error=0.0 if strict else snapshot.max_age,
        stale_if_slow=snapshot.max_wait if cache is not None and not strict else None,
        on=is_outage,
        name="snapshot",
    )


def _entry_key(call: Call[Any], timeout: float | None) -> tuple[str, str, str] | None:
    del timeout
    return call.entry_key


class PatientRetry(Retry):
    """Leaves a server alone for a second that says 429 and not for how long, in this call and in others."""

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Begin the second in which no call is made; then decide as ever."""
        if self.cooldown is not None and is_unexplained_limit(error):
            self.cooldown.heed(ctx, error, UNEXPLAINED_LIMIT_WAIT)
        return super().failed(ctx, at, error)


class TotalTimeout(Timeout):
    """A call's whole time. In async it is enforced a little late, for the sockets keep it themselves.

    They know what was being waited for. A cancellation at the same moment would leave a caller without that,
    and a breaker with a failure that may be no endpoint's. It is for what no socket bounds, as a slow look-up
    of a host's address.
    """

    def __init__(self) -> None:
        super().__init__(_total)

    async def around_async(self, ctx: Context, at: int, proceed: Callable[[Context], Awaitable[Any]]) -> Any:
        """Cancel what is inside soon after its time is up."""
        self.before(ctx, at)
        try:
            async with ctx.clock.expiring(ctx.remaining() + _GRACE):
                return await proceed(ctx)
        finally:
            self.released(ctx, at)
        raise DeadlineExceededError("no answer in time")


def _total(call: Call[Any], timeout: float) -> float:
    del call
    return timeout
