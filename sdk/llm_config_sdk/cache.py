"""Entries kept in this process: served fresh without asking, and stale when no server answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience import Entry, MemoryStore

if TYPE_CHECKING:
    from llm_config_resilience import Clock
    from llm_config_sdk.contract import Environment
    from llm_config_sdk.entries import ConfigEntry
    from llm_config_sdk.policy import CachePolicy


class EntryCache:
    """A store of the toolkit's that keeps entries the way they will be handed out again.

    Args:
        policy: How long entries live, and how many.
        clock: Time, in step with the pipelines'.
    """

    local: ClassVar[bool] = True

    def __init__(self, policy: CachePolicy, clock: Clock) -> None:
        self.policy = policy
        self._clock = clock
        self._store = MemoryStore(policy.max_entries)

    def fresh(self, namespace: str, key: str, environment: Environment) -> ConfigEntry | None:
        """Look up an entry that may be served without asking: no I/O, no lock."""
        found = self._store.get((namespace, key, environment.value))
        if found is None or self._clock.monotonic() - found.stored_at >= self.policy.ttl:
            return None
        entry: ConfigEntry = found.value
        return entry

    def get(self, key: Any) -> Entry | None:
        """Look up an entry of any age."""
        return self._store.get(key)

    def set(self, key: Any, entry: Entry, keep: float) -> None:
        """Keep an entry, marked as coming from here."""
        value: ConfigEntry = entry.value
        mark = replace(value.provenance, source="cache", attempts=0)
        self._store.set(key, Entry(value.with_provenance(mark), entry.stored_at), keep)

    def delete(self, key: Any) -> None:
        """Forget an entry."""
        self._store.delete(key)

    def put(self, entry: ConfigEntry) -> None:
        """Keep an entry that a server has just sent."""
        key = (entry.namespace, entry.key, entry.environment.value)
        self.set(key, Entry(entry, self._clock.monotonic()), self.policy.ttl)

    def forget(self, namespace: str, key: str, environment: Environment) -> None:
        """Forget an entry that a write has changed."""
        self._store.delete((namespace, key, environment.value))
