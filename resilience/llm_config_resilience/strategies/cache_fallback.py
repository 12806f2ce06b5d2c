"""Answer from earlier answers: fresh ones at once, stale ones rather than none."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.arguments import check_at_least, check_has
from llm_config_resilience.directives import Call, Detach, Directive, Return
from llm_config_resilience.errors import without_frames
from llm_config_resilience.locks import new_lock, renew_in_child
from llm_config_resilience.stores.memory import MemoryStore
from llm_config_resilience.stores.store import Entry, Generational
from llm_config_resilience.strategies.conditions import matcher, unavailable
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context
    from llm_config_resilience.stores.store import Store
    from llm_config_resilience.strategies.conditions import Condition


class _Lookup:
    """What the cache remembers of one call."""

    __slots__ = ("entry", "error", "generation", "key", "negative_generation", "refreshing")

    def __init__(self, key: Any) -> None:
        self.key = key
        self.entry: Entry | None = None
        self.error: Exception | None = None
        self.generation: int | None = None
        self.negative_generation = 0
        self.refreshing = False


@dataclass(frozen=True, slots=True)
class CacheTimes:
    """How old an answer may be, in seconds; `CacheFallback` says what each of them means."""

    ttl: float
    stale_while_revalidate: float = 0.0
    stale_if_error: float = 0.0
    stale_if_slow: float | None = None
    negative_ttl: float = 0.0
    #: The age from which an entry is no longer served while it is renewed.
    revalidate_until: float = field(init=False, repr=False, compare=False)
    #: The age from which an entry does not stand in for anything.
    usable_until: float = field(init=False, repr=False, compare=False)
    #: The age from which an entry is of no use.
    keep: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_at_least(0, ttl=self.ttl, negative_ttl=self.negative_ttl)
        check_at_least(
            0, stale_while_revalidate=self.stale_while_revalidate, stale_if_error=self.stale_if_error
        )
        if self.stale_if_slow is not None:
            check_at_least(0, stale_if_slow=self.stale_if_slow)
        settle = partial(object.__setattr__, self)  # it is frozen, and every call asks for these
        settle("revalidate_until", self.ttl + self.stale_while_revalidate)
        settle("usable_until", self.ttl + self.stale_if_error)
        settle("keep", max(self.revalidate_until, self.usable_until))


class CacheFallback(Strategy):
    """Keep answers, and give them again: fresh ones instead of a call, stale ones when there is no answer.

        kept = CacheFallback(MemoryStore(), key=lambda currency: currency, ttl=30.0, stale_if_error=3600.0)
        price = Pipeline(kept, Retry()).call(fetch, "EUR")

    By an entry's age: below `ttl` it is the answer. For `stale_while_revalidate` seconds more it is the
    answer too, while one call renews it in the background (both as in RFC 5861). For `stale_if_error`
    seconds after `ttl` it stands in when what is inside fails for want of an answer, and, with
    `stale_if_slow`, when nothing has come within so many seconds; the call goes on in the background and
    renews the entry. Such stand-ins are degraded, and `Answer.source` is `"stale"`. `Answer.age` is the age.
    It is the entry of that moment that stands in, and none if another call has learned that it is gone.

    A store that fails is bypassed, with a `"cache_failed"` event. Degraded values are never stored. Where the
    store offers generations (`Generational`), an answer is not stored if the key was set or deleted while it
    was on its way: it may be older than what was written.

    With `negative_on`, errors that are answers ("there is no such entry") are kept too, in this process, and
    raised again for `negative_ttl` seconds. Nothing of that kind is kept unless asked for.

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
        negative_on: Which errors are kept: exception classes, or a predicate; `None` keeps none.
        negative_ttl: Seconds such an error is raised again.
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
        negative_on: Condition | None = None,
        negative_ttl: float = 0.0,
        name: str = "",
    ) -> None:
        check_has("a Store, such as MemoryStore()", "get", "set", "local", store=store)
        if (negative_on is None) != (negative_ttl == 0):
            raise ValueError("negative_on and negative_ttl go together: which errors, and for how long")
        self.name = name
        self.times: CacheTimes = CacheTimes(
            ttl, stale_while_revalidate, stale_if_error, stale_if_slow, negative_ttl
        )
        self._store = store
        self._is_local = store.local
        self._versions = store if self._is_local and isinstance(store, Generational) else None
        self._key = key
        self._matches = matcher(on)
        self._is_negative = None if negative_on is None else matcher(negative_on)
        self._negatives = MemoryStore()
        self._lock = new_lock()
        self._refreshing: set[Any] = set()
        renew_in_child(self)

    def reconfigure(self, **changes: Any) -> None:
        """Change times and keep the entries, which are judged by the new ones.

        Args:
            **changes: Times by the names that the constructor gives them.
        """
        self.times = replace(self.times, **changes)

    def forget(self, *args: Any, **kwargs: Any) -> Any:
        """Forget the answer to calls with these arguments, as it is no longer true.

        Args:
            *args: The call's arguments.
            **kwargs: Its keyword arguments.

        Returns:
            What the store's `delete` returned: await it if the store is async.
        """
        key = self.key_of(*args, **kwargs)
        self._negatives.delete(key)
        return self._store.delete(key)

    def key_of(self, *args: Any, **kwargs: Any) -> Any:
        """Return the key a call with these arguments has in the store."""
        return typed(self._key(*args, **kwargs) if callable(self._key) else self._key)

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Look the key up."""
        # Without keywords there is no dictionary to copy.
        key = self.key_of(*ctx.args, **ctx.kwargs) if ctx.kwargs else self.key_of(*ctx.args)
        ctx.slots[at] = lookup = _Lookup(key)
        if self._is_negative is not None:
            self._raise_again(ctx, lookup)
        if not self._is_local:
            return Call(self._store.get, key, then=self._judge, orelse=self._bypass)
        try:
            if self._versions is not None:
                lookup.generation = self._versions.generation(key)
            entry = self._store.get(key)
        except Exception as error:  # noqa: BLE001 - whatever a cache does, the call goes on without it
            return self._bypass(ctx, at, error)
        return self._judge(ctx, at, entry)

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Store an answer that is first hand."""
        lookup: _Lookup = ctx.slots[at]
        if lookup.refreshing:
            self._refreshed(lookup)
        if ctx.degraded:
            return None
        if self._is_negative is not None:
            self._negatives.delete(lookup.key)
        entry, keep = Entry(value, self._now(ctx)), self.times.keep
        if not self._is_local:
            return Call(self._store.set, lookup.key, entry, keep, then=_pass_on, orelse=self._bypass)
        try:
            if self._versions is not None and lookup.generation is not None:
                self._versions.set_if(lookup.key, entry, keep, lookup.generation)
            else:
                self._store.set(lookup.key, entry, keep)
        except Exception as error:  # noqa: BLE001 - whatever a cache does, the answer is there
            return self._bypass(ctx, at, error)
        return None

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Let a stale entry stand in; keep an error that is an answer."""
        lookup: _Lookup = ctx.slots[at]
        if lookup.refreshing:
            self._refreshed(lookup)
        if self._is_negative is not None and self._is_negative(error):
            self._keep_error(ctx, lookup, error)
            return None
        if lookup.entry is None or not self._matches(error):
            return None
        lookup.error = error
        # It is looked up again: another call may have learned that it is gone, or brought a newer one.
        if not self._is_local:
            return Call(self._store.get, lookup.key, then=self._stand_in, orelse=self._stand_in_unseen)
        try:
            entry = self._store.get(lookup.key)
        except Exception as broken:  # noqa: BLE001 - what was seen before is better than nothing
            return self._stand_in_unseen(ctx, at, broken)
        return self._stand_in(ctx, at, entry)

    def released(self, ctx: Context, at: int) -> None:
        """Let another call renew the entry."""
        lookup: _Lookup | None = ctx.slots[at]
        if lookup is not None and lookup.refreshing:
            self._refreshed(lookup)

    def renew_after_fork(self) -> None:
        """In a forked child, renew what the parent was renewing: its threads are not here."""
        self._refreshing = set()

    def describe(self) -> dict[str, Any]:
        """Show store and times."""
        return {
            "store": self._store,
            "ttl": self.times.ttl,
            "stale_while_revalidate": self.times.stale_while_revalidate,
            "stale_if_error": self.times.stale_if_error,
            "stale_if_slow": self.times.stale_if_slow,
        }

    def _judge(self, ctx: Context, at: int, entry: Entry | None) -> Directive | None:
        if entry is None:
            return None
        age, times = self._age(ctx, entry), self.times
        if age < times.ttl:
            return Return(entry.value, source="cache", age=age)
        lookup: _Lookup = ctx.slots[at]
        lookup.entry = entry
        if age < times.revalidate_until:
            stale = Return(entry.value, source="stale", age=age)
            if not self._begins_refresh(lookup):
                return stale
            ctx.emit("refreshing", at, details={"age": age})
            return Detach(0.0, stale)
        if times.stale_if_slow is not None and age < times.usable_until:
            return Detach(times.stale_if_slow, partial(self._instead, ctx, lookup))
        return None

    def _stand_in(self, ctx: Context, at: int, entry: Entry | None) -> Directive | None:
        lookup: _Lookup = ctx.slots[at]
        error, lookup.error = lookup.error, None
        stale = self._stale(ctx, entry)
        if stale is not None:
            ctx.emit("served_stale", at, error=error, details={"age": stale.age})
        return stale

    def _stand_in_unseen(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        self._bypass(ctx, at, error)
        lookup: _Lookup = ctx.slots[at]
        return self._stand_in(ctx, at, lookup.entry)

    def _instead(self, ctx: Context, lookup: _Lookup) -> Return | None:
        """Make the answer to a call that takes too long; `None` where there is none any more."""
        entry = lookup.entry
        if self._is_local:
            with suppress(Exception):
                entry = self._store.get(lookup.key)
        return self._stale(ctx, entry)

    def _stale(self, ctx: Context, entry: Entry | None) -> Return | None:
        if entry is None:
            return None
        age = self._age(ctx, entry)
        if age >= self.times.usable_until:
            return None
        return Return(entry.value, degraded=True, source="stale", age=age)

    def _raise_again(self, ctx: Context, lookup: _Lookup) -> None:
        lookup.negative_generation = self._negatives.generation(lookup.key)
        kept = self._negatives.get(lookup.key)
        if kept is not None and ctx.now() - kept.stored_at < self.times.negative_ttl:
            raise without_frames(kept.value)

    def _keep_error(self, ctx: Context, lookup: _Lookup, error: Exception) -> None:
        twin = without_frames(error)
        if type(twin) is type(error):  # else it cannot be copied, and would come back as something else
            kept = Entry(twin, ctx.now())
            self._negatives.set_if(lookup.key, kept, self.times.negative_ttl, lookup.negative_generation)

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
        lookup.refreshing = False
        with self._lock:
            self._refreshing.discard(lookup.key)

    def _now(self, ctx: Context) -> float:
        return ctx.pipeline.now() if self._is_local else ctx.clock.time()

    def _age(self, ctx: Context, entry: Entry) -> float:
        # The wall clock of a shared store may be stepped back: an entry from the future is as suspicious as
        # one from as long ago.
        return abs(self._now(ctx) - entry.stored_at)


def typed(key: Any) -> Any:
    """Make keys of different types different: Python takes `1`, `True` and `1.0` for the same.

    Strings stay as they are. Anything else is paired with its type's name, in tuples part by part.
    """
    kind = key.__class__
    if kind is str:
        return key
    if kind is tuple:
        for part in key:
            if part.__class__ is not str:
                return tuple(map(typed, key))
        return key
    return (kind.__qualname__, key)


def _pass_on(_ctx: Context, _at: int, _result: Any) -> None:
    """Take no notice of what storing returned."""
