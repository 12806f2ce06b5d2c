"""Thousands of policies, each through a world of its own: the toolkit's invariants hold in all of them."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from llm_config_resilience import PipelineOrderWarning
from llm_config_resilience.simulation import InvariantError, simulate
from simulation.drawn_policies import drawn_policy

#: Seeds in CI, at about 15 ms each, and of how many one is run twice.
SEEDS = 3000
TWICE = 20
HASH_SEEDS = 15


@pytest.mark.timeout(0)  # as long as the seeds asked for take
@pytest.mark.filterwarnings("ignore", category=PipelineOrderWarning)  # drawn orders are not all advisable
def test_whatever_goes_wrong_the_invariants_hold(campaign):
    for seed in campaign.seeds(SEEDS):
        run = simulate(drawn_policy(seed), seed=seed)
        if run.violations:
            raise InvariantError(run.violations, campaign.replay(seed))


@pytest.mark.timeout(0)
@pytest.mark.filterwarnings("ignore", category=PipelineOrderWarning)
def test_the_same_seed_gives_the_same_trace(campaign):
    for seed in campaign.seeds(SEEDS // TWICE):
        first = simulate(drawn_policy(seed), seed=seed, keep_trace=True)
        second = simulate(drawn_policy(seed), seed=seed, keep_trace=True)
        assert first.trace == second.trace, f"replay it: {campaign.replay(seed)}"
        assert first.digest == second.digest


def digests(seeds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PipelineOrderWarning)
        return [simulate(drawn_policy(seed), seed=seed).digest for seed in seeds]


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_the_same_seed_gives_the_same_trace_in_every_process(hash_seed):
    program = f"from simulation.test_policies import digests; print(digests(range({HASH_SEEDS})))"
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str(digests(range(HASH_SEEDS)))


@pytest.mark.filterwarnings("ignore", category=PipelineOrderWarning)
def test_another_seed_gives_another_trace():
    assert len(set(digests(range(HASH_SEEDS)))) == HASH_SEEDS


def test_a_policy_that_makes_nothing_to_call_through_is_refused():
    with pytest.raises(TypeError, match="a Pipeline or an async function, not a str"):
        simulate(lambda: "no pipeline")
