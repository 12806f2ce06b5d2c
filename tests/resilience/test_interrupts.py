"""An interrupt at any line of the engine: it arrives intact, and every layer gives back what it took."""

from __future__ import annotations

import dis
import os
import sys
import threading

import pytest

from llm_config_resilience import (
    Bulkhead,
    CacheFallback,
    CircuitBreaker,
    Detach,
    Fallback,
    ManualClock,
    MemoryStore,
    Pipeline,
    Retry,
    RetryPolicy,
    Return,
    SingleFlight,
    Strategy,
    Timeout,
    engine,
)
from llm_config_resilience.context import current_context
from llm_config_resilience.locks import new_lock

PATIENCE = 30  # seconds


@pytest.fixture(autouse=True)
def own_context():
    """An interrupt between setting the call in hand and the `try` that takes it back leaves it set."""
    before = current_context.get()
    yield
    current_context.set(before)


class Permits(Strategy):
    """Takes one, and gives it back however the call ends."""

    def __init__(self):
        self.held = 0
        self.taken = 0

    def before(self, ctx, at):
        self.held += 1
        self.taken += 1
        ctx.slots[at] = "permit"

    def succeeded(self, ctx, at, value):
        self.released(ctx, at)

    def failed(self, ctx, at, error):
        self.released(ctx, at)

    def released(self, ctx, at):
        if ctx.slots[at] == "permit":
            ctx.slots[at] = None
            self.held -= 1


class Interrupter:
    """Raises `KeyboardInterrupt` at the n-th line that the engine's loop runs, as a signal may."""

    def __init__(self, at_line):
        self.lines_left = at_line
        self.fired = False

    def __call__(self, frame, event, _arg):
        if frame.f_code not in (engine.drive.__code__, engine.drive_async.__code__):
            return None
        return self.in_the_loop

    def in_the_loop(self, frame, event, _arg):
        if event == "line" and not is_out_of_reach(frame):
            if self.lines_left == 0 and not self.fired:
                self.fired = True
                raise KeyboardInterrupt
            self.lines_left -= 1
        return self.in_the_loop


def is_out_of_reach(frame):
    """Whether giving back is under way; or no signal can come, as the line is a `try:` that does nothing."""
    is_nothing = frame.f_code.co_code[frame.f_lasti] == dis.opmap["NOP"]
    return is_nothing or frame.f_lineno >= LAST_LINES[frame.f_code]


def first_line_of_the_end(function):
    first = function.__code__.co_firstlineno
    with open(function.__code__.co_filename, encoding="utf-8") as source:  # noqa: PTH123 - as inspect does it
        lines = source.read().splitlines()
    return next(
        number
        for number, line in enumerate(lines, 1)
        if number > first and line.strip().startswith("finally:") and line.startswith("    f")
    )


LAST_LINES = {
    function.__code__: first_line_of_the_end(function) for function in (engine.drive, engine.drive_async)
}


def interrupted(at_line, run):
    interrupter = Interrupter(at_line)
    before = sys.gettrace()
    sys.settrace(interrupter)
    try:
        run()
    finally:
        sys.settrace(before)
        INTERRUPTED.append(interrupter.fired)


INTERRUPTED: list[bool] = []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("outcomes", [[1], [OSError, 1], [KeyError], [OSError, OSError]])
def test_at_every_line_it_arrives_intact_and_all_is_given_back(script, outcomes, is_async):
    line = reached = 0
    while True:
        outer, inner = Permits(), Permits()
        clock = ManualClock()
        retry = Retry(RetryPolicy(2, jitter="none", initial_backoff=0), budget=None)
        pipeline = Pipeline(Fallback(0, on=LookupError), outer, retry, inner, CircuitBreaker(), clock=clock)
        fn = script(*outcomes)

        def run(pipeline=pipeline, fn=fn):
            if not is_async:
                return pipeline.call(fn)
            try:
                pipeline.call_async(fn).send(None)
            except StopIteration as stop:
                return stop.value

        try:
            interrupted(line, run)
        except KeyboardInterrupt:
            reached += 1
        except OSError:
            assert not INTERRUPTED[-1], "the interrupt was replaced by an error"
        else:
            assert not INTERRUPTED[-1], "the interrupt was swallowed"
        assert (outer.held, inner.held) == (0, 0), f"interrupted at line {line}"
        if not INTERRUPTED[-1]:
            break
        line += 1
    assert reached > 15
    assert inner.taken >= 1


