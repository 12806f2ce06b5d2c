"""Thousands of random policies: the same results, attempts and sleeps as `tenacity.Retrying`."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import tenacity
from tenacity import (
    retry_all,
    retry_any,
    retry_if_exception,
    retry_if_exception_message,
    retry_if_exception_type,
    retry_if_not_result,
    retry_if_result,
    retry_unless_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_before_delay,
    wait_chain,
    wait_combine,
    wait_exponential,
    wait_exponential_jitter,
    wait_fixed,
    wait_incrementing,
    wait_none,
    wait_random,
    wait_random_exponential,
)

from llm_config_resilience import ManualClock, Pipeline, Retry, RetryPolicy

#: Enough that every pair of a stop, a wait and a retry object meets several times; a second or two in all.
POLICIES_A_SEED = 1_000

ERRORS = (
    KeyError("key"),
    OSError("down"),
    ConnectionError("refused"),
    ValueError("value"),
    tenacity.TryAgain(),
)


def a_stop(draw):
    attempts = stop_after_attempt(draw.randint(1, 6))
    delay = draw.choice([stop_after_delay, stop_before_delay])(draw.uniform(0.1, 8))
    return draw.choice([attempts, stop_any(attempts, delay), stop_all(attempts, delay), delay])


def a_wait(draw):
    some = [
        wait_none(),
        wait_fixed(draw.uniform(0, 2)),
        wait_random(0, draw.uniform(0.1, 2)),
        wait_incrementing(draw.uniform(0, 1), draw.uniform(0, 1)),
        wait_exponential(draw.uniform(0.1, 1), max=draw.uniform(0.2, 3)),
        wait_random_exponential(draw.uniform(0.1, 1), max=draw.uniform(0.2, 3)),
        wait_exponential_jitter(max=draw.uniform(1, 3)),
    ]
    return draw.choice(
        [
            *some,
            wait_combine(*draw.sample(some, 2)),
            wait_chain(*draw.sample(some, 2)),
            draw.choice(some) + some[1],
        ]
    )


def a_retry(draw):
    some = [
        retry_if_exception_type(),
        retry_if_exception_type((KeyError, OSError)),
        retry_unless_exception_type(ValueError),
        retry_if_exception(lambda error: "down" in str(error)),
        retry_if_exception_message(match="re"),
        retry_if_result(lambda value: value is None),
        retry_if_not_result(lambda value: isinstance(value, int)),
    ]
    return draw.choice([*some, retry_any(*draw.sample(some, 2)), retry_all(*draw.sample(some, 2))])


class Work:
    """What is called: takes time, and answers by a list, errors raised; then it always answers 7."""

    def __init__(self, clock, outcomes):
        self.clock = clock
        self.outcomes = outcomes
        self.calls = 0

    def __call__(self):
        self.calls += 1
        seconds, outcome = self.outcomes[self.calls - 1] if self.calls <= len(self.outcomes) else (0.1, 7)
        self.clock.advance(seconds)
        if isinstance(outcome, Exception):
            raise outcome.with_traceback(None)
        return outcome


def ours(policy, outcomes, seed):
    clock = ManualClock()
    work = Work(clock, outcomes)
    random.seed(seed)
    pipeline = Pipeline(Retry(policy, budget=None, cooldown=None), clock=clock)
    try:
        ended = ("returned", pipeline.call(work))
    except Exception as error:  # noqa: BLE001 - what is raised is what is compared
        ended = ("raised", error)
    return ended, work.calls, clock.sleeps, clock.monotonic()


def theirs(policy, outcomes, seed, monkeypatch):
    clock = ManualClock()
    work = Work(clock, outcomes)
    random.seed(seed)
    monkeypatch.setattr(tenacity, "time", SimpleNamespace(monotonic=clock.monotonic))
    retrying = tenacity.Retrying(
        stop=policy.stop, wait=policy.wait, retry=policy.retry, sleep=clock.sleep, reraise=True
    )
    try:
        ended = ("returned", retrying(work))
    except tenacity.RetryError as error:  # a result that was not accepted: ours is the last one itself
        ended = ("returned", error.last_attempt.result())
    except Exception as error:  # noqa: BLE001 - what is raised is what is compared
        ended = ("raised", error)
    return ended, work.calls, clock.sleeps, clock.monotonic()


def without_zeros(outcome):
    """A wait of nothing is none; tenacity sleeps 0 seconds."""
    ended, calls, sleeps, now = outcome
    return ended, calls, [seconds for seconds in sleeps if seconds > 0], now


@pytest.mark.parametrize("seed", range(4))
def test_a_policy_made_of_tenacitys_objects_does_what_tenacity_does(seed, monkeypatch):
    draw = random.Random(seed)
    repeated = results = 0
    for number in range(POLICIES_A_SEED):
        policy = RetryPolicy(stop=a_stop(draw), wait=a_wait(draw), retry=a_retry(draw))
        outcomes = [
            (draw.uniform(0.1, 1), draw.choice([*ERRORS, None, 1, "text"])) for _ in range(draw.randint(0, 8))
        ]
        expected = without_zeros(theirs(policy, outcomes, number, monkeypatch))
        found = without_zeros(ours(policy, outcomes, number))
        assert found == expected, f"policy {number} of seed {seed}: {policy} on {outcomes}"
        repeated += found[1] > 1
        results += found[1] > 1 and found[0][0] == "returned"
    assert repeated > POLICIES_A_SEED / 5, "the policies are such that something happens"
    assert results > POLICIES_A_SEED / 20


def test_a_policy_of_our_own_does_what_its_tenacity_form_does(monkeypatch):
    draw = random.Random(5)
    for number in range(POLICIES_A_SEED):
        policy = RetryPolicy(
            draw.randint(1, 6),
            draw.uniform(0, 1),
            draw.uniform(0.5, 3),
            draw.uniform(1, 3),
            jitter="none",
        )
        outcomes = [(0.1, draw.choice(ERRORS[:4])) for _ in range(draw.randint(0, 6))]
        retrying = policy.to_tenacity()
        as_tenacity = RetryPolicy(stop=retrying.stop, wait=retrying.wait, retry=retrying.retry)
        expected = theirs(as_tenacity, outcomes, number, monkeypatch)
        found = ours(policy, outcomes, number)
        assert found[:2] == expected[:2]
        assert found[2] == pytest.approx(expected[2])
