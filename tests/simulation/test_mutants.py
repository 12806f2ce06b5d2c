"""The simulation sees what it is there for: a strategy broken in one place is caught within some seeds."""

import random
from math import inf

import pytest

from llm_config_resilience import (
    Bulkhead,
    CacheFallback,
    CircuitBreaker,
    Context,
    Failover,
    PipelineOrderWarning,
    RatioBudget,
    RetryBudget,
    SingleFlight,
)
from llm_config_resilience.simulation import VirtualClock, simulate
from llm_config_resilience.simulation.clients import require_same
from llm_config_resilience.strategies.cache_fallback import CacheTimes
from llm_config_resilience.strategies.circuit import Circuit
from simulation.drawn_policies import drawn_policy

#: Seeds until a mutant has to be caught.
SEEDS = 300


def nothing(*_args, **_options):
    """In place of a hook."""


def keeps_its_place_when_cancelled(patch):
    patch.setattr(Bulkhead, "released", nothing)


def keeps_its_place_when_it_fails(patch):
    patch.setattr(Bulkhead, "failed", nothing)


def loses_a_probe_that_is_cancelled(patch):
    patch.setattr(CircuitBreaker, "released", nothing)


def loses_a_probe_that_is_turned_away_further_in(patch):
    patch.setattr(Circuit, "give_back", nothing)


def never_probes(patch):
    patch.setattr(
        Circuit, "admit", lambda self, now, calls=0, admit=Circuit.admit: admit(self, min(now, 9.0), calls)
    )


def never_closes(patch):
    patch.setattr(
        Circuit,
        "_move",
        lambda self, state, move=Circuit._move, **how: state == "closed" or move(self, state, **how),
    )


def forgets_the_probe_of_a_target(patch):
    patch.setattr(Failover, "_end_probe", nothing)


def pays_what_it_has_not(patch):
    patch.setattr(RetryBudget, "spend", lambda *_: True)


def pays_beyond_its_ratio(patch):
    patch.setattr(RatioBudget, "spend", lambda *_: True)


def never_expires(patch):
    unbounded = VirtualClock.expiring
    patch.setattr(VirtualClock, "expiring", lambda self, _seconds: unbounded(self, inf))


def stands_in_at_any_age(patch):
    settle = CacheTimes.__post_init__

    def settle_for_anything(times):
        settle(times)
        object.__setattr__(times, "usable_until", inf)

    patch.setattr(CacheTimes, "__post_init__", settle_for_anything)


def is_fresh_at_any_age(patch):
    patch.setattr(CacheFallback, "_age", lambda *_: 0.0)


def stands_in_for_not_found(patch):
    patch.setattr(
        "simulation.drawn_policies.CacheFallback",
        lambda *args, **how: CacheFallback(*args, on=Exception, **how),
    )


def abandons_who_waits_for_its_flight(patch):
    patch.setattr(SingleFlight, "released", nothing)


CAUGHT = {
    keeps_its_place_when_cancelled: "permits-return",
    keeps_its_place_when_it_fails: "permits-return",
    loses_a_probe_that_is_cancelled: "probes-return",
    loses_a_probe_that_is_turned_away_further_in: "probes-return",
    never_probes: "recovers",
    never_closes: "recovers",
    forgets_the_probe_of_a_target: "probes-return",
    pays_what_it_has_not: "budget-holds",
    pays_beyond_its_ratio: "budget-holds",
    never_expires: "ends-by-deadline",
    stands_in_at_any_age: "no-older-than-allowed",
    is_fresh_at_any_age: "no-older-than-allowed",
    stands_in_for_not_found: "not-found-is-an-answer",
    abandons_who_waits_for_its_flight: "flights-land",
}


@pytest.mark.filterwarnings("ignore", category=PipelineOrderWarning)
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # a mutant leaves a mess behind
@pytest.mark.parametrize(("mutant", "invariant"), CAUGHT.items(), ids=lambda it: getattr(it, "__name__", it))
def test_a_strategy_is_caught_that(mutant, invariant, monkeypatch):
    mutant(monkeypatch)
    for seed in range(SEEDS):
        run = simulate(drawn_policy(seed), seed=seed)
        if invariant in {violation.invariant for violation in run.violations}:
            return
    pytest.fail(f"{SEEDS} seeds, and nothing was seen")


@pytest.mark.filterwarnings("ignore", category=PipelineOrderWarning)
def test_randomness_of_its_own_is_caught(monkeypatch):
    source = random.SystemRandom()
    monkeypatch.setattr(Context, "random", lambda _self: source.random())
    for seed in range(SEEDS):
        run = simulate(drawn_policy(seed), seed=seed)
        require_same(run, simulate(drawn_policy(seed), seed=seed))
        if run.violations:
            assert run.violations[0].invariant == "same-seed-same-trace"
            return
    pytest.fail("two different traces were taken for the same")
