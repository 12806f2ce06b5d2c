"""Retry budgets: how much repeating all calls together may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from llm_config_resilience.arguments import check_above, check_at_least, check_count
from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from llm_config_resilience.clock import Clock

#: The quota of the AWS SDKs' standard retry mode: 500 tokens, 5 a retry, 1 back for a success at first try.
_QUOTA = 500
_RETRY_COST = 5
_FIRST_TRY_REFUND = 1

#: Finagle's defaults: 20 % of the calls and 10 a second, counted over 10 seconds.
_RATIO = 0.2
_PER_SECOND = 10.0
_TTL = 10.0


class Budget(Protocol):
    """What `Retry` asks of a budget. Shared by threads and event loops."""

    #: Whether a success at the first try has nothing to tell it. An attribute: it is read at every success.
    idle: bool

    def spend(self, clock: Clock, retries: int, /) -> bool:
        """Pay for one more attempt, if that can be afforded.

        Args:
            clock: The pipeline's clock.
            retries: How many this call has paid for before.
        """
        ...

    def earn(self, clock: Clock, retries: int, /) -> None:
        """Hear of a success.

        Args:
            clock: The pipeline's clock.
            retries: How many the call had paid for.
        """
        ...


class RetryBudget:
    """A refund quota: it behaves like none while retries help, and stops them when they do not.

        budget = RetryBudget()  # what retries and hedges may add to the load, together
        stack = Pipeline(Retry(budget=budget), Hedge(0.1, budget=budget))

    A retry costs tokens, a success gives those of its call's last retry back, and a success at the first try
    one token: the quota of the AWS SDKs (their "standard" retry mode), with its figures.

    Args:
        quota: Tokens there are at most, and at first.
        retry_cost: Tokens one retry costs.
    """

    def __init__(self, quota: int = _QUOTA, retry_cost: int = _RETRY_COST) -> None:
        check_count(0, quota=quota)
        check_count(1, retry_cost=retry_cost)
        self._quota = quota
        self._cost = retry_cost
        self._tokens = quota
        #: Whether the quota is full.
        self.idle: bool = True
        self._lock = new_lock()

    def __repr__(self) -> str:
        return f"RetryBudget({self._tokens} of {self._quota})"

    @property
    def quota(self) -> int:
        """Tokens there are at most."""
        return self._quota

    @property
    def retry_cost(self) -> int:
        """Tokens one retry costs."""
        return self._cost

    @property
    def tokens(self) -> int:
        """What is left."""
        return self._tokens

    def spend(self, _clock: Clock, _retries: int, /) -> bool:
        """Pay for one more attempt, if that can be afforded."""
        with self._lock:
            if self._tokens < self._cost:
                return False
            self._tokens -= self._cost
            self.idle = False
            return True

    def earn(self, _clock: Clock, retries: int, /) -> None:
        """Refund the last retry, or reward a success at the first try."""
        with self._lock:
            self._tokens = min(self._quota, self._tokens + (self._cost if retries else _FIRST_TRY_REFUND))
            self.idle = self._tokens == self._quota


class RatioBudget:
    """At most a share of the calls, and a floor of so many a second, may be retries.

    Args:
        ratio: Retries each call earns.
        per_second: Retries a second that are always allowed.
        ttl: Seconds after which what was earned is forgotten.
    """

    #: It counts every call.
    idle: bool = False

    def __init__(self, ratio: float = _RATIO, per_second: float = _PER_SECOND, ttl: float = _TTL) -> None:
        check_at_least(0, ratio=ratio, per_second=per_second)
        check_above(0, ttl=ttl)
        #: Retries each call earns.
        self.ratio = ratio
        #: Retries a second that are always allowed.
        self.per_second = per_second
        #: Seconds after which what was earned is forgotten.
        self.ttl = ttl
        self._floor = per_second * ttl
        self._lock = new_lock()
        self._earned: dict[int, float] = {}
        self._spent: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"RatioBudget(ratio={self.ratio}, per_second={self.per_second}, ttl={self.ttl})"

    def spend(self, clock: Clock, retries: int, /) -> bool:
        """Pay for one more attempt, if that can be afforded."""
        with self._lock:
            second = self._forget(clock)
            if not retries:
                self._earned[second] = self._earned.get(second, 0.0) + self.ratio
            if sum(self._spent.values()) + 1 > self._floor + sum(self._earned.values()):
                return False
            self._spent[second] = self._spent.get(second, 0) + 1
            return True

    def earn(self, clock: Clock, retries: int, /) -> None:
        """Count a call, unless its first retry did."""
        if not retries:
            with self._lock:
                second = self._forget(clock)
                self._earned[second] = self._earned.get(second, 0.0) + self.ratio

    def _forget(self, clock: Clock) -> int:
        second = int(clock.monotonic())
        kept: tuple[dict[int, Any], ...] = (self._earned, self._spent)
        for seconds in kept:
            for old in [s for s in seconds if s <= second - self.ttl]:
                del seconds[old]
        return second
