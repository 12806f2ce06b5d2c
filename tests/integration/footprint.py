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


def _held() -> tuple[Counter[str], Counter[str]]:
    return open_files(), Counter(thread.name for thread in threading.enumerate())


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Fail if the block leaves a descriptor or a thread open, though it is given time to close them.

    What earlier tests left to end by itself may do so meanwhile.
    """
    before = _held()

    def more() -> list[Counter[str]]:
        return [now - then for now, then in zip(_held(), before, strict=True)]

    yield
    assert wait_until(lambda: not any(more())), f"held before: {before}, and now besides: {more()}"


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
