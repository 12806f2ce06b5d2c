"""What a forked child begins anew with: open locks, and no calls whose threads are in the parent."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Final, Protocol

_locks: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_owners: Final[weakref.WeakSet[Any]] = weakref.WeakSet()  # by their identity: no strategy compares by value


def new_lock() -> threading.Lock:
    """Make a lock that a fork renews in the child: the thread that holds it may exist in the parent only."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


class Renewable(Protocol):
    """Somebody who remembers calls that are under way."""

    def renew_after_fork(self) -> None:
        """In a forked child, forget the calls of other threads: nobody there will ever end them."""


def renew_in_child(owner: Renewable) -> None:
    """Have `renew_after_fork` called in each forked child, for as long as somebody holds the owner."""
    _owners.add(owner)


def _renew() -> None:
    for lock in _locks:
        lock._at_fork_reinit()  # noqa: SLF001 - as the standard library's own modules do it
    for owner in _owners:
        owner.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
