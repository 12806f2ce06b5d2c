"""What the sync and the async client have in common: everything but waiting.

Here are a client's parts and its plans; requests and replies are in `attempts.py`, and what becomes of a call
in `outcomes.py`. Nothing here does I/O.
"""

from __future__ import annotations

import copy
import logging
import ssl
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pydantic import SecretStr

from llm_config_resilience import Gate, SystemClock
from llm_config_resilience.background import Background
from llm_config_sdk import errors, operations
from llm_config_sdk._version import __version__
from llm_config_sdk.arguments import check, check_clock, check_fallback, check_listeners, positive_seconds
from llm_config_sdk.attempts import Attempts
from llm_config_sdk.auditing import Ledger
from llm_config_sdk.cache import EntryCache, Fetched
from llm_config_sdk.contract import USER_ID_HEADER, Environment
from llm_config_sdk.credentials import AUTHORIZATION, Credentials, Token, credentials_for
from llm_config_sdk.observability.events import Incident, ObservedClient, Observer
from llm_config_sdk.observability.logs import LogListener
from llm_config_sdk.observability.observers import Observers
from llm_config_sdk.operations import Call, Operation, check_header, client_headers
from llm_config_sdk.outcomes import Outcomes
from llm_config_sdk.plans import UNSET, Countdown, Plan, Unset
from llm_config_sdk.policy import CachePolicy, ResiliencePolicy, Stack
from llm_config_sdk.resolving import EntryLookup, NamespaceLookup
from llm_config_sdk.settings import read_settings
from llm_config_sdk.shared import SharedCache
from llm_config_sdk.snapshot import SnapshotPolicy, SnapshotStore
from llm_config_sdk.status import ClientStatus
from llm_config_sdk.transport import Endpoint, ssl_context
from llm_config_sdk.watching import Tracker

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from llm_config_resilience import Clock, Listener
    from llm_config_sdk.auditing import Comparison
    from llm_config_sdk.contract import AuditRecord, Health
    from llm_config_sdk.entries import ConfigEntry
    from llm_config_sdk.status import EndpointStatus
    from llm_config_sdk.transport import ClientCertificate, TlsVersion, Verification

T = TypeVar("T")

log: Final = logging.getLogger("llm_config_sdk")

_MAX_WATCHERS: Final = 64  # callbacks that a client keeps informed; each has a thread or a task
DEFAULT_POLICY: Final = ResiliencePolicy()
DEFAULT_CACHE: Final = CachePolicy()


@dataclass(frozen=True, slots=True)
class Options:
    """A client's arguments, as given; what the environment adds is read once, when the client is made."""

    base_url: str | None
    token: Token | None
    environment: Environment | str | None
    user: str | None
    backups: Sequence[str]
    resilience: ResiliencePolicy | None
    cache: CachePolicy | str | None
    headers: Mapping[str, str] | None
    timeout: float | None
    fallback: Mapping[Any, Any] | None
    strict: bool | None
    snapshot: SnapshotPolicy | str | os.PathLike[str] | bool | None
    bootstrap: str | os.PathLike[str] | None
    verify: Verification
    cert: ClientCertificate | None
    minimum_tls: TlsVersion | None
    listeners: Sequence[Listener]
    clock: Clock | None


