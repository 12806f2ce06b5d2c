"""Retry, its policy, its budgets, and tenacity's objects in it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from email.utils import format_datetime

import anyio
import pytest
import tenacity

from llm_config_resilience import (
    CircuitOpenError,
    Cooldown,
    DeadlineExceededError,
    Pipeline,
    RateLimitedError,
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


def test_an_error_that_outlasts_its_attempts_says_nothing_of_a_budget(colour, clock, script):
    with pytest.raises(OSError, match="down") as caught:
        colour.call(Pipeline(Retry(STEADY), clock=clock), script(OSError("down")))
    assert not hasattr(caught.value, "__notes__")


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


def test_a_policy_with_jitter_keeps_it_in_tenacity(script):
    slept = []
    for _ in range(50):
        RetryPolicy().to_tenacity().copy(sleep=slept.append)(script(OSError(), 5))
    assert len(set(slept)) > 1
    assert 0 <= min(slept) <= max(slept) <= 0.1


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


class Response:
    """A result that can be closed, in either colour."""

    def __init__(self, status, *, closing=None):
        self.status = status
        self.closed = []
        self.closing = closing

    def close(self):
        self.closed.append("close")
        if self.closing:
            raise self.closing


class AsyncResponse(Response):
    async def aclose(self):
        await anyio.lowlevel.checkpoint()
        self.closed.append("aclose")
        if self.closing:
            raise self.closing


BUSY = RetryPolicy(jitter="none", retry=tenacity.retry_if_result(lambda response: response.status == 503))


@pytest.mark.parametrize("closing", [None, OSError("already gone")])
def test_an_attempt_that_is_discarded_has_its_response_closed(colour, clock, script, closing):
    make = AsyncResponse if colour.is_async else Response
    first, second, good = make(503, closing=closing), make(503), make(200)
    assert colour.call(Pipeline(Retry(BUSY), clock=clock), script(first, second, good)) is good
    how = ["aclose"] if colour.is_async else ["close"]
    assert (first.closed, second.closed, good.closed) == (how, how, [])
    assert clock.sleeps == [0.1, 0.2]


def test_the_last_result_is_returned_open_where_tenacity_raises(colour, clock, script, events):
    responses = [Response(503), Response(503), Response(503)]
    pipeline = Pipeline(Retry(BUSY), clock=clock, listeners=[events.append])
    assert colour.call(pipeline, script(*responses)) is responses[2]
    assert [response.closed for response in responses] == [["close"], ["close"], []]
    assert events[-1].details == {"reason": "attempts"}


def test_tenacitys_own_before_sleep_log_works(clock, script, caplog):
    policy = RetryPolicy(before_sleep=tenacity.before_sleep_log(logging.getLogger("app"), logging.WARNING))
    Pipeline(Retry(policy), clock=clock).call(script(OSError("down"), 1))
    assert "it raised OSError: down" in caplog.text


def test_a_tenacity_error_callback_is_not_dropped_in_silence():
    with pytest.raises(ValueError, match="Fallback"):
        RetryPolicy.from_tenacity(tenacity.Retrying(retry_error_callback=print))


@pytest.mark.parametrize("hint", [0, -5, "0.0", "Sun, 06 Nov 1994 08:49:37 GMT"])
def test_a_retry_after_of_nothing_is_no_hot_loop(colour, clock, script, hint):
    with pytest.raises(ServerError):
        colour.call(Pipeline(Retry(STEADY), clock=clock), script(ServerError(retry_after=hint)))
    assert clock.sleeps == [0.1, 0.2]


# --- A retry inside a retry ---


def test_a_retry_in_a_pipeline_inside_a_retry_does_not_multiply_attempts(colour, clock, script, events):
    inner = Pipeline(Retry(RetryPolicy(2, jitter="none")), clock=clock)
    outer = Pipeline(Retry(RetryPolicy(5, jitter="none")), clock=clock, listeners=[events.append])
    fn = script(OSError("down"))
    with pytest.raises(OSError, match="down"):
        _nested(colour, outer, inner, fn)
    assert fn.calls == 2
    assert events == []


def _nested(colour, outer, *inner, wrap=None):
    *inner, fn = inner

    def call_through(pipelines):
        if not pipelines:
            return fn
        first, *rest = pipelines
        if colour.is_async:

            async def through_async():
                try:
                    return await first.call_async(call_through(rest))
                except Exception as error:
                    if wrap is None:
                        raise
                    raise wrap from error

            return through_async

        def through():
            try:
                return first.call(call_through(rest))
            except Exception as error:
                if wrap is None:
                    raise
                raise wrap from error

        return through

    work = call_through(inner)
    return colour.run(outer.call_async, work) if colour.is_async else outer.call(work)


def test_nor_does_one_whose_error_was_raised_from_the_inner_ones(colour, clock, script):
    inner, outer = (Pipeline(Retry(STEADY), clock=clock) for _ in range(2))
    fn = script(OSError("down"))
    with pytest.raises(ConnectionError, match="wrapped"):
        _nested(colour, outer, inner, fn, wrap=ConnectionError("wrapped"))
    assert fn.calls == 3


def test_nor_do_three_of_them(colour, clock, script):
    pipelines = [Pipeline(Retry(RetryPolicy(n, jitter="none")), clock=clock) for n in (5, 4, 2)]
    fn = script(OSError("down"))
    with pytest.raises(OSError, match="down"):
        _nested(colour, *pipelines, fn)
    assert fn.calls == 2


def test_nor_do_two_in_one_pipeline(colour, clock, script):
    with pytest.warns(match="two retries"):
        pipeline = Pipeline(Retry(STEADY), Retry(RetryPolicy(2, jitter="none")), clock=clock)
    fn = script(OSError("down"))
    with pytest.raises(OSError, match="down"):
        colour.call(pipeline, fn)
    assert fn.calls == 2


def test_an_outer_retry_repeats_what_the_inner_one_is_not_for(colour, clock, script):
    inner = Pipeline(Retry(STEADY, on=KeyError), clock=clock)
    outer = Pipeline(Retry(RetryPolicy(4, jitter="none"), on=OSError), clock=clock)
    fn = script(KeyError(), OSError(), OSError(), KeyError(), "value")
    assert _nested(colour, outer, inner, fn) == "value"
    assert fn.calls == 5


def test_an_error_that_was_given_up_once_may_be_retried_in_another_call(colour, clock, script):
    error = OSError("one for all")
    inner, outer = (Pipeline(Retry(STEADY, budget=None), clock=clock) for _ in range(2))
    for _ in range(2):
        with pytest.raises(OSError, match="one for all"):
            _nested(colour, outer, inner, script(error))
    fn = script(error)
    with pytest.raises(OSError, match="one for all"):
        colour.call(outer, fn)
    assert fn.calls == 3


# --- The cooldown ---


class TooManyError(ServerError):
    is_rate_limited = True


def test_a_cooldown_is_shared_by_all_callers_of_one_retry(colour, clock, script):
    pipeline = Pipeline(Retry(STEADY), clock=clock)
    with pytest.raises(TooManyError):
        colour.call(Pipeline(Timeout(2), *pipeline.layers, clock=clock), script(TooManyError(retry_after=5)))
    clock.advance(1)
    assert colour.call(pipeline, clock.monotonic) == 1005
    assert colour.call(pipeline, clock.monotonic) == 1005


def test_a_call_that_cannot_sit_a_cooldown_out_is_turned_away_at_once(colour, clock, script, events):
    retry = Retry(STEADY)
    pipeline = Pipeline(Timeout(2), retry, clock=clock, listeners=[events.append])
    for _ in range(2):
        fn = script(TooManyError(retry_after=5))
        with pytest.raises((TooManyError, RateLimitedError)) as caught:
            colour.call(pipeline, fn)
    assert fn.calls == 0
    assert caught.value.retry_after == 5
    assert isinstance(caught.value.__cause__, TooManyError)
    assert events[-1].kind == "rejected"
    assert clock.monotonic() == 1000


@pytest.mark.parametrize("error", [ServerError(retry_after=5), TooManyError(), TooManyError(retry_after=0)])
def test_only_a_429_that_says_how_long_begins_one(clock, script, error):
    pipeline = Pipeline(Timeout(0.05), Retry(STEADY), clock=clock)
    with pytest.raises(type(error)):
        pipeline.call(script(error))
    assert pipeline.call(clock.monotonic) == 1000


def test_a_cooldown_has_an_end_however_long_the_server_asks(clock, script):
    pipeline = Pipeline(Retry(STEADY), clock=clock)
    with pytest.raises(TooManyError):
        pipeline.call(script(TooManyError(retry_after=1e6)))
    assert pipeline.call(clock.monotonic) == 1060


def test_strategies_may_share_a_cooldown_or_have_none(clock, script):
    shared = Cooldown()
    first, second = (Pipeline(Retry(STEADY, cooldown=shared), clock=clock) for _ in range(2))
    third = Pipeline(Retry(STEADY, cooldown=None), clock=clock)
    with pytest.raises(TooManyError):
        first.call(script(TooManyError(retry_after=61)))
    assert third.call(clock.monotonic) == 1000
    assert second.call(clock.monotonic) == 1060


def test_a_policy_is_reloaded_and_the_budget_stays(colour, clock, script):
    retry = Retry(STEADY, budget=RetryBudget(quota=15, retry_cost=5))
    pipeline = Pipeline(retry, clock=clock)
    with pytest.raises(OSError):
        colour.call(pipeline, script(OSError()))
    retry.reconfigure(RetryPolicy(9, jitter="none"))
    fn = script(OSError())
    with pytest.raises(OSError):
        colour.call(pipeline, fn)
    assert fn.calls == 2  # what the budget had left


def test_another_policy_may_be_taken_and_the_one_there_is_be_read(colour, clock, script):
    retry = Retry(STEADY)
    assert retry.policy == STEADY
    retry.reconfigure(RetryPolicy(2, jitter="none"))
    assert retry.policy == RetryPolicy(2, jitter="none")
    fn = script(*[ConnectionError()] * 9)
    with pytest.raises(ConnectionError):
        colour.call(Pipeline(retry, clock=clock), fn)
    assert fn.calls == 2
