"""A circuit's state in a pybreaker storage that processes share: all I/O is a thread's, none is a call's."""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    import pybreaker

    from llm_config_resilience.strategies.circuit import CircuitState

_log = logging.getLogger("llm_config_resilience")

#: Rounds without a call after which the thread ends; the next call starts it again.
_IDLE_ROUNDS: Final = 10


class Heard(NamedTuple):
    """What a storage said: a state, and when the circuit was opened, in seconds since 1970."""

    state: CircuitState
    opened_at: float | None


class SharedCircuit:
    """Writes this process's changes of state to a storage, and listens for those of others.

    What is heard is what *changed* in the storage since it was last read or written here. So a storage that
    is out of reach changes nothing, and this process goes on by what it sees itself.

    Args:
        storage: The storage; its properties may block.
        interval: Seconds between two looks.
    """

    def __init__(self, storage: pybreaker.CircuitBreakerStorage, interval: float) -> None:
        self._storage = storage
        self._interval = interval
        self._lock = new_lock()
        self._io = new_lock()
        self._wake = threading.Event()
        self._worker_of = 0
        self._called = False
        self._reachable = True
        self._seen: Heard | None = None
        self._unwritten: Heard | None = None
        self._heard: Heard | None = None

    def touch(self) -> Heard | None:
        """Take what was heard since, and see to it that the thread runs. Does no I/O."""
        self._called = True
        if self._worker_of != os.getpid():
            self._start()
        if self._heard is None:
            return None
        with self._lock:
            heard, self._heard = self._heard, None
            return heard

    def tell(self, state: CircuitState, opened_at: float | None) -> None:
        """Have a change of this process written soon. Does no I/O."""
        with self._lock:
            self._unwritten = Heard(state, opened_at)
            self._heard = None  # what others said is older than what we say
        self._wake.set()

    def refresh(self) -> None:
        """Write and read now, and block for it; an error is logged once an incident."""
        with self._io:
            try:
                self._ping()
                self._write()
                self._read()
                self._ping()
            except Exception:  # noqa: BLE001 - the local state is what counts
                if self._reachable:
                    _log.warning("A circuit's shared storage cannot be reached", exc_info=True)
                self._reachable = False
            else:
                self._reachable = True

    def _ping(self) -> None:
        # pybreaker's Redis storage hides errors, and reports its fallback state instead, which would close
        # every open circuit as soon as Redis is gone.
        redis = getattr(self._storage, "_redis", None)
        if redis is not None:
            redis.ping()

    def _write(self) -> None:
        with self._lock:
            said = self._unwritten
        if said is None:
            return
        if said.opened_at is not None:
            self._storage.opened_at = datetime.fromtimestamp(said.opened_at, UTC)
        self._storage.state = said.state
        self._storage.reset_success_counter()
        if said.state == "closed":
            self._storage.reset_counter()
        self._seen = self._ask()
        with self._lock:
            if self._unwritten is said:
                self._unwritten = None

    def _read(self) -> None:
        found = self._ask()
        if found == self._seen:
            return
        self._seen = found
        with self._lock:
            if self._unwritten is None:
                self._heard = found

    def _ask(self) -> Heard:
        state = cast("CircuitState", self._storage.state)
        opened_at = cast("Any", self._storage.opened_at)
        return Heard(state, None if opened_at is None else opened_at.timestamp())

    def _start(self) -> None:
        with self._lock:
            if self._worker_of == os.getpid():
                return
            self._worker_of = os.getpid()
            self._wake = threading.Event()
        threading.Thread(target=self._work, name="llm-config-circuit", daemon=True).start()

    def _work(self) -> None:
        quiet = 0
        while True:
            self._called = False
            self.refresh()
            if not self._wake.wait(self._interval):
                quiet = 0 if self._called else quiet + 1
            self._wake.clear()
            with self._lock:
                if quiet >= _IDLE_ROUNDS and not self._called and self._unwritten is None:
                    self._worker_of = 0
                    return
