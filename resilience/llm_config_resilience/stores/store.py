"""What a cache strategy asks of a store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored value.

    Args:
        value: The value.
        stored_at: When it was stored, in seconds: of the monotonic clock in a local store, since 1970 in a
            shared one.
    """

    value: Any
    stored_at: float


class Store(Protocol):
    """Keeps entries by key. Its methods may raise: the cache is bypassed then, and says so.

    A *local* store answers at once and is asked in the middle of a hook. The methods of any other one are
    called by the engine and may block, or be async.
    """

    #: Whether it answers without I/O. What is not local is shared by processes, and keeps wall time.
    local: ClassVar[bool]

    def get(self, key: Any, /) -> Any:
        """Return the `Entry` of a key, or `None`."""
        ...

    def set(self, key: Any, entry: Entry, keep: float, /) -> Any:
        """Keep an entry for `keep` seconds; a store may forget it sooner."""
        ...

    def delete(self, key: Any, /) -> Any:
        """Forget a key."""
        ...


@runtime_checkable
class Generational(Protocol):
    """What a *local* store may offer besides, so that a slow read never overwrites a later write.

    A read that found nothing notes the key's generation before it asks the backend, and stores its answer by
    `set_if`. Every `set` and `delete` in between changes the generation, and the answer, which may be older,
    is dropped.
    """

    def generation(self, key: Any, /) -> int:
        """Return a number that every `set` and `delete` of the key changes, also while it is absent."""
        ...

    def set_if(self, key: Any, entry: Entry, keep: float, generation: int, /) -> bool:
        """Keep an entry if the key's generation is still this one; say whether it was, and leave it so."""
        ...
