"""Answer from earlier answers: fresh ones at once, stale ones rather than none."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.directives import Call, Detach, Directive, Return
from llm_config_resilience.stores.store import Entry
from llm_config_resilience.strategies.conditions import matcher, unavailable
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context
    from llm_config_resilience.stores.store import Store
    from llm_config_resilience.strategies.conditions import Condition


class _Lookup:
    """What the cache remembers of one call."""

    __slots__ = ("entry", "key", "refreshing")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.entry: Entry | None = None
        self.refreshing = False


class CacheFallback(Strategy):
    """Keep answers, and give them again: fresh ones instead of a call, stale ones when there is no answer.

    By an entry's age: below `ttl` it is the answer. For `stale_while_revalidate` seconds more it is the
    answer too, while one call renews it in the background (both as in RFC 5861). For `stale_if_error`
    seconds after `ttl` it stands in when what is inside fails for want of an answer, and, with
    `stale_if_slow`, when nothing has come within so many seconds; the call goes on in the background and
    renews the entry. Such stand-ins are degraded, and `Answer.source` is `"stale"`.

    A store that fails is bypassed, with a `"cache_failed"` event. Degraded values are never stored.

    Args:
        store: Where entries are kept.
        key: The entry's key, or a function of the call's arguments that gives it; hashable. Keys of different
            types differ, so `1`, `True` and `1.0` are three.
        ttl: Seconds an entry is fresh.
        stale_while_revalidate: Seconds after `ttl` in which an entry is served while it is renewed.
        stale_if_error: Seconds after `ttl` in which an entry stands in for a failure.
        stale_if_slow: Seconds to wait for an answer before an entry stands in; `None` waits for the outcome.
        on: Which errors an entry stands in for: exception classes, or a predicate. Unless given, transient
            ones, and calls turned away on this side.
        name: For events and `Answer.answered_by`.
    """

    role: ClassVar[str] = "cache"

    def __init__(
        self,
        store: Store,
        *,
        key: Any,
        ttl: float,
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        stale_if_slow: float | None = None,
        on: Condition = unavailable,
        name: str = "",
    ) -> None:
        if min(ttl, stale_while_revalidate, stale_if_error) < 0 or (stale_if_slow or 0) < 0:
            raise ValueError("times are 0 seconds or more")
        self.name = name
        self._store = store
        self._key = key
        self._ttl = ttl
        self._revalidate_until = ttl + stale_while_revalidate
        self._usable_until = ttl + stale_if_error
        self._slow = stale_if_slow
        self._on = on
        self._matches = matcher(on)
        self._keep = max(self._revalidate_until, self._usable_until)
        self._lock = threading.Lock()
        self._refreshing: set[Any] = set()

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Look the key up."""
        key = self.key_of(*ctx.args, **ctx.kwargs)
        ctx.slots[at] = _Lookup(key)
        if not self._store.local:
            return Call(self._store.get, key, then=self._judge, orelse=self._bypass)
        try:
            entry = self._store.get(key)
        except Exception as error:  # noqa: BLE001 - whatever a cache does, the call goes on without it
            return self._bypass(ctx, at, error)
        return self._judge(ctx, at, entry)

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Store an answer that is first hand."""
        lookup: _Lookup = ctx.slots[at]
        self._refreshed(lookup)
        if ctx.degraded:
            return None
        entry = Entry(value, self._now(ctx))
        if not self._store.local:
            return Call(self._store.set, lookup.key, entry, self._keep, then=_pass_on, orelse=self._bypass)
        try:
            self._store.set(lookup.key, entry, self._keep)
        except Exception as error:  # noqa: BLE001 - whatever a cache does, the answer is there
            return self._bypass(ctx, at, error)
        return None

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Let a stale entry stand in."""
        lookup: _Lookup = ctx.slots[at]
        self._refreshed(lookup)
        entry = lookup.entry
        if (
            entry is None
            or self._now(ctx) - entry.stored_at >= self._usable_until
            or not self._matches(error)
        ):
            return None
        ctx.emit("served_stale", at, error=error, details={"age": self._now(ctx) - entry.stored_at})
        return Return(entry.value, degraded=True, source="stale")

    def released(self, ctx: Context, at: int) -> None:
        """Let another call renew the entry."""
        if ctx.slots[at] is not None:
            self._refreshed(ctx.slots[at])

    def key_of(self, *args: Any, **kwargs: Any) -> Any:
        """Return the key a call with these arguments has in the store."""
        return typed(self._key(*args, **kwargs) if callable(self._key) else self._key)

    def describe(self) -> dict[str, Any]:
        """Show store and times."""
        return {
            "store": self._store,
            "ttl": self._ttl,
            "stale_while_revalidate": self._revalidate_until - self._ttl,
            "stale_if_error": self._usable_until - self._ttl,
            "stale_if_slow": self._slow,
        }

    def _judge(self, ctx: Context, at: int, entry: Entry | None) -> Directive | None:
        if entry is None:
            return None
        age = self._now(ctx) - entry.stored_at
        if age < self._ttl:
            return Return(entry.value, source="cache")
        lookup: _Lookup = ctx.slots[at]
        lookup.entry = entry
        if age < self._revalidate_until:
            stale = Return(entry.value, source="stale")
            if not self._begins_refresh(lookup):
                return stale
            ctx.emit("refreshing", at, details={"age": age})
            return Detach(0.0, stale)
        if self._slow is not None and age < self._usable_until:
            return Detach(self._slow, Return(entry.value, degraded=True, source="stale"))
        return None

    def _bypass(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        ctx.emit("cache_failed", at, error=error)
        return None

    def _begins_refresh(self, lookup: _Lookup) -> bool:
        with self._lock:
            if lookup.key in self._refreshing:
                return False
            self._refreshing.add(lookup.key)
            lookup.refreshing = True
            return True

    def _refreshed(self, lookup: _Lookup) -> None:
        if lookup.refreshing:
            lookup.refreshing = False
            with self._lock:
                self._refreshing.discard(lookup.key)

    def _now(self, ctx: Context) -> float:
        return ctx.now() if self._store.local else ctx.clock.time()


def typed(key: Any) -> Any:
    """Make keys of different types different: Python takes `1`, `True` and `1.0` for the same.

    Strings stay as they are. Anything else is paired with its type's name, in tuples part by part.
    """
    kind = key.__class__
    if kind is str:
        return key
    if kind is tuple:
        return tuple(typed(part) for part in key)
    return (kind.__qualname__, key)


def _pass_on(_ctx: Context, _at: int, _result: Any) -> None:
    """Take no notice of what storing returned."""
