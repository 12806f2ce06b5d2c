"""Hedging: when a further call is made, who wins, and what becomes of the others."""

from __future__ import annotations

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import anyio
import pytest

from llm_config_resilience import (
    CircuitBreaker,
    DeadlineExceededError,
    Hedge,
    ManualClock,
    Pipeline,
    Quantile,
    RatioBudget,
    Retry,
    RetryBudget,
    RetryPolicy,
    Timeout,
    UsageError,
    current,
)
from resilience.crowds import PATIENCE, Crowd, frees_at_once, until

#: Seconds: never over within a test.
LONG = 1e6


class Result:
    """Something that wants to be closed."""

    def __init__(self, name):
        self.name = name
        self.closed = 0

    def close(self):
        self.closed += 1


class AsyncResult(Result):
    async def aclose(self):
        await anyio.lowlevel.checkpoint()
        self.closed += 1

    def close(self):
        raise AssertionError("aclose comes first")


def test_a_quick_call_is_not_hedged(crowd):
    held = crowd.held()
    call = crowd.answer(Pipeline(Hedge(LONG)), held.fn)
    held.finish("quick")
    answer = call.result(PATIENCE)
    assert (answer.value, answer.calls, held.calls) == ("quick", 1, 1)


def test_the_first_success_wins(crowd, events):
    held = crowd.held()
    call = crowd.answer(Pipeline(Hedge(0), listeners=[events.append]), held.fn)
    until(lambda: held.running == 2)
    # The first of the two hangs on: what becomes of it is the colour's matter.
    with held._lock:
        held._open.reverse()
    held.finish("hedge")
    answer = call.result(PATIENCE)
    assert (answer.value, answer.calls) == ("hedge", 2)
    assert [(event.kind, event.details) for event in events if event.layer] == [("hedged", {"calls": 2})]
    if not crowd.is_async:
        held.finish("too late")
    until(lambda: held.running == 0)


def test_a_hedge_is_made_after_the_delay_and_no_more_than_allowed(loop, clock):
    starts = []

    async def work():
        starts.append(clock.monotonic() - 1000)
        await clock.sleep_async(10)
        return len(starts)

    pipeline = Pipeline(Hedge(2, max_hedges=3), clock=clock)
    assert loop.run(pipeline.call_async, work) == 4
    assert starts == [0, 2, 4, 6]
    assert clock.monotonic() == 1010


def test_a_thread_makes_a_hedge_after_the_delay(clock):
    starts = []

    def work():
        starts.append(clock.monotonic())
        if len(starts) == 1:
            clock.advance(1.5)
            assert len(starts) == 1
            until(lambda: len(starts) == 2 or clock.advance(0.5))
            return "slow"
        return "hedge"

    assert Pipeline(Hedge(2), clock=clock).call(work) in {"slow", "hedge"}
    assert starts[1] - starts[0] >= 2


def test_losers_are_cancelled(loop, clock):
    ended = []

    async def work():
        number = current().calls, len(ended)
        try:
            await (clock.sleep_async(5) if ended else anyio.sleep_forever())
        except anyio.get_cancelled_exc_class():
            ended.append(("cancelled", clock.monotonic() - 1000))
            raise
        return number

    async def main():
        async def slow_then_quick():
            started.append(1)
            if len(started) == 1:
                return await work()
            await clock.sleep_async(5)
            return "hedge"

        started = []
        return await Pipeline(Hedge(1), clock=clock).call_async(slow_then_quick)

    assert loop.run(main) == "hedge"
    assert ended == [("cancelled", 6)]


@pytest.mark.parametrize("kind", [Result, AsyncResult])
def test_a_result_that_came_too_late_is_closed(loop, clock, kind):
    results = []

    async def work():
        result = kind(len(results))
        results.append(result)
        with anyio.CancelScope(shield=True):  # will not be cancelled, and has a result all the same
            await clock.sleep_async(10 if result.name == 0 else 1)
        return result

    async def main():
        value = await Pipeline(Hedge(1), clock=clock).call_async(work)
        return value.name

    assert loop.run(main) == 1
    assert [result.closed for result in results] == [1, 0]


