"""The circuit breaker, and every rule a peer breaks."""

from __future__ import annotations

import abc
import asyncio
import random
import threading
from contextlib import suppress

import anyio
import pybreaker
import pytest

from llm_config_resilience import (
    CircuitBreaker,
    CircuitOpenError,
    CircuitSettings,
    DeadlineExceededError,
    Fallback,
    Gate,
    Hedge,
    Park,
    Pipeline,
    RejectedError,
    Retry,
    RetryPolicy,
    Strategy,
    Timeout,
)


def fail():
    raise ConnectionError("down")


def trip(colour, pipeline, times=5):
    for _ in range(times):
        with pytest.raises(ConnectionError):
            colour.call(pipeline, fail)


@pytest.fixture
def breaker():
    return CircuitBreaker(name="backend")


@pytest.fixture
def pipeline(breaker, clock, events):
    return Pipeline(breaker, clock=clock, listeners=[events.append])


def test_it_opens_after_failures_in_a_row_and_the_call_that_trips_raises_its_own_error(
    colour, breaker, pipeline, events
):
    trip(colour, pipeline, 4)
    assert breaker.state == "closed"
    trip(colour, pipeline, 1)
    assert breaker.state == "open"
    assert [(event.kind, event.delay) for event in events] == [("opened", 60.0)]


def test_a_success_starts_the_count_anew(colour, breaker, pipeline):
    trip(colour, pipeline, 4)
    colour.call(pipeline, int)
    trip(colour, pipeline, 4)
    assert breaker.state == "closed"


def test_open_it_rejects_with_name_time_and_last_failure(colour, breaker, pipeline, clock, script):
    trip(colour, pipeline)
    clock.advance(20)
    fn = script(1)
    with pytest.raises(CircuitOpenError) as caught:
        colour.call(pipeline, fn)
    assert fn.calls == 0
    assert (caught.value.name, caught.value.retry_after) == ("backend", 40)
    assert isinstance(caught.value, pybreaker.CircuitBreakerError)
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert breaker.last_failure.__traceback__ is None


def test_probes_close_it_after_enough_successes(colour, breaker, pipeline, clock, events):
    trip(colour, pipeline)
    clock.advance(60)
    colour.call(pipeline, int)
    assert breaker.state == "half-open"
    colour.call(pipeline, int)
    assert breaker.state == "closed"
    assert [event.kind for event in events] == ["opened", "half_opened", "closed"]


def test_a_failed_probe_reopens_at_once_for_longer_each_time(colour, clock, events):
    breaker = CircuitBreaker(timeout=10)
    pipeline = Pipeline(breaker, clock=clock, listeners=[events.append], random=lambda: 0.5)
    trip(colour, pipeline)
    for seconds in (10, 20, 40, 80, 100, 100):
        clock.advance(seconds)
        trip(colour, pipeline, 1)
        assert breaker.state == "open"
    delays = [event.delay for event in events if event.kind == "opened"]
    assert delays == [10, 20, 40, 80, 100, 100, 100]


def test_once_recovered_it_opens_for_no_longer_than_the_first_time(colour, clock, events):
    breaker = CircuitBreaker(timeout=10, success_threshold=1)
    pipeline = Pipeline(breaker, clock=clock, listeners=[events.append], random=lambda: 0.5)
    for _ in range(2):
        trip(colour, pipeline)
        clock.advance(10)
        trip(colour, pipeline, 1)
        clock.advance(20)
        colour.call(pipeline, int)
    assert [event.delay for event in events if event.kind == "opened"] == [10, 20, 10, 20]


@pytest.mark.parametrize(("asked", "granted"), [(30, 60), (90, 90), (600, 600), (86_400, 600)])
def test_a_longer_retry_after_keeps_it_open_longer_up_to_ten_times(colour, pipeline, events, asked, granted):
    class BusyError(ConnectionError):
        retry_after = asked

    def busy():
        raise BusyError

    trip(colour, pipeline, 4)
    with pytest.raises(BusyError):
        colour.call(pipeline, busy)
    assert events[-1].delay == granted


