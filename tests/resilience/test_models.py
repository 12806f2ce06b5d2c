"""Stateful models: whatever is done in whatever order, the strategies do as a simple model does."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from llm_config_resilience import (
    CacheFallback,
    CircuitBreaker,
    CircuitOpenError,
    ManualClock,
    MemoryStore,
    Pipeline,
    RetryBudget,
)
from llm_config_resilience.context import Context

THRESHOLD, PROBES, SUCCESSES, OPEN_TIME = 3, 2, 2, 10.0


@dataclass(eq=False)
class Admitted:
    """A call on its way, as the model sees it."""

    ctx: Context
    era: int
    #: When its lease as a probe ends; `None` for a call through a closed circuit.
    lease: float | None


class BreakerModel(RuleBasedStateMachine):
    """Calls that begin and end in any order, while time passes."""

    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.breaker = CircuitBreaker(THRESHOLD, SUCCESSES, OPEN_TIME, max_probes=PROBES, patience=1)
        self.pipeline = Pipeline(self.breaker, clock=self.clock, random=lambda: 0.5)
        self.state = "closed"
        self.era = 0
        self.failures = self.successes = self.reopened = 0
        self.open_until = 0.0
        self.probing: list[Admitted] = []

    def move(self, state):
        self.state = state
        self.era += 1
        self.failures = self.successes = 0
        self.probing = []
        if state == "closed":
            self.reopened = 0

    def open(self):
        growth = min(10, 2**self.reopened) if self.reopened else 1
        self.open_until = self.clock.monotonic() + OPEN_TIME * growth
        self.move("open")

    @rule(target=calls)
    def begin(self):
        now = self.clock.monotonic()
        if self.state == "open" and now >= self.open_until:
            self.move("half-open")
        self.probing = [probe for probe in self.probing if probe.lease > now]
        allowed = self.state == "closed" or (self.state == "half-open" and len(self.probing) < PROBES)
        ctx = Context(self.pipeline, int, (), {})
        try:
            self.breaker.before(ctx, 0)
        except CircuitOpenError:
            assert not allowed
            return Admitted(ctx, -1, None)
        assert allowed
        call = Admitted(ctx, self.era, None)
        if self.state == "half-open":
            call.lease = now + OPEN_TIME
            self.probing.append(call)
        return call

    @rule()
    @precondition(lambda self: self.state == "closed")
    def fail_in_a_row(self):
        while self.state == "closed":
            self.fail(self.begin())

    @rule(call=consumes(calls))
    def succeed(self, call):
        if call.era < 0:
            return
        self.breaker.succeeded(call.ctx, 0, 1)
        if call in self.probing:
            self.probing.remove(call)
            self.successes += 1
            if self.successes == SUCCESSES:
                self.move("closed")
        elif call.era == self.era and self.state == "closed":
            self.failures = 0

    @rule(call=consumes(calls))
    def fail(self, call):
        if call.era < 0:
            return
        self.breaker.failed(call.ctx, 0, ConnectionError())
        if call in self.probing:
            self.reopened += 1
            self.open()
        elif call.era == self.era and self.state == "closed":
            self.failures += 1
            if self.failures == THRESHOLD:
                self.open()

    @rule(call=consumes(calls))
    def cancel(self, call):
        if call.era < 0:
            return
        self.breaker.released(call.ctx, 0)
        if call in self.probing:
            self.probing.remove(call)

    @rule(seconds=st.sampled_from([0.5, 4.0, 10.0, 25.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)

    @rule(step=st.sampled_from([3600.0, -3600.0]))
    def step_the_wall_clock(self, step):
        self.clock.step_wall(step)

    @rule()
    def reset(self):
        self.breaker.reset()
        self.move("closed")

    @rule()
    def reload(self):
        self.breaker.reconfigure(failure_threshold=THRESHOLD)

    @invariant()
    def the_states_agree(self):
        assert self.breaker.state == self.state
        assert self.breaker.pybreaker.current_state == self.state


class BudgetModel(RuleBasedStateMachine):
    """Retries and successes in any order never overdraw the quota nor overfill it."""

    @initialize(quota=st.integers(0, 30), cost=st.integers(1, 7))
    def begin(self, quota, cost):
        self.clock = ManualClock()
        self.budget = RetryBudget(quota, cost)
        self.quota, self.cost, self.tokens = quota, cost, quota

    @rule(retries=st.integers(0, 3))
    def spend(self, retries):
        affordable = self.tokens >= self.cost
        assert self.budget.spend(self.clock, retries) is affordable
        if affordable:
            self.tokens -= self.cost

    @rule(retries=st.integers(0, 3))
    def earn(self, retries):
        self.budget.earn(self.clock, retries)
        self.tokens = min(self.quota, self.tokens + (self.cost if retries else 1))

    @rule()
    @precondition(lambda self: self.tokens == self.quota)
    def a_full_quota_learns_nothing_from_a_first_try(self):
        self.budget.earn(self.clock, 0)

    @invariant()
    def the_tokens_agree(self):
        if hasattr(self, "budget"):
            assert self.budget.tokens == self.tokens
            assert 0 <= self.budget.tokens <= self.quota
            assert self.budget.idle is (self.tokens == self.quota)


TTL, STALE = 10.0, 20.0


class MissingError(Exception):
    pass


class CacheModel(RuleBasedStateMachine):
    """Reads that succeed, fail or find nothing, writes, and time, on a few keys, some of them alike."""

    KEYS = st.sampled_from(["a", 1, True, 1.0, ("a", 1), ("a", True)])

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.cache = CacheFallback(
            MemoryStore(),
            key=lambda key: key,
            ttl=TTL,
            stale_if_error=STALE,
            negative_on=MissingError,
            negative_ttl=5.0,
        )
        self.pipeline = Pipeline(self.cache, clock=self.clock)
        self.stored: dict[str, tuple[int, float]] = {}
        self.missing: dict[str, float] = {}
        self.version = 0

    def read(self, key, source):
        """What the model expects: (value or error, whether the source is asked)."""
        name, now = repr(key), self.clock.monotonic()
        if now - self.missing.get(name, -1e9) < 5.0:
            return MissingError, False
        value, at = self.stored.get(name, (None, -1e9))
        if now - at < TTL:
            return value, False
        if isinstance(source, int):
            self.stored[name] = (source, now)
            self.missing.pop(name, None)
            return source, True
        if source is MissingError:
            self.missing[name] = now
        elif now - at < TTL + STALE:
            return value, True
        return source, True

    def check(self, key, source):
        expected, asks = self.read(key, source)
        asked = []

        def fetch(_key):
            asked.append(key)
            if isinstance(source, int):
                return source
            raise source

        if isinstance(expected, int):
            assert self.pipeline.call(fetch, key) == expected
        else:
            with pytest.raises(expected):
                self.pipeline.call(fetch, key)
        assert bool(asked) is asks

    @rule(key=KEYS)
    def read_well(self, key):
        self.version += 1
        self.check(key, self.version)

    @rule(key=KEYS)
    def read_in_an_outage(self, key):
        self.check(key, ConnectionError)

    @rule(key=KEYS)
    def read_nothing(self, key):
        self.check(key, MissingError)

    @rule(key=KEYS)
    def write(self, key):
        self.cache.forget(key)
        self.stored.pop(repr(key), None)
        self.missing.pop(repr(key), None)

    @rule(seconds=st.sampled_from([1.0, 5.0, 10.0, 20.0]))
    def wait(self, seconds):
        self.clock.advance(seconds)


#: Each run in a second or two; deeper runs are the fuzzers' business.
FEW = settings(max_examples=80, stateful_step_count=40, deadline=None)

for model in (BreakerModel, BudgetModel, CacheModel):
    model.TestCase.settings = FEW

TestBreaker = BreakerModel.TestCase
TestBudget = BudgetModel.TestCase
TestCache = CacheModel.TestCase
