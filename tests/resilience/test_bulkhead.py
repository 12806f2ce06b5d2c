"""The bulkhead: places, the queue, and that no place is ever lost."""

from __future__ import annotations

import asyncio
import pickle
import random
import threading

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from llm_config_resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    ManualClock,
    PerTarget,
    Pipeline,
    Retry,
    Timeout,
)
from resilience.crowds import PATIENCE, Crowd, until


def test_calls_beyond_the_limit_are_rejected_and_never_run(crowd, events):
    bulkhead, held = Bulkhead(2, name="db"), crowd.held()
    pipeline = Pipeline(bulkhead, listeners=[events.append])
    running = [crowd.call(pipeline, held.fn) for _ in range(2)]
    until(lambda: held.running == 2)
    with pytest.raises(BulkheadFullError, match="bulkhead 'db' is full: 2 calls run and 0 wait") as caught:
        crowd.call(pipeline, held.fn).result(PATIENCE)
    assert caught.value.name == "db"
    assert [event.kind for event in events if event.layer] == ["rejected"]
    for call in running:
        held.finish("done")
        assert call.result(PATIENCE) == "done"
    assert (held.calls, bulkhead.running) == (2, 0)


def test_the_queue_is_first_come_first_served(crowd):
    bulkhead, order, held = Bulkhead(1, max_queue=5), [], crowd.held()
    pipeline = Pipeline(bulkhead)
    first = crowd.call(pipeline, held.fn)
    until(lambda: held.running == 1)
    waiting = []
    for number in range(5):
        waiting.append(crowd.call(pipeline, order.append, number))
        until(lambda number=number: bulkhead.waiting == number + 1)
    with pytest.raises(BulkheadFullError, match="and 5 wait"):
        crowd.call(pipeline, order.append, 9).result(PATIENCE)
    held.finish()
    for call in [first, *waiting]:
        call.result(PATIENCE)
    assert order == [0, 1, 2, 3, 4]
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_a_place_comes_back_whatever_becomes_of_the_call(colour):
    pipeline = Pipeline(Bulkhead(1))

    def fail():
        raise OSError("down")

    for _ in range(3):
        with pytest.raises(OSError, match="down"):
            colour.call(pipeline, fail)
        assert colour.call(pipeline, lambda: 1) == 1
    assert pipeline.layers[0].running == 0


def test_an_interrupt_gives_the_place_back():
    pipeline = Pipeline(Bulkhead(1))

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.call(interrupted)
    assert pipeline.layers[0].running == 0


def test_a_cancelled_waiter_leaves_the_queue(loop):
    with Crowd(loop) as crowd:
        bulkhead, held = Bulkhead(1, max_queue=2), crowd.held()
        pipeline = Pipeline(bulkhead)
        first = crowd.call(pipeline, held.fn)
        until(lambda: held.running == 1)
        cancelled = crowd.call(pipeline, held.fn)
        until(lambda: bulkhead.waiting == 1)
        last = crowd.call(pipeline, held.fn)
        until(lambda: bulkhead.waiting == 2)
        cancelled.cancel()
        until(lambda: bulkhead.waiting == 1)
        held.finish(1)
        held.finish(2)
        assert (first.result(PATIENCE), last.result(PATIENCE)) == (1, 2)
        assert (held.calls, bulkhead.running, bulkhead.waiting) == (2, 0, 0)


async def test_a_place_granted_to_a_waiter_that_is_cancelled_at_that_moment_is_passed_on():
    bulkhead, leave = Bulkhead(1, max_queue=2), asyncio.Event()
    pipeline, ran = Pipeline(bulkhead), []
    first = asyncio.create_task(pipeline.call_async(leave.wait))
    await anyio.wait_all_tasks_blocked()
    second = asyncio.create_task(pipeline.call_async(ran.append, "second"))
    third = asyncio.create_task(pipeline.call_async(ran.append, "third"))
    await anyio.wait_all_tasks_blocked()
    # The first call ends and admits the second, which is cancelled before it has run.
    first.add_done_callback(lambda _task: second.cancel())
    leave.set()
    await asyncio.wait([first, second, third])
    assert second.cancelled()
    assert ran == ["third"]
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_waiting_ends_just_before_the_deadline_and_is_no_failure_of_the_backend(loop, clock):
    breaker, held = CircuitBreaker(1), anyio.sleep_forever
    bulkhead = Bulkhead(1, max_queue=1)
    pipeline = Pipeline(Timeout(4), breaker, bulkhead, clock=clock)
    holding = Pipeline(bulkhead, clock=clock)

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(holding.call_async, held)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BulkheadFullError, match="no place became free before the deadline"):
                await pipeline.call_async(held)
            tasks.cancel_scope.cancel()

    loop.run(main)
    assert clock.monotonic() == pytest.approx(1004, abs=0.01)
    assert breaker.state == "closed"
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_a_thread_waits_until_just_before_its_deadline(clock):
    bulkhead, taken, leave = Bulkhead(1, max_queue=1), threading.Event(), threading.Event()
    holder = threading.Thread(target=Pipeline(bulkhead).call, args=(lambda: taken.set() or leave.wait(),))
    holder.start()
    taken.wait()
    pipeline = Pipeline(Timeout(4), bulkhead, clock=clock)
    mover = threading.Thread(target=lambda: until(lambda: bulkhead.waiting) or clock.advance(4))
    mover.start()
    with pytest.raises(BulkheadFullError, match="before the deadline"):
        pipeline.call(int)
    leave.set()
    mover.join()
    holder.join()
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_nobody_queues_who_has_no_time_left(colour, clock):
    bulkhead = Bulkhead(1, max_queue=1)
    bulkhead._free.clear()
    with pytest.raises(BulkheadFullError, match="no time to wait"):
        colour.call(Pipeline(Timeout(0.0005), bulkhead, clock=clock), int)


