"""Entries kept in this process: served fresh without asking, and stale when no server answers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from llm_config_resilience import Entry
from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from llm_config_resilience import Clock
    from llm_config_sdk.entries import ConfigEntry
    from llm_config_sdk.policy import CachePolicy
    from llm_config_sdk.shared import SharedCache

_WRITES_REMEMBERED: Final = 4096  # keys; a read that began before all of them is served, and not kept

Key = tuple[str, str, str]
"""Namespace, key and canonical environment; an `Environment` is its own name here."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An entry that a server has just sent, or had sent to another client that shares it.

    Attributes:
        entry: The entry.
        as_of: How many writes the cache had seen when it was asked for.
        is_shared: Whether it comes from another client, so that it has an age already.
    """

    entry: ConfigEntry
    as_of: int
    is_shared: bool = False


class EntryCache:
    """A store, as the toolkit's cache asks for one, of entries the way they will be handed out again.

    A read that was under way while its entry was written brings an old value: it is not kept. When there are
    too many entries, the one stored longest ago goes; one that is in use was renewed within its `ttl`.

    Args:
        policy: How long entries live, and how many.
        clock: Time, in step with the pipelines'.

    Attributes:
        policy: How long entries live, and how many.
        shared: What other processes know too; `None` where nothing is shared.
    """

    local: ClassVar[bool] = True

    def __init__(self, policy: CachePolicy, clock: Clock) -> None:
        self.policy = policy
        self.shared: SharedCache | None = None
        self._now = clock.monotonic
        self._time = clock.time
        self._ttl = policy.ttl
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._lock = new_lock()
        self._writes = 0
        self._written: OrderedDict[Key, int] = OrderedDict()
        self._not_remembered = 0  # the number of the last write whose key was dropped from `_written`

    def __repr__(self) -> str:
        return f"EntryCache({len(self._entries)} of {self.policy.max_entries})"

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def writes(self) -> int:
        """How many writes it has seen; what is fetched says of which number it is."""
        return self._writes

    def fresh(self, key: Key) -> ConfigEntry | None:
        """Look up an entry that may be served without asking: no I/O, no lock."""
        found = self._entries.get(key)
        if found is None or self._now() - found.stored_at >= self._ttl:
            return None
        entry: ConfigEntry = found.value
        return entry

    def get(self, key: Key) -> Entry | None:
        """Look up an entry of any age."""
        return self._entries.get(key)

    def set(self, key: Key, entry: Entry, keep: float) -> None:
        """Keep what was fetched, unless a write has overtaken it; marked as coming from here."""
        del keep  # age is judged when it is read, and space is bounded by the count
        fetched: Fetched = entry.value
        mark = replace(fetched.entry.provenance, source="cache", attempts=0)
        # The wall clocks of two machines may differ: what seems to come from the future is as old.
        age = abs(self._time() - mark.fetched_at) if fetched.is_shared else 0.0
        kept = Entry(fetched.entry.with_provenance(mark), entry.stored_at - age)
        with self._lock:
            if self.is_overtaken(key, fetched.as_of):
                return
            self._entries[key] = kept
            self._entries.move_to_end(key)
            while len(self._entries) > self.policy.max_entries:
                self._entries.popitem(last=False)

    def delete(self, key: Key) -> None:
        """Forget an entry that a write has changed, and what reads that are under way will bring."""
        with self._lock:
            self._writes += 1
            self._written[key] = self._writes
            self._written.move_to_end(key)
            if len(self._written) > _WRITES_REMEMBERED:
                _, self._not_remembered = self._written.popitem(last=False)
            self._entries.pop(key, None)

    def is_overtaken(self, key: Key, as_of: int) -> bool:
        """Whether a key was written after so many writes, so that what was asked for then may be old."""
        return max(self._not_remembered, self._written.get(key, 0)) > as_of

    def clear(self) -> None:
        """Forget every entry, and what reads that are under way will bring."""
        with self._lock:
            self._writes += 1
            self._not_remembered = self._writes
            self._written.clear()
            self._entries.clear()

    def close(self) -> None:
        """Stop sharing."""
        if self.shared is not None:
            self.shared.close()

    def entries(self) -> list[ConfigEntry]:
        """Return every entry, of any age."""
        with self._lock:
            return [kept.value for kept in self._entries.values()]

    def keep(self, key: Key, fetched: Fetched) -> None:
        """Keep an entry that was fetched past the cache."""
        self.set(key, Entry(fetched, self._now()), self._ttl)
