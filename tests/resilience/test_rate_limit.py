"""The rate limit: when calls start, against a model, and what becomes of promised moments."""

from __future__ import annotations

import threading
from fractions import Fraction

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from llm_config_resilience import (
    CircuitBreaker,
    ManualClock,
    Pipeline,
    RateLimit,
    RateLimitedError,
    Retry,
    Timeout,
)


def test_calls_after_the_burst_wait_for_their_turn(colour, clock):
    pipeline = Pipeline(RateLimit(4, burst=2), clock=clock)
    starts = [colour.call(pipeline, clock.monotonic) - 1000 for _ in range(6)]
    assert starts == pytest.approx([0, 0, 0.25, 0.5, 0.75, 1.0])


def test_without_waiting_they_are_rejected_and_use_up_nothing(colour, clock, events):
    limit = RateLimit(60, per=60, wait=False, name="tokens")
    pipeline = Pipeline(limit, clock=clock, listeners=[events.append])
    assert colour.call(pipeline, lambda: 1) == 1
    for left in (1.0, 0.5):
        with pytest.raises(RateLimitedError, match="'tokens' of 60 calls in 60 s is used up") as caught:
            colour.call(pipeline, int)
        assert caught.value.retry_after == pytest.approx(left)
        clock.advance(0.5)
    assert colour.call(pipeline, lambda: 2) == 2
    assert [(event.kind, event.delay) for event in events if event.layer] == [
        ("rejected", 1.0),
        ("rejected", 0.5),
    ]


def test_a_wait_beyond_the_deadline_is_rejected_at_once_and_no_failure_of_the_backend(colour, clock):
    breaker = CircuitBreaker(1)
    pipeline = Pipeline(Timeout(2), Retry(), breaker, RateLimit(0.25), clock=clock)
    colour.call(pipeline, int)
    with pytest.raises(RateLimitedError) as caught:
        colour.call(pipeline, int)
    assert caught.value.retry_after == pytest.approx(4)
    assert clock.monotonic() == 1000
    assert breaker.state == "closed"
    clock.advance(2.5)
    assert colour.call(pipeline, clock.monotonic) == pytest.approx(1004)


def test_a_burst_is_whole_again_after_a_pause_and_never_more(colour, clock):
    pipeline = Pipeline(RateLimit(10, burst=10, wait=False), clock=clock)
    for _ in range(3):
        for _ in range(10):
            colour.call(pipeline, int)
        with pytest.raises(RateLimitedError):
            colour.call(pipeline, int)
        clock.advance(3600)


def test_late_timers_do_not_add_up(clock):
    pipeline = Pipeline(RateLimit(10), clock=clock)
    for _ in range(1001):
        pipeline.call(lambda: None)
        clock.advance(0.03)  # every call comes a little late
    assert clock.monotonic() - 1000 == pytest.approx(100.03, abs=0.001)


def test_timers_that_are_a_little_late_cost_no_throughput(clock):
    pipeline = Pipeline(RateLimit(1000), clock=clock)
    began = clock.monotonic()
    real = clock.sleep
    clock.sleep = lambda seconds: real(seconds + 0.0004)
    for _ in range(1001):
        pipeline.call(int)
    assert clock.monotonic() - began == pytest.approx(1.0, abs=0.01)


def test_what_a_standstill_of_the_program_held_up_does_not_begin_in_a_bunch(loop, clock):
    rate, burst, calls = 8, 5, 60
    pipeline, starts = Pipeline(RateLimit(rate, burst), clock=clock), []

    async def work():
        starts.append(clock.monotonic() - 1000)

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(calls):
                tasks.start_soon(pipeline.call_async, work)
            while len(clock.sleeps) < calls - burst:  # all but the first few wait
                await anyio.lowlevel.checkpoint()
            clock.advance(60.0)  # nobody's timer rang

    loop.run(main)
    assert len(starts) == calls
    for first in range(calls):
        for last in range(first, calls):
            allowed = burst + rate * (starts[last] - starts[first] + 0.05)
            assert last - first + 1 <= allowed + 1e-4


def test_who_cannot_wait_any_longer_after_a_standstill_is_rejected(loop, clock):
    pipeline, outcomes = Pipeline(Timeout(11), RateLimit(1), clock=clock), []

    async def call():
        try:
            outcomes.append(await pipeline.call_async(int))
        except RateLimitedError as error:
            outcomes.append(error.retry_after)

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(6):
                tasks.start_soon(call)
            while len(clock.sleeps) < 5:
                await anyio.lowlevel.checkpoint()
            clock.advance(10.0)

    loop.run(main)
    assert outcomes.count(0) == 3, "the first, and those for whom there was time left"
    assert all(0 < hint <= 1 for hint in outcomes if hint)


