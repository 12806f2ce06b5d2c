"""The store: versioned records with their history, kept as bytes so that a broken record is really broken."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llm_config_sdk.contract import entity_tag

from .messages import json_bytes
from .storage import Address

if TYPE_CHECKING:
    from collections.abc import Hashable

    from llm_config_sdk.contract import Environment

    from .conditions import Conditions
    from .storage import Storage


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


class Store:
    """Records by address, on a storage, subject to the condition `store`.

    Raises:
        ComponentFailureError: From every method, while the store is not well.
        BrokenRecordError: From whatever reads, where the bytes are no record.
    """

    def __init__(self, storage: Storage, conditions: Conditions) -> None:
        """Put a store on a storage."""
        self.storage = storage
        self.changes: int = 0  # tells whoever shows entries that there is something new
        self._conditions = conditions

    @property
    def stamp(self) -> Hashable:
        """What changes whenever a record does, or may have been taken back."""
        return self.changes, self.storage.generation

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
