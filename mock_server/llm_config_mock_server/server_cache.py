"""The server's cache: two tiers in front of the store, with troubles of their own.

The first tier holds records, the second their bytes, so that a broken blob is really broken. A
write of any record empties both: what a cache says is either what the store holds or nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from .store import BrokenRecordError, Record, Store, decode_record, encode_record

if TYPE_CHECKING:
    from .conditions import Conditions
    from .storage import Address

FIRST_TIER_RECORDS: Final = 1_000  # our choice: what is asked for often
SECOND_TIER_RECORDS: Final = 10_000  # our choice: a bound for the memory of a test server
SEPARATOR: Final = ":"  # between namespace, key and environment in the key of an entry

Tier = Literal["l1", "l2"]

_T = TypeVar("_T")


class CacheError(Exception):
    """A variant of the guide's `CacheError`, by name."""

    def __init__(self, variant: str, message: str) -> None:
        """Remember the variant."""
        super().__init__(message)
        self.variant = variant
        self.message = message


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that was found, and where."""

    record: Record
    tier: Tier


def cache_key(address: Address) -> str:
    """Return the key under which a record is cached.

    Raises:
        CacheError: `InvalidKey`: a name holds what separates names.
    """
    if SEPARATOR in address.namespace or SEPARATOR in address.key:
        raise CacheError("InvalidKey", f"Invalid cache key: {SEPARATOR!r} separates namespace and key")
    return SEPARATOR.join((address.namespace, address.key, address.environment))


class ServerCache:
    """Records that were read lately, subject to the condition `cache`.

    Args:
        conditions: Where the condition is looked up.
        store: The store whose changes make what is cached old.

    Raises:
        ComponentFailureError: From every method but `reset`, while the cache is not well.
    """

    def __init__(self, conditions: Conditions, store: Store) -> None:
        """Begin empty."""
        self._conditions = conditions
        self._store = store
        self._seen = store.stamp
        self._first: OrderedDict[str, Record] = OrderedDict()
        self._second: OrderedDict[str, bytes] = OrderedDict()

    def reset(self) -> None:
        """Forget everything, well or not."""
        self._first.clear()
        self._second.clear()

    def get(self, address: Address) -> Hit:
        """Return what is cached; what the second tier has moves up into the first.

        Raises:
            CacheError: `CacheMiss`, `InvalidKey`, or `SerializationError`: what is there is no record.
        """
        key = self._begin(address)
        record = self._first.get(key)
        if record is not None:
            self._first.move_to_end(key)
            return Hit(record, "l1")
        blob = self._second.get(key)
        if blob is None:
            raise CacheError("CacheMiss", f"Cache miss for key: {key}")
        try:
            record = decode_record(blob, address)
        except BrokenRecordError as error:
            raise CacheError(
                "SerializationError", f"Serialization error: cache entry {key}: {error}"
            ) from error
        _keep(self._first, key, record, FIRST_TIER_RECORDS)
        return Hit(record, "l2")

    def put(self, address: Address, record: Record) -> None:
        """Cache a record in both tiers."""
        key = self._begin(address)
        _keep(self._first, key, record, FIRST_TIER_RECORDS)
        _keep(self._second, key, encode_record(record), SECOND_TIER_RECORDS)

    def put_blob(self, address: Address, blob: bytes) -> None:
        """Put raw bytes in the second tier, in place of whatever is cached there."""
        key = self._begin(address)
        self._first.pop(key, None)
        _keep(self._second, key, blob, SECOND_TIER_RECORDS)

    def clear(self) -> int:
        """Empty both tiers, and return how many entries there were."""
        self._conditions.check("cache")
        count = len(self._first.keys() | self._second.keys())
        self.reset()
        return count

    def _begin(self, address: Address) -> str:
        self._conditions.check("cache")
        stamp = self._store.stamp
        if stamp != self._seen:
            self._seen = stamp
            self.reset()
        return cache_key(address)


def _keep(tier: OrderedDict[str, _T], key: str, kept: _T, most: int) -> None:
    tier[key] = kept
    tier.move_to_end(key)
    if len(tier) > most:
        tier.popitem(last=False)
