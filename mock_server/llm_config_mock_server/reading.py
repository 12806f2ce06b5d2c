"""Reading a record: the cache first, the store where that misses or fails: the guide's degradation."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from .conditions import ComponentFailureError
from .server_cache import CacheError, ServerCache

if TYPE_CHECKING:
    from .conditions import Conditions
    from .storage import Address
    from .store import Record, Store

_LOGGER: Final = logging.getLogger(__package__)


class Reader:
    """Reads records through the cache. A cache that fails costs time, never an answer.

    Args:
        store: Where records lie.
        cache: What stands in front of it.
        conditions: A store that was told to fail is asked, whatever the cache holds.
        caching: Whether the cache is used; not where others write to the storage.
    """

    def __init__(self, store: Store, cache: ServerCache, conditions: Conditions, *, caching: bool) -> None:
        """Put the reader between the two."""
        self._store = store
        self._cache = cache
        self._conditions = conditions
        self._caching = caching
        self._bypassing = False

    def get(self, address: Address) -> Record | None:
        """Return the live record, or `None`.

        Raises:
            ComponentFailureError: The store is not well.
            BrokenRecordError: The store's bytes are no record.
        """
        if not self._caching or "store" in self._conditions:
            return self._store.get(address)
        record = self._cached(address)
        if record is None:
            record = self._store.get(address)
            if record is not None and not self._bypassing:
                self._fill(address, record)
        return record

    def _cached(self, address: Address) -> Record | None:
        try:
            record = self._cache.get(address).record
        except CacheError as error:
            if error.variant != "CacheMiss":
                _LOGGER.error("Cache error, bypassing: %s", error.message)  # noqa: TRY400 - no defect of ours: its trace tells nothing
            else:
                _LOGGER.debug("Cache miss for %s", address)
            record = None
        except ComponentFailureError as error:
            if not self._bypassing:  # once an incident
                _LOGGER.error("Cache error, bypassing: %s", error.message)  # noqa: TRY400 - as above
            self._bypassing = True
            return None
        self._bypassing = False
        return record

    def _fill(self, address: Address, record: Record) -> None:
        try:
            self._cache.put(address, record)
        except (CacheError, ComponentFailureError) as error:
            _LOGGER.debug("Not cached: %s: %s", address, error)
