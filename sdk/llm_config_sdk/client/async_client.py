"""The async client: a thin, typed face on the operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from llm_config_sdk import binding, many, operations, values
from llm_config_sdk.arguments import check, check_callback, check_model
from llm_config_sdk.core import DEFAULT_CACHE, DEFAULT_POLICY, Core, Options
from llm_config_sdk.errors import LLMConfigError
from llm_config_sdk.many import Outcome
from llm_config_sdk.paging import Pages
from llm_config_sdk.plans import UNSET, Unset
from llm_config_sdk.transport import (
    MAX_IN_FLIGHT,
    AsyncInjectedTransport,
    AsyncStackTransport,
    AsyncTransport,
    Endpoint,
    Family,
)
from llm_config_sdk.watching import INTERVAL, AsyncWatch, tell

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from pydantic import BaseModel

    from llm_config_resilience import Answer, Clock, Listener
    from llm_config_sdk.contract import Environment, Health
    from llm_config_sdk.credentials import Token
    from llm_config_sdk.entries import ConfigEntry, HistoryEntry
    from llm_config_sdk.many import Name, Progress
    from llm_config_sdk.observability import Incident
    from llm_config_sdk.operations import Call
    from llm_config_sdk.plans import Plan
    from llm_config_sdk.policy import CachePolicy, ResiliencePolicy
    from llm_config_sdk.snapshot import SnapshotPolicy
    from llm_config_sdk.status import ClientStatus, EndpointStatus
    from llm_config_sdk.transport import ClientCertificate, TlsVersion, Verification
    from llm_config_sdk.watching import Change

T = TypeVar("T")
D = TypeVar("D")
M = TypeVar("M", bound="BaseModel")


class AsyncConfigClient:
    """Reads and writes configs, on asyncio and trio; the same as `ConfigClient` in every other way.

        async with AsyncConfigClient("https://config.example.com", token="…") as client:
            model = await client.get_str("app/llm", "model", env="production")

    Args:
        base_url: The primary server; left out, `LLM_CONFIG_BASE_URL`.
        token: The bearer token, a callable that gives one, or an `httpx.Auth` that puts its authorization
            into headers; left out, `LLM_CONFIG_TOKEN`. A callable is asked at the first request, and again
            when a server answers 401, once for all calls that wait; it may be `async` in the async client,
            and in the sync client bounds its own time.
        environment: What `env` is where a call leaves it out; left out, `LLM_CONFIG_ENVIRONMENT`, else
            development.
        user: Sent as `X-User-ID` and named as the author of changes; left out, `LLM_CONFIG_USER`.
        backups: Base URLs that reads fail over to; left out, `LLM_CONFIG_BACKUPS`.
        resilience: What happens when servers fail; left out, `ResiliencePolicy()`; `None` makes one plain
            call.
        cache: How long reads may be answered without a server; left out, `CachePolicy()`; `None` keeps
            nothing, the URL of a Redis (`redis://…`) shares what is kept with other processes.
        headers: Sent with every request, as `X-Forwarded-Proto: https` for a server without a TLS proxy.
        timeout: Seconds for a whole call, retries and all; left out, `LLM_CONFIG_TIMEOUT`, else 10.
        fallback: Values by `(namespace, key)` that answer during an outage when nothing better is known.
        strict: Whether an outage raises: no value that is older than the cache lets it be, no snapshot and no
            `fallback` of the client stands in for a server; left out, `LLM_CONFIG_STRICT`, else not.
        snapshot: Whether the last values known are kept on disk, so that an application starts while every
            server is down: a `SnapshotPolicy`, a path, or `True` for one in the user's cache directory.
        bootstrap: A file in a snapshot's format, shipped with the application, that answers when nothing
            better is known.
        transport: Whose exceptions stand behind errors, as `__cause__`: those of `httpx` or of `httpx2`.
        max_in_flight: Requests at once; left out, 100. Later ones wait in order, within their timeout.
        http_client: A client of httpx or httpx2 to send through instead; it stays yours to close.
        verify: Whether certificates are checked, a path to CA certificates, or an SSL context; left out,
            `LLM_CONFIG_CA_BUNDLE`. As the next two, it is for the SDK's own connections.
        cert: The client's own certificate, where the server asks for one: a path to certificate and key, or a
            tuple of certificate, key and the key's password; left out, `LLM_CONFIG_CLIENT_CERT`,
            `LLM_CONFIG_CLIENT_KEY` and `LLM_CONFIG_CLIENT_KEY_PASSWORD`.
        minimum_tls: The lowest version of TLS that is spoken, `1.2` or `1.3`; left out,
            `LLM_CONFIG_MINIMUM_TLS`, else 1.2.
        trust_env: Whether proxies are taken from the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`
            and `NO_PROXY`. An injected client has its own.
        listeners: Told of each event of the resilience stack; an `observability.Observer` of each call, too.
        clock: A `ManualClock` in tests.

    Raises:
        InvalidRequestError: An argument, or a `LLM_CONFIG_*` variable, cannot be used.
    """

    _transport: AsyncTransport

    def __init__(
        self,
        base_url: str | None = None,
        *,
        token: Token | None = None,
        environment: Environment | str | None = None,
        user: str | None = None,
        backups: Sequence[str] = (),
        resilience: ResiliencePolicy | None = DEFAULT_POLICY,
        cache: CachePolicy | str | None = DEFAULT_CACHE,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        fallback: Mapping[tuple[str, str], Any] | None = None,
        strict: bool | None = None,
        snapshot: SnapshotPolicy | str | os.PathLike[str] | bool | None = False,
        bootstrap: str | os.PathLike[str] | None = None,
        transport: Family = "httpx",
        max_in_flight: int = MAX_IN_FLIGHT,
        http_client: Any = None,
        verify: Verification = True,
        cert: ClientCertificate | None = None,
        minimum_tls: TlsVersion | None = None,
        trust_env: bool = True,
        listeners: Sequence[Listener] = (),
        clock: Clock | None = None,
    ) -> None:
        self._core = Core(
            Options(
                base_url=base_url,
                token=token,
                environment=environment,
                user=user,
                backups=backups,
                resilience=resilience,
                cache=cache,
                headers=headers,
                timeout=timeout,
                fallback=fallback,
                strict=strict,
                snapshot=snapshot,
                bootstrap=bootstrap,
                verify=verify,
                cert=cert,
                minimum_tls=minimum_tls,
                listeners=listeners,
                clock=clock,
            )
        )
        self._owns_transport = True
        self._transport = (
            AsyncStackTransport(
                max_in_flight=max_in_flight,
                verify=self._core.verification(),
                family=transport,
                trust_env=trust_env,
            )
            if http_client is None
            else AsyncInjectedTransport(http_client, max_in_flight=max_in_flight)
        )

    def __repr__(self) -> str:
        core = self.__dict__.get(
            "_core", "not made"
        )  # a crash reporter may ask one whose arguments were wrong
        return f"{type(self).__name__}({core!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections and refuse further calls. An injected client stays open."""
        self._core.close()
        if self._owns_transport:
            await self._transport.aclose()

    def with_options(
        self,
        *,
        timeout: float | None = None,
        environment: Environment | str | None = None,
        headers: Mapping[str, str] | None = None,
        resilience: ResiliencePolicy | Unset | None = UNSET,
        cache: CachePolicy | Unset | None = UNSET,
    ) -> Self:
        """Copy the client with other options. It shares the connections; closing it leaves them open.

        Args:
            timeout: Seconds for a whole call.
            environment: What `env` is where a call leaves it out.
            headers: Sent with every request, beside the client's own.
            resilience: What happens when servers fail.
            cache: How long reads may be answered without a server.

        Raises:
            InvalidRequestError: One of them cannot be used, or the client is closed.
        """
        twin = object.__new__(type(self))
        twin._core = self._core.with_options(  # a copy of this very class
            timeout=timeout, environment=environment, headers=headers, resilience=resilience, cache=cache
        )
        twin._transport = self._transport
        twin._owns_transport = False
        return twin

    # --- Reading ---

    async def get_config(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: object = UNSET,
        fresh: bool = False,
        timeout: float | None = None,
    ) -> ConfigEntry:
        """Get an entry.

        Args:
            namespace: Where it lives (`app/llm`).
            key: Its name there.
            env: The environment; left out, the client's.
            default: The value to answer with where there is no such entry, and only then.
            fallback: The value to answer with when no server answers and nothing is cached.
            fresh: Whether only a server's own answer will do, at this moment.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            NotFoundError: There is no such entry, and no `default`.
            LLMConfigError: Whatever else went wrong; `llm_config_sdk.errors` has the tree.
        """
        if not fresh:
            cached = self._core.cached(namespace, key, env)
            if cached is not None:
                return cached
        plan = self._core.plan_get(
            namespace, key, env, timeout, default=default, fallback=fallback, fresh=fresh
        )
        return await self._run(plan)

    @overload
    async def get_value(
        self,
        namespace: str,
        key: str,
        type: type[T],
        *,
        env: Environment | str | None = None,
        fallback: object = UNSET,
        timeout: float | None = None,
    ) -> T: ...
    @overload
    async def get_value(
        self,
        namespace: str,
        key: str,
        type: type[T],
        *,
        env: Environment | str | None = None,
        default: D,
        fallback: object = UNSET,
        timeout: float | None = None,
    ) -> T | D: ...
    @overload
    async def get_value(
        self,
        namespace: str,
        key: str,
        type: Any = Any,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: object = UNSET,
        timeout: float | None = None,
    ) -> Any: ...
    async def get_value(
        self,
        namespace: str,
        key: str,
        type: Any = Any,  # noqa: A002  # the contract's name
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: object = UNSET,
        timeout: float | None = None,
    ) -> Any:
        """Get a value, validated by pydantic.

        Args:
            namespace: Where it lives.
            key: Its name there.
            type: Any type that pydantic knows; left out, the value as it is.
            env: The environment; left out, the client's.
            default: What to return, as it is, where there is no such entry, and only then.
            fallback: What to return, as it is, when no server answers and nothing is cached.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            InvalidValueError: The value has another type.
            NotFoundError: There is no such entry, and no `default`.
            LLMConfigError: Whatever else went wrong.
        """
        entry = await self.get_config(
            namespace, key, env=env, default=default, fallback=fallback, timeout=timeout
        )
        return values.convert(entry, type)

    @overload
    async def get_str(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        fallback: str | Unset = UNSET,
        timeout: float | None = None,
    ) -> str: ...
    @overload
    async def get_str(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: D,
        fallback: str | Unset = UNSET,
        timeout: float | None = None,
    ) -> str | D: ...
    async def get_str(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: str | Unset = UNSET,
        timeout: float | None = None,
    ) -> Any:
        """Get a string; anything else raises `InvalidValueError`.

        Arguments as `get_value`: `default` answers for an absent entry, `fallback` in an outage.
        """
        entry = await self.get_config(
            namespace, key, env=env, default=default, fallback=fallback, timeout=timeout
        )
        return values.convert(entry, str, strict=True, operation="get_str")

    @overload
    async def get_int(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        fallback: int | Unset = UNSET,
        timeout: float | None = None,
    ) -> int: ...
    @overload
    async def get_int(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: D,
        fallback: int | Unset = UNSET,
        timeout: float | None = None,
    ) -> int | D: ...
    async def get_int(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: int | Unset = UNSET,
        timeout: float | None = None,
    ) -> Any:
        """Get an integer; anything else raises `InvalidValueError`.

        Arguments as `get_value`: `default` answers for an absent entry, `fallback` in an outage.
        """
        entry = await self.get_config(
            namespace, key, env=env, default=default, fallback=fallback, timeout=timeout
        )
        return values.convert(entry, int, strict=True, operation="get_int")

    @overload
    async def get_float(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        fallback: float | Unset = UNSET,
        timeout: float | None = None,
    ) -> float: ...
    @overload
    async def get_float(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: D,
        fallback: float | Unset = UNSET,
        timeout: float | None = None,
    ) -> float | D: ...
    async def get_float(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: float | Unset = UNSET,
        timeout: float | None = None,
    ) -> Any:
        """Get a number; anything else raises `InvalidValueError`.

        Arguments as `get_value`: `default` answers for an absent entry, `fallback` in an outage.
        """
        entry = await self.get_config(
            namespace, key, env=env, default=default, fallback=fallback, timeout=timeout
        )
        return values.convert(entry, float, strict=True, operation="get_float")

    @overload
    async def get_bool(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        fallback: bool | Unset = UNSET,
        timeout: float | None = None,
    ) -> bool: ...
    @overload
    async def get_bool(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: D,
        fallback: bool | Unset = UNSET,
        timeout: float | None = None,
    ) -> bool | D: ...
    async def get_bool(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: bool | Unset = UNSET,
        timeout: float | None = None,
    ) -> Any:
        """Get a boolean; anything else raises `InvalidValueError`.

        Arguments as `get_value`: `default` answers for an absent entry, `fallback` in an outage.
        """
        entry = await self.get_config(
            namespace, key, env=env, default=default, fallback=fallback, timeout=timeout
        )
        return values.convert(entry, bool, strict=True, operation="get_bool")

    async def get_json(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        default: object = UNSET,
        fallback: object = UNSET,
        timeout: float | None = None,
    ) -> Any:
        """Get any JSON value, a copy of the caller's own.

        Arguments as `get_value`: `default` answers for an absent entry, `fallback` in an outage.
        """
        entry = await self.get_config(
            namespace, key, env=env, default=default, fallback=fallback, timeout=timeout
        )
        return values.convert(entry, Any, operation="get_json")

    async def resolve(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        timeout: float | None = None,
    ) -> ConfigEntry:
        """Get an entry with overrides applied: the most specific environment that has it wins.

        In an outage, what is known from before answers, and says so: `is_stale` and `error` are set, also
        where only a less specific environment is known.

        Args:
            namespace: Where it lives.
            key: Its name there.
            env: The environment to resolve for; left out, the client's.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            NotFoundError: No environment in the platform's order has it.
            LLMConfigError: Whatever else went wrong.
        """
        known = self._core.resolved(namespace, key, env)
        if known is not None:
            return known
        looking = self._core.lookup(namespace, key, env, timeout)

        async def look(index: int) -> None:
            try:
                looking.saw(index, await self._run(looking.plan(index)))
            except LLMConfigError as error:
                looking.failed(index, error)

        # The first in order come first, so that those which have to be asked are asked at once.
        await many.at_once(look, len(tuple(looking.undecided())))
        return looking.result()

    async def list_configs(
        self,
        namespace: str,
        *,
        env: Environment | str | None = None,
        page_size: int | None = None,
        timeout: float | None = None,
    ) -> list[ConfigEntry]:
        """List a namespace's entries, sorted by key; an unknown namespace has none.

        Args:
            namespace: Where they live.
            env: The environment; left out, the client's.
            page_size: How many entries to ask for at a time, for a namespace that is too large for one
                answer, of a server that has pages (the 0.5 server has none).
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            LLMConfigError: Whatever went wrong.
        """
        return await self._run_pages(self._core.plan_list(namespace, env, timeout, page_size=page_size))

    async def get_history(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        timeout: float | None = None,
    ) -> list[HistoryEntry]:
        """List an entry's versions, newest first; what was a secret is redacted.

        Args:
            namespace: Where it lives.
            key: Its name there.
            env: The environment; left out, the client's.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            LLMConfigError: Whatever went wrong.
        """
        return await self._run_pages(self._core.plan(operations.GET_HISTORY, namespace, key, env, timeout))

    # --- Writing ---

    async def set_config(
        self,
        namespace: str,
        key: str,
        value: object,
        *,
        env: Environment | str | None = None,
        user: str | None = None,
        secret: bool = False,
        expected_version: int | ConfigEntry | str | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> ConfigEntry:
        """Create an entry, or give it a new version. Never repeated once it may have been sent.

        Args:
            namespace: Where it lives.
            key: Its name there.
            value: Any JSON value; a `pydantic.SecretStr` is stored as a secret.
            env: The environment; left out, the client's.
            user: The author of the change; left out, the client's user.
            secret: Whether to store it encrypted; the value must then be a string.
            expected_version: Write only if this is still the newest: a version, an entry or an entity tag.
            idempotency_key: Asserts that the server honours it, so that the write may be repeated.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            ConflictError: The entry is no longer at `expected_version`.
            InvalidValueError: The value is not JSON, or is a secret and not a string.
            LLMConfigError: Whatever else went wrong. Unless it says that the request was never sent, the
                write may have taken effect.
        """
        return await self._run(
            self._core.plan_set(
                namespace,
                key,
                value,
                env,
                timeout,
                user=user,
                secret=secret,
                expected_version=expected_version,
                idempotency_key=idempotency_key,
            )
        )

    async def delete_config(
        self,
        namespace: str,
        key: str,
        *,
        env: Environment | str | None = None,
        timeout: float | None = None,
    ) -> None:
        """Delete an entry; its history stays.

        Args:
            namespace: Where it lives.
            key: Its name there.
            env: The environment; left out, the client's.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            NotFoundError: There was no such entry.
            LLMConfigError: Whatever else went wrong.
        """
        await self._run(self._core.plan(operations.DELETE_CONFIG, namespace, key, env, timeout))

    async def rollback(
        self,
        namespace: str,
        key: str,
        version: int,
        *,
        env: Environment | str | None = None,
        timeout: float | None = None,
    ) -> ConfigEntry:
        """Write an earlier version's value as a new version. Never repeated once it may have been sent.

        Args:
            namespace: Where it lives.
            key: Its name there.
            version: Which version's value to write.
            env: The environment; left out, the client's.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            VersionNotFoundError: There is no such version.
            LLMConfigError: Whatever else went wrong.
        """
        plan = self._core.plan(operations.ROLLBACK, namespace, key, env, timeout, version=version)
        return await self._run(plan)

    async def get_many(
        self,
        names: Iterable[Name],
        *,
        env: Environment | str | None = None,
        timeout: float | None = None,
        on_progress: Progress | None = None,
    ) -> list[Outcome[ConfigEntry]]:
        """Get several entries; what fails is told one by one, and fails nothing else.

        Args:
            names: Pairs of namespace and key.
            env: The environment; left out, the client's.
            timeout: Seconds for each entry; left out, the client's.
            on_progress: Called after each with its outcome, how many are done, and how many there are; one
                that raises is logged, and called again next time.

        Returns:
            An outcome a name, in the order given.

        Raises:
            InvalidRequestError: A name is no pair of namespace and key.
        """
        wanted = many.names_of(names)

        async def get(index: int) -> Outcome[ConfigEntry]:
            namespace, key = wanted[index]
            try:
                entry = await self.get_config(namespace, key, env=env, timeout=timeout)
                return Outcome(namespace, key, entry)
            except LLMConfigError as error:
                return Outcome(namespace, key, error=error)

        return await many.at_once(get, len(wanted), on_progress)

    async def set_many(
        self,
        values: Mapping[Name, object],
        *,
        env: Environment | str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        on_progress: Progress | None = None,
    ) -> list[Outcome[ConfigEntry]]:
        """Write several entries; what fails is told one by one, and undoes nothing.

        Args:
            values: Values by pairs of namespace and key; a `pydantic.SecretStr` is stored as a secret.
            env: The environment; left out, the client's.
            user: The author of the changes; left out, the client's user.
            timeout: Seconds for each entry; left out, the client's.
            on_progress: Called after each with its outcome, how many are done, and how many there are; one
                that raises is logged, and called again next time.

        Returns:
            An outcome a name, in the order given.

        Raises:
            InvalidRequestError: A name is no pair of namespace and key.
        """
        check(values=values)
        items = [(name, values[name]) for name in many.names_of(values)]

        async def write(index: int) -> Outcome[ConfigEntry]:
            (namespace, key), value = items[index]
            try:
                entry = await self.set_config(namespace, key, value, env=env, user=user, timeout=timeout)
                return Outcome(namespace, key, entry)
            except LLMConfigError as error:
                return Outcome(namespace, key, error=error)

        return await many.at_once(write, len(items), on_progress)

    async def prefetch(
        self, namespace: str, *, env: Environment | str | None = None, timeout: float | None = None
    ) -> int:
        """Read a whole namespace into the cache (and the snapshot) with one request.

        Args:
            namespace: Where the entries live.
            env: The environment; left out, the client's.
            timeout: Seconds for the whole call; left out, the client's.

        Returns:
            How many entries there are.

        Raises:
            LLMConfigError: Whatever went wrong.
        """
        core = self._core
        as_of = core.writes_seen
        entries = await self._run_pages(core.plan_list(namespace, env, timeout))
        core.admit(namespace, entries, as_of)
        return len(entries)

    async def get_fields(
        self,
        namespace: str,
        *,
        env: Environment | str | None = None,
        resolve: bool = False,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Get a whole namespace as one dictionary: `llm.timeout` becomes `{"llm": {"timeout": …}}`.

        In an outage, what is cached or in the snapshot answers.

        Args:
            namespace: Where the entries live.
            env: The environment; left out, the client's.
            resolve: Whether overrides of lower environments apply: one request for each of them.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            LLMConfigError: Whatever went wrong.
        """
        gathering = self._core.gathering(namespace, env, timeout, resolve=resolve)

        async def get(index: int) -> None:
            try:
                gathering.saw(index, await self._run_pages(gathering.plan(index)))
            except LLMConfigError as error:
                gathering.failed(index, error)

        await many.at_once(get, gathering.count)
        return binding.nest(gathering.entries())

    async def bind(
        self,
        model: type[M],
        namespace: str,
        *,
        env: Environment | str | None = None,
        resolve: bool = False,
        timeout: float | None = None,
    ) -> M:
        """Make a pydantic model of a namespace: keys are fields, dotted keys are nested ones.

        In an outage, what is cached or in the snapshot answers.

        Args:
            model: The model's class.
            namespace: Where the entries live.
            env: The environment; left out, the client's.
            resolve: Whether overrides of lower environments apply: one request for each of them.
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            InvalidValueError: An entry is missing or has another type. Values are never shown.
            LLMConfigError: Whatever else went wrong.
        """
        check_model(model)
        fields = await self.get_fields(namespace, env=env, resolve=resolve, timeout=timeout)
        return binding.validate(model, fields, namespace, self._core.env(env, operations.LIST_CONFIGS))

    # --- Watching ---

    def watch(
        self,
        namespace: str,
        key: str | None = None,
        *,
        env: Environment | str | None = None,
        interval: float = INTERVAL,
        initial: bool = False,
    ) -> AsyncWatch:
        """Watch an entry, or a whole namespace: an iterator of changes that waits for the next one.

        It polls, with jitter. An outage is told once, and so is its end. Closing the iterator, or the client,
        ends it at once.

        Args:
            namespace: Where it lives.
            key: The entry; left out, the whole namespace.
            env: The environment; left out, the client's.
            interval: Seconds between two polls; left out, 30.
            initial: Whether the first answer is told as well: each entry of it as `created`.

        Raises:
            LLMConfigError: From the iterator: what will not pass by waiting (denied, invalid).
        """
        tracker, environment = self._core.tracker(namespace, key, env, interval, initial=initial)

        async def poll() -> list[ConfigEntry]:
            plan = self._core.plan_poll(tracker, environment)
            if key is None:
                entries = await self._run_pages(plan)
            else:
                entry = await self._run(plan)
                entries = [] if entry.source == "default" else [entry]
            tracker.held = plan.call.progress.held
            return entries

        return AsyncWatch(tracker, poll, self._core.clock, self._core.closing)

    def on_change(
        self,
        callback: Callable[[Change], object],
        namespace: str,
        key: str | None = None,
        *,
        env: Environment | str | None = None,
        interval: float = INTERVAL,
        initial: bool = False,
    ) -> AsyncWatch:
        """Have a callback told of changes, in the background, until the client or the result is closed.

        What `watch` would raise, such as that the entries may not be read, is logged, and ends it.

        Args:
            callback: Called with each change; one that raises is logged, and called again next time.
            namespace: Where it lives.
            key: The entry; left out, the whole namespace.
            env: The environment; left out, the client's.
            interval: Seconds between two polls; left out, 30.
            initial: Whether the first answer is told as well: each entry of it as `created`. With it, nothing
                is missed between what was read before and the first poll.

        Returns:
            What to close in order to stop.

        Raises:
            InvalidRequestError: The client is closed, keeps too many callbacks informed already, or cannot
                call this one: it has to be a plain function.
        """
        check_callback(callback)
        watch = self.watch(namespace, key, env=env, interval=interval, initial=initial)

        async def follow() -> None:
            async for change in watch:
                tell(callback, change)

        self._core.follow_async(follow)
        return watch

    # --- How it is ---

    @property
    def status(self) -> ClientStatus:
        """Endpoints, circuits, cache and retry budget, at this moment."""
        return self._core.status

    @property
    def endpoints(self) -> tuple[EndpointStatus, ...]:
        """Every server as this client sees it, the primary first."""
        return self._core.endpoint_status

    # --- The server itself ---

    async def health_check(self, *, timeout: float | None = None) -> Health:
        """Ask the primary how it is: one request, without retry, failover or circuit breaker.

        Args:
            timeout: Seconds for the whole call; left out, the client's.

        Raises:
            ServiceUnavailableError: It is not well; its report is in `.response.body`.
            LLMConfigError: Whatever else went wrong.
        """
        return await self._run(self._core.plan_health(timeout))

    async def check_audit(self, *, timeout: float | None = None) -> list[Incident]:
        """Compare what this client wrote with the primary's audit log, and tell observers of every gap.

        Each write that was acknowledged since the last comparison, at most 1,000 of them, has to be known to
        the log by its request id. Writes under an idempotency key are left out. The token needs `audit:read`.

        Args:
            timeout: Seconds for each page of the log; left out, the client's.

        Returns:
            An incident of the kind `audit_gap` for each write that the log does not know.

        Raises:
            PermissionDeniedError: The token does not allow it.
            NotFoundError: The server has no audit log to read, as one of 0.5.
            LLMConfigError: Whatever else went wrong.
        """
        core = self._core
        comparison = core.ledger.compare()
        while not comparison.is_over:
            page = await self._run(core.plan_audit(comparison, timeout))
            comparison.take(page)
        return core.close_audit(comparison)

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        timeout: float | None = None,
    ) -> Any:
        """Make a call that has no method of its own, with the same errors, retries and headers.

        Args:
            method: The HTTP method.
            path: From the root of the base URL (`/api/v1/audit/events`), percent-encoded.
            params: The query's parameters.
            json: The body.
            timeout: Seconds for the whole call; left out, the client's.

        Returns:
            The decoded JSON, or `None` for an empty success.

        Raises:
            LLMConfigError: Whatever went wrong.
        """
        return await self._run(self._core.plan_request(method, path, params, json, timeout))

    # --- Running ---

    async def _run(self, plan: Plan[T]) -> T:
        core = self._core
        core.observe(plan)
        try:
            answer: Answer[Any] = await plan.pipeline.answer_async(self._attempt, plan.call, plan.timeout)
        except Exception as error:  # noqa: BLE001  # whatever it is, it leaves as one of ours
            return core.outcomes.settle(plan, error)
        except BaseException:
            core.abandon(plan.call)
            raise
        finally:
            core.outcomes.forget_written(plan.call)
        return core.outcomes.finish(plan, answer)

    async def _run_pages(self, plan: Plan[list[T]]) -> list[T]:
        pages = Pages(plan, self._core.clock)
        while pages.plan is not None:
            pages.take(await self._run(pages.plan))
        return pages.found

    async def _attempt(self, endpoint: Endpoint, call: Call[Any], timeout: float) -> Any:
        del timeout  # the whole call's; the pipeline keeps it
        core = self._core
        attempt = core.attempts.begin(endpoint, call)
        try:
            if core.credentials is None:
                reply = await self._transport.send(attempt.request, attempt.timeout)
            else:
                reply = await core.credentials.send_async(
                    self._transport, attempt.request, attempt.timeout, call.progress
                )
            return core.attempts.read(attempt, reply)
        except LLMConfigError as error:
            core.attempts.blame(error, attempt)
            raise
