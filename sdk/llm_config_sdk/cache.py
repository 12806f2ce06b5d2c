"""Entries kept in this process: served fresh without asking, and stale when no server answers."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

from llm_config_resilience import Entry
from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_config_resilience import Clock
    from llm_config_sdk.contract import Environment
    from llm_config_sdk.entries import ConfigEntry
    from llm_config_sdk.policy import CachePolicy
    from llm_config_sdk.shared import SharedCache

_WRITES_REMEMBERED: Final = 4096  # keys; a read that began before all of them is served, and not kept

Key = tuple[str, str, str]
"""Namespace, key and canonical environment; an `Environment` is its own name here."""


class Fetched(NamedTuple):
    """An entry that a server has just sent, or had sent to another client that shares it.

    Attributes:
        entry: The entry.
        as_of: How many writes the cache had seen when it was asked for.
        is_shared: Whether it comes from another client, so that it has an age already.
    """

    entry: ConfigEntry
    as_of: int
    is_shared: bool = False


class _Resolved(NamedTuple):
    """Where an entry was found, when, and after how many writes."""

    looked_in: tuple[Environment, ...]
    at: float
    as_of: int


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
        self._gone: OrderedDict[Key, int] = OrderedDict()  # the same of absences that were learned of
        self._resolved: OrderedDict[Key, _Resolved] = OrderedDict()
        self._not_remembered = 0  # the number of the last write whose key was dropped

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

    def is_fresh(self, kept: Entry) -> bool:
        """Whether an entry may be served without asking."""
        return self._now() - kept.stored_at < self._ttl

    def set(self, key: Key, entry: Entry, keep: float) -> None:
        """Keep what was fetched, unless a write has overtaken it; marked as coming from here."""
        del keep  # age is judged when it is read, and space is bounded by the count
        fetched: Fetched = entry.value
        mark = fetched.entry.provenance.of_a_copy()
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

    def resolved(self, key: Key) -> Environment | None:
        """Say which environment had an entry when it was last resolved, if that may still be relied on.

        Args:
            key: The entry, with the environment that it was resolved for.
        """
        kept = self._resolved.get(key)
        if kept is None or self._now() - kept.at >= self._ttl:
            return None
        looked_in = ((key[0], key[1], environment.value) for environment in kept.looked_in)
        if any(self._last_written(each) > kept.as_of for each in looked_in):
            return None
        return kept.looked_in[-1]

    def remember_resolved(self, key: Key, looked_in: Sequence[Environment], as_of: int) -> None:
        """Remember where an entry was found.

        Args:
            key: The entry, with the environment that it was resolved for.
            looked_in: The environments that were asked; the last one has it.
            as_of: How many writes had been seen before they were.
        """
        with self._lock:
            self._resolved[key] = _Resolved(tuple(looked_in), self._now(), as_of)
            self._resolved.move_to_end(key)
            while len(self._resolved) > self.policy.max_entries:
                self._resolved.popitem(last=False)

    def delete(self, key: Key) -> None:
        """Forget an entry that a write has changed, and what reads that are under way will bring."""
        self._forget(key, self._written)

    def note_absent(self, key: Key) -> None:
        """Forget an entry that a server says is not there; as `delete`, but nobody has changed anything."""
        self._forget(key, self._gone)

    def _forget(self, key: Key, numbers: OrderedDict[Key, int]) -> None:
        with self._lock:
            self._writes += 1
            numbers[key] = self._writes
            numbers.move_to_end(key)
            if len(numbers) > _WRITES_REMEMBERED:
                _, number = numbers.popitem(last=False)
                self._not_remembered = max(self._not_remembered, number)
            self._entries.pop(key, None)

    def is_overtaken(self, key: Key, as_of: int) -> bool:
        """Whether a key was written after so many writes, so that what was asked for then may be old."""
        return max(self._gone.get(key, 0), self._last_written(key)) > as_of

    def _last_written(self, key: Key) -> int:
        return max(self._not_remembered, self._written.get(key, 0))

    def clear(self) -> None:
        """Forget every entry, and what reads that are under way will bring."""
        with self._lock:
            self._writes += 1
            self._not_remembered = self._writes
            self._written.clear()
            self._gone.clear()
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


class FirstLook:
    """A cache as whoever asks looks at it: what is fetched is kept by who fetches it, in `SecondLook`.

    Args:
        cache: The cache.
    """

    local: ClassVar[bool] = True

    def __init__(self, cache: EntryCache) -> None:
        self._cache = cache

    def __repr__(self) -> str:
        return repr(self._cache)

    def get(self, key: Key) -> Entry | None:
        """Look up an entry of any age."""
        return self._cache.get(key)

    def set(self, key: Key, entry: Entry, keep: float) -> None:
        """Do nothing: it is kept already."""

    def delete(self, key: Key) -> None:
        """Forget an entry."""
        self._cache.delete(key)


class SecondLook(FirstLook):
    """A cache as the one who asks for all looks at it: what has come since the first look is not asked for.

    It keeps what is fetched before those who wait have it: whoever comes finds the flight or the entry.
    """

    def get(self, key: Key) -> Entry | None:
        """Look up an entry that another caller has fetched; an older one is of no use here."""
        found = self._cache.get(key)
        if found is None or not self._cache.is_fresh(found):
            return None
        return Entry(Fetched(found.value, self._cache.writes, is_shared=True), found.stored_at)

    def set(self, key: Key, entry: Entry, keep: float) -> None:
        """Keep what was fetched."""
        self._cache.set(key, entry, keep)
