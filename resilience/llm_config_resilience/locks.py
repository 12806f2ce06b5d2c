"""Locks that a forked child finds open, whoever held them in the parent."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Final

_locks: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def new_lock() -> threading.Lock:
    """Make a lock that a fork renews in the child: the thread that holds it may exist in the parent only."""
    lock = threading.Lock()
    _locks.add(lock)
    return lock


def _renew() -> None:
    for lock in _locks:
        lock._at_fork_reinit()  # noqa: SLF001 - as the standard library's own modules do it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