class Core:
    """One client's state and decisions.

    Args:
        options: The client's arguments.

    Raises:
        InvalidRequestError: One of them, or of the environment's settings, cannot be used.
    """

    def __init__(self, options: Options) -> None:
        check(
            backups=options.backups,
            resilience=options.resilience,
            cache=options.cache,
            headers=options.headers,
            snapshot=options.snapshot,
            bootstrap=options.bootstrap,
            cert=options.cert,
        )
        check_fallback(options.fallback)
        check_listeners(options.listeners)
        check_clock(options.clock)
        backups = options.backups
        self.credentials: Credentials | None = credentials_for(options.token)
        settings = read_settings(
            {
                "base_url": options.base_url,
                "token": options.token if self.credentials is None else None,
                "environment": options.environment,
                "user": options.user,
                "backups": (backups if isinstance(backups, str) else tuple(backups)) or None,
                "timeout": options.timeout,
                "strict": options.strict,
            }
        )
        if settings.base_url is None:
            raise errors.InvalidRequestError(
                "no server to talk to: pass base_url=… or set LLM_CONFIG_BASE_URL"
            )
        self._options, self._settings = options, settings
        self.strict: bool = settings.strict
        self.environment: Environment = settings.environment
        self.timeout: float = settings.timeout
        self.user: str | None = settings.user
        self.endpoints: tuple[Endpoint, ...] = tuple(
            Endpoint.parse(url) for url in (settings.base_url, *settings.backups)
        )
        self.clock: Clock = options.clock if options.clock is not None else SystemClock()
        self.listeners: tuple[Listener, ...] = _with_log(options.listeners)
        self.observers: Observers = Observers.of(self.listeners, self.clock)
        self.cache = _open_cache(options.cache, self.endpoints[0].url, self.clock)
        self.snapshot: SnapshotStore | None = _open_snapshot(
            options, self.endpoints[0].url, self.clock, self._lost
        )
        self.stack: Stack = Stack(
            options.resilience,
            self.endpoints,
            cache=self.cache,
            snapshot=self.snapshot,
            strict=self.strict,
            listeners=self.listeners,
            clock=self.clock,
        )
        self._attach()
        self.ledger: Ledger = Ledger()
        self.fallback: dict[Any, Any] = dict(options.fallback or {}) if not self.strict else {}
        self.secrets: set[tuple[str, str, str]] = set()
        self.headers: dict[str, str] = _common_headers(settings.token, settings.user, options.headers)
        if self.credentials is not None:
            self.headers.pop(AUTHORIZATION, None)
        self._parent: Core | None = None
        self._closed = False
        self.attempts: Attempts = Attempts(self)
        self.outcomes: Outcomes = Outcomes(self)
        self.closing: Gate = Gate(outlives_calls=True)
        self.watchers: Background = Background(max_threads=_MAX_WATCHERS, max_jobs=_MAX_WATCHERS)

    def with_options(
        self,
        *,
        timeout: float | None,
        environment: Environment | str | None,
        headers: Mapping[str, str] | None,
        resilience: ResiliencePolicy | Unset | None,
        cache: CachePolicy | Unset | None,
    ) -> Core:
        """Copy with other options; what is left alone is shared: breakers, endpoints' health, cache."""
        self.check_open()
        check(headers=headers)
        twin = copy.copy(self)
        twin._parent = self  # noqa: SLF001  # a copy of this very class
        twin.attempts, twin.outcomes = Attempts(twin), Outcomes(twin)
        twin.closing = Gate(outlives_calls=True)
        twin.closing.follow(self.closing)
        if timeout is not None:
            twin.timeout = self.timeout_for(timeout)
        if environment is not None:
            twin.environment = operations.parse_environment(environment, "with_options")
        if headers is not None:
            twin.headers = {**self.headers, **client_headers(headers)}
        if not isinstance(cache, Unset):
            check(cache=cache)
            # A URL alone is one of a Redis, too.
            if cache is not None and getattr(cache, "redis", cache) is not None:
                raise errors.InvalidRequestError("what is shared through Redis is for the constructor to say")
            twin.cache = EntryCache(cache, self.clock) if cache is not None else None
        if not isinstance(resilience, Unset):
            check(resilience=resilience)
            twin.stack = Stack(
                resilience,
                self.endpoints,
                cache=twin.cache,
                snapshot=self.snapshot,
                strict=self.strict,
                limits=self.stack.limits_for(resilience),
                listeners=self.listeners,
                clock=self.clock,
            )
            twin._attach()  # noqa: SLF001  # a copy of this very class
        elif twin.cache is not self.cache:
            twin.stack = self.stack.with_cache(twin.cache)
        return twin

    def verification(self) -> bool | ssl.SSLContext:
        """Say how servers are verified, for connections of the client's own.

        Raises:
            InvalidRequestError: A certificate cannot be read, or the options contradict each other.
        """
        options, settings = self._options, self._settings
        if isinstance(options.verify, ssl.SSLContext):  # which has everything, whatever the environment says
            return ssl_context(options.verify, options.cert, options.minimum_tls)
        return ssl_context(
            settings.ca_bundle if options.verify is True and settings.ca_bundle else options.verify,
            options.cert if options.cert is not None else settings.certificate,
            options.minimum_tls if options.minimum_tls is not None else settings.minimum_tls,
        )

    def __repr__(self) -> str:
        if "endpoints" not in vars(self):  # a crash reporter may ask one whose arguments were wrong
            return "not made"
        return f"{self.endpoints[0].url!r}, environment={self.environment.value!r}"

    def close(self) -> None:
        """Refuse further calls, and end background work that is no other client's."""
        was_closed, self._closed = self._closed, True
        cache, self.cache = self.cache, None
        if cache is not None and self._parent is None:
            cache.close()
        self.closing.open()
        if self._parent is None:
            self.watchers.close()
        if self._parent is None or self.stack is not self._parent.stack:
            self.stack.close()
        if self._parent is None and self.snapshot is not None:
            self.snapshot.close()
        if self._parent is None and not was_closed:
            self.observers.detach()

    @property
    def is_closed(self) -> bool:
        """Whether this client is closed, or the one that it was copied from."""
        return self._closed or (self._parent is not None and self._parent.is_closed)

    def check_open(self) -> None:
        """Refuse to work for a closed client.

        Raises:
            InvalidRequestError: It is closed.
        """
        if self.is_closed:
            raise errors.InvalidRequestError("this client is closed")

    # --- Plans: what each method of a client does ---

    def plan(
        self,
        operation: Operation[T],
        namespace: str,
        key: str | None,
        env: Environment | str | None,
        timeout: float | None,
        *,
        version: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Plan[T]:
        """Plan a call that has no body."""
        self.check_open()
        environment = self.env(env, operation)
        call = operations.prepare(operation, namespace, key, environment, version=version, headers=headers)
        return Plan(call, self.stack.pipeline_for(call), self.timeout_for(timeout))

    def cached(self, namespace: str, key: str, env: Environment | str | None) -> ConfigEntry | None:
        """Answer a read with an entry that is fresh: no I/O, no lock. `None` is for `plan_get` to judge."""
        cache = self.cache
        if cache is None:
            return None
        try:
            environment = self.environment if env is None else operations.ENVIRONMENTS.get(env)
            entry = cache.fresh((namespace, key, environment or ""))
        except TypeError:  # a name that cannot be hashed is no name
            return None
        if entry is not None and self.observers.wants_hits:
            self.observers.cached("get_config", entry)
        return entry

    def plan_get(
        self,
        namespace: str,
        key: str,
        env: Environment | str | None,
        timeout: float | None,
        *,
        default: object,
        fallback: object,
        fresh: bool,
    ) -> Plan[ConfigEntry]:
        """Plan a read."""
        self.check_open()
        environment = self.env(env, operations.GET_CONFIG)
        call = operations.prepare(operations.GET_CONFIG, namespace, key, environment)
        pipeline = self.stack.reads if fresh else self.stack.cached_reads
        return Plan(call, pipeline, self.timeout_for(timeout), default, fallback, fresh)

    def plan_set(
        self,
        namespace: str,
        key: str,
        value: object,
        env: Environment | str | None,
        timeout: float | None,
        *,
        user: str | None,
        secret: bool,
        expected_version: int | ConfigEntry | str | None,
        idempotency_key: str | None,
    ) -> Plan[ConfigEntry]:
        """Plan a write."""
        self.check_open()
        operation = operations.SET_CONFIG
        environment = self.env(env, operation)
        secret = secret or isinstance(value, SecretStr)
        # Names first: they are what a message about a bad value points at.
        call = operations.prepare(operation, namespace, key, environment)
        body = operations.encode_set_body(
            value, environment, user=user if user is not None else self.user, secret=secret
        )
        headers = {
            **operations.precondition(expected_version),
            **operations.call_headers(user=user, idempotency_key=idempotency_key),
        }
        if secret:
            # A server that does not mark secrets sends them back as any other string.
            self.secrets.add((namespace, key, environment.value))
        call = replace(call, target=call.target.partition("?")[0], body=body, headers=headers)
        return Plan(call, self.stack.pipeline_for(call), self.timeout_for(timeout))

    def plan_health(self, timeout: float | None) -> Plan[Health]:
        """Plan one honest question to the primary: no retry, no failover, no circuit breaker."""
        self.check_open()
        operation = operations.HEALTH_CHECK
        return Plan(Call(operation, operation.path), self.stack.plain, self.timeout_for(timeout))

    def plan_audit(self, comparison: Comparison, timeout: float | None) -> Plan[list[AuditRecord]]:
        """Plan to read a page of the primary's audit log: a backup's may lag behind."""
        self.check_open()
        call = Call(operations.READ_AUDIT, comparison.target)
        return Plan(call, self.stack.plain, self.timeout_for(timeout))

    def close_audit(self, comparison: Comparison) -> list[Incident]:
        """Tell observers of every gap that was found."""
        incidents = self.ledger.settle(comparison)
        for incident in incidents:
            self.observers.notice(incident)
        return incidents

    def plan_request(
        self, method: str, path: str, params: Mapping[str, Any] | None, json: object, timeout: float | None
    ) -> Plan[Any]:
        """Plan a call that has no method of its own."""
        self.check_open()
        call = operations.prepare_request(method, path, params, json)
        return Plan(call, self.stack.pipeline_for(call), self.timeout_for(timeout))

    def env(self, env: Environment | str | None, operation: Operation[Any]) -> Environment:
        """Read an environment as a call gave it; left out, the client's own."""
        return self.environment if env is None else operations.parse_environment(env, operation.name)

    def timeout_for(self, timeout: float | None) -> float:
        """Read a call's total timeout; left out, the client's own."""
        if timeout is None:
            return self.timeout
        return positive_seconds("timeout", timeout)

    def countdown(self, timeout: float | None) -> Countdown:
        """Start the time of a method that makes several calls."""
        return Countdown(self.clock, self.timeout_for(timeout))

    # --- Several entries at once ---

    def admit(self, namespace: str, entries: list[ConfigEntry], as_of: int) -> None:
        """Keep the entries of a list as if each had been read."""
        for entry in entries:
            if entry.is_redacted:
                continue
            key = (entry.namespace, entry.key, entry.environment.value)
            if self.cache is not None:
                self.cache.keep(key, Fetched(entry, as_of))
            if self.snapshot is not None:
                self.snapshot.note(key, entry)
        log.debug("%s: %d entries kept", namespace, len(entries))

    @property
    def writes_seen(self) -> int:
        """How many writes the cache has seen: what is fetched from now on says of which number it is."""
        return self.cache.writes if self.cache is not None else 0

    @property
    def is_shared(self) -> bool:
        """Whether other processes may know what this one does not."""
        return self.cache is not None and self.cache.shared is not None

    def plan_list(
        self,
        namespace: str,
        env: Environment | str | None,
        timeout: float | None,
        *,
        page_size: int | None = None,
    ) -> Plan[list[ConfigEntry]]:
        """Plan a list; it comes whole unless pages are asked for, or the server insists on them."""
        plan = self.plan(operations.LIST_CONFIGS, namespace, None, env, timeout)
        return plan if page_size is None else replace(plan, call=operations.paged(plan.call, page_size))

    def plan_part(
        self, namespace: str, key: str, environment: Environment, timeout: float
    ) -> Plan[ConfigEntry]:
        """Plan one of several reads for one answer: what is absent comes as a default."""
        plan = self.plan_get(namespace, key, environment, timeout, default=None, fallback=UNSET, fresh=False)
        return replace(plan, is_part=True, is_quiet=True)

    def lookup(
        self, namespace: str, key: str, env: Environment | str | None, timeout: float | None
    ) -> EntryLookup:
        """Begin to resolve an entry."""
        self.check_open()
        return EntryLookup(self, namespace, key, self.env(env, operations.GET_CONFIG), timeout)

    def gathering(
        self, namespace: str, env: Environment | str | None, timeout: float | None, *, resolve: bool
    ) -> NamespaceLookup:
        """Begin to read a namespace, with those that it overrides or without."""
        self.check_open()
        wanted = self.env(env, operations.LIST_CONFIGS)
        return NamespaceLookup(self, namespace, wanted.overrides if resolve else (wanted,), timeout)

    def resolved(self, namespace: str, key: str, env: Environment | str | None) -> ConfigEntry | None:
        """Answer with an entry that was resolved lately, and is fresh: no I/O."""
        if self.cache is None:
            return None
        wanted = self.env(env, operations.GET_CONFIG)
        try:
            has_it = self.cache.resolved((namespace, key, wanted.value))
        except TypeError:  # as in `cached`
            return None
        for environment in reversed(wanted.overrides if has_it is not None else ()):
            entry = self.cached(namespace, key, environment)
            if entry is not None or environment is has_it:
                return entry
        return None

    def remember_resolved(
        self, name: tuple[str, str], wanted: Environment, looked_in: Sequence[Environment], as_of: int
    ) -> None:
        """Remember for which environments a server was asked, the last of which has the entry."""
        if self.cache is not None:
            self.cache.remember_resolved((*name, wanted.value), looked_in, as_of)

    # --- How it is ---

    @property
    def endpoint_status(self) -> tuple[EndpointStatus, ...]:
        """Every server, the primary first."""
        return self.stack.endpoint_status()

    @property
    def status(self) -> ClientStatus:
        """The client, at this moment."""
        return ClientStatus(
            endpoints=self.endpoint_status,
            cached_entries=len(self.cache) if self.cache is not None else None,
            snapshot_entries=len(self.snapshot) if self.snapshot is not None else None,
            retry_budget=self.stack.budget_left(),
            is_closed=self.is_closed,
        )

    # --- Watching ---

    def plan_poll(self, tracker: Tracker, environment: Environment) -> Plan[Any]:
        """Plan one look of a watcher's, by the tag of the last one."""
        namespace, key = tracker.namespace, tracker.key
        plan: Plan[Any] = (
            self.plan_list(namespace, environment, None)
            if key is None
            else self.plan_get(namespace, key, environment, None, default=None, fallback=UNSET, fresh=True)
        )
        return replace(plan, call=replace(plan.call, held=tracker.held), is_quiet=True)

    def tracker(
        self,
        namespace: str,
        key: str | None,
        env: Environment | str | None,
        interval: float,
        *,
        initial: bool,
    ) -> tuple[Tracker, Environment]:
        """Begin to watch."""
        self.check_open()
        environment = self.env(env, operations.LIST_CONFIGS)
        operation: Operation[Any] = operations.LIST_CONFIGS if key is None else operations.GET_CONFIG
        # Bad names are refused now, not at the first poll.
        operations.prepare(operation, namespace, key, environment)
        return Tracker(namespace, key, interval, initial=initial), environment

    def follow(self, job: Callable[[], object]) -> None:
        """Run a watcher in a thread of its own.

        Raises:
            InvalidRequestError: There are too many.
        """
        if not self.watchers.run(job):
            raise errors.InvalidRequestError(f"a client keeps at most {_MAX_WATCHERS} callbacks informed")

    def follow_async(self, job: Callable[[], Awaitable[object]]) -> None:
        """Run a watcher in a task of the running event loop; raises as `follow`."""
        if not self.watchers.spawn(job):
            raise errors.InvalidRequestError(f"a client keeps at most {_MAX_WATCHERS} callbacks informed")

    # --- Observing ---

    def observe(self, plan: Plan[Any]) -> None:
        """Let observers, if any of them follows calls, hear of one."""
        progress, observers = plan.call.progress, self.observers
        progress.began = observers.now()
        if observers.follows:
            progress.observation = observers.begin(plan.call, is_quiet=plan.is_quiet)

    def abandon(self, call: Call[Any]) -> None:
        """Tell observers that nobody waits for a call any more."""
        if call.progress.observation is not None:
            call.progress.observation.close()

    def _attach(self) -> None:
        """Tell observers whom they will hear of."""
        budget = self.stack.budget if self.stack.policy.retry is not None else None
        endpoints = tuple(endpoint.url for endpoint in self.endpoints)
        self.observers.attach(ObservedClient(endpoints=endpoints, budget=budget))

    def _lost(self, message: str) -> None:
        """Tell observers that what was kept on disk is lost."""
        self.observers.notice(Incident("corrupted_snapshot", message))


def _with_log(listeners: Sequence[Listener]) -> tuple[Listener, ...]:
    """Add what writes the log, unless one of the listeners does."""
    if any(isinstance(one, Observer) and one.writes_log for one in listeners):
        return tuple(listeners)
    return (*listeners, LogListener())


def _open_cache(given: CachePolicy | str | None, origin: str, clock: Clock) -> EntryCache | None:
    policy = CachePolicy(redis=given) if isinstance(given, str) else given
    if policy is None:
        return None
    cache = EntryCache(policy, clock)
    if policy.redis is not None:
        key = policy.encryption_key
        cache.shared = SharedCache(policy.redis, origin=origin, cache=cache, clock=clock, encryption_key=key)
    return cache


def _open_snapshot(
    options: Options, origin: str, clock: Clock, on_loss: Callable[[str], object]
) -> SnapshotStore | None:
    given = options.snapshot
    if isinstance(given, SnapshotPolicy):
        policy: SnapshotPolicy | None = given
    elif given is None or isinstance(given, bool):
        policy = SnapshotPolicy() if given else None
    else:
        policy = SnapshotPolicy(path=given)
    if policy is None and options.bootstrap is None:
        return None
    return SnapshotStore(policy, origin=origin, bootstrap=options.bootstrap, clock=clock, on_loss=on_loss)


def _common_headers(
    token: SecretStr | None, user: str | None, more: Mapping[str, str] | None
) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": f"llm-config-sdk/{__version__}"}
    headers |= client_headers(more or {})
    if user is not None:
        headers[USER_ID_HEADER] = check_header(USER_ID_HEADER, user)
    if token is not None:
        headers["Authorization"] = check_header("Authorization", f"Bearer {token.get_secret_value()}")
    return headers