def test_a_rejection_is_not_retried(colour, clock):
    bulkhead = Bulkhead(1)
    bulkhead._free.clear()
    with pytest.raises(BulkheadFullError):
        colour.call(Pipeline(Retry(), bulkhead, clock=clock), int)
    assert clock.sleeps == []


def test_threads_and_tasks_of_several_loops_share_one():
    bulkhead, ran, most = Bulkhead(3, max_queue=200), [], []
    pipeline, barrier = Pipeline(bulkhead), threading.Barrier(5)

    def work():
        most.append(bulkhead.running)
        ran.append(1)

    async def work_async():
        most.append(bulkhead.running)
        await anyio.lowlevel.checkpoint()
        ran.append(1)

    def threads():
        barrier.wait()
        for _ in range(50):
            pipeline.call(work)

    async def tasks():
        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(pipeline.call_async, work_async)

    def looped(backend):
        barrier.wait()
        anyio.run(tasks, backend=backend)

    crowd = [threading.Thread(target=threads) for _ in range(2)]
    crowd += [threading.Thread(target=looped, args=(name,)) for name in ("asyncio", "asyncio", "trio")]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(PATIENCE)
    assert len(ran) == 250
    assert max(most) <= 3
    assert (bulkhead.running, bulkhead.waiting) == (0, 0)


def test_every_target_may_have_a_bulkhead_of_its_own(colour):
    places = PerTarget(lambda: Bulkhead(1))
    pipeline = Pipeline(places)
    assert colour.call(pipeline, lambda: 5) == 5
    assert places.of(None).running == 0


@given(seed=st.integers(0, 2**32), size=st.integers(1, 4), queue=st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_no_place_is_lost_under_random_cancellations(seed, size, queue):
    draw = random.Random(seed)
    bulkhead, running = Bulkhead(size, queue), [0]
    pipeline = Pipeline(bulkhead, clock=ManualClock())

    async def work():
        running[0] += 1
        assert running[0] <= size
        try:
            for _ in range(draw.randrange(4)):
                await asyncio.sleep(0)
            if draw.random() < 0.2:
                raise OSError
        finally:
            running[0] -= 1

    async def main():
        tasks = []
        for _ in range(40):
            tasks.append(asyncio.create_task(pipeline.call_async(work)))
            for _ in range(draw.randrange(3)):
                await asyncio.sleep(0)
            if draw.random() < 0.4:
                draw.choice(tasks).cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kinds = {type(outcome) for outcome in outcomes}
        assert kinds <= {type(None), OSError, BulkheadFullError, asyncio.CancelledError}

    asyncio.run(main())
    assert (bulkhead.running, bulkhead.waiting, len(bulkhead._free)) == (0, 0, size)


def test_the_limits_are_checked_and_shown():
    with pytest.raises(ValueError, match="max_concurrent"):
        Bulkhead(0)
    with pytest.raises(ValueError, match="max_queue"):
        Bulkhead(1, -1)
    assert Bulkhead(3, 4).describe() == {"max_concurrent": 3, "max_queue": 4}
    assert repr(Bulkhead(3)) == "Bulkhead(0 of 3 running, 0 waiting)"


def test_the_rejection_survives_pickling():
    error = pickle.loads(pickle.dumps(BulkheadFullError("full", name="db")))
    assert (type(error), str(error), error.name) == (BulkheadFullError, "full", "db")
