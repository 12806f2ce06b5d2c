"""What a process holds: descriptors, threads, tasks, and a client's permits. A test compares before and after."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from client_faces import Face

PATIENCE = 10.0  # seconds that closing may take on a busy machine; in vain only where something leaks
_OPEN_FILES = Path("/proc/self/fd")
_LOOK_AGAIN = 0.002  # seconds


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
    for name in os.listdir(_OPEN_FILES):
        try:
            target = os.readlink(_OPEN_FILES / name)
        except OSError:  # the one that lists them, or one that another thread closed
            continue
        found[target.partition(":[")[0]] += 1
    return found


def _held() -> tuple[Counter[str], Counter[str]]:
    return open_files(), Counter(thread.name for thread in threading.enumerate())


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if the block leaves a descriptor or a thread open, though it is given time to close them."""
    before = _held()
    yield
    assert wait_until(lambda: _held() == before), f"held before: {before}, after: {_held()}"


def tasks(face: Face) -> int:
    """Count the tasks of a face's event loop; none in sync."""
    return face.portal.call(lambda: len(anyio.get_running_tasks())) if face.is_async else 0


def busy(client: Any) -> str:
    """Say what of a client's connections is still in use although no call is; empty if nothing is."""
    transport = client._transport
    if hasattr(transport, "_pools"):
        pools = list(transport._pools.values())
        taken = sum(transport._limit - pool._free for pool in pools)
        queued = sum(len(pool._queue) for pool in pools)
        return f"{taken} permits, {queued} in the queue" if taken or queued else ""
    pool = transport._client._transport._pool
    in_use = [connection for connection in pool.connections if not connection.is_idle()]
    waiting = getattr(pool, "_requests", [])
    return f"connections {in_use}, requests {waiting}" if in_use or waiting else ""
