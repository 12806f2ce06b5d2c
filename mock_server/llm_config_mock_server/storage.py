"""Storage: where the bytes lie that a server keeps, in memory or elsewhere.

Records have an address and a history. Everything else that is kept (audit events, users, roles, the
vault's keys, replies under idempotency keys) is a *document*: bytes of a kind, under a name. What is
written within one `transaction` is kept together, or not at all.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Final, Literal, Protocol

from .conditions import ComponentFailureError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from llm_config_sdk.contract import Environment

Kind = Literal["audit", "idempotency", "roles", "users", "vault"]
"""What a document is."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a config lives."""

    namespace: str
    key: str
    environment: Environment

    def __str__(self) -> str:
        return f"{self.namespace}/{self.key} ({self.environment})"


class Storage(Protocol):
    """Where bytes lie. Every method is atomic, and so is everything within a `transaction`."""

    @property
    def generation(self) -> Hashable:
        """What changes whenever documents change otherwise than by `keep` and `discard`.

        A transaction that was taken back changes it, and so does another program's write.
        """
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Join what is written until the block ends: all of it, or nothing where the block raises.

        Within another transaction, what a block wrote is taken back where it raises, and kept with
        the rest where it does not.
        """
        ...

    # --- Records ----------------------------------------------------------------------------------

    def read(self, address: Address) -> bytes | None:
        """Return a live record's bytes, or `None`."""
        ...

    def write(self, address: Address, record: bytes, *, snapshot: bool) -> None:
        """Make a record live and, where asked, append it to the history."""
        ...

    def remove(self, address: Address) -> bool:
        """Remove a live record, keep its history, and say whether there was one."""
        ...

    def history(self, address: Address) -> Sequence[bytes]:
        """Return every version ever written, oldest first."""
        ...

    def keys(self, namespace: str, environment: Environment) -> Iterable[str]:
        """Return the keys of the live records of a namespace in an environment."""
        ...

    def addresses(self) -> Iterable[Address]:
        """Return the address of every live record."""
        ...

    # --- Documents --------------------------------------------------------------------------------

    def documents(self, kind: Kind) -> Iterable[tuple[str, bytes]]:
        """Return the documents of a kind with their names, in the order of their first keeping."""
        ...

    def keep(self, kind: Kind, name: str, document: bytes) -> None:
        """Keep a document, in place of any of that name."""
        ...

    def discard(self, kind: Kind, name: str) -> None:
        """Forget a document, if there is one."""
        ...

    # --- The whole --------------------------------------------------------------------------------

    def clear(self, *kinds: Kind) -> None:
        """Forget every record with its history, and the documents of these kinds."""
        ...

    def close(self) -> None:
        """Give back what the storage holds of the machine."""
        ...


_FULL: Final = "No space left on device (os error 28)"


class MemoryStorage:
    """Records and documents in memory.

    Args:
        capacity: Bytes of records the simulated disk holds, histories included; `None` for no bound.
    """

    def __init__(self, capacity: int | None = None) -> None:
        """Begin empty."""
        self._capacity = capacity
        self._used = 0
        self._live: dict[tuple[str, Environment], dict[str, bytes]] = {}
        self._history: dict[Address, list[bytes]] = {}
        self._documents: dict[Kind, dict[str, bytes]] = {}
        self._lock = RLock()
        self._undo: list[Callable[[], object]] | None = None  # what takes back a transaction, latest last
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often documents changed otherwise than one by one."""
        return self._generation

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Join what is written until the block ends: all of it, or nothing where the block raises."""
        with self._lock:
            is_outermost = self._undo is None
            undo = self._undo = [] if self._undo is None else self._undo
            begun = len(undo)
            try:
                yield
            except BaseException:
                if len(undo) > begun:
                    self._generation += 1
                while len(undo) > begun:
                    undo.pop()()
                raise
            finally:
                if is_outermost:
                    self._undo = None

    def read(self, address: Address) -> bytes | None:
        """Return a live record's bytes, or `None`."""
        return self._live.get((address.namespace, address.environment), {}).get(address.key)

    def write(self, address: Address, record: bytes, *, snapshot: bool) -> None:
        """Make a record live and, where asked, append it to the history.

        Raises:
            ComponentFailureError: The simulated disk is full; nothing was written.
        """
        before = self.read(address)
        growth = len(record) * (2 if snapshot else 1) - len(before or b"")
        if self._capacity is not None and self._used + growth > self._capacity:
            raise ComponentFailureError("store", "StorageFull", _FULL)
        self._put(address, record)
        self._used += growth
        if snapshot:
            self._history.setdefault(address, []).append(record)
        if self._undo is not None:
            self._undo.append(lambda: self._unwrite(address, before, growth, snapshot=snapshot))

    def _put(self, address: Address, record: bytes) -> None:
        self._live.setdefault((address.namespace, address.environment), {})[address.key] = record

    def _unwrite(self, address: Address, before: bytes | None, growth: int, *, snapshot: bool) -> None:
        if before is None:
            del self._live[address.namespace, address.environment][address.key]
        else:
            self._put(address, before)
        self._used -= growth
        if snapshot:
            self._history[address].pop()

    def remove(self, address: Address) -> bool:
        """Remove a live record, keep its history, and say whether there was one."""
        record = self._live.get((address.namespace, address.environment), {}).pop(address.key, None)
        if record is None:
            return False
        self._used -= len(record)
        if self._undo is not None:
            self._undo.append(lambda: self._unremove(address, record))
        return True

    def _unremove(self, address: Address, record: bytes) -> None:
        self._put(address, record)
        self._used += len(record)

    def history(self, address: Address) -> Sequence[bytes]:
        """Return every version ever written, oldest first."""
        return self._history.get(address, ())

    def keys(self, namespace: str, environment: Environment) -> Iterable[str]:
        """Return the keys of the live records of a namespace in an environment."""
        return tuple(self._live.get((namespace, environment), ()))

    def addresses(self) -> Iterable[Address]:
        """Return the address of every live record."""
        return [
            Address(namespace, key, environment)
            for (namespace, environment), keys in self._live.items()
            for key in keys
        ]

    def documents(self, kind: Kind) -> Iterable[tuple[str, bytes]]:
        """Return the documents of a kind with their names, in the order of their first keeping."""
        return tuple(self._documents.get(kind, {}).items())

    def keep(self, kind: Kind, name: str, document: bytes) -> None:
        """Keep a document, in place of any of that name."""
        kept = self._documents.setdefault(kind, {})
        before = kept.get(name)
        kept[name] = document
        if self._undo is None:
            return
        if before is None:
            self._undo.append(lambda: kept.pop(name, None))
        else:
            self._undo.append(lambda: kept.__setitem__(name, before))

    def discard(self, kind: Kind, name: str) -> None:
        """Forget a document, if there is one."""
        kept = self._documents.get(kind, {})
        if name not in kept:
            return
        before = dict(kept)  # all of them: a name that comes back has to come back to its place
        del kept[name]
        if self._undo is not None:
            self._undo.append(lambda: _refill(kept, before))

    def clear(self, *kinds: Kind) -> None:
        """Forget every record with its history, and the documents of these kinds."""
        self._used = 0
        self._live.clear()
        self._history.clear()
        for kind in kinds:
            self._documents.pop(kind, None)
        self._generation += 1

    def close(self) -> None:
        """Do nothing: memory is given back by itself."""


def _refill(documents: dict[str, bytes], before: dict[str, bytes]) -> None:
    documents.clear()
    documents.update(before)