def test_an_interrupted_probe_gives_its_place_back(clock):
    breaker = CircuitBreaker(1, timeout=5)
    pipeline = Pipeline(breaker, clock=clock)

    def fail():
        raise ConnectionError

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(ConnectionError):
        pipeline.call(fail)
    clock.advance(5)
    with pytest.raises(KeyboardInterrupt):
        pipeline.call(interrupt)
    assert pipeline.call(lambda: "probe") == "probe"


def test_a_layer_that_cannot_give_back_neither_replaces_the_interrupt_nor_stops_the_others(caplog):
    class Broken(Strategy):
        def before(self, ctx, at):
            ctx.slots[at] = "held"

        def released(self, ctx, at):
            raise RuntimeError("cannot")

    def interrupt():
        raise KeyboardInterrupt

    permits = Permits()
    with pytest.raises(KeyboardInterrupt):
        Pipeline(permits, Broken()).call(interrupt)
    assert permits.held == 0
    assert "could not give back" in caplog.text


def test_an_abandoned_coroutine_gives_back_what_it_held():
    class Forever:
        def __await__(self):
            yield

    permits = Permits()
    coroutine = Pipeline(permits).call_async(Forever)
    coroutine.send(None)
    assert permits.held == 1
    coroutine.close()
    assert permits.held == 0


# --- Forks ---


def in_a_child(check):
    """Run a check in a forked child; say what it returned."""
    child = os.fork()
    if child == 0:  # nothing of pytest's may run in here
        code = 3
        try:
            code = 0 if check() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def needs_fork(test):
    """Skip where there is no fork; from 3.12 on Python warns of what these tests are about."""
    quiet = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    return quiet(pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")(test))


@needs_fork
def test_a_forked_child_finds_locks_open_that_another_thread_held():
    lock, held, leave = new_lock(), threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            leave.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert in_a_child(lambda: lock.acquire(timeout=30)) == 0
    finally:
        leave.set()
        thread.join()


@needs_fork
def test_a_forked_child_has_background_threads_of_its_own():
    class Detaching(Strategy):
        def before(self, ctx, at):
            return Detach(0.0, Return("at once"))

    pipeline, ran, leave = Pipeline(Detaching()), [], threading.Event()
    pipeline.call(leave.wait)  # the parent's thread is busy, and not in the child

    def check():
        pipeline.call(lambda: ran.append("in the child"))
        return pipeline.drain(timeout=30) and ran == ["in the child"]

    try:
        assert in_a_child(check) == 0
    finally:
        leave.set()
    assert pipeline.drain(timeout=30)
    assert ran == []


@needs_fork
def test_a_forked_child_goes_on_with_the_cache_and_the_circuit_it_inherited(clock):
    breaker = CircuitBreaker(1)
    pipeline = Pipeline(CacheFallback(MemoryStore(), key="k", ttl=9), breaker, clock=clock)
    pipeline.call(lambda: "kept")
    breaker.force_open()
    assert in_a_child(lambda: pipeline.call(int) == "kept" and breaker.state == "open") == 0


@needs_fork
@pytest.mark.parametrize(
    "strategy",
    [
        SingleFlight("key"),
        Bulkhead(1, max_queue=1),
        CacheFallback(MemoryStore(), key="key", ttl=0, stale_while_revalidate=9),
    ],
    ids=lambda strategy: strategy.role,
)
def test_a_forked_child_does_not_wait_for_calls_of_its_parents_threads(strategy):
    begun, leave = threading.Event(), threading.Event()
    pipeline = Pipeline(Timeout(PATIENCE), strategy)

    def hold():
        begun.set()
        leave.wait()

    def check():
        ran = []
        pipeline.call(lambda: ran.append("in the child"))
        return pipeline.drain(timeout=PATIENCE) and ran == ["in the child"]

    if isinstance(strategy, CacheFallback):
        pipeline.call(int)  # what is renewed is there
    thread = threading.Thread(target=pipeline.call, args=[hold])
    thread.start()
    try:
        assert begun.wait(PATIENCE)
        assert in_a_child(check) == 0
    finally:
        leave.set()
        thread.join()
    assert pipeline.drain(timeout=PATIENCE)


@needs_fork
@pytest.mark.parametrize("strategy", [SingleFlight("key"), Bulkhead(1)], ids=lambda strategy: strategy.role)
def test_a_child_forked_within_a_call_may_end_it_and_make_another(strategy):
    pipeline, children, is_well = Pipeline(strategy), [], False
    try:
        pipeline.call(lambda: children.append(os.fork()))
        is_well = pipeline.call(int) == 0
    finally:
        if children == [0]:  # nothing of pytest's may run in here
            os._exit(0 if is_well else 1)
    _, status = os.waitpid(children[0], 0)
    assert (is_well, status) == (True, 0)