def test_a_late_result_of_a_thread_is_closed_and_a_failing_close_is_logged(caplog):
    late, leave = Result("late"), threading.Event()

    def broken():
        late.closed += 1
        raise OSError("already gone")

    late.close = broken
    calls = []

    def work():
        calls.append(1)
        if len(calls) == 1:
            leave.wait()
            return late
        return "hedge"

    assert Pipeline(Hedge(0)).call(work) == "hedge"
    leave.set()
    until(lambda: late.closed)
    until(lambda: "Closing a discarded Result failed" in caplog.text)


def test_an_error_before_the_delay_is_the_calls_error(crowd):
    held = crowd.held()
    call = crowd.call(Pipeline(Hedge(LONG)), held.fn)
    held.finish(error := ConnectionError("down"))
    assert call.exception(PATIENCE) is error
    assert held.calls == 1


def test_an_error_that_may_pass_waits_for_the_others(crowd):
    held = crowd.held()
    call = crowd.call(Pipeline(Hedge(0, max_hedges=2)), held.fn)
    until(lambda: held.running == 3)
    held.finish(ConnectionError("one"))
    until(lambda: held.running == 2)
    held.finish(ConnectionError("two"))
    until(lambda: held.running == 1)
    assert not call.done()
    held.finish("three")
    assert call.result(PATIENCE) == "three"


def test_when_all_fail_the_first_calls_error_is_raised(loop, clock):
    errors = [ConnectionError("first"), ConnectionError("second")]
    left = list(errors)

    async def work():
        error = left.pop(0)
        await clock.sleep_async(5 if left else 1)
        raise error

    with pytest.raises(ConnectionError) as caught:
        loop.run(Pipeline(Hedge(1), clock=clock).call_async, work)
    assert caught.value is errors[0]


def test_when_all_threads_fail_one_of_their_errors_is_raised():
    crowd = Crowd(type("Sync", (), {"is_async": False}))
    with crowd:
        held = crowd.held()
        call = crowd.call(Pipeline(Hedge(0)), held.fn)
        until(lambda: held.running == 2)
        held.finish(ConnectionError("one"))
        held.finish(ConnectionError("other"))
        assert isinstance(call.exception(PATIENCE), ConnectionError)


def test_an_answer_that_is_an_error_ends_the_race(crowd):
    held = crowd.held()
    call = crowd.call(Pipeline(Hedge(0)), held.fn)
    until(lambda: held.running == 2)
    held.finish(KeyError("not found"))
    assert isinstance(call.exception(PATIENCE), KeyError)
    if not crowd.is_async:
        held.finish()


def test_which_errors_may_pass_can_be_said(crowd):
    held = crowd.held()
    call = crowd.call(Pipeline(Hedge(0, on=KeyError)), held.fn)
    until(lambda: held.running == 2)
    held.finish(KeyError("replica behind"))
    held.finish("found")
    assert call.result(PATIENCE) == "found"


def test_a_hedge_costs_a_retry_and_an_empty_budget_has_none(crowd):
    budget, held = RetryBudget(quota=5), crowd.held()
    pipeline = Pipeline(Retry(RetryPolicy(1), budget=budget), Hedge(0, budget=budget))
    first = crowd.call(pipeline, held.fn)
    until(lambda: held.running == 2)
    assert budget.tokens == 0
    second = crowd.call(pipeline, held.fn)
    until(lambda: held.running == 3)
    held.finish(ConnectionError("one"))
    held.finish(ConnectionError("other"))
    assert isinstance(first.exception(PATIENCE), ConnectionError)
    held.finish("alone")
    assert second.result(PATIENCE) == "alone"
    assert held.calls == 3
    # The retry has told the budget of a success at first try; the hedge has not told it twice.
    assert budget.tokens == 1


def test_a_hedge_that_wins_is_refunded_and_one_that_does_not_is_not(loop, clock):
    for first, tokens in ((9, 10), (3, 5)):
        budget, started = RetryBudget(quota=10), []

        async def work(first=first, started=started):
            started.append(1)
            await clock.sleep_async(first if len(started) == 1 else 3)

        loop.run(Pipeline(Hedge(1, budget=budget), clock=clock).call_async, work)
        assert budget.tokens == tokens