def test_tasks_wait_side_by_side_in_the_order_they_came(loop, clock):
    pipeline, order = Pipeline(RateLimit(2), clock=clock), []

    async def work(number):
        order.append((number, clock.monotonic() - 1000))

    async def main():
        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(pipeline.call_async, work, number)
                await anyio.lowlevel.checkpoint()

    loop.run(main)
    # Whether a task came before another is the event loop's to say.
    assert [moment for _, moment in order] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert sorted(number for number, _ in order) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("which", [1, 2, 3], ids=["first", "middle", "last"])
def test_a_cancelled_waiter_hands_its_moment_to_the_next_that_comes(loop, clock, which):
    pipeline, starts = Pipeline(RateLimit(1), clock=clock), []

    async def work():
        starts.append(clock.monotonic() - 1000)

    async def main():
        scopes = []

        async def call():
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                await pipeline.call_async(work)

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(call)
                while len(scopes) <= number:
                    await anyio.lowlevel.checkpoint()
            scopes[which].cancel()
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            tasks.start_soon(call)

    loop.run(main)
    assert starts == pytest.approx([0, 1, 2, 3])


async def test_a_call_that_is_cancelled_while_it_runs_keeps_what_it_used_up(clock):
    limit = RateLimit(1)
    pipeline = Pipeline(limit, clock=clock)
    await pipeline.call_async(int)
    with anyio.move_on_after(0):
        await Pipeline(limit, clock=clock).call_async(anyio.sleep_forever)
    with anyio.CancelScope() as scope:

        async def work():
            scope.cancel()
            await anyio.lowlevel.checkpoint()

        await pipeline.call_async(work)
    assert await pipeline.call_async(clock.monotonic) == pytest.approx(1002)


@given(
    arrivals=st.lists(st.integers(0, 12), max_size=60),
    burst=st.integers(1, 5),
    interval=st.sampled_from([Fraction(1, 4), Fraction(1), Fraction(3, 2), Fraction(5)]),
)
@settings(deadline=None)
def test_it_admits_what_a_token_bucket_admits(arrivals, burst, interval):
    clock = ManualClock(start=0)
    pipeline = Pipeline(RateLimit(float(1 / interval), burst, wait=False), clock=clock)
    tokens, filled, now = Fraction(burst), Fraction(0), Fraction(0)
    for quarters in arrivals:
        now += Fraction(quarters, 4)
        clock.advance(float(now) - clock.monotonic())
        tokens, filled = min(Fraction(burst), tokens + (now - filled) / interval), now
        if tokens >= 1:
            tokens -= 1
            assert pipeline.call(lambda: True)
        else:
            with pytest.raises(RateLimitedError) as caught:
                pipeline.call(int)
            assert caught.value.retry_after == pytest.approx(float((1 - tokens) * interval), abs=1e-5)


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=40),
    burst=st.integers(1, 4),
    rate=st.floats(0.1, 50),
)
@settings(deadline=None)
def test_no_stretch_of_time_sees_more_than_the_burst_and_the_rate_allow(gaps, burst, rate):
    clock = ManualClock(start=0)
    pipeline, starts = Pipeline(RateLimit(rate, burst), clock=clock), []
    for gap in gaps:
        clock.advance(gap)
        starts.append(pipeline.call(clock.monotonic))
    for first in range(len(starts)):
        for last in range(first, len(starts)):
            allowed = burst + rate * (starts[last] - starts[first])
            assert last - first + 1 <= allowed + 1e-4


def test_threads_share_one():
    limit, barrier, admitted = RateLimit(1, burst=50, wait=False), threading.Barrier(8), []
    pipeline = Pipeline(limit, clock=ManualClock())

    def work():
        barrier.wait()
        for _ in range(20):
            try:
                pipeline.call(admitted.append, 1)
            except RateLimitedError:
                continue

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 50


def test_every_attempt_of_a_retry_counts(colour, clock, script):
    pipeline = Pipeline(Retry(), RateLimit(0.01), clock=clock)
    assert colour.call(pipeline, script(OSError(), 5)) == 5
    assert clock.monotonic() == pytest.approx(1100)


@pytest.mark.parametrize("bad", [{"rate": 0}, {"rate": 1, "burst": 0}, {"rate": 1, "per": 0}])
def test_the_limits_are_checked(bad):
    with pytest.raises(ValueError, match=f"{[*bad][-1]} must be"):
        RateLimit(**bad)


def test_the_limits_are_shown():
    assert RateLimit(3, 4).describe() == {"rate": 3, "burst": 4, "per": 1.0, "wait": True}
