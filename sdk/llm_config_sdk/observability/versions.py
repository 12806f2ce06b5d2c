"""Noticing a write that was acknowledged and is gone: an entry's version that went back."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from llm_config_resilience.locks import new_lock

if TYPE_CHECKING:
    from llm_config_sdk.observability.events import CallEvent

_ENTRIES_REMEMBERED: Final = 10_000  # as many as the client's cache keeps by default

_Key = tuple[str | None, str, str | None, str | None, str | None]


class VersionWatch:
    """Remembers the highest version that each endpoint has shown of each entry.

    An endpoint is compared with itself alone, since a backup may lag behind its primary, and an entry with
    what bears its id, since one that was deleted begins anew. A read counts if it began after the higher
    version was seen; one that was under way may be overtaken.

    Args:
        capacity: Entries remembered; the one seen longest ago goes.
    """

    def __init__(self, capacity: int = _ENTRIES_REMEMBERED) -> None:
        self._capacity = capacity
        self._lock = new_lock()
        self._seen: OrderedDict[_Key, tuple[int, float]] = OrderedDict()

    def check(self, event: CallEvent) -> str | None:
        """Say what was lost, if a server's answer shows it; told once for each loss."""
        if event.version is None or not event.entry_id or event.source != "server":
            return None
        call = event.call
        key = (event.endpoint, event.entry_id, call.namespace, call.key, call.environment)
        with self._lock:
            highest, since = self._seen.get(key, (0, event.time))
            if event.version < highest and event.time - event.duration < since:
                return None
            self._seen[key] = (event.version, since if event.version == highest else event.time)
            self._seen.move_to_end(key)
            if len(self._seen) > self._capacity:
                self._seen.popitem(last=False)
        if event.version >= highest:
            return None
        return (
            f"{call.location}: the server answered with version {event.version} "
            f"after it had shown version {highest}: an acknowledged write is gone"
        )