def test_200_tasks_at_half_open_admit_max_probes(loop, clock):
    breaker = CircuitBreaker(max_probes=3, timeout=5)
    pipeline = Pipeline(breaker, clock=clock)
    trip(loop, pipeline)
    clock.advance(5)
    reached = []

    async def backend():
        reached.append(1)
        await clock.sleep_async(1)
        raise ConnectionError

    async def one():
        with pytest.raises((ConnectionError, CircuitOpenError)):
            await pipeline.call_async(backend)

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(200):
                tasks.start_soon(one)

    loop.run(main)
    assert len(reached) == 3


def test_a_cancelled_probe_is_neutral_and_gives_its_place_back(loop, breaker, pipeline, clock):
    trip(loop, pipeline)
    clock.advance(60)

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.call_async, anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    loop.run(main)
    assert breaker.state == "half-open"
    loop.call(pipeline, int)
    loop.call(pipeline, int)
    assert breaker.state == "closed"


def test_cancelled_error_arrives_intact_when_the_circuit_is_half_open(breaker, pipeline, clock):
    async def main():
        for _ in range(5):
            with pytest.raises(ConnectionError):
                await pipeline.call_async(fail)
        clock.advance(60)
        task = asyncio.create_task(pipeline.call_async(asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert breaker.state == "half-open"


@pytest.mark.parametrize("lease", [60, 61])
def test_a_hung_probe_loses_its_place_after_its_lease(colour, breaker, pipeline, clock, lease):
    trip(colour, pipeline)
    clock.advance(60)
    seen = []

    def during():
        try:
            pipeline.call(int)
        except CircuitOpenError as error:
            seen.append(error.retry_after)
        clock.advance(lease)
        seen.append(pipeline.call(lambda: "admitted"))
        return "late"

    assert pipeline.call(during) == "late"
    assert seen == [60, "admitted"]
    assert breaker.state == "half-open"


def test_a_stale_failure_during_a_probe_changes_nothing(breaker, pipeline, clock):
    def slow():
        for _ in range(5):
            with suppress(ConnectionError):
                pipeline.call(fail)
        clock.advance(60)
        pipeline.call(int)
        assert breaker.state == "half-open"
        raise ConnectionError("began before the trip")

    with pytest.raises(ConnectionError, match="before the trip"):
        pipeline.call(slow)
    assert breaker.state == "half-open"


def test_a_stale_success_while_open_changes_nothing(breaker, pipeline):
    def slow():
        for _ in range(5):
            with suppress(ConnectionError):
                pipeline.call(fail)
        return "late"

    assert pipeline.call(slow) == "late"
    assert breaker.state == "open"


@pytest.mark.parametrize("step", [3600, -3600])
def test_stepping_the_wall_clock_changes_nothing(colour, breaker, pipeline, clock, step):
    trip(colour, pipeline)
    clock.step_wall(step)
    with pytest.raises(CircuitOpenError):
        colour.call(pipeline, int)
    clock.advance(60)
    colour.call(pipeline, int)
    assert breaker.state == "half-open"


def test_excluded_errors_are_neutral_also_as_probes(colour, clock):
    breaker = CircuitBreaker(exclude=[KeyError, lambda error: "ignore" in str(error)])
    pipeline = Pipeline(breaker, clock=clock)

    def excluded():
        raise KeyError

    def ignored():
        raise ConnectionError("ignore me")

    for _ in range(10):
        with pytest.raises(KeyError):
            colour.call(pipeline, excluded)
        with pytest.raises(ConnectionError):
            colour.call(pipeline, ignored)
    assert breaker.state == "closed"
    trip(colour, pipeline)
    clock.advance(60)
    for _ in range(3):
        with pytest.raises(KeyError):
            colour.call(pipeline, excluded)
        assert breaker.state == "half-open"


def test_an_exclusion_whose_metaclass_is_abcmeta_excludes_itself_only(colour, clock):
    class AbstractError(Exception, metaclass=abc.ABCMeta):
        pass

    breaker = CircuitBreaker(exclude=[AbstractError])
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline)
    assert breaker.state == "open"


def test_calls_turned_away_further_inside_are_no_failures(colour, breaker, pipeline):
    def rejected():
        raise RejectedError("full")

    for _ in range(10):
        with pytest.raises(RejectedError):
            colour.call(pipeline, rejected)
    assert breaker.state == "closed"


def test_a_listener_that_raises_breaks_nothing(colour, clock, caplog):
    class Raising(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            raise RuntimeError("listener")

    told = []

    class Telling(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            told.append(new_state.name)

    def explode(event):
        raise RuntimeError("listener")

    breaker = CircuitBreaker(listeners=[Raising(), Telling()])
    pipeline = Pipeline(breaker, clock=clock, listeners=[explode])
    trip(colour, pipeline)
    clock.advance(60)
    assert colour.call(pipeline, lambda: 1) == 1
    assert colour.call(pipeline, lambda: 1) == 1
    assert told == ["open", "half-open", "closed"]
    assert "A listener" in caplog.text


def test_pybreaker_is_told_of_changes_of_state_only(colour, breaker, pipeline):
    assert breaker.pybreaker.current_state == "closed"
    trip(colour, pipeline)
    assert breaker.pybreaker.current_state == "open"


def test_eight_threads_go_through_at_once(breaker, pipeline):
    together = threading.Barrier(8, timeout=30)
    threads = [threading.Thread(target=pipeline.call, args=(together.wait,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not together.broken
    assert breaker.state == "closed"


def test_sync_and_async_callers_share_one_breaker(loop, pipeline, breaker):
    for _ in range(2):
        with pytest.raises(ConnectionError):
            pipeline.call(fail)
    trip(loop, pipeline, 3)
    assert breaker.state == "open"
    with pytest.raises(CircuitOpenError):
        pipeline.call(int)


def test_a_hung_backend_inside_a_deadline_trips_it(loop, clock):
    breaker = CircuitBreaker()
    pipeline = Pipeline(Fallback("x"), Timeout(2), breaker, clock=clock)

    async def hang():
        await clock.sleep_async(60)

    for _ in range(5):
        assert loop.run(pipeline.call_async, hang) == "x"
    assert breaker.state == "open"


def test_a_failure_rate_trips_where_failures_never_come_in_a_row(colour, clock):
    breaker = CircuitBreaker(failure_rate=0.5, minimum_calls=10, window=10)
    pipeline = Pipeline(breaker, clock=clock)
    for _ in range(4):
        colour.call(pipeline, int)
        trip(colour, pipeline, 1)
    assert breaker.state == "closed"
    colour.call(pipeline, int)
    trip(colour, pipeline, 1)
    assert breaker.state == "open"


def test_a_failure_rate_trips_long_after_the_least_number_of_calls(colour, clock):
    breaker = CircuitBreaker(99, failure_rate=0.5, minimum_calls=4, window=1e6)
    pipeline = Pipeline(breaker, clock=clock)
    for _ in range(6):
        colour.call(pipeline, int)
    trip(colour, pipeline, 5)
    assert breaker.state == "closed"
    trip(colour, pipeline, 1)
    assert breaker.state == "open"


def test_the_window_forgets(colour, clock):
    breaker = CircuitBreaker(failure_rate=0.5, minimum_calls=4, window=10)
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline, 3)
    clock.advance(11)
    colour.call(pipeline, int)
    trip(colour, pipeline, 1)
    assert breaker.state == "closed"


def test_it_can_be_forced_and_reset(colour, breaker, pipeline, clock):
    breaker.force_open()
    clock.advance(1e6)
    with pytest.raises(CircuitOpenError) as caught:
        colour.call(pipeline, int)
    assert caught.value.retry_after is None
    breaker.force_closed()
    trip(colour, pipeline, 20)
    assert breaker.state == "closed"
    breaker.reset()
    trip(colour, pipeline)
    assert breaker.state == "open"


# --- Slow calls ---


def slow(clock, seconds, value=1):
    def work():
        clock.advance(seconds)
        return value

    return work


def test_slow_calls_open_it_where_asked_though_they_succeed(colour, clock, events):
    breaker = CircuitBreaker(slow_after=2, slow_rate=0.5, minimum_calls=4, window=100)
    pipeline = Pipeline(breaker, clock=clock, listeners=[events.append])
    for seconds in (0, 1.9, 2):
        colour.call(pipeline, slow(clock, seconds))
    assert breaker.state == "closed"
    assert colour.call(pipeline, slow(clock, 2)) == 1
    assert breaker.state == "open"
    assert [(event.kind, event.delay) for event in events] == [("opened", 60)]


def test_slow_calls_mean_nothing_unless_asked(colour, clock):
    breaker = CircuitBreaker(failure_rate=0.5, minimum_calls=1, window=1e6)
    pipeline = Pipeline(breaker, clock=clock)
    for _ in range(5):
        colour.call(pipeline, slow(clock, 1000))
    assert breaker.state == "closed"


def test_a_slow_probe_opens_it_again(colour, clock, events):
    breaker = CircuitBreaker(slow_after=2, timeout=10)
    pipeline = Pipeline(breaker, clock=clock, listeners=[events.append])
    trip(colour, pipeline)
    clock.advance(10)
    assert colour.call(pipeline, slow(clock, 3)) == 1
    assert breaker.state == "open"
    assert [event.delay for event in events if event.kind == "opened"] == [10, 20]


def test_a_slow_failure_counts_as_both(colour, clock):
    breaker = CircuitBreaker(99, slow_after=2, slow_rate=1.0, minimum_calls=2, window=100)
    pipeline = Pipeline(breaker, clock=clock)

    def work():
        clock.advance(3)
        raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            colour.call(pipeline, work)
    assert breaker.state == "open"


# --- Settings, changes of state ---


def test_a_reload_of_settings_keeps_the_state(colour, breaker, pipeline, clock):
    trip(colour, pipeline, 3)
    breaker.reconfigure(failure_threshold=4, timeout=10)
    trip(colour, pipeline, 1)
    assert breaker.state == "open"
    breaker.reconfigure(timeout=99)
    clock.advance(10)
    colour.call(pipeline, int)
    assert breaker.state == "half-open", "an open circuit keeps the time it was opened for"
    breaker.reconfigure(success_threshold=2)
    colour.call(pipeline, int)
    assert breaker.state == "closed"


def test_a_reload_keeps_who_is_on_the_way(breaker, pipeline):
    def work():
        breaker.reconfigure(failure_threshold=1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pipeline.call(work)
    assert breaker.state == "open"


def test_a_reload_may_begin_and_end_looking_at_rates(colour, clock):
    breaker = CircuitBreaker(99, minimum_calls=2)
    pipeline = Pipeline(breaker, clock=clock)
    breaker.reconfigure(failure_rate=0.5)
    trip(colour, pipeline, 1)
    breaker.reconfigure(minimum_calls=3)
    trip(colour, pipeline, 1)
    assert breaker.state == "closed"
    breaker.reconfigure(failure_rate=None)
    trip(colour, pipeline, 5)
    assert breaker.state == "closed"


def test_a_reload_keeps_what_was_counted_unless_it_looks_back_for_another_time(colour, clock):
    breaker = CircuitBreaker(99, failure_rate=0.5, minimum_calls=4, window=10)
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline, 3)
    breaker.reconfigure(failure_rate=0.6)
    trip(colour, pipeline, 1)
    assert breaker.state == "open"
    breaker.reset()
    trip(colour, pipeline, 3)
    breaker.reconfigure(window=20)
    trip(colour, pipeline, 1)
    assert breaker.state == "closed"


def test_a_reload_refuses_what_the_constructor_refuses(breaker):
    with pytest.raises(ValueError):
        breaker.reconfigure(timeout=0)
    with pytest.raises(TypeError):
        breaker.reconfigure(no_such_setting=1)
    assert breaker.settings.timeout == 60


@pytest.mark.parametrize(
    "settings",
    [
        {"failure_threshold": 0},
        {"success_threshold": 0},
        {"max_probes": 0},
        {"minimum_calls": 0},
        {"timeout": 0},
        {"failure_rate": 0},
        {"failure_rate": 1.5},
        {"slow_after": 0},
        {"slow_rate": 0},
        {"slow_rate": -0.5},
        {"slow_rate": 1.5},
        {"window": 0},
        {"window": -1},
        {"patience": 0.9},
        {"patience": float("nan")},
        {"refresh_every": 0},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError):
        CircuitBreaker(**settings)


def test_the_least_and_the_most_that_make_sense_are_taken():
    least = {"max_probes": 1, "minimum_calls": 1, "patience": 1, "slow_after": 1e-9, "window": 1e-9}
    CircuitBreaker(1, 1, 1e-9, failure_rate=1e-9, slow_rate=1e-9, refresh_every=1e-9, **least)
    CircuitBreaker(failure_rate=1, slow_rate=1)


def test_settings_left_out_are_the_same_wherever_they_are_left_out():
    assert CircuitBreaker().settings == CircuitSettings()


def test_it_tells_how_many_probes_are_under_way(colour, breaker, pipeline, clock):
    trip(colour, pipeline)
    clock.advance(60)
    assert breaker.probes == 0
    assert colour.call(pipeline, lambda: breaker.probes) == 1
    assert breaker.probes == 0


def test_an_opening_is_told_with_the_failure_that_caused_it_and_no_other_change_is(
    colour, pipeline, clock, events
):
    trip(colour, pipeline)
    clock.advance(60)
    for _ in range(2):
        colour.call(pipeline, int)
    opened, half_opened, closed = events
    assert isinstance(opened.error, ConnectionError)
    assert (half_opened.error, closed.error) == (None, None)


def test_its_description_has_the_first_three_settings_and_what_was_changed():
    first = {"failure_threshold": 5, "success_threshold": 2, "timeout": 60.0}
    assert CircuitBreaker().describe() == {**first, "state": "closed"}
    changed = CircuitBreaker(max_probes=3, failure_rate=0.5).describe()
    assert changed == {**first, "max_probes": 3, "failure_rate": 0.5, "state": "closed"}


# --- where failures are usual -----------------------------------------------------------------------


def stumble(colour, pipeline, runs, *, length=1, every=1.0):
    """Let a number of runs of failures end in a success each."""
    for _ in range(runs):
        trip(colour, pipeline, length)
        colour.call(pipeline, int)
        pipeline.clock.advance(every)


def failures_until_open(colour, pipeline):
    for failures in range(1_000):
        try:
            trip(colour, pipeline, 1)
        except CircuitOpenError:
            return failures
    raise AssertionError("it never opened")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("every", [0.001, 0.1])
def test_chance_does_not_open_it_however_many_calls_fail_by_chance(clock, share, every):
    breaker = CircuitBreaker()
    pipeline, draw = Pipeline(breaker, clock=clock), random.Random(1)
    longest = run = 0

    def work():
        nonlocal run, longest
        run = run + 1 if draw.random() < share else 0
        longest = max(run, longest)
        if run:
            raise ConnectionError("by chance")

    for _ in range(20_000):
        with suppress(ConnectionError):
            pipeline.call(work)
        clock.advance(every)
    assert breaker.state == "closed"
    assert share == 0.1 or longest > 5  # which alone would have opened it


def test_an_outage_opens_it_after_four_times_the_threshold_at_most_whatever_was_usual(colour, pipeline):
    stumble(colour, pipeline, 20, length=4)
    assert failures_until_open(colour, pipeline) == 20


@pytest.mark.parametrize(("runs", "needed"), [(4, 5), (6, 8), (20, 6), (100, 5)])
def test_the_rarer_a_failure_follows_a_failure_the_shorter_the_run_that_means_an_outage(
    colour, pipeline, runs, needed
):
    """Four are no pattern yet; then, the more there are, the surer it is that failures come singly."""
    stumble(colour, pipeline, runs, every=0.01)
    assert failures_until_open(colour, pipeline) == needed


def test_what_was_usual_is_forgotten(colour, pipeline, clock):
    stumble(colour, pipeline, 20, length=4)
    clock.advance(180)
    assert failures_until_open(colour, pipeline) == 5


def test_a_thread_that_read_its_clock_before_another_counts_all_the_same(colour, clock):
    pipeline = Pipeline(CircuitBreaker(timeout=1e-9), clock=clock)
    stumble(colour, pipeline, 6, length=4, every=0.0)
    clock._now -= 1.0
    assert failures_until_open(colour, pipeline) == 20


def test_what_is_usual_outlives_an_opening_and_not_a_reset(colour, breaker, pipeline, clock):
    stumble(colour, pipeline, 40, length=4, every=0.1)
    trip(colour, pipeline, 20)
    clock.advance(60)
    for _ in range(2):
        colour.call(pipeline, int)
    assert breaker.state == "closed"
    assert failures_until_open(colour, pipeline) == 20
    breaker.reset()
    assert failures_until_open(colour, pipeline) == 5


def test_without_patience_the_threshold_is_enough(colour, clock):
    breaker = CircuitBreaker(patience=1)
    pipeline = Pipeline(breaker, clock=clock)
    stumble(colour, pipeline, 20, length=4)
    assert failures_until_open(colour, pipeline) == 5


def test_patience_may_be_changed_while_it_works(colour, breaker, pipeline):
    stumble(colour, pipeline, 20, length=4)
    breaker.reconfigure(patience=2)
    assert failures_until_open(colour, pipeline) == 10


def test_changes_of_state_are_told_each_once_and_in_order_whoever_made_them():
    """While one thread tells, the changes that others make meanwhile wait in line for it."""
    told, telling, go_on = [], threading.Event(), threading.Event()

    class Slow(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            told.append((old_state.name, new_state.name))
            telling.set()
            go_on.wait()

    breaker = CircuitBreaker(listeners=[Slow()])
    first = threading.Thread(target=breaker.force_open)
    first.start()
    telling.wait()
    breaker.reset()
    breaker.force_open()
    assert told == [("closed", "open")]
    go_on.set()
    first.join()
    assert told == [("closed", "open"), ("open", "closed"), ("closed", "open")]


def test_a_listener_may_change_the_state_itself():
    class Stubborn(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            if new_state.name == "open":
                breaker.force_closed()

    breaker = CircuitBreaker(listeners=[Stubborn()])
    breaker.force_open()
    assert breaker.state == "closed"
    assert breaker.pybreaker.current_state == "closed"


def test_many_reopenings_in_a_row_do_not_overflow(clock):
    breaker = CircuitBreaker(1, timeout=1)
    pipeline = Pipeline(breaker, clock=clock)
    for _ in range(2000):
        with suppress(ConnectionError):
            pipeline.call(fail)
        clock.advance(11)
    assert breaker.state == "open"


class ParkedFrom(Strategy):
    """Lets attempts pass up to one, which finds no place until time is up."""

    def __init__(self, attempt):
        self.attempt = attempt

    def before(self, ctx, _at):
        return Park(Gate()) if ctx.attempt >= self.attempt else None


@pytest.mark.parametrize(("parked_from", "opens_at"), [(1, 1), (2, 2)])
def test_time_that_was_up_before_the_call_was_made_says_nothing_of_the_backend(
    loop, clock, parked_from, opens_at
):
    breaker = CircuitBreaker(opens_at)
    layers = (Timeout(3), Retry(RetryPolicy(jitter="none")), breaker, ParkedFrom(parked_from))
    with pytest.raises(DeadlineExceededError):
        loop.call(Pipeline(*layers, clock=clock), fail)
    assert breaker.state == "closed"


def test_a_hung_backend_behind_a_hedge_trips_it(loop, clock):
    breaker = CircuitBreaker(1)
    with pytest.raises(DeadlineExceededError):
        loop.run(Pipeline(Timeout(3), breaker, Hedge(9), clock=clock).call_async, anyio.sleep_forever)
    assert breaker.state == "open"


def test_a_second_attempt_that_hangs_counts(loop, clock, script):
    breaker = CircuitBreaker(2)
    hang = script(ConnectionError, anyio.sleep_forever)
    pipeline = Pipeline(Timeout(3), Retry(RetryPolicy(jitter="none")), breaker, clock=clock)
    with pytest.raises(DeadlineExceededError):
        loop.run(pipeline.call_async, hang)
    assert breaker.state == "open"
