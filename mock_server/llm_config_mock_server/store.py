"""The store: versioned records with their history, kept as bytes so that a broken record is really broken."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from llm_config_sdk.contract import entity_tag

from .conditions import ComponentFailureError, Conditions
from .messages import json_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llm_config_sdk.contract import Environment


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a config lives."""

    namespace: str
    key: str
    environment: Environment

    def __str__(self) -> str:
        return f"{self.namespace}/{self.key} ({self.environment})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One version of a config, as it is stored. A secret's `value` is its ciphertext."""

    id: str
    version: int
    value: Any
    secret: bool
    created_at: str
    created_by: str
    updated_at: str
    updated_by: str
    tags: tuple[str, ...] = ()
    description: str | None = None
    change_description: str | None = None

    @property
    def etag(self) -> str:
        """The strong validator of this version: ids are new after a delete, versions are not."""
        return entity_tag(self.id, self.version)


class BrokenRecordError(Exception):
    """The bytes of a record cannot be read back."""


class Storage(Protocol):
    """Where the bytes of records lie. Every method is atomic."""

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

    def clear(self) -> None:
        """Forget everything."""
        ...

    def close(self) -> None:
        """Give back what the storage holds of the machine."""
        ...


class MemoryStorage:
    """Records in memory.

    Args:
        capacity: Bytes the simulated disk holds, histories included; `None` for no bound.
    """

    def __init__(self, capacity: int | None = None) -> None:
        """Begin empty."""
        self._capacity = capacity
        self._used = 0
        self._live: dict[tuple[str, Environment], dict[str, bytes]] = {}
        self._history: dict[Address, list[bytes]] = {}

    def read(self, address: Address) -> bytes | None:
        """Return a live record's bytes, or `None`."""
        return self._live.get((address.namespace, address.environment), {}).get(address.key)

    def write(self, address: Address, record: bytes, *, snapshot: bool) -> None:
        """Make a record live and, where asked, append it to the history.

        Raises:
            ComponentFailureError: The simulated disk is full; nothing was written.
        """
        live = self._live.get((address.namespace, address.environment), {})
        growth = len(record) * (2 if snapshot else 1) - len(live.get(address.key, b""))
        if self._capacity is not None and self._used + growth > self._capacity:
            raise ComponentFailureError("store", "StorageFull", "No space left on device (os error 28)")
        self._used += growth
        self._live.setdefault((address.namespace, address.environment), live)[address.key] = record
        if snapshot:
            self._history.setdefault(address, []).append(record)

    def remove(self, address: Address) -> bool:
        """Remove a live record, keep its history, and say whether there was one."""
        record = self._live.get((address.namespace, address.environment), {}).pop(address.key, None)
        self._used -= len(record or b"")
        return record is not None

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

    def clear(self) -> None:
        """Forget everything."""
        self._used = 0
        self._live.clear()
        self._history.clear()

    def close(self) -> None:
        """Do nothing: memory is given back by itself."""


class Store:
    """Records by address, on a storage, subject to the condition `store`.

    Raises:
        ComponentFailureError: From every method, while the store is not well.
        BrokenRecordError: From whatever reads, where the bytes are no record.
    """

    def __init__(self, storage: Storage, conditions: Conditions) -> None:
        """Put a store on a storage."""
        self.storage = storage
        self.changes = 0  # tells whoever shows entries that there is something new
        self._conditions = conditions

    def get(self, address: Address) -> Record | None:
        """Return the live record, or `None`."""
        self._conditions.check("store")
        record = self.storage.read(address)
        return None if record is None else decode_record(record, address)

    def entries(self, namespace: str, environment: Environment) -> list[tuple[Address, Record]]:
        """Return the live records of a namespace, by key."""
        self._conditions.check("store")
        found: list[tuple[Address, Record]] = []
        for key in sorted(self.storage.keys(namespace, environment)):
            address = Address(namespace, key, environment)
            record = self.storage.read(address)
            if record is not None:
                found.append((address, decode_record(record, address)))
        return found

    def history(self, address: Address) -> list[Record]:
        """Return every version, newest first; versions from before a delete are among them."""
        self._conditions.check("store")
        return [decode_record(record, address) for record in reversed(self.storage.history(address))]

    def put(self, address: Address, record: Record) -> None:
        """Make a record live and append it to the history."""
        self._conditions.check("store")
        self.storage.write(address, encode_record(record), snapshot=True)
        self.changes += 1

    def replace(self, address: Address, record: Record) -> None:
        """Put another record in the live one's place: the same version, so nothing goes into the history."""
        self._conditions.check("store")
        self.storage.write(address, encode_record(record), snapshot=False)
        self.changes += 1

    def delete(self, address: Address) -> bool:
        """Remove the live record, and say whether there was one."""
        self._conditions.check("store")
        self.changes += 1
        return self.storage.remove(address)


def encode_record(record: Record) -> bytes:
    """Write a record as the bytes that are stored."""
    return json_bytes(asdict(record))


def decode_record(stored: bytes, address: Address) -> Record:
    """Read a record back from its bytes.

    Raises:
        BrokenRecordError: They are no record.
    """
    try:
        fields: dict[str, Any] = json.loads(stored)
        fields["tags"] = tuple(fields["tags"])
        return Record(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise BrokenRecordError(f"the record of {address} cannot be read: {type(error).__name__}") from error
