"""What processes share through Redis: entries that servers have sent, and word of what was written.

Local memory comes first, Redis second. An entry keeps its age on the way, so that it is never fresh for
longer than its `ttl`. A write deletes the entry in Redis and tells the other clients, each of which listens
in a thread of its own and drops what it holds. When Redis is gone, calls go on without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
import uuid
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import pybreaker

from llm_config_resilience import RedisStore, Strategy
from llm_config_resilience.directives import Call
from llm_config_resilience.locks import new_lock
from llm_config_resilience.stores.codec import asked_in_async
from llm_config_sdk.cache import Fetched
from llm_config_sdk.decoding import check_validator
from llm_config_sdk.entries import Provenance, json_object
from llm_config_sdk.errors import InvalidRequestError
from llm_config_sdk.sealing import EntrySeal

if TYPE_CHECKING:
    from collections.abc import Generator

    from llm_config_resilience import Clock, Context, Entry
    from llm_config_resilience.directives import Directive
    from llm_config_sdk.cache import EntryCache, Key
    from llm_config_sdk.sealing import EncryptionKey

log: Final = logging.getLogger("llm_config_sdk.shared")

FORMAT: Final = 1  # of keys, entries and messages; another one never reads what this one wrote
_TIMEOUT: Final = 0.25  # seconds for a command: a cache that is slower than that is none
_COOLDOWN: Final = 1.0  # seconds for which Redis is left alone after it was not there
_POLL: Final = 1.0  # seconds between two looks of the listener at whether it is still wanted
_PING: Final = 10.0  # seconds of silence after which it asks whether Redis is there; twice that is too long
_MAX_UNSENT: Final = 10_000  # keys that Redis is still to be told of
_PREFIX: Final = "llm-config-sdk"


class SharedCache:
    """A store of the toolkit's, in Redis, which many clients of one server share.

    Its listener is a daemon thread. It ends with `close`, or when nobody holds the cache any more, and a
    forked child starts its own. Whenever it has connected, the local cache is cleared: it may have missed
    something.

    Args:
        url: Where Redis is (`redis://…`, `rediss://…`, `unix://…`).
        origin: The base URL that entries come from; clients of another one share nothing with this.
        cache: The local entries, which are dropped when others write.
        clock: Time.
        encryption_key: A Fernet key; without one, secrets do not go to Redis.

    Attributes:
        listening: Set while the listener hears of the others' writes.

    Raises:
        InvalidRequestError: The URL or the key is none, or the extra is not installed.
    """

    local: ClassVar[bool] = False

    def __init__(
        self, url: str, *, origin: str, cache: EntryCache, clock: Clock, encryption_key: EncryptionKey | None
    ) -> None:
        self._client = _connect(url)  # redis-py's own types are partly unknown
        self._namespace = f"{_PREFIX}:{FORMAT}:{_digest(origin)}"
        self._channel = f"{self._namespace}:written"
        self._seal = EntrySeal(encryption_key)
        self._cache = cache
        self._time = clock.time
        self._self = uuid.uuid4().hex
        self._lock = new_lock()
        self._unsent: dict[Key, object] = {}
        self._failing: set[str] = set()
        self._circuits: list[_CircuitStorage] = []
        self._stopped = threading.Event()
        self.listening: threading.Event = threading.Event()
        self._store = self._new_store()
        self._listener_of = 0
        _shared.add(self)
        self._listen()

    def __repr__(self) -> str:
        # A URL may carry a password.
        return f"SharedCache({self._namespace!r})"

    # --- As a store ---

    def get(self, key: Key) -> Any:
        """Look an entry up; what this client has just written and could not delete is not there."""
        self._listen()
        if key in self._unsent:
            return None
        as_of = self._cache.writes  # what is written from now on overtakes what is read
        if asked_in_async():
            return self._get_async(key, as_of)
        with self._watching("get"):
            return self._opened(key, self._store.get(key), as_of)

    async def _get_async(self, key: Key, as_of: int) -> Entry | None:
        with self._watching("get"):
            return self._opened(key, await self._store.get(key), as_of)

    def set(self, key: Key, entry: Entry, keep: float) -> Any:
        """Keep what a server has sent, unless a write has overtaken it or it is a secret without a seal."""
        fetched: Fetched = entry.value
        if not self._seal.accepts(fetched.entry) or self._cache.is_overtaken(key, fetched.as_of):
            return None
        if asked_in_async():
            return self._set_async(key, entry, keep)
        with self._watching("set"):
            self._store.set(key, entry, keep)
            if self._cache.is_overtaken(key, fetched.as_of):
                self._store.delete(key)
        return None

    async def _set_async(self, key: Key, entry: Entry, keep: float) -> None:
        with self._watching("set"):
            await self._store.set(key, entry, keep)
            if self._cache.is_overtaken(key, entry.value.as_of):
                await self._store.delete(key)

    def delete(self, key: Key) -> Any:
        """Forget an entry, here and everywhere. What cannot be told to Redis now is told when it is back."""
        self._cache.delete(key)
        if asked_in_async():
            return self._delete_async(key)
        try:
            self._tell(key)
        except BaseException:
            self.delete_later(key)
            raise
        return None

    async def _delete_async(self, key: Key) -> None:
        from anyio import to_thread  # noqa: PLC0415  # sync users never need it

        try:
            with self._watching("delete"):
                await self._store.delete(key)
                await to_thread.run_sync(self._publish, key, abandon_on_cancel=True)
        except BaseException:
            self.delete_later(key)
            raise

    def delete_later(self, key: Key) -> None:
        """Have an entry forgotten soon, by the listener; to this client it is gone at once. Does no I/O."""
        with self._lock:
            self._unsent[key] = object()
            if len(self._unsent) > _MAX_UNSENT:
                del self._unsent[next(iter(self._unsent))]

    def close(self) -> None:
        """End the listener and the connections."""
        self._stopped.set()
        for storage in self._circuits:
            storage.leave()
        self._client.close()

    # --- Telling ---

    def _tell(self, key: Key) -> None:
        with self._watching("delete"):
            self._store.delete(key)
            self._publish(key)

    def _tell_unsent(self) -> None:
        with self._lock:
            unsent = list(self._unsent.items())
        with contextlib.suppress(Exception):  # reported, and tried again at the next look
            for key, token in unsent:
                self._tell(key)
                with self._lock:
                    if self._unsent.get(key) is token:  # else it was written again meanwhile
                        del self._unsent[key]

    def _publish(self, key: Key) -> None:
        self._client.publish(self._channel, json.dumps({"by": self._self, "key": key}))

    # --- Listening ---

    def _listen(self) -> None:
        """See to it that this process has a listener."""
        if self._listener_of == os.getpid():
            return
        with self._lock:
            if self._listener_of == os.getpid() or self._stopped.is_set():
                return
            self._listener_of = os.getpid()
        arguments = (weakref.ref(self), self._client, self._channel, self._stopped)
        threading.Thread(target=_follow, args=arguments, name="llm-config-shared", daemon=True).start()

    def heard(self, message: Any) -> None:
        """Act on what Redis says: that the listener is subscribed, or that an entry was written.

        Args:
            message: As redis-py hands it out; `None` when there was none.
        """
        kind, data = ("", b"") if message is None else (message["type"], message["data"])
        if kind == "subscribe":
            self._store = self._new_store()  # Redis is there: no cooldown any more
            self._tell_unsent()
            self._cache.clear()
            self._recovered()
            self.listening.set()
            return
        if kind == "message":
            self._drop(data)
        if self.listening.is_set():
            self._tell_unsent()

    def lost(self, error: Exception) -> None:
        """Note that messages may be missed from now on.

        Args:
            error: Why.
        """
        self.listening.clear()
        if not self._stopped.is_set():
            self._failed("listen", error)

    def _drop(self, data: bytes) -> None:
        try:
            said = json_object(json.loads(data)) or {}
            namespace, key, environment = said["key"]
            own = said["by"] == self._self
        except (ValueError, KeyError, TypeError):
            log.warning("a message that is not this SDK's came through Redis: every local entry is dropped")
            self._cache.clear()
            return
        if not own:
            self._cache.delete((namespace, key, environment))

    # --- Reporting ---

    @contextlib.contextmanager
    def _watching(self, what: str) -> Generator[None]:
        try:
            yield
        except Exception as error:
            self._failed(what, error)
            raise
        if self._failing:
            self._failing.discard(what)
            if not self._failing:
                self._recovered()

    def _failed(self, what: str, error: Exception) -> None:
        with self._lock:
            is_new = not self._failing
            self._failing.add(what)
        if is_new and not self._stopped.is_set():
            log.error("Redis does not serve the shared cache, going on without it: %s", error)

    def _recovered(self) -> None:
        with self._lock:
            self._failing.clear()
        log.info("Redis serves the shared cache")

    # --- Making ---

    def circuit_storage(self, endpoint: str) -> pybreaker.CircuitRedisStorage:
        """Make what a circuit breaker keeps its state in, so that all clients of an endpoint share it.

        Args:
            endpoint: Its URL.
        """
        storage = _CircuitStorage("closed", self._client, f"{_PREFIX}:{FORMAT}:{_digest(endpoint)}")
        self._circuits.append(storage)
        return storage

    def _new_store(self) -> RedisStore:
        return RedisStore(
            self._client,
            namespace=f"{self._namespace}:entry",
            codec=_EntryCodec(self._seal),
            timeout=_TIMEOUT,
            cooldown=_COOLDOWN,
        )

    def _opened(self, key: Key, found: Entry | None, as_of: int) -> Entry | None:
        fetched: Fetched | None = found.value if found is not None else None
        if found is None or fetched is None:
            return None
        entry = fetched.entry
        if (entry.namespace, entry.key, entry.environment.value) != key:
            return None
        mark = replace(entry.provenance, now=self._time)
        shared = Fetched(entry.with_provenance(mark), as_of, is_shared=True)
        known = self._cache.get(key)
        if known is None or known.value.provenance.fetched_at < mark.fetched_at:
            # Known here from now on, however old: so a server is asked for it by its tag.
            self._cache.keep(key, shared)
        return replace(found, value=shared)

    def renew(self) -> None:
        """Begin anew in a forked child, which has no listener and may have missed messages."""
        self._lock = new_lock()
        stopped, self._stopped = self._stopped.is_set(), threading.Event()
        if stopped:
            self._stopped.set()
        self.listening = threading.Event()
        self._listener_of = 0
        self._cache.clear()


class Announcement(Strategy):
    """Tells everybody that an entry was written, whether or not the outcome is known.

    Args:
        shared: Where it is told.
    """

    role: ClassVar[str] = "announcement"

    def __init__(self, shared: SharedCache) -> None:
        self._shared = shared

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Tell of a write."""
        del at, value
        return self._told(ctx)

    def failed(self, ctx: Context, at: int, error: Exception) -> Directive | None:
        """Tell of what may have been a write."""
        del at, error
        return self._told(ctx)

    def released(self, ctx: Context, at: int) -> None:
        """Have it told: the call was cancelled, and may have been a write."""
        del at
        key = ctx.args[0].entry_key
        if key is not None:
            self._shared.delete_later(key)

    def _told(self, ctx: Context) -> Directive | None:
        key = ctx.args[0].entry_key
        return None if key is None else Call(self._shared.delete, key, then=_go_on, orelse=_go_on)


