"""Retry, its policy, its budgets, and tenacity's objects in it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import anyio
import pytest
import tenacity

from llm_config_resilience import (
    CircuitOpenError,
    DeadlineExceededError,
    Pipeline,
    RatioBudget,
    RejectedError,
    Retry,
    RetryBudget,
    RetryPolicy,
    Timeout,
)

STEADY = RetryPolicy(jitter="none")


class ServerError(Exception):
    """An error that speaks for itself."""

    def __init__(self, *, retriable=True, retry_after=None):
        super().__init__("server")
        self.is_retriable = retriable
        self.retry_after = retry_after


def test_it_tries_again_and_backs_off_exponentially(colour, clock, script, events):
    pipeline = Pipeline(Retry(RetryPolicy(4, jitter="none")), clock=clock, listeners=[events.append])
    answer = colour.answer(pipeline, script(OSError(), OSError(), OSError(), "value"))
    assert (answer.value, answer.attempts, answer.calls) == ("value", 4, 4)
    assert clock.sleeps == [0.1, 0.2, 0.4]
    assert [event.kind for event in events] == ["retry", "retry", "retry", "recovered"]
    assert [event.attempt for event in events] == [1, 2, 3, 4]


def test_the_last_error_is_raised_as_it_is(colour, clock, script, events):
    errors = [OSError("1"), OSError("2"), OSError("3")]
    pipeline = Pipeline(Retry(STEADY), clock=clock, listeners=[events.append])
    with pytest.raises(OSError, match="3") as caught:
        colour.call(pipeline, script(*errors))
    assert caught.value is errors[2]
    assert events[-1].kind == "gave_up"
    assert events[-1].details == {"reason": "attempts"}


def test_full_jitter_draws_between_nothing_and_the_bound(clock, script):
    draws = iter([0.0, 0.5])
    pipeline = Pipeline(Retry(RetryPolicy(initial_backoff=1)), clock=clock, random=lambda: next(draws))
    pipeline.call(script(OSError(), OSError(), 1))
    assert clock.sleeps == [1.0]  # a wait of nothing is none


def test_backoff_never_exceeds_its_bound_however_many_attempts():
    policy = RetryPolicy(10_000, jitter="none")
    assert policy.backoff(9_999, lambda: 0.0) == 10.0


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (OSError(), 3),
        (TimeoutError(), 3),
        (DeadlineExceededError("slow"), 3),
        (ServerError(), 3),
        (ServerError(retriable=False), 1),
        (ValueError(), 1),
        (RejectedError("full"), 1),
        (CircuitOpenError("open"), 1),
    ],
)
def test_the_error_says_whether_it_may_pass(colour, clock, script, error, calls):
    fn = script(error)
    with pytest.raises(type(error)):
        colour.call(Pipeline(Retry(STEADY), clock=clock), fn)
    assert fn.calls == calls


def test_on_decides_instead_by_class_or_predicate(colour, clock, script):
    for on in (KeyError, (KeyError, IndexError), lambda error: isinstance(error, KeyError)):
        fn = script(KeyError(), "value")
        assert colour.call(Pipeline(Retry(STEADY, on=on), clock=clock), fn) == "value"
        refused = script(OSError())
        with pytest.raises(OSError):
            colour.call(Pipeline(Retry(STEADY, on=on), clock=clock), refused)
        assert refused.calls == 1


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_never_retried(clock, script, interrupt):
    fn = script(interrupt)
    with pytest.raises(interrupt):
        Pipeline(Retry(on=lambda _error: True), clock=clock).call(fn)
    assert fn.calls == 1


def test_retry_after_is_the_least_wait(colour, clock, script):
    pipeline = Pipeline(Retry(STEADY), clock=clock)
    colour.call(pipeline, script(ServerError(retry_after=3), ServerError(retry_after=0.01), 1))
    assert clock.sleeps == [3, 0.2]


def test_retry_after_gets_jitter_on_top_because_every_client_heard_the_same(clock, script):
    pipeline = Pipeline(Retry(RetryPolicy()), clock=clock, random=lambda: 0.5)
    pipeline.call(script(ServerError(retry_after=3), 1))
    assert clock.sleeps == [3.05]


def test_a_retry_after_above_the_cap_is_raised_at_once(colour, clock, script, events):
    fn = script(ServerError(retry_after=61))
    with pytest.raises(ServerError) as caught:
        colour.call(Pipeline(Retry(STEADY), clock=clock, listeners=[events.append]), fn)
    assert (fn.calls, caught.value.retry_after, clock.sleeps) == (1, 61, [])
    assert events[-1].details == {"reason": "retry-after"}


def test_a_wait_past_the_deadline_is_not_begun_and_the_error_is_raised(colour, clock, script, events):
    fn = script(ServerError(retry_after=5))
    with pytest.raises(ServerError):
        colour.call(Pipeline(Timeout(4), Retry(STEADY), clock=clock, listeners=[events.append]), fn)
    assert fn.calls == 1
    assert clock.monotonic() == 1000
    assert events[-1].details == {"reason": "deadline"}


@pytest.mark.parametrize("seconds", [7, -7])
def test_retry_after_may_be_an_http_date(clock, script, seconds):
    date = format_datetime(datetime.fromtimestamp(clock.time() + seconds, UTC), usegmt=True)
    Pipeline(Retry(STEADY), clock=clock).call(script(ServerError(retry_after=date), 1))
    assert clock.sleeps == [max(0.1, seconds)]


@pytest.mark.parametrize("hint", ["soon", "", float("nan"), float("inf"), True, object()])
def test_a_retry_after_that_cannot_be_read_is_ignored(clock, script, hint):
    Pipeline(Retry(STEADY), clock=clock).call(script(ServerError(retry_after=hint), 1))
    assert clock.sleeps == [0.1]


def test_a_spent_budget_raises_the_original_error_with_a_note(colour, clock, script, events):
    budget = RetryBudget(quota=5, retry_cost=5)
    pipeline = Pipeline(Retry(STEADY, budget=budget), clock=clock, listeners=[events.append])
    fn = script(OSError("down"))
    with pytest.raises(OSError, match="down") as caught:
        colour.call(pipeline, fn)
    assert fn.calls == 2
    assert caught.value.__notes__ == ["not retried: the retry budget is spent"]
    assert events[-1].details == {"reason": "budget"}


def test_a_success_refunds_its_last_retry_and_a_first_try_pays_one_in(clock, script):
    budget = RetryBudget(quota=20, retry_cost=5)
    pipeline = Pipeline(Retry(STEADY, budget=budget), clock=clock)
    pipeline.call(script(OSError(), OSError(), 1))
    assert budget.tokens == 15
    pipeline.call(int)
    assert budget.tokens == 16


def test_every_retry_has_a_budget_of_its_own_unless_told_otherwise():
    first, second = Retry(), Retry()
    assert isinstance(first.budget, RetryBudget)
    assert first.budget is not second.budget
    assert Retry(budget=None).budget is None


def test_a_ratio_budget_allows_a_share_and_a_floor(clock):
    budget = RatioBudget(ratio=0.5, per_second=0.1, ttl=10)
    for _ in range(4):
        budget.earn(clock, 0)
    assert [budget.spend(clock, 1) for _ in range(4)] == [True, True, True, False]
    clock.advance(20)
    assert [budget.spend(clock, 1) for _ in range(2)] == [True, False]


def test_one_retry_shared_by_20_tasks_makes_all_60_attempts(loop, clock):
    calls = []

    async def fail():
        calls.append(1)
        await anyio.lowlevel.checkpoint()
        raise OSError

    pipeline = Pipeline(Retry(STEADY, budget=None), clock=clock)

    async def one():
        with pytest.raises(OSError):
            await pipeline.call_async(fail)

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)

    loop.run(main)
    assert len(calls) == 60
    # Twenty callers wait at once: together they take as long as one does.
    assert clock.monotonic() == pytest.approx(1000.3)


def test_tenacity_objects_plug_in(colour, clock, script):
    waits = []
    policy = RetryPolicy(
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(100),
        wait=tenacity.wait_incrementing(1, 2),
        retry=tenacity.retry_if_exception_type(KeyError)
        | tenacity.retry_if_result(lambda value: value is None),
        before_sleep=lambda state: waits.append((state.attempt_number, state.upcoming_sleep)),
    )
    fn = script(KeyError(), None, KeyError(), "value")
    assert colour.call(Pipeline(Retry(policy), clock=clock), fn) == "value"
    assert clock.sleeps == [1, 3, 5]
    assert waits == [(1, 1), (2, 3), (3, 5)]


def test_a_tenacity_delay_is_measured_on_the_pipelines_clock(clock):
    def fail():
        clock.advance(2)
        raise OSError

    policy = RetryPolicy(stop=tenacity.stop_after_delay(5), jitter="none", initial_backoff=0)
    with pytest.raises(OSError):
        Pipeline(Retry(policy), clock=clock).call(fail)
    assert clock.monotonic() == 1006


def test_a_policy_comes_from_tenacity_and_goes_there(clock, script):
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(2), wait=tenacity.wait_fixed(4))
    with pytest.raises(ValueError):
        Pipeline(Retry(RetryPolicy.from_tenacity(retrying)), clock=clock).call(script(ValueError()))
    assert clock.sleeps == [4]
    slept = []
    back = STEADY.to_tenacity().copy(sleep=slept.append)
    assert back(script(OSError(), OSError(), 5)) == 5
    assert slept == [0.1, 0.2]


@pytest.mark.parametrize(
    "settings",
    [{"max_attempts": 0}, {"initial_backoff": -1}, {"backoff_multiplier": 0.5}, {"jitter": "some"}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError):
        RetryPolicy(**settings)


@pytest.mark.parametrize(
    ("preset", "figures"),
    [
        (RetryPolicy.default(), (3, 0.1, 10, 2)),
        (RetryPolicy.aggressive(), (5, 0.05, 1, 1.5)),
        (RetryPolicy.conservative(), (2, 0.5, 30, 3)),
    ],
)
def test_presets_have_the_figures_of_the_platform(preset, figures):
    shown = (preset.max_attempts, preset.initial_backoff, preset.max_backoff, preset.backoff_multiplier)
    assert shown == figures
    assert preset.jitter == "full"
