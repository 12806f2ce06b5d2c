"""A gate that one call waits at until another one opens it, across threads and event loops."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from collections.abc import Callable


class Gate:
    """Opened once, from any thread or event loop; stays open.

    A strategy makes one for each call that has to wait and returns it in a `Park`.

    Args:
        outlives_calls: Whether it stays for longer than a call, so that a forked child may use it, too.
    """

    __slots__ = ("__weakref__", "_followers", "_lock", "_open", "_wakers")

    def __init__(self, *, outlives_calls: bool = False) -> None:
        self._lock = new_lock() if outlives_calls else threading.Lock()
        self._open = False
        self._wakers: list[Callable[[], object]] = []
        self._followers: weakref.WeakSet[Gate] | None = None

    def __repr__(self) -> str:
        return f"Gate({'open' if self._open else 'shut'})"

    @property
    def is_open(self) -> bool:
        """Whether `open` was called."""
        return self._open

    def open(self) -> None:
        """Let everybody who waits here go on. Opening it again changes nothing."""
        with self._lock:
            self._open = True
            wakers, self._wakers = self._wakers, []
            followers, self._followers = tuple(self._followers or ()), None
        for wake in wakers:
            wake()
        for follower in followers:
            follower.open()

    def watch(self, wake: Callable[[], object]) -> None:
        """Have `wake` called when the gate opens: at once, where it is open already.

        Args:
            wake: Called in the thread that opens; must neither block nor raise.
        """
        with self._lock:
            if not self._open:
                self._wakers.append(wake)
                return
        wake()

    def unwatch(self, wake: Callable[[], object]) -> None:
        """Forget a waker whose owner stopped waiting."""
        with self._lock:
            if wake in self._wakers:
                self._wakers.remove(wake)

    def follow(self, leader: Gate) -> None:
        """Open when another gate opens, which does not keep this one alive: nobody needs to unwatch it.

        Args:
            leader: The other one, that may stay for long and lead many.
        """
        with leader._lock:
            if not leader._open:
                if leader._followers is None:
                    leader._followers = weakref.WeakSet()
                leader._followers.add(self)
                return
        self.open()
