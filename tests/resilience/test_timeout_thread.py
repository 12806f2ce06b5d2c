"""Sync calls in a thread, whose callers wait no longer than the limit."""

from __future__ import annotations

import gc
import threading
import warnings
from contextvars import ContextVar

import pytest

from llm_config_resilience import (
    Bulkhead,
    BulkheadFullError,
    CircuitBreaker,
    DeadlineExceededError,
    ManualClock,
    Pipeline,
    Retry,
    RetryPolicy,
    Timeout,
    current,
)
from resilience.crowds import frees_at_once
from resilience.test_interrupts import in_a_child, needs_fork

#: Seconds until a test that hangs fails.
PATIENCE = 30


class Result:
    """Something that has to be closed."""

    def __init__(self):
        self.closed = threading.Event()

    def close(self):
        self.closed.set()


class Hanging:
    """A function that does not return before it is told to; time is up as soon as it runs."""

    def __init__(self, clock, value=None):
        self.clock = clock
        self.value = value
        self.leave = threading.Event()

    def __call__(self, seconds=5):
        self.clock.advance(seconds)
        assert self.leave.wait(PATIENCE)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_the_caller_waits_no_longer_than_the_limit_and_a_late_result_is_closed(clock, events):
    timeout, late = Timeout(3, thread=True), Result()
    hanging = Hanging(clock, late)
    pipeline = Pipeline(timeout, clock=clock, listeners=[events.append])
    with pytest.raises(DeadlineExceededError, match="within 3 s"):
        pipeline.call(hanging)
    assert [(event.kind, event.layer) for event in events] == [("timed_out", "timeout")]
    assert not late.closed.is_set()
    hanging.leave.set()
    assert late.closed.wait(PATIENCE)
    assert [event.kind for event in events] == ["timed_out", "late"]


def test_a_late_error_is_told(clock, events):
    timeout = Timeout(3, thread=True)
    hanging = Hanging(clock, ConnectionError("late"))
    with pytest.raises(DeadlineExceededError):
        Pipeline(timeout, clock=clock, listeners=[events.append]).call(hanging)
    hanging.leave.set()
    assert timeout._threads.drain(PATIENCE)
    assert [repr(event.error) for event in events if event.kind == "late"] == ["ConnectionError('late')"]


def test_a_result_in_time_comes_back_with_what_happened_inside(clock, script):
    work = script(ConnectionError, "value")
    pipeline = Pipeline(Timeout(3, thread=True), Retry(RetryPolicy(jitter="none")), clock=clock)
    answer = pipeline.answer(work)
    assert (answer.value, answer.attempts, answer.calls) == ("value", 2, 2)


def test_the_call_runs_in_another_thread_with_the_callers_variables_and_deadline(clock):
    colour = ContextVar("colour", default="none")
    colour.set("blue")
    pipeline = Pipeline(Timeout(3, thread=True), clock=clock)
    thread, seen, left = pipeline.call(lambda: (threading.get_ident(), colour.get(), current().remaining()))
    assert thread != threading.get_ident()
    assert (seen, left) == ("blue", 3)


def test_without_a_limit_or_without_being_asked_the_call_stays_in_its_callers_thread():
    for timeout in (Timeout(None, thread=True), Timeout(60)):
        assert Pipeline(timeout).call(threading.get_ident) == threading.get_ident()


def test_while_every_thread_is_taken_calls_are_rejected(clock, events):
    timeout = Timeout(3, thread=True, max_threads=1)
    hanging = Hanging(clock)
    pipeline = Pipeline(timeout, clock=clock, listeners=[events.append])
    with pytest.raises(DeadlineExceededError):
        pipeline.call(hanging)
    with pytest.raises(BulkheadFullError, match="no thread is free"):
        pipeline.call(pytest.fail, "it ran")
    assert [event.kind for event in events] == ["timed_out", "rejected"]
    hanging.leave.set()
    assert timeout._threads.drain(PATIENCE)
    assert pipeline.call(str, "again") == "again"


def test_a_breaker_outside_counts_it_and_a_bulkhead_inside_holds_its_place(clock):
    breaker, bulkhead, timeout = CircuitBreaker(1), Bulkhead(1), Timeout(3, thread=True)
    hanging = Hanging(clock)
    with pytest.raises(DeadlineExceededError):
        Pipeline(breaker, timeout, bulkhead, clock=clock).call(hanging)
    assert (breaker.state, bulkhead.running) == ("open", 1)
    hanging.leave.set()
    assert timeout._threads.drain(PATIENCE)
    assert bulkhead.running == 0


def test_an_error_a_retry_gave_up_in_the_thread_is_not_retried_outside(clock, script):
    work = script(ConnectionError("down"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = Pipeline(Retry(), Timeout(3, thread=True), Retry(RetryPolicy(2)), clock=clock)
    with pytest.raises(ConnectionError):
        pipeline.call(work)
    assert work.calls == 2


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_the_thread_arrives_intact(interrupt):
    def stop():
        raise interrupt

    with pytest.raises(interrupt):
        Pipeline(Timeout(PATIENCE, thread=True)).call(stop)


@pytest.mark.parametrize("entered_first", [True, False])
def test_an_interrupt_of_the_waiting_caller_leaves_the_result_closed(entered_first):
    late, leave = Result(), threading.Event()

    class Interrupted(ManualClock):
        def wait(self, gate, seconds):
            if not entered_first:  # the result is there, and the interrupt comes at the same moment
                leave.set()
                super().wait(gate, seconds)
            raise KeyboardInterrupt

    timeout = Timeout(3, thread=True)
    with pytest.raises(KeyboardInterrupt):
        Pipeline(timeout, clock=Interrupted()).call(lambda: leave.wait(PATIENCE) and late)
    leave.set()
    assert late.closed.wait(PATIENCE)


@frees_at_once
def test_the_callers_error_leaves_nothing_for_the_garbage_collector(clock, script):
    timeout = Timeout(3, thread=True)
    pipeline = Pipeline(timeout, clock=clock)
    work = script(ConnectionError)
    for _ in range(2):
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(ConnectionError):
                pipeline.call(work)
            assert timeout._threads.drain(PATIENCE)
            left = gc.collect()
        finally:
            gc.enable()
    assert left == 0


@needs_fork
def test_a_forked_child_has_threads_of_its_own():
    timeout, clock = Timeout(3, thread=True, max_threads=1), ManualClock()
    hanging = Hanging(clock)
    pipeline = Pipeline(timeout, clock=clock)
    with pytest.raises(DeadlineExceededError):
        pipeline.call(hanging)  # the parent's only thread is taken, and not in the child
    try:
        assert in_a_child(lambda: pipeline.call(str, "in the child") == "in the child") == 0
    finally:
        hanging.leave.set()
    assert timeout._threads.drain(PATIENCE)


def test_async_calls_are_cancelled_as_ever(loop, clock):
    with pytest.raises(DeadlineExceededError, match="within 3 s"):
        loop.run(Pipeline(Timeout(3, thread=True), clock=clock).call_async, clock.sleep_async, 10)


def test_it_says_so_and_refuses_nonsense():
    assert Timeout(3, thread=True).describe() == {"seconds": 3, "thread": True}
    assert Timeout(3).describe() == {"seconds": 3}
    with pytest.raises(ValueError, match="max_threads"):
        Timeout(3, thread=True, max_threads=0)
