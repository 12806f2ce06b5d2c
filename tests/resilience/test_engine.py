"""The kernel: directives, scopes, cancellation, and what is left behind."""

from __future__ import annotations

import ast
import asyncio
import gc
import inspect
import textwrap
import threading
import traceback
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path

import anyio
import pytest

from llm_config_resilience import (
    Again,
    Call,
    CircuitBreaker,
    DeadlineExceededError,
    Detach,
    Failover,
    Fallback,
    Gate,
    ManualClock,
    Park,
    Pipeline,
    Raise,
    Retry,
    RetryPolicy,
    Return,
    Scope,
    Strategy,
    SystemClock,
    Timeout,
    UsageError,
    Wait,
    current,
    engine,
)


class Probe(Strategy):
    """Writes down what it is asked, and answers by hooks given."""

    def __init__(self, log, name, **answers):
        self.log = log
        self.name = name
        self.answers = answers

    def _ask(self, hook, *args):
        self.log.append(f"{self.name}.{hook}")
        answer = self.answers.get(hook)
        return answer(*args) if callable(answer) else answer

    def before(self, ctx, at):
        return self._ask("before", ctx, at)

    def succeeded(self, ctx, at, value):
        return self._ask("succeeded", ctx, at, value)

    def failed(self, ctx, at, error):
        return self._ask("failed", ctx, at, error)

    def released(self, ctx, at):
        self._ask("released", ctx, at)


def once(directive):
    """Answer with a directive the first time only."""
    left = [directive]
    return lambda *_: left.pop() if left else None


def test_hooks_are_asked_inwards_and_outwards(colour):
    log = []
    pipeline = Pipeline(Probe(log, "a"), Probe(log, "b"))
    assert colour.call(pipeline, lambda: log.append("call") or 7) == 7
    assert log == ["a.before", "b.before", "call", "b.succeeded", "a.succeeded"]


def test_an_error_passes_every_layer_and_arrives_as_it_is(colour):
    log, error = [], ValueError("as it is")
    pipeline = Pipeline(Probe(log, "a"), Probe(log, "b"))

    def fail():
        raise error

    with pytest.raises(ValueError, match="as it is") as caught:
        colour.call(pipeline, fail)
    assert caught.value is error
    assert log == ["a.before", "b.before", "b.failed", "a.failed"]


def test_a_rejection_is_seen_by_the_layers_outside_only(colour):
    log = []

    def reject(*_):
        raise ValueError("full")

    pipeline = Pipeline(Probe(log, "a"), Probe(log, "b", before=reject), Probe(log, "c"))
    with pytest.raises(ValueError, match="full"):
        colour.call(pipeline, int)
    assert log == ["a.before", "b.before", "a.failed"]


def test_return_from_before_answers_from_that_layer_outwards(colour):
    log = []
    pipeline = Pipeline(Probe(log, "a"), Probe(log, "b", before=Return(5)), Probe(log, "c"))
    assert colour.call(pipeline, int) == 5
    assert log == ["a.before", "b.before", "a.succeeded"]


def test_return_from_succeeded_replaces_the_value_further_out(colour):
    seen = []
    pipeline = Pipeline(
        Probe([], "a", succeeded=lambda _c, _a, value: seen.append(value)),
        Probe([], "b", succeeded=Return(9)),
    )
    assert colour.call(pipeline, lambda: 1) == 9
    assert seen == [9]


def test_an_error_raised_in_succeeded_leaves_that_layer_outwards(colour):
    log = []

    def refuse(*_):
        raise ValueError("not this")

    pipeline = Pipeline(Probe(log, "a", failed=Return(3)), Probe(log, "b", succeeded=refuse))
    assert colour.call(pipeline, int) == 3
    assert log == ["a.before", "b.before", "b.succeeded", "a.failed"]


def test_again_enters_just_inside_its_layer_with_fresh_slots_there(colour, clock, script):
    log, slots = [], []

    def inner_before(ctx, at):
        slots.append(ctx.slots[at])
        ctx.slots[at] = "used"

    pipeline = Pipeline(
        Probe(log, "a", failed=once(Again(2.5))), Probe(log, "b", before=inner_before), clock=clock
    )
    assert colour.call(pipeline, script(OSError(), 4)) == 4
    assert log == ["a.before", "b.before", "b.failed", "a.failed", "b.before", "b.succeeded", "a.succeeded"]
    assert clock.sleeps == [2.5]
    assert slots == [None, None]


