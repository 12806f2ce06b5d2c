"""What a process holds: descriptors, threads, tasks, a client's slots: to be compared before and after."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from client_faces import Face

PATIENCE = 10.0  # seconds that closing may take on a busy machine; in vain only where something leaks
_OPEN_FILES = Path("/proc/self/fd")
_LOOK_AGAIN = 0.002  # seconds
_KEPT_BY_TRIO = "Trio thread "  # and a number; it ends after ten seconds without a job


def wait_until(is_so: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Wait for what another thread or the system is about to do; say whether it did."""
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_AGAIN)
    return True


def open_files() -> Counter[str]:
    """Count the descriptors of this process by kind; sockets have numbers that never come again."""
    found: Counter[str] = Counter()
    for held in _OPEN_FILES.iterdir():
        with suppress(OSError):  # the one that lists them, or one that another thread closed
            found[str(held.readlink()).partition(":[")[0]] += 1
    return found


def _descriptors() -> set[tuple[str, str]]:
    """Tell the descriptors of this process, each by its number and by what it is open on."""
    found = set()
    for held in _OPEN_FILES.iterdir():
        with suppress(OSError):
            found.add((held.name, str(held.readlink())))
    return found


def _threads() -> set[threading.Thread]:
    """Tell the threads that run, but for those that trio keeps: one that works is named after its job."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith(_KEPT_BY_TRIO)}


@contextmanager
def nothing_left_behind(patience: float = PATIENCE) -> Iterator[None]:
    """Fail if the block leaves a descriptor or a thread open, though it is given time to close them.

    What was there before is known one by one: it may end meanwhile, and hides nothing that is new.
    """
    descriptors, threads = _descriptors(), _threads()

    def left() -> list[object]:
        return [*_descriptors() - descriptors, *_threads() - threads]

    yield
    assert wait_until(lambda: not left(), patience), f"left behind: {left()}"


def tasks(face: Face) -> int:
    """Count the tasks of a face's event loop; none in sync."""
    return face.portal.call(lambda: len(anyio.get_running_tasks())) if face.is_async else 0


def busy(client: Any) -> str:
    """Say what of a client's connections is still in use although no call is; empty if nothing is."""
    transport = client._transport
    slots = list(transport._pools.values())
    taken, queued = (
        sum(transport._limit - each._free for each in slots),
        sum(len(each._queue) for each in slots),
    )
    found = f"{taken} slots, {queued} in line" if taken or queued else ""
    if hasattr(transport, "_client"):  # a caller's own, whose pool keeps its own account
        pool = transport._client._transport._pool
        in_use = [connection for connection in pool.connections if not connection.is_idle()]
        if in_use or pool._requests:
            found += f" connections {in_use}, requests {pool._requests}"
    return found
