"""Single flight: one call for all, whoever is cancelled."""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import traceback
from contextlib import suppress

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from llm_config_resilience import (
    CacheFallback,
    DeadlineExceededError,
    Fallback,
    MemoryStore,
    Pipeline,
    Retry,
    RetryPolicy,
    SingleFlight,
    Timeout,
)
from llm_config_resilience.strategies.single_flight import copy_of
from resilience.crowds import PATIENCE, Crowd, frees_at_once, until


def aboard(flights):
    """How many calls are in the air or wait for one."""
    return sum(1 + len(flight.waiting or ()) for flight in list(flights._flights.values()))


def fly(crowd, count, *layers, call="call"):
    """Start calls of one key, so that the first leads and the others wait in order."""
    flights, held = SingleFlight("key"), crowd.held()
    pipeline, calls = Pipeline(*layers, flights), []
    for number in range(count):
        calls.append(getattr(crowd, call)(pipeline, held.fn))
        until(lambda number=number: aboard(flights) == number + 1)
    until(lambda: held.running == 1)
    return flights, held, calls


def test_concurrent_callers_share_one_call(crowd):
    flights, held, calls = fly(crowd, 5, call="answer")
    held.finish(value := ["shared"])
    answers = [call.result(PATIENCE) for call in calls]
    assert all(answer.value is value for answer in answers)
    assert [answer.calls for answer in answers] == [1, 0, 0, 0, 0]
    assert {answer.source for answer in answers} == {"call"}
    assert (held.calls, len(flights)) == (1, 0)


def test_later_callers_make_a_call_of_their_own(colour, script):
    pipeline, fn = Pipeline(SingleFlight("key")), script(1, 2)
    assert [colour.call(pipeline, fn) for _ in range(2)] == [1, 2]


def test_only_callers_of_the_same_key_share(crowd):
    flights, held = SingleFlight(lambda key: key), crowd.held()
    pipeline = Pipeline(flights)
    calls = [crowd.call(pipeline, held.fn, key) for key in ("a", "b", "c")]
    until(lambda: held.running == 3)
    for _ in calls:
        held.finish()
    for call in calls:
        call.result(PATIENCE)


def test_1_true_and_1_0_are_different_keys(crowd):
    held = crowd.held()
    pipeline = Pipeline(SingleFlight(lambda key: key))
    calls = [crowd.call(pipeline, held.fn, key) for key in (1, True, 1.0, "1", (1,), (True,))]
    until(lambda: held.running == 6)
    for _ in calls:
        held.finish()
    for call in calls:
        call.result(PATIENCE)


def test_an_error_is_shared_and_each_caller_gets_its_own_copy(crowd):
    _, held, calls = fly(crowd, 4)
    error = ConnectionError("down", 7)
    error.__cause__ = KeyError("why")
    error.add_note("noted")
    held.finish(error)
    errors = [call.exception(PATIENCE) for call in calls]
    assert errors[0] is error
    assert len({id(error) for error in errors}) == 4
    for twin in errors[1:]:
        assert (type(twin), twin.args, twin.__cause__) == (ConnectionError, error.args, error.__cause__)
        assert twin.__notes__ == ["noted"]
        assert twin.__notes__ is not error.__notes__
    assert held.calls == 1


def test_tracebacks_of_shared_errors_do_not_grow(crowd):
    _, held, calls = fly(crowd, 6)
    held.finish(ConnectionError("down"))
    lengths = [len(traceback.extract_tb(call.exception(PATIENCE).__traceback__)) for call in calls]
    assert max(lengths[1:]) == min(lengths[1:]) <= lengths[0]