def test_wait_goes_on_inside_after_the_time(colour, clock):
    pipeline = Pipeline(Probe([], "a", before=Wait(3)), clock=clock)
    assert colour.call(pipeline, clock.monotonic) == 1003


def test_wait_may_have_the_next_step_decided_after_the_time(colour, clock):
    pipeline = Pipeline(Probe([], "a", before=Wait(3, then=lambda ctx, _at: Return(ctx.now()))), clock=clock)
    assert colour.call(pipeline, int) == 1003


def test_a_wait_that_does_not_fit_is_not_begun_and_gives_back_what_was_taken(colour, clock):
    log = []
    pipeline = Pipeline(Timeout(2), Probe(log, "a"), Probe(log, "b", before=Wait(3)), clock=clock)
    with pytest.raises(DeadlineExceededError):
        colour.call(pipeline, int)
    assert clock.sleeps == [] or colour.is_async
    assert log == ["a.before", "b.before", "b.released", "a.failed"]
    assert clock.monotonic() == 1000


@pytest.mark.parametrize("hook", ["before", "succeeded", "failed"])
def test_call_has_its_result_judged_and_none_means_what_it_means_in_the_hook(colour, script, hook):
    seen = []
    asked = Call(lambda a, b: a + b, 1, 2, then=lambda _c, _a, value: seen.append(value))
    pipeline = Pipeline(Probe([], "a", **{hook: asked}))
    if hook == "failed":
        with pytest.raises(KeyError):
            colour.call(pipeline, script(KeyError("k")))
    else:
        assert colour.call(pipeline, lambda: 8) == 8
    assert seen == [3]


def test_call_awaits_what_is_awaitable(loop):
    async def source():
        await anyio.lowlevel.checkpoint()
        return 6

    pipeline = Pipeline(Probe([], "a", before=Call(source, then=lambda _c, _a, value: Return(value))))
    assert loop.call(pipeline, int) == 6


def test_call_hands_its_error_to_orelse_and_otherwise_outwards(colour):
    def broken():
        raise LookupError("store")

    judged = Pipeline(Probe([], "a", before=Call(broken, orelse=lambda _c, _a, error: Return(str(error)))))
    assert colour.call(judged, int) == "store"
    outwards = Pipeline(Probe([], "a", failed=Return("outside")), Probe([], "b", before=Call(broken)))
    assert colour.call(outwards, int) == "outside"


def test_raise_replaces_the_error_and_chains_it(colour):
    pipeline = Pipeline(Probe([], "a", failed=lambda _c, _a, error: Raise(RuntimeError("new"), error)))

    def fail():
        raise ValueError("old")

    with pytest.raises(RuntimeError, match="new") as caught:
        colour.call(pipeline, fail)
    assert isinstance(caught.value.__cause__, ValueError)


def test_park_goes_on_when_the_gate_is_open(colour):
    gate = Gate()
    gate.open()
    pipeline = Pipeline(Probe([], "a", before=Park(gate, then=lambda *_: Return("through"))))
    assert colour.call(pipeline, int) == "through"


