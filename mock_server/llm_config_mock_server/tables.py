"""Tables: what a component keeps, as values by name; written through to the storage, read from memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .messages import json_bytes

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .storage import Kind, Storage

T = TypeVar("T")


class Table(MutableMapping[str, T], Generic[T]):
    """The documents of one kind, in the order in which their names were first kept.

    Args:
        storage: Where they lie.
        kind: Which they are.
        encode: Makes JSON of a value.
        decode: Makes the value of that JSON again.

    Raises:
        ComponentFailureError: From every method, where the storage says no.
    """

    def __init__(
        self, storage: Storage, kind: Kind, encode: Callable[[T], Any], decode: Callable[[Any], T]
    ) -> None:
        """Read nothing yet."""
        self._storage = storage
        self._kind: Kind = kind
        self._encode = encode
        self._decode = decode
        self._mirror: dict[str, T] = {}
        self._generation: Hashable = None  # none that a storage has
        self._writes = 0

    @property
    def stamp(self) -> Hashable:
        """What changes whenever the table does."""
        return self._storage.generation, self._writes

    def __getitem__(self, name: str) -> T:
        """Return a value."""
        return self._values()[name]

    def __setitem__(self, name: str, value: T) -> None:
        """Keep a value, in place of any of that name."""
        values = self._values()
        self._storage.keep(self._kind, name, json_bytes(self._encode(value)))
        values[name] = value
        self._writes += 1

    def __delitem__(self, name: str) -> None:
        """Forget a value."""
        values = self._values()
        if name not in values:
            raise KeyError(name)
        self._storage.discard(self._kind, name)
        del values[name]
        self._writes += 1

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(tuple(self._values()))

    def __len__(self) -> int:
        """Count the values."""
        return len(self._values())

    def _values(self) -> dict[str, T]:
        generation = self._storage.generation
        if generation != self._generation:
            documents = self._storage.documents(self._kind)
            self._mirror = {name: self._decode(json.loads(document)) for name, document in documents}
            self._generation = generation
        return self._mirror