def test_a_budget_of_its_own_hears_of_calls_that_needed_no_hedge(colour):
    budget = RetryBudget(quota=10)
    assert budget.spend(ManualClock(), 0)
    pipeline = Pipeline(Hedge(LONG, budget=budget))
    for _ in range(3):
        colour.call(pipeline, int)
    assert budget.tokens == 8


def test_a_ratio_budget_bounds_hedges(loop, clock):
    budget, calls = RatioBudget(ratio=0.5, per_second=0), []

    async def work():
        calls.append(1)
        await clock.sleep_async(0.01)

    pipeline = Pipeline(Hedge(0, budget=budget), clock=clock)

    async def main():
        for _ in range(100):
            await pipeline.call_async(work)

    loop.run(main)
    assert 120 <= len(calls) <= 150


def test_a_hedge_ends_at_the_deadline_and_counts_as_a_failure(loop, clock):
    breaker = CircuitBreaker(2)
    pipeline = Pipeline(Timeout(3), Hedge(1), breaker, clock=clock)
    with pytest.raises(DeadlineExceededError):
        loop.run(pipeline.call_async, anyio.sleep_forever)
    assert clock.monotonic() == 1003
    assert breaker.state == "open"


def test_a_thread_that_hangs_does_not_hold_its_caller_beyond_the_deadline(clock):
    late, leave = Result("late"), threading.Event()
    pipeline = Pipeline(Timeout(3), Hedge(LONG), clock=clock)

    def work():
        clock.advance(3)
        leave.wait()
        return late

    with pytest.raises(DeadlineExceededError, match="no answer within the deadline"):
        pipeline.call(work)
    leave.set()
    until(lambda: late.closed)


def test_a_cancelled_call_cancels_its_branches_intact(loop):
    with Crowd(loop) as crowd:
        held = crowd.held()
        call = crowd.call(Pipeline(Hedge(0)), held.fn)
        until(lambda: held.running == 2)
        call.cancel()
        until(lambda: held.running == 0)
        assert call.cancelled()


async def test_a_cancellation_of_the_functions_own_making_arrives():
    async def work():
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await Pipeline(Hedge(LONG)).call_async(work)


def test_a_cancelled_loser_is_neutral_for_a_breaker(loop, clock):
    breaker, started = CircuitBreaker(1), []

    async def work():
        started.append(1)
        if len(started) == 1:
            await anyio.sleep_forever()
        return "hedge"

    pipeline = Pipeline(Hedge(1), breaker, clock=clock)
    assert loop.run(pipeline.call_async, work) == "hedge"
    assert breaker.state == "closed"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_thread_arrives_intact(interrupt):
    def work():
        raise interrupt

    with pytest.raises(interrupt):
        Pipeline(Hedge(LONG)).call(work)


def test_an_interrupt_of_the_waiting_thread_leaves_results_closed():
    late, entered, leave = Result("late"), threading.Event(), threading.Event()

    class Interrupted(ManualClock):
        def wait(self, gate, seconds):
            entered.wait()
            raise KeyboardInterrupt

    def work():
        entered.set()
        leave.wait()
        return late

    with pytest.raises(KeyboardInterrupt):
        Pipeline(Hedge(LONG), clock=Interrupted()).call(work)
    leave.set()
    until(lambda: late.closed)


def test_without_a_free_thread_the_call_is_made_in_the_callers_own_and_hedges_cost_nothing():
    budget = RetryBudget(quota=10)
    hedge = Hedge(0, max_threads=1, budget=budget)
    with Crowd(type("Sync", (), {"is_async": False})) as crowd:
        held = crowd.held()
        first = crowd.call(Pipeline(hedge), held.fn)
        until(lambda: held.running == 1)
        assert Pipeline(hedge).call(threading.get_ident) == threading.get_ident()
        held.finish("alone")
        assert first.result(PATIENCE) == "alone"
        assert held.calls == 1
    assert budget.tokens == 10


