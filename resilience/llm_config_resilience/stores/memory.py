"""A bounded store in this process."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar, Final

from llm_config_resilience.arguments import check_count
from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from llm_config_resilience.stores.store import Entry

#: Entries kept unless told otherwise.
_MAX_ENTRIES: Final = 1024
#: Keys whose last change is remembered. Those changed longer ago, and absent ones, share the newest number
#: that was dropped: that costs a key a miss at times, never a wrong answer.
_CHANGES: Final = 1024


class MemoryStore:
    """Keeps the entries that were used last. Values are kept as they are, not copied.

    Reading takes no lock. Shared by threads and event loops.

    Args:
        max_entries: Entries kept at most.
    """

    local: ClassVar[bool] = True

    def __init__(self, max_entries: int = _MAX_ENTRIES) -> None:
        check_count(1, max_entries=max_entries)
        self._max_entries = max_entries
        self._entries: OrderedDict[Any, Entry] = OrderedDict()
        self._changes = 0
        self._changed: OrderedDict[Any, int] = OrderedDict()
        self._not_remembered = 0
        self._lock = new_lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"MemoryStore({len(self._entries)} of {self._max_entries})"

    def get(self, key: Any) -> Entry | None:
        """Return the entry of a key, or `None`."""
        entry = self._entries.get(key)
        if entry is not None:
            try:  # noqa: SIM105  # suppress() costs a quarter of a look-up
                self._entries.move_to_end(key)
            except KeyError:
                pass  # another thread forgot it in between
        return entry

    def set(self, key: Any, entry: Entry, keep: float) -> None:
        """Keep an entry, and forget the ones longest unused if there are too many."""
        del keep  # staleness is the strategy's to judge, and space is bounded by the count
        with self._lock:
            self._change(key)
            self._keep(key, entry)

    def delete(self, key: Any) -> None:
        """Forget a key."""
        with self._lock:
            self._change(key)
            self._entries.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._changes += 1
            self._not_remembered = self._changes
            self._changed.clear()
            self._entries.clear()

    def generation(self, key: Any) -> int:
        """Return a number that every `set` and `delete` of the key changes."""
        return self._changed.get(key, self._not_remembered)

    def set_if(self, key: Any, entry: Entry, keep: float, generation: int) -> bool:
        """Keep an entry if nobody has set or deleted the key since; say whether that is so."""
        del keep
        with self._lock:
            if self.generation(key) != generation:
                return False
            self._keep(key, entry)
            return True

    def _change(self, key: Any) -> None:
        """Give a key a new number. The lock is held."""
        self._changes += 1
        self._changed[key] = self._changes
        self._changed.move_to_end(key)
        if len(self._changed) > _CHANGES:
            _, self._not_remembered = self._changed.popitem(last=False)

    def _keep(self, key: Any, entry: Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