def test_a_parked_task_is_woken_by_another_task(loop, clock):
    gate, order = Gate(), []

    def work():
        order.append("call")

    async def main():
        parked = Pipeline(Probe([], "a", before=Park(gate)), clock=clock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(parked.call_async, work)
            await anyio.wait_all_tasks_blocked()
            order.append("open")
            gate.open()

    loop.run(main)
    assert order == ["open", "call"]


@pytest.mark.parametrize("real", [True, False], ids=["system clock", "manual clock"])
def test_a_parked_thread_is_woken_by_another_thread(real):
    gate, parked = Gate(), threading.Event()
    pipeline = Pipeline(
        Probe([], "a", before=lambda *_: parked.set() or Park(gate)),
        clock=SystemClock() if real else ManualClock(),
    )
    results = []
    thread = threading.Thread(target=lambda: results.append(pipeline.call(lambda: 5)))
    thread.start()
    parked.wait()
    gate.open()
    thread.join()
    assert results == [5]


def test_a_parked_task_is_woken_by_a_thread(loop):
    gate, parked = Gate(), threading.Event()
    pipeline = Pipeline(Probe([], "a", before=lambda *_: parked.set() or Park(gate)))

    def opener():
        parked.wait()
        gate.open()

    thread = threading.Thread(target=opener)
    thread.start()
    assert loop.call(pipeline, lambda: 5) == 5
    thread.join()


def test_parking_ends_at_the_deadline(loop, clock):
    log = []
    pipeline = Pipeline(Probe(log, "a"), Timeout(4), Probe(log, "b", before=Park(Gate())), clock=clock)
    with pytest.raises(DeadlineExceededError):
        loop.call(pipeline, int)
    assert clock.monotonic() == 1004
    assert log == ["a.before", "b.before", "b.released", "a.failed"]


def test_parking_no_longer_than_asked_leaves_the_answer_to_orelse(loop, clock):
    park = Park(Gate(), orelse=lambda _c, _a, error: Return(type(error).__name__), within=2)
    pipeline = Pipeline(Probe([], "a", before=park), clock=clock)
    assert loop.call(pipeline, int) == "DeadlineExceededError"
    assert clock.monotonic() == 1002


class Race(Scope):
    """Runs what is inside twice, on forks, one after the other, and adds the results."""

    def around(self, ctx, at, proceed):
        return proceed(ctx.fork()) + proceed(ctx.fork())

    async def around_async(self, ctx, at, proceed):
        return await proceed(ctx.fork()) + await proceed(ctx.fork())


def test_a_scope_runs_branches_on_contexts_of_their_own(colour, script):
    log = []

    def take(ctx, at):
        assert ctx.slots[at] is None
        ctx.slots[at] = "mine"

    pipeline = Pipeline(Probe(log, "a"), Race(), Probe(log, "b", before=take))
    assert colour.call(pipeline, script(1, 2)) == 3
    assert log == ["a.before", "b.before", "b.succeeded", "b.before", "b.succeeded", "a.succeeded"]


class Through(Scope):
    """Runs what is inside as it is."""

    def around(self, ctx, at, proceed):
        return proceed(ctx)

    async def around_async(self, ctx, at, proceed):
        return await proceed(ctx)


@pytest.mark.parametrize("hook", ["failed", "succeeded"])
def test_every_attempt_finds_the_places_inside_of_scopes_empty(colour, clock, script, hook):
    found = []

    def take(ctx, at):
        found.append(ctx.slots[at])
        ctx.slots[at] = "taken"

    outside = Probe([], "a", **{hook: once(Again())})
    layers = (outside, Through(), Probe([], "b", before=take), Through(), Probe([], "c", before=take))
    first = OSError() if hook == "failed" else 3
    assert colour.call(Pipeline(*layers, clock=clock), script(first, 4)) == 4
    assert found == [None] * 4


def test_an_error_crosses_a_scope(colour):
    log = []
    pipeline = Pipeline(Probe(log, "a", failed=Return("caught")), Race(), Probe(log, "b"))

    def fail():
        raise OSError

    assert colour.call(pipeline, fail) == "caught"
    assert log == ["a.before", "b.before", "b.failed", "a.failed"]


def test_branches_of_a_scope_run_at_once(loop, clock):
    class Both(Scope):
        async def around_async(self, ctx, at, proceed):
            found = []

            async def branch():
                found.append(await proceed(ctx.fork()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(branch)
                tasks.start_soon(branch)
            return found

    async def work():
        await clock.sleep_async(5)
        return current().calls

    async def main():
        return await Pipeline(Both(), clock=clock).call_async(work)

    assert loop.run(main) == [1, 1]
    assert clock.monotonic() == 1005


def test_detach_answers_at_once_and_the_rest_is_judged_by_the_layer_itself(colour):
    log, gate = [], threading.Event()
    stored = threading.Event()

    def work():
        gate.wait()
        log.append("work")
        return "new"

    pipeline = Pipeline(
        Probe(log, "outer"),
        Probe(
            log,
            "cache",
            before=Detach(0, Return("old")),
            succeeded=lambda _c, _a, value: log.append(value) or stored.set(),
        ),
        Probe(log, "inner"),
    )

    def main():
        assert pipeline.call(work) == "old"
        gate.set()
        assert pipeline.drain(timeout=30)

    async def main_async():
        gate.set()
        assert await pipeline.call_async(work) == "old"
        await pipeline.drain_async()

    colour.run(main_async) if colour.is_async else main()
    assert stored.is_set()
    assert sorted(log) == sorted(
        [
            "outer.before",
            "cache.before",
            "outer.succeeded",
            "inner.before",
            "work",
            "inner.succeeded",
            "cache.succeeded",
            "new",
        ]
    )
    assert log.index("inner.before") > log.index("cache.before")
    assert log[-3:] == ["inner.succeeded", "cache.succeeded", "new"]


def test_detach_waits_as_long_as_asked_and_takes_an_outcome_that_came_in_time(loop, clock):
    pipeline = Pipeline(Probe([], "a", before=Detach(5, Return("old", degraded=True))), clock=clock)

    async def main(seconds):
        async def work():
            await clock.sleep_async(seconds)
            return "new"

        answer = await pipeline.answer_async(work)
        await pipeline.drain_async()
        return answer.value, answer.degraded, answer.calls

    assert loop.run(main, 4) == ("new", False, 1)
    assert loop.run(main, 6) == ("old", True, 0)


def test_a_detached_error_that_came_in_time_is_raised_and_a_late_one_told(loop, clock, events):
    pipeline = Pipeline(
        Probe([], "a", before=Detach(5, Return("old"))), clock=clock, listeners=[events.append]
    )

    async def main(seconds):
        async def work():
            await clock.sleep_async(seconds)
            raise OSError("broken")

        try:
            return await pipeline.call_async(work)
        finally:
            await pipeline.drain_async()

    with pytest.raises(OSError, match="broken"):
        loop.run(main, 4)
    assert events == []
    assert loop.run(main, 6) == "old"
    assert [event.kind for event in events] == ["background_failed"]


@pytest.mark.parametrize("within", [0, -1])
def test_detach_without_a_wait_never_takes_the_outcome_however_soon_it_comes(
    colour, events, monkeypatch, script, within
):
    """What a caller gets must not hang on how quick a thread or an eager task is."""
    pipeline = Pipeline(Probe([], "a", before=Detach(within, Return("old"))), listeners=[events.append])

    def at_once(job):
        if colour.is_async:
            with pytest.raises(StopIteration):
                job().send(None)
        else:
            job()
        return True

    monkeypatch.setattr(pipeline.background, "spawn" if colour.is_async else "run", at_once)
    assert colour.call(pipeline, lambda: "new") == "old"
    assert colour.call(pipeline, script(OSError("late"))) == "old"
    assert [(event.kind, str(event.error)) for event in events] == [("background_failed", "late")]


def test_detached_work_has_no_deadline_of_the_caller(loop, clock):
    deadlines = []

    async def work():
        deadlines.append(current().deadline)

    pipeline = Pipeline(Timeout(1), Probe([], "a", before=Detach(0, Return(0))), clock=clock)

    async def main():
        await pipeline.call_async(work)
        await pipeline.drain_async()

    loop.run(main)
    assert deadlines == [float("inf")]


def test_detached_work_in_a_thread_keeps_contextvars():
    who, seen = ContextVar("who"), []
    who.set("caller")
    pipeline = Pipeline(Probe([], "a", before=Detach(0, Return(0))))
    pipeline.call(lambda: seen.append(who.get()))
    assert pipeline.drain(timeout=30)
    assert seen == ["caller"]


def test_a_closed_pipeline_detaches_nothing_and_still_answers(colour):
    log = []
    pipeline = Pipeline(Probe(log, "a", before=Detach(0, Return("old"))))
    pipeline.close()
    assert colour.call(pipeline, lambda: log.append("ran")) == "old"
    assert log == ["a.before", "a.released"]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_arrives_intact_and_every_layer_gives_back(interrupt):
    log = []
    pipeline = Pipeline(Fallback(0), Retry(), Probe(log, "a"), Probe(log, "b"))

    def work():
        raise interrupt

    with pytest.raises(interrupt):
        pipeline.call(work)
    assert log == ["a.before", "b.before", "b.released", "a.released"]


@pytest.mark.parametrize("where", ["call", "wait", "park", "lookup", "backoff", "detached wait"])
def test_cancellation_arrives_intact_at_every_point_and_every_layer_gives_back(loop, where):
    log = []
    held = Gate()

    async def hang():
        await anyio.sleep_forever()

    def answers():
        return {
            "call": {},
            "wait": {"before": Wait(1e6)},
            "park": {"before": Park(held)},
            "lookup": {"before": Call(hang)},
            "backoff": {"failed": Again(1e6)},
            "detached wait": {"before": Detach(1e6, Return(0))},
        }[where]

    async def fail():
        raise OSError

    pipeline = Pipeline(Fallback(0), Probe(log, "a"), Probe(log, "b", **answers()))
    outcome = []

    async def main():
        async def call():
            try:
                await pipeline.call_async(fail if where == "backoff" else hang)
            except BaseException as error:
                outcome.append(type(error))
                raise

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        outcome.append(anyio.get_cancelled_exc_class())
        pipeline.close()
        await pipeline.drain_async()

    loop.run(main)
    assert outcome[0] is outcome[1]
    released = [line for line in log if line.endswith("released")]
    assert released[:2] == ["b.released", "a.released"]
    # What was detached is cancelled by close(), and gives back what went with it.
    assert released[2:] == (["b.released"] if where == "detached wait" else [])


async def test_a_plain_asyncio_cancel_arrives_as_cancelled_error():
    started = asyncio.Event()

    async def work():
        started.set()
        await asyncio.Event().wait()

    pipeline = Pipeline(Fallback(0), Timeout(60), Retry(), CircuitBreaker())
    task = asyncio.create_task(pipeline.call_async(work))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_virtual_timeout_lets_an_outer_cancellation_through():
    started = asyncio.Event()

    async def work():
        started.set()
        await asyncio.Event().wait()

    class Still(ManualClock):
        """Nobody moves it."""

        async def until(self, moment):
            await anyio.sleep_forever()

    task = asyncio.create_task(Pipeline(Timeout(60), clock=Still()).call_async(work))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_call_closes_a_coroutine_it_was_handed_and_no_fallback_hides_it():
    async def work():
        return 1

    log = []
    pipeline = Pipeline(Fallback("hidden"), Probe(log, "a"))
    with pytest.raises(UsageError, match="call_async"):
        pipeline.call(work)
    assert log == ["a.before", "a.released"]


def test_call_async_takes_plain_functions_and_lambdas_returning_coroutines(loop):
    async def work(value):
        return value

    pipeline = Pipeline(Retry())
    assert loop.run(pipeline.call_async, lambda: 3) == 3
    assert loop.run(pipeline.call_async, lambda: work(4)) == 4


def test_a_decorated_function_keeps_its_name_and_colour(loop):
    pipeline = Pipeline(Fallback("fallback"))

    @pipeline
    def plain(fail):
        """Say something."""
        return 1 / fail

    @pipeline
    async def native(fail):
        return 1 / fail

    assert plain(0) == "fallback"
    assert plain(2) == 0.5
    assert plain.__name__ == "plain"
    assert inspect.iscoroutinefunction(native)
    assert loop.run(native, 0) == "fallback"


def test_a_failure_leaves_nothing_for_the_garbage_collector(colour):
    def fail():
        raise ConnectionError

    at_once = RetryPolicy(max_attempts=2, initial_backoff=0)
    raising = Pipeline(Timeout(9), Retry(at_once), CircuitBreaker())
    replacing = Pipeline(Failover(["a", "b"]), Timeout(1))
    answering = Pipeline(Fallback(1), Retry(at_once), Timeout(3), CircuitBreaker())
    chained = Pipeline(Fallback(lambda: 1 / 0, lambda _error: 2))

    async def rounds():
        for pipeline, fn in (
            (raising, fail),
            (replacing, lambda _t: fail()),
            (answering, fail),
            (chained, fail),
        ):
            if colour.is_async:
                with suppress(ConnectionError, ExceptionGroup):
                    await pipeline.answer_async(fn)
            else:
                with suppress(ConnectionError, ExceptionGroup):
                    pipeline.answer(fn)

    async def main():
        await rounds()
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            await rounds()
            gc.collect()
            left = [item for item in gc.garbage if isinstance(item, BaseException) or inspect.isframe(item)]
            return [type(item).__name__ for item in left]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    if colour.is_async:
        left = colour.run(main)
    else:
        coroutine = main()
        with pytest.raises(StopIteration) as stop:
            coroutine.send(None)
        left = stop.value.value
    assert left == []


def test_a_traceback_has_at_most_three_frames_of_the_library(colour, clock):
    def fail():
        raise ConnectionError

    pipeline = Pipeline(
        Fallback(lambda: 1 / 0), Retry(), CircuitBreaker(), Probe([], "a"), Probe([], "b"), clock=clock
    )
    with pytest.raises(ConnectionError) as caught:
        colour.call(pipeline, fail)
    home = str(Path(engine.__file__).parent)
    frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename.startswith(home)]
    assert 1 <= len(frames) <= 3


def test_a_scope_adds_at_most_two_frames_to_a_traceback(loop, clock):
    def fail():
        raise ConnectionError

    pipeline = Pipeline(Timeout(50), Retry(), Timeout(9), CircuitBreaker(), clock=clock)
    with pytest.raises(ConnectionError) as caught:
        loop.call(pipeline, fail)
    home = str(Path(engine.__file__).parent)
    frames = [f for f in traceback.extract_tb(caught.value.__traceback__) if f.filename.startswith(home)]
    assert 1 <= len(frames) <= 3 + 2 * 2


def test_current_tells_the_called_function_about_its_call(colour, clock):
    seen = []

    def work(target):
        context = current()
        seen.append((context.attempt, context.calls, context.target, context.remaining()))
        raise ConnectionError

    pipeline = Pipeline(
        Timeout(100), Retry(RetryPolicy(jitter="none")), Failover(["a", "b"]), Timeout(5), clock=clock
    )
    with pytest.raises(ExceptionGroup):
        colour.call(pipeline, work)
    assert seen == [(n // 2 + 1, n + 1, "abbaba"[n], 5.0) for n in range(6)]
    assert current() is None


def test_a_pipeline_called_inside_another_inherits_its_deadline(colour, clock):
    inner, outer = Pipeline(Timeout(50), clock=clock), Pipeline(Timeout(7), clock=clock)

    def work():
        return current().remaining()

    if colour.is_async:

        async def nested():
            return await inner.call_async(work)

        assert colour.run(outer.call_async, nested) == 7
    else:
        assert outer.call(inner.call, work) == 7
    assert colour.call(inner, work) == 50


def test_a_task_left_behind_is_not_bound_by_the_deadline_of_the_call_that_made_it(clock):
    inner = Pipeline(Timeout(50), clock=clock)
    left, over = [], asyncio.Event()

    async def outer_work():
        left.append(asyncio.create_task(later()))

    async def later():
        await over.wait()
        clock.advance(100)
        return await inner.call_async(lambda: current().remaining())

    async def main():
        await Pipeline(Timeout(7), clock=clock).call_async(outer_work)
        assert current() is None
        over.set()
        return await left[0]

    assert asyncio.run(main()) == 50


def test_the_two_loops_are_the_same_program():
    class Bleach(ast.NodeTransformer):
        def visit_Await(self, node):
            return self.visit(node.value)

        def visit_Name(self, node):
            node.id = node.id.removesuffix("_async")
            return node

        def visit_Attribute(self, node):
            self.generic_visit(node)
            node.attr = node.attr.removesuffix("_async")
            return node

        def visit_If(self, node):
            # The one difference: what is done with something awaitable.
            if "_COROUTINE" in ast.unparse(node.test):
                return ast.parse("judge_awaitable").body
            self.generic_visit(node)
            return node

    def text(function):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        return ast.unparse(Bleach().visit(tree.body[0])).split("\n", 1)[1]

    for sync, native in ((engine.drive, engine.drive_async), (engine.fly, engine.fly_async)):
        assert text(sync) == text(native)