class StubbornError(Exception):
    """Cannot be built from its args."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


class TwistedError(Exception):
    """Looks different when it is built from its args."""

    def __init__(self, name):
        super().__init__(f"no {name}")


@pytest.mark.parametrize("error", [StubbornError("a", "b"), TwistedError("a")])
def test_an_error_that_cannot_be_copied_is_shared_as_it_is(crowd, error):
    _, held, calls = fly(crowd, 4)
    held.finish(error)
    assert all(call.exception(PATIENCE) is error for call in calls)
    assert len(traceback.extract_tb(error.__traceback__)) < 12


def test_groups_and_os_errors_are_copied_whole():
    twin = copy_of(OSError(2, "gone", "file"))
    assert (twin.errno, twin.filename) == (2, "file")
    group = copy_of(ExceptionGroup("both", [KeyError(1), OSError(2)]))
    assert [type(part) for part in group.exceptions] == [KeyError, OSError]


def test_a_cancelled_single_flight_leader_costs_one_more_call_not_one_per_waiter(loop):
    with Crowd(loop) as crowd:
        flights, held, calls = fly(crowd, 20)
        calls[0].cancel()
        until(lambda: held.calls == 2 and aboard(flights) == 19)
        held.finish("second")
        assert {call.result(PATIENCE) for call in calls[1:]} == {"second"}
        assert (held.calls, len(flights)) == (2, 0)


def test_a_cancelled_follower_leaves_the_others_alone(loop):
    with Crowd(loop) as crowd:
        flights, held, calls = fly(crowd, 3)
        calls[1].cancel()
        until(lambda: aboard(flights) == 2)
        held.finish("value")
        assert [calls[0].result(PATIENCE), calls[2].result(PATIENCE)] == ["value", "value"]
        assert held.calls == 1


def test_an_interrupted_leader_in_a_thread_hands_over():
    crowd = Crowd(type("Sync", (), {"is_async": False}))
    with crowd:
        _, held, calls = fly(crowd, 3)
        held.finish(KeyboardInterrupt())
        until(lambda: held.calls == 2)
        held.finish("second")
        assert isinstance(calls[0].exception(PATIENCE), KeyboardInterrupt)
        assert [call.result(PATIENCE) for call in calls[1:]] == ["second", "second"]


async def test_a_leader_chosen_at_the_moment_it_is_cancelled_passes_the_lead_on():
    flights, calls = SingleFlight("key"), []
    pipeline = Pipeline(flights)

    async def work():
        calls.append(1)
        await asyncio.sleep(0)
        return len(calls)

    async def hang():
        await asyncio.Event().wait()

    tasks = [asyncio.create_task(pipeline.call_async(hang))]
    await anyio.wait_all_tasks_blocked()
    tasks += [asyncio.create_task(pipeline.call_async(work)) for _ in range(3)]
    await anyio.wait_all_tasks_blocked()
    tasks[0].add_done_callback(lambda _task: tasks[1].cancel())
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True, False, False]
    assert [task.result() for task in tasks[2:]] == [1, 1]
    assert len(flights) == 0


def test_a_leader_whose_time_is_up_hands_over(loop, clock):
    flights, calls = SingleFlight("key"), []
    short, long = Pipeline(Timeout(1), flights, clock=clock), Pipeline(Timeout(60), flights, clock=clock)

    async def work():
        calls.append(clock.monotonic() - 1000)
        await clock.sleep_async(3)
        return "late"

    async def main():
        outcomes = []

        async def call(pipeline):
            try:
                outcomes.append(await pipeline.call_async(work))
            except DeadlineExceededError:
                outcomes.append("timed out")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, short)
            while not calls:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(call, long)
            tasks.start_soon(call, long)
        return outcomes

    assert loop.run(main) == ["timed out", "late", "late"]
    assert calls == [0, 1]


def test_a_thread_whose_time_is_up_hands_over(clock):
    flights, leads, calls = SingleFlight("key"), threading.Event(), []
    pipeline, results = Pipeline(flights, clock=clock), []

    def slow():
        leads.set()
        until(lambda: aboard(flights) == 2)
        clock.advance(5)
        raise OSError("the socket's own timeout")

    def follow():
        leads.wait()
        results.append(pipeline.call(lambda: calls.append(1) or "anew"))

    thread = threading.Thread(target=follow)
    thread.start()
    with pytest.raises(OSError, match="own timeout"):
        Pipeline(Timeout(2), flights, clock=clock).call(slow)
    thread.join(PATIENCE)
    assert results == ["anew"]


def test_a_follower_waits_until_its_own_deadline_at_most(loop, clock):
    flights = SingleFlight("key")
    pipeline = Pipeline(flights, clock=clock)

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.call_async, anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(DeadlineExceededError):
                await Pipeline(Timeout(2), flights, clock=clock).call_async(anyio.sleep_forever)
            assert aboard(flights) == 1
            tasks.cancel_scope.cancel()

    loop.run(main)
    assert clock.monotonic() == 1002
    assert len(flights) == 0


def test_sync_and_async_callers_do_not_share_one(loop):
    with Crowd(loop) as crowd:
        flights, held = SingleFlight("key"), crowd.held()
        pipeline = Pipeline(flights)
        flying = crowd.call(pipeline, held.fn)
        until(lambda: held.running == 1)
        assert pipeline.call(lambda: "sync") == "sync"
        held.finish("async")
        assert flying.result(PATIENCE) == "async"


async def test_a_sync_call_on_the_event_loop_does_not_wait_for_a_flight_of_that_loop():
    pipeline, leave = Pipeline(SingleFlight("key")), asyncio.Event()
    task = asyncio.create_task(pipeline.call_async(leave.wait))
    await anyio.wait_all_tasks_blocked()
    assert pipeline.call(lambda: "sync") == "sync"
    leave.set()
    await task


def test_callers_of_two_event_loops_do_not_share_one(loop):
    with Crowd(loop) as here, Crowd(loop) as there:
        held = (here.held(), there.held())
        pipeline = Pipeline(SingleFlight("key"))
        calls = [here.call(pipeline, held[0].fn), there.call(pipeline, held[1].fn)]
        until(lambda: held[0].running == held[1].running == 1)
        held[0].finish(1)
        held[1].finish(2)
        assert [call.result(PATIENCE) for call in calls] == [1, 2]


def test_a_call_made_inside_its_own_flight_goes_through(colour):
    pipeline = Pipeline(SingleFlight("key"), Timeout(60))
    if colour.is_async:

        async def inner():
            return "inner"

        async def outer():
            return await pipeline.call_async(inner)

        assert colour.run(pipeline.call_async, outer) == "inner"
    else:
        assert pipeline.call(pipeline.call, lambda: "inner") == "inner"


def test_how_an_answer_came_about_is_shared_too(crowd):
    flights, held = SingleFlight("key"), crowd.held()
    pipeline, calls = Pipeline(flights, Fallback("spare")), []
    for number in range(3):
        calls.append(crowd.answer(pipeline, held.fn))
        until(lambda number=number: aboard(flights) == number + 1)
    held.finish(OSError("down"))
    for answer in (call.result(PATIENCE) for call in calls):
        assert (answer.value, answer.source, answer.degraded) == ("spare", "fallback", True)
        assert str(answer.error) == "down"


def test_a_degraded_answer_of_a_flight_is_stored_by_nobody(crowd):
    flights, store, held = SingleFlight("key"), MemoryStore(), crowd.held()
    with pytest.warns(match="cache is outside fallback"):
        pipeline = Pipeline(CacheFallback(store, key="key", ttl=60), flights, Fallback("spare"))
    calls = []
    for number in range(3):
        calls.append(crowd.call(pipeline, held.fn))
        until(lambda number=number: aboard(flights) == number + 1)
    held.finish(OSError("down"))
    assert [call.result(PATIENCE) for call in calls] == ["spare"] * 3
    assert len(store) == 0


def test_followers_of_a_failed_flight_retry_together(loop):
    with Crowd(loop) as crowd:
        layers = (Retry(RetryPolicy(max_attempts=2, initial_backoff=0)),)
        _, held, calls = fly(crowd, 4, *layers)
        held.finish(ConnectionError("down"))
        until(lambda: held.calls == 2)
        held.finish("up")
        # A follower that comes back after the second flight has landed makes a call of its own.
        while not all(call.done() for call in calls):
            if held._open:
                held.finish("up")
        assert {call.result(PATIENCE) for call in calls} == {"up"}
        assert held.calls < 1 + 4


def test_joining_is_told(crowd, events):
    flights, held = SingleFlight("key"), crowd.held()
    pipeline = Pipeline(flights, listeners=[events.append])
    first = crowd.call(pipeline, held.fn)
    until(lambda: held.running == 1)
    second = crowd.call(pipeline, held.fn)
    until(lambda: events)
    held.finish(1)
    assert first.result(PATIENCE) == second.result(PATIENCE) == 1
    assert [event.kind for event in events if event.layer] == ["joined"]


@frees_at_once
def test_a_shared_error_leaves_nothing_for_the_garbage_collector():
    pipeline = Pipeline(SingleFlight("key"))

    async def rounds():
        landed = asyncio.Event()

        async def work():
            await landed.wait()
            raise ConnectionError("down")

        async def call():
            with suppress(ConnectionError):
                await pipeline.call_async(work)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(5):
                tasks.create_task(call())
            await anyio.wait_all_tasks_blocked()
            landed.set()

    async def main():
        await rounds()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await rounds()
            gc.collect()
            return [item for item in gc.garbage if isinstance(item, BaseException) or inspect.isframe(item)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    assert asyncio.run(main()) == []


@given(
    plan=st.lists(
        st.tuples(st.integers(0, 7), st.sampled_from(["start", "cancel", "step", "finish"])), max_size=60
    )
)
@settings(deadline=None, max_examples=80)
def test_whatever_is_cancelled_every_caller_ends_and_no_flight_is_left(plan):
    flights = SingleFlight("key")
    pipeline = Pipeline(flights)

    async def main():
        tasks, gates, flying = [], [], [0, 0]

        async def work():
            flying[0] += 1
            flying[1] = max(flying)
            gates.append(gate := asyncio.Event())
            try:
                await gate.wait()
                return 1
            finally:
                flying[0] -= 1

        for which, step in plan:
            if step == "start":
                tasks.append(asyncio.create_task(pipeline.call_async(work)))
            elif step == "cancel" and tasks:
                tasks[which % len(tasks)].cancel()
            elif step == "finish" and gates:
                gates[-1].set()
            else:
                await asyncio.sleep(0)
        while not all(task.done() for task in tasks):
            for gate in gates:
                gate.set()
            await asyncio.sleep(0)
        assert all(task.cancelled() or task.result() == 1 for task in tasks)
        assert flying[1] <= 1

    asyncio.run(main())
    assert len(flights) == 0