def test_a_forked_child_has_threads_of_its_own():
    program = """
import os
from llm_config_resilience import Hedge, Pipeline
pipeline = Pipeline(Hedge(1e6))
assert pipeline.call(lambda: 1) == 1
pid = os.fork()
if pid == 0:
    os._exit(pipeline.call(lambda: 7))
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 0


def test_many_callers_at_once(crowd):
    pipeline = Pipeline(Hedge(0))
    calls = [crowd.call(pipeline, lambda number=number: number) for number in range(100)]
    assert [call.result(PATIENCE) for call in calls] == list(range(100))


def test_contextvars_survive_the_threads():
    who = ContextVar("who")
    who.set("caller")
    assert Pipeline(Hedge(LONG)).call(who.get) == "caller"


def test_the_branches_know_their_call(colour):
    pipeline = Pipeline(Timeout(60), Hedge(LONG))
    assert 0 < colour.call(pipeline, lambda: current().remaining()) <= 60


def test_sync_code_is_told_about_a_coroutine_it_was_handed():
    async def work():
        return 1

    with pytest.raises(UsageError, match="call_async"):
        Pipeline(Hedge(LONG)).call(work)


@contextmanager
def collected():
    """List what only the garbage collector would free of what the body leaves."""
    left = []
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield left
        gc.collect()
        left += [item for item in gc.garbage if isinstance(item, BaseException) or inspect.isframe(item)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@frees_at_once
def test_an_error_leaves_nothing_for_the_garbage_collector(colour):
    hedge = Hedge(LONG)
    pipeline = Pipeline(hedge)

    def fail():
        raise ConnectionError

    def rounds():
        for _ in range(5):
            with suppress(ConnectionError):
                pipeline.call(fail)
        assert hedge._threads.drain(PATIENCE)

    async def rounds_async():
        for _ in range(5):
            with suppress(ConnectionError):
                await pipeline.call_async(fail)

    async def main():
        await rounds_async()
        with collected() as left:
            await rounds_async()
        return left

    if colour.is_async:
        assert colour.run(main) == []
    else:
        rounds()
        with collected() as left:
            rounds()
        assert left == []


def test_the_quantile_of_the_latest_calls():
    quantile = Quantile(0.9, initial=7, window=20, minimum=10)
    for tenths in range(1, 10):
        quantile.record(tenths / 10)
        assert quantile.seconds == 7
    quantile.record(1.0)
    assert quantile.seconds == 0.9
    for _ in range(20):
        quantile.record(5.0)
    assert quantile.seconds == 5.0
    assert repr(quantile) == "Quantile(0.9: 5 s after 20 calls)"


def test_the_delay_may_be_learned(loop, clock):
    quantile, calls = Quantile(0.95, minimum=20), []
    pipeline = Pipeline(Hedge(quantile), clock=clock)

    async def work(seconds):
        calls.append(clock.monotonic())
        await clock.sleep_async(seconds)

    async def main():
        for number in range(40):
            await pipeline.call_async(work, 1 + number / 100)
        assert len(calls) == 40 + sum(1 for number in range(20, 40) if number / 100 > 0)
        began = clock.monotonic()
        await pipeline.call_async(work, 30)
        return calls[-1] - began

    assert loop.run(main) == pytest.approx(quantile_of(40), abs=0.05)


def quantile_of(count):
    return sorted(1 + number / 100 for number in range(count))[int(count * 0.95) - 1]


def test_without_enough_calls_none_is_hedged(loop, clock):
    calls = []

    async def work():
        calls.append(1)
        await clock.sleep_async(1000)

    loop.run(Pipeline(Hedge(Quantile()), clock=clock).call_async, work)
    assert len(calls) == 1


def test_the_settings_are_checked_and_shown():
    for bad in ({"delay": -1}, {"delay": 1, "max_hedges": 0}, {"delay": 1, "max_threads": 0}):
        with pytest.raises(ValueError, match=f"{[*bad][-1]} must be"):
            Hedge(**bad)
    with pytest.raises(ValueError, match="share"):
        Quantile(1)
    with pytest.raises(ValueError, match="minimum"):
        Quantile(minimum=30, window=20)
    assert list(Hedge(2).describe()) == ["delay", "max_hedges", "on", "budget"]
