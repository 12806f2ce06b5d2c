"""Callers at once: threads in sync, tasks of one event loop in async, told what to do from a plain test."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import Future

import pytest
from anyio.from_thread import start_blocking_portal

from llm_config_resilience import Gate, SystemClock

#: Seconds after which a test is taken to hang.
PATIENCE = 30
_CLOCK = SystemClock()

#: Without a GIL, what one thread made and another let go of stays until its maker or the collector comes by
#: (PEP 703, biased reference counting): a collector with something to do tells of no cycle there.
frees_at_once = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="threads free each other's objects later"
)


def until(condition):
    """Wait for what another thread is about to bring about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        os.sched_yield()


class Held:
    """A function whose calls hang until the test says what becomes of each."""

    def __init__(self, crowd):
        self._crowd = crowd
        self._open = []
        self.calls = 0
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    @property
    def fn(self):
        return self._hang_async if self._crowd.is_async else self._hang

    def finish(self, outcome=None):
        """End the call that hangs longest."""
        until(lambda: self._open)
        with self._lock:
            gate, outcomes = self._open.pop(0)
        outcomes.append(outcome)
        gate.open()

    def _enter(self):
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
            call = (Gate(), [])
            self._open.append(call)
            return call

    def _leave(self, call):
        with self._lock:
            self.running -= 1
            if call in self._open:
                self._open.remove(call)

    def _hang(self, *_args):
        call = self._enter()
        try:
            assert _CLOCK.wait(call[0], PATIENCE)
            return self._outcome(*call[1])
        finally:
            self._leave(call)

    async def _hang_async(self, *_args):
        call = self._enter()
        try:
            assert await _CLOCK.wait_async(call[0], PATIENCE)
            return self._outcome(*call[1])
        finally:
            self._leave(call)

    def _outcome(self, outcome):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Crowd:
    """Makes calls at once, and hands out their futures."""

    def __init__(self, colour):
        self.is_async = colour.is_async
        self._threads = []
        self._portal = start_blocking_portal(colour.name) if colour.is_async else None
        self._run = None

    def __enter__(self):
        if self._portal is not None:
            self._run = self._portal.__enter__()
        return self

    def __exit__(self, *exc):
        for thread in self._threads:
            thread.join(PATIENCE)
        if self._portal is not None:
            self._portal.__exit__(*exc)

    def held(self):
        return Held(self)

    def call(self, pipeline, fn, *args):
        return self._begin(pipeline.call_async if self.is_async else pipeline.call, fn, *args)

    def answer(self, pipeline, fn, *args):
        return self._begin(pipeline.answer_async if self.is_async else pipeline.answer, fn, *args)

    def _begin(self, call, *args):
        if self._run is not None:
            return self._run.start_task_soon(call, *args)
        future = Future()

        def work():
            try:
                future.set_result(call(*args))
            except BaseException as error:  # noqa: BLE001 - the future has it
                future.set_exception(error)

        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()
        return future
