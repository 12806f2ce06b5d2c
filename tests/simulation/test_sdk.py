"""Hundreds of worlds for the whole client and the reference server, in virtual time."""

import logging

import pytest

from llm_config_sdk import TransportError, outcomes, policy
from simulation.sdk_world import simulate_sdk

#: Seeds in CI, at about 50 ms each, and of how many one is run twice.
SEEDS = 300
TWICE = 20
#: Seeds until a mutant has to be caught.
MUTANT_SEEDS = 100


@pytest.fixture(autouse=True)
def no_logs():
    """Ten thousand errors are told of: nobody is there to read it."""
    logger = logging.getLogger("llm_config_sdk")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.mark.timeout(0)  # as long as the seeds asked for take
def test_whatever_goes_wrong_the_client_keeps_its_promises(campaign):
    for seed in campaign.seeds(SEEDS):
        outcome = simulate_sdk(seed)
        assert not outcome.violations, "\n".join([*outcome.violations, f"replay it: {campaign.replay(seed)}"])


@pytest.mark.timeout(0)
def test_the_same_seed_gives_the_same_trace(campaign):
    for seed in campaign.seeds(SEEDS // TWICE):
        assert simulate_sdk(seed).digest == simulate_sdk(seed).digest, f"replay it: {campaign.replay(seed)}"


def repeats_writes_that_may_have_arrived(patch):
    patch.setattr(policy, "was_never_sent", lambda error: isinstance(error, TransportError))


def keeps_what_is_known_to_be_gone(patch):
    patch.setattr(outcomes.Outcomes, "_forget_absent", lambda *_: None)


def keeps_what_was_overwritten(patch):
    patch.setattr(outcomes.Outcomes, "forget_written", lambda *_: None)


def waits_longer_than_it_was_given(patch):
    patch.setattr(policy, "_total", lambda _call, timeout: 3 * timeout)


MUTANTS = {
    repeats_writes_that_may_have_arrived: "no-write-twice",
    keeps_what_is_known_to_be_gone: "not-found-is-an-answer",
    keeps_what_was_overwritten: "reads-own-writes",
    waits_longer_than_it_was_given: "ends-by-deadline",
}


@pytest.mark.parametrize(("mutant", "invariant"), MUTANTS.items(), ids=lambda it: getattr(it, "__name__", it))
def test_a_client_is_caught_that(mutant, invariant, monkeypatch):
    mutant(monkeypatch)
    for seed in range(MUTANT_SEEDS):
        if any(violation.startswith(invariant) for violation in simulate_sdk(seed).violations):
            return
    pytest.fail(f"{MUTANT_SEEDS} seeds, and nothing was seen")
