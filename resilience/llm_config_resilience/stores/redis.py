"""A store in Redis, for processes anywhere."""

from __future__ import annotations

import asyncio
import inspect
import time
from importlib.util import find_spec
from math import ceil, isinf
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from llm_config_resilience.arguments import check_above, check_at_least, check_has
from llm_config_resilience.clock import in_trio
from llm_config_resilience.errors import UsageError
from llm_config_resilience.locks import new_lock
from llm_config_resilience.stores.codec import Codec, JsonCodec, asked_in_async, key_text
from llm_config_resilience.stores.store import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds a command may take: a cache that is slower than that is none.
_TIMEOUT: Final = 0.25
#: Seconds for which Redis is not asked again after it was not there, so that its absence does not add the
#: timeout to every call.
_COOLDOWN: Final = 1.0
_NAMESPACE: Final = "llm-config-resilience"
#: Between the moment of storing and the value.
_SEPARATOR: Final = b"\n"
_MILLISECONDS: Final = 1000


class RedisStore:
    """Keeps entries in Redis, each for its time.

    Given a URL, it makes a client of its own when it is first asked; an async call asks that in a worker
    thread, which works in asyncio and trio. A `redis.Redis` is used likewise, with its own time limits; a
    `redis.asyncio.Redis` serves async calls in asyncio only, and is awaited there.

    When Redis is not there, or takes longer than `timeout`, the store raises, and goes on raising at once for
    `cooldown` seconds; a cache goes on without it. How much it may hold is Redis's `maxmemory` to say.

    Keys are strings, numbers, booleans, bytes, `None` and tuples of them.

    Args:
        client: A URL (`redis://…`, `rediss://…`, `unix://…`), or a client of redis-py, sync or async.
        namespace: What the keys in Redis begin with, before a colon.
        codec: Writes values down; `JsonCodec()` unless given.
        timeout: Seconds a command may take.
        cooldown: Seconds for which Redis is left alone after it was not there.
    """

    local: ClassVar[bool] = False

    def __init__(
        self,
        client: Any,
        *,
        namespace: str = _NAMESPACE,
        codec: Codec | None = None,
        timeout: float = _TIMEOUT,
        cooldown: float = _COOLDOWN,
    ) -> None:
        check_above(0, timeout=timeout)
        check_at_least(0, cooldown=cooldown)
        self._url = ""
        self._client: Any = None
        self._is_native = False
        if isinstance(client, str):
            if find_spec("redis") is None:  # looked for, not loaded: a pipeline passes a broken store by
                raise ModuleNotFoundError(
                    "a store in Redis needs redis-py: pip install 'llm-config-sdk[redis]'"
                )
            self._url = client
        else:
            check_has("a URL or a client of redis-py", "execute_command", client=client)
            self._client = client
            self._is_native = inspect.iscoroutinefunction(client.execute_command)
        self._namespace = namespace
        self._codec: Codec = JsonCodec() if codec is None else codec
        self._timeout = timeout
        self._cooldown = cooldown
        self._lock = new_lock()
        self._down_until = 0.0
        self._reason = ""

    def __repr__(self) -> str:
        # A URL may carry a password.
        return f"RedisStore(namespace={self._namespace!r})"

    def get(self, key: Any) -> Any:
        """Return the `Entry` of a key, or `None`; in async code an awaitable of it."""
        return self._ask(self._entry, "GET", self._name(key))

    def set(self, key: Any, entry: Entry, keep: float) -> Any:
        """Keep an entry for `keep` seconds; in async code an awaitable."""
        data = repr(entry.stored_at).encode() + _SEPARATOR + self._codec.encode(entry.value)
        command: tuple[Any, ...] = ("SET", self._name(key), data)
        if not isinf(keep):
            # Redis refuses a time of 0; what is to be kept no time at all is gone by the next look.
            command += ("PX", max(1, ceil(keep * _MILLISECONDS)))
        return self._ask(_nothing, *command)

    def delete(self, key: Any) -> Any:
        """Forget a key; in async code an awaitable."""
        return self._ask(_nothing, "DEL", self._name(key))

    def close(self) -> None:
        """Close the client, if the store has made it."""
        with self._lock:
            if self._url and self._client is not None:
                self._client.close()
                self._client = None

    def _name(self, key: Any) -> str:
        return f"{self._namespace}:{key_text(key)}"

    def _entry(self, data: bytes | str | None) -> Entry | None:
        if data is None:
            return None
        stored_at, _, value = (data.encode() if isinstance(data, str) else data).partition(_SEPARATOR)
        return Entry(self._codec.decode(value), float(stored_at))

    def _ask(self, read: Callable[[Any], Any], *command: Any) -> Any:
        in_async = asked_in_async()
        if not self._is_native:
            return self._in_thread(read, command) if in_async else read(self._send(command))
        if not in_async or in_trio():
            raise UsageError("an asyncio client of Redis serves async calls in asyncio only; give a URL")
        return self._natively(read, command)

    def _send(self, command: tuple[Any, ...]) -> Any:
        self._check()
        try:
            answer = self._connected().execute_command(*command)
        except Exception as error:
            self._note(error)
            raise
        self._down_until = 0.0
        return answer

    async def _in_thread(self, read: Callable[[Any], Any], command: tuple[Any, ...]) -> Any:
        import anyio  # noqa: PLC0415 - sync users never need it
        from anyio import to_thread  # noqa: PLC0415

        # The client's own time limit comes first, if it is ours; another's may be none at all.
        with anyio.fail_after(2 * self._timeout):
            return read(await to_thread.run_sync(self._send, command, abandon_on_cancel=True))

    async def _natively(self, read: Callable[[Any], Any], command: tuple[Any, ...]) -> Any:
        self._check()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._client.execute_command(*command)
        except Exception as error:
            self._note(error)
            raise
        self._down_until = 0.0
        return read(answer)

    def _connected(self) -> Any:
        if self._client is None:
            import redis  # noqa: PLC0415 - an extra
            from redis.backoff import NoBackoff  # noqa: PLC0415
            from redis.retry import Retry  # noqa: PLC0415

            with self._lock:
                if self._client is None:
                    self._client = cast("Any", redis.Redis).from_url(
                        self._url,
                        socket_timeout=self._timeout,
                        socket_connect_timeout=self._timeout,
                        retry=Retry(NoBackoff(), 0),
                    )
        return self._client

    def _check(self) -> None:
        """Raise while Redis is to be left alone."""
        left = self._down_until - time.monotonic()
        if left > 0:
            raise ConnectionError(f"Redis was not there and is asked again in {left:.1f} s: {self._reason}")

    def _note(self, error: Exception) -> None:
        """Leave Redis alone for a while, if that is what the error means."""
        from redis import exceptions  # noqa: PLC0415 - an extra, and loaded already

        if isinstance(error, (OSError, exceptions.ConnectionError, exceptions.TimeoutError)):
            self._reason = f"{type(error).__name__}: {error}"
            self._down_until = time.monotonic() + self._cooldown


def _nothing(_answer: Any) -> None:
    """Take no notice of what Redis says to a change."""