class _EntryCodec:
    """Entries as Redis keeps them; what cannot be read is `None`.

    Args:
        seal: Seals secrets.
    """

    def __init__(self, seal: EntrySeal) -> None:
        self._seal = seal

    def encode(self, value: Fetched, /) -> bytes:
        """Write an entry down."""
        mark = value.entry.provenance
        body = {
            "entry": self._seal.dump(value.entry),
            "fetched_at": mark.fetched_at,
            "endpoint": mark.endpoint,
            "validator": mark.validator,
        }
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()

    def decode(self, data: bytes, /) -> Fetched | None:
        """Read an entry."""
        try:
            body = json_object(json.loads(data)) or {}
            kept = json_object(body["entry"])
            fetched_at, endpoint = float(body["fetched_at"]), body["endpoint"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        entry = self._seal.load(kept) if kept is not None else None
        if entry is None:
            return None
        mark = Provenance(
            source="cache",
            endpoint=endpoint,
            fetched_at=fetched_at,
            attempts=0,
            validator=check_validator(body.get("validator")),
        )
        return Fetched(entry.with_provenance(mark), 0, is_shared=True)


class _CircuitStorage(pybreaker.CircuitRedisStorage):
    """pybreaker's storage, made without I/O: a breaker is made in the middle of a call."""

    _is_made = False

    def __init__(self, state: str, redis_object: Any, namespace: str) -> None:
        super().__init__(state, redis_object, namespace)
        self._is_made = True

    def _initialize_redis_state(self, state: str) -> None:
        if self._is_made:
            super()._initialize_redis_state(state)

    def leave(self) -> None:
        """Leave Redis alone from now on: what still looks at the circuit finds it closed, and ends."""
        self._redis: Any = _Nothing()


class _Nothing:
    """What is left of a Redis when its client is closed."""

    def _answer(self, *_arguments: object) -> None:
        return None

    get = set = setnx = transaction = ping = _answer


def _follow(
    shared_ref: weakref.ref[SharedCache], client: Any, channel: str, stopped: threading.Event
) -> None:
    """Listen until nobody wants to hear any more."""
    while not stopped.is_set():
        pubsub = client.pubsub()
        try:
            pubsub.subscribe(channel)
            _hear(shared_ref, pubsub, stopped)
        except Exception as error:  # noqa: BLE001  # whatever Redis does, the service goes on
            _lose(shared_ref, error)
        finally:
            with contextlib.suppress(Exception):
                pubsub.close()
        if shared_ref() is None:
            return
        stopped.wait(_COOLDOWN)


def _hear(shared_ref: weakref.ref[SharedCache], pubsub: Any, stopped: threading.Event) -> None:
    spoke = asked = time.monotonic()
    while not stopped.is_set():
        message = pubsub.get_message(timeout=_POLL)
        now = time.monotonic()
        if message is not None:
            spoke = now
        elif now - spoke > 2 * _PING:
            raise ConnectionError("Redis does not answer the listener")
        elif now - max(spoke, asked) > _PING:
            asked = now
            pubsub.ping()
        shared = shared_ref()
        if shared is None:
            return
        shared.heard(message)
        del shared  # while it waits, this thread keeps nothing alive


def _lose(shared_ref: weakref.ref[SharedCache], error: Exception) -> None:
    shared = shared_ref()
    if shared is not None:
        shared.lost(error)


def _connect(url: str) -> Any:
    try:
        import redis  # noqa: PLC0415  # an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "a cache in Redis needs the extra: install llm-config-sdk[redis]"
        ) from error
    try:
        maker: Any = redis.Redis
        return maker.from_url(
            url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
    except ValueError as error:
        raise InvalidRequestError(f"cache must be a CachePolicy or the URL of a Redis: {error}") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _go_on(_ctx: Context, _at: int, _outcome: object) -> None:
    """Take no notice of how telling went: it is reported, and tried again."""


_shared: Final[weakref.WeakSet[SharedCache]] = weakref.WeakSet()


def _renew() -> None:
    for shared in list(_shared):
        shared.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
