"""Where detached work runs: a few threads in sync, tasks in async. It ends with its pipeline."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import queue
import threading
from typing import TYPE_CHECKING, Any

from llm_config_resilience.clock import in_trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = logging.getLogger("llm_config_resilience")

#: Threads a pipeline: detached work refreshes caches, it is not the traffic itself.
_MAX_THREADS = 4
#: Jobs that may run or wait at once; more are refused, the caller has its answer already.
_MAX_JOBS = 64
#: Seconds without work after which a thread ends (starting one costs 0.1 ms).
_IDLE_SECONDS = 5.0


def _end() -> None:
    """Stand for the end in a queue of jobs."""


class Background:
    """Runs what callers no longer wait for, and never more than is sensible. A forked child begins anew.

    A job that raises is logged: there is nobody else to tell.

    Args:
        max_threads: Threads at most.
        max_jobs: Jobs that may run or wait at once; more are refused.
    """

    def __init__(self, max_threads: int = _MAX_THREADS, max_jobs: int = _MAX_JOBS) -> None:
        self._max_threads = max_threads
        self._max_jobs = max_jobs
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._pending = 0
        self._threads = 0
        self._tasks: set[Any] = set()
        self._scopes: set[Any] = set()

    def _renew_after_fork(self) -> None:
        """In a forked child, forget the parent's work: its threads and loops are not here."""
        if self._process != os.getpid():
            self._begin()

    def run(self, job: Callable[[], object]) -> bool:
        """Have a thread run a job soon; say whether one will."""
        self._renew_after_fork()
        with self._changed:
            if self._closed or self._pending >= self._max_jobs:
                return False
            if self._threads <= self._pending and self._threads < self._max_threads:
                try:
                    self._start_thread()
                except RuntimeError:  # the system has no thread for us, or the interpreter is ending
                    if not self._threads:
                        return False
            self._pending += 1
            self._jobs.put(job)
        return True

    def _start_thread(self) -> None:
        threading.Thread(target=self._work, name="llm-config-resilience", daemon=True).start()
        self._threads += 1

    def spawn(self, job: Callable[[], Awaitable[object]]) -> bool:
        """Have a task of the running event loop run a job soon; say whether one will."""
        self._renew_after_fork()
        with self._changed:
            if self._closed or self._pending >= self._max_jobs:
                return False
            self._pending += 1
        if in_trio():
            import trio  # noqa: PLC0415 - loaded already

            trio.lowlevel.spawn_system_task(self._task, job, context=contextvars.copy_context())
        else:
            task = asyncio.get_running_loop().create_task(self._task(job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return True

    def drain(self, timeout: float | None = None) -> bool:
        """Block until nothing runs; say whether that came in time.

        Args:
            timeout: Seconds to wait at most; `None` for as long as it takes.
        """
        self._renew_after_fork()
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, timeout)

    async def drain_async(self) -> None:
        """Wait until the tasks of this event loop are done."""
        import anyio.lowlevel  # noqa: PLC0415 - sync users never need it

        while self._pending:
            await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """Take no more work, and cancel what runs as tasks; a thread finishes what it is at, and ends."""
        self._renew_after_fork()
        with self._changed:
            self._closed = True
            scopes = list(self._scopes)
            for _ in range(self._threads):
                self._jobs.put(_end)
        for scope in scopes:
            scope.cancel()

    def _work(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._changed:
                    if self._jobs.empty():
                        self._threads -= 1
                        return
                continue
            if job is _end:
                return
            try:
                job()
            except Exception as error:  # noqa: BLE001 - there is nobody to raise it to
                _tell_of(error)
            finally:
                del job
                self._finished()

    async def _task(self, job: Callable[[], Awaitable[object]]) -> None:
        import anyio  # noqa: PLC0415 - sync users never need it

        try:
            with anyio.CancelScope() as scope:
                self._scopes.add(scope)
                try:
                    await job()
                except Exception as error:  # noqa: BLE001 - trio would end the program for it
                    _tell_of(error)
                finally:
                    self._scopes.discard(scope)
        finally:
            del job
            self._finished()

    def _finished(self) -> None:
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()


def _tell_of(error: Exception) -> None:
    _log.error("work in the background ended: %s: %s", type(error).__name__, error, exc_info=error)
