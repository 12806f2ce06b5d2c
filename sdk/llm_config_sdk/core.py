"""What the sync and the async client have in common: everything but waiting.

Settings, headers, validation, what goes out and how it comes in, defaults and fallbacks, and the translation
of the stack's errors. Nothing here does I/O.
"""

from __future__ import annotations

import copy
import enum
import json
import logging
import ssl
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

from pydantic import SecretStr

from llm_config_resilience import (
    AllTargetsFailedError,
    CircuitOpenError,
    DeadlineExceededError,
    Gate,
    RateLimitedError,
    ResilienceError,
    SystemClock,
    current,
)
from llm_config_resilience.background import Background
from llm_config_sdk import errors, operations
from llm_config_sdk._version import __version__
from llm_config_sdk.auditing import Ledger
from llm_config_sdk.cache import EntryCache, Fetched
from llm_config_sdk.contract import REQUEST_ID_HEADER, USER_ID_HEADER, Environment, Metadata, Module
from llm_config_sdk.credentials import AUTHORIZATION, Credentials, Token, credentials_for
from llm_config_sdk.decoding import decode_error, read_moment, read_validator, refuse_not_modified
from llm_config_sdk.entries import ConfigEntry, Provenance
from llm_config_sdk.hints import OWN_LIMIT
from llm_config_sdk.observability.events import CallEvent, Incident, ObservedCall, ObservedClient, Observer
from llm_config_sdk.observability.families import is_callers_mistake
from llm_config_sdk.observability.logs import LogListener
from llm_config_sdk.observability.observers import Observers
from llm_config_sdk.operations import Call, Held, Operation, check_header, client_headers
from llm_config_sdk.paging import read_next
from llm_config_sdk.policy import CachePolicy, ResiliencePolicy, Stack, is_outage, was_never_sent
from llm_config_sdk.redaction import secrets_in, without_secrets
from llm_config_sdk.resolving import EntryLookup, NamespaceLookup
from llm_config_sdk.settings import read_settings
from llm_config_sdk.shared import SharedCache
from llm_config_sdk.snapshot import SnapshotPolicy, SnapshotStore
from llm_config_sdk.status import ClientStatus
from llm_config_sdk.transport import Endpoint, WireRequest, ssl_context
from llm_config_sdk.watching import Tracker

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from llm_config_resilience import Answer, Clock, Listener, Pipeline
    from llm_config_sdk.auditing import Comparison
    from llm_config_sdk.cache import Key
    from llm_config_sdk.contract import AuditRecord, Health, Source
    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.observability.events import Outcome, Sending
    from llm_config_sdk.observability.observers import Observation
    from llm_config_sdk.status import EndpointStatus
    from llm_config_sdk.transport import ClientCertificate, TlsVersion, Verification

T = TypeVar("T")

log: Final = logging.getLogger("llm_config_sdk")


class Unset(enum.Enum):
    """Tells "not given" from `None`."""

    UNSET = "not given"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET

_LEAST_TIMEOUT: Final = 0.001  # seconds; to a socket, 0 means not to wait rather than to have no time
_FOREVER: Final = 1e9  # seconds: no socket and no lock can be told to wait for ten times as long
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
    snapshot: SnapshotPolicy | str | os.PathLike[str] | bool
    bootstrap: str | os.PathLike[str] | None
    verify: Verification
    cert: ClientCertificate | None
    minimum_tls: TlsVersion | None
    listeners: Sequence[Listener]
    clock: Clock | None


@dataclass(slots=True)
class Plan(Generic[T]):
    """One call of a client's method, ready to run.

    Attributes:
        call: What is sent.
        pipeline: What it goes through.
        timeout: Seconds in all.
        default: What answers for an absent entry.
        fallback: What answers in an outage.
        fresh: Whether the answer has to come from a server.
        is_quiet: Whether somebody else tells of a failure, so that the log need not.
        is_part: Whether it is one of several for one answer, which alone has the client's fallback.
    """

    call: Call[T]
    pipeline: Pipeline
    timeout: float
    default: object = UNSET
    fallback: object = UNSET
    fresh: bool = False
    is_quiet: bool = False
    is_part: bool = False


@dataclass(slots=True)
class Attempt(Generic[T]):
    """One request of a call.

    Attributes:
        call: The call.
        endpoint: Who is asked.
        request: What is sent.
        timeout: Seconds that it may take; `None` for as long as it takes.
        as_of: How many writes the cache had seen when it was sent.
        sending: What observers were told of it; `None` where nobody listens.
        held: What the server may answer is still the newest, where it was asked so.
    """

    call: Call[T]
    endpoint: Endpoint
    request: WireRequest
    timeout: float | None
    as_of: int
    sending: Sending | None = None
    held: Held | None = None


class Core:
    """One client's state and decisions.

    Args:
        options: The client's arguments.

    Raises:
        InvalidRequestError: One of them, or of the environment's settings, cannot be used.
    """

    def __init__(self, options: Options) -> None:
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
        self.environment: Environment = settings.environment
        self.timeout: float = settings.timeout
        self.user: str | None = settings.user
        self.endpoints: tuple[Endpoint, ...] = tuple(
            Endpoint.parse(url) for url in (settings.base_url, *settings.backups)
        )
        self.clock: Clock = options.clock if options.clock is not None else SystemClock()
        self._listeners = _with_log(options.listeners)
        self.observers: Observers = Observers.of(self._listeners, self.clock)
        self.cache = _open_cache(options.cache, self.endpoints[0].url, self.clock)
        self.snapshot: SnapshotStore | None = _open_snapshot(
            options, self.endpoints[0].url, self.clock, self._lost
        )
        self.stack: Stack = Stack(
            options.resilience,
            self.endpoints,
            cache=self.cache,
            snapshot=self.snapshot,
            strict=settings.strict,
            listeners=self._listeners,
            clock=self.clock,
        )
        self._attach()
        self.ledger: Ledger = Ledger()
        self._fallback = dict(options.fallback or {}) if not settings.strict else {}
        self._secrets: set[tuple[str, str, str]] = set()
        self._headers = _common_headers(settings.token, settings.user, options.headers)
        if self.credentials is not None:
            self._headers.pop(AUTHORIZATION, None)
        self._parent: Core | None = None
        self._closed = False
        self._on_snapshot = False  # whether the last answer was a snapshot's: told once, not at every read
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
        twin = copy.copy(self)
        twin._parent = self  # noqa: SLF001  # a copy of this very class
        twin.closing = Gate(outlives_calls=True)
        self.closing.watch(twin.closing.open)
        if timeout is not None:
            twin.timeout = self.timeout_for(timeout)
        if environment is not None:
            twin.environment = operations.parse_environment(environment, "with_options")
        if headers is not None:
            twin._headers = {**self._headers, **client_headers(headers)}  # noqa: SLF001  # as above
        if not isinstance(cache, Unset):
            if cache is not None and cache.redis is not None:
                raise errors.InvalidRequestError("what is shared through Redis is for the constructor to say")
            twin.cache = EntryCache(cache, self.clock) if cache is not None else None
        if not isinstance(resilience, Unset):
            twin.stack = Stack(
                resilience,
                self.endpoints,
                cache=twin.cache,
                snapshot=self.snapshot,
                strict=self._settings.strict,
                limits=self.stack.limits_for(resilience),
                listeners=self._listeners,
                clock=self.clock,
            )
            twin._attach()  # noqa: SLF001  # as above
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
            self._secrets.add((namespace, key, environment.value))
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
        if not timeout > 0:  # NaN is not
            raise errors.InvalidRequestError(f"timeout must be more than 0 seconds, not {timeout!r}")
        return timeout

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

    def recall(self, key: Key, error: errors.LLMConfigError) -> ConfigEntry | None:
        """Say what is known of an entry in an outage: from the cache, else from the snapshot; no I/O."""
        if self._settings.strict:
            return None
        cache, snapshot = self.cache, self.snapshot
        if cache is not None and (kept := cache.get(key)) is not None:
            usable = cache.policy.ttl + cache.policy.stale_if_error
            if self.clock.monotonic() - kept.stored_at < usable:
                return _recalled(kept.value, "stale", error)
        kept = snapshot.get(key) if snapshot is not None else None
        if kept is None or snapshot is None or self.clock.time() - kept.stored_at >= snapshot.max_age:
            return None
        return _recalled(kept.value, "snapshot", error)

    def known(
        self, error: errors.LLMConfigError, namespace: str, environment: Environment
    ) -> list[ConfigEntry]:
        """Recall a namespace's entries in an outage."""
        everything = [
            *(self.snapshot.entries() if self.snapshot is not None else ()),
            *(self.cache.entries() if self.cache is not None else ()),
        ]
        keys = {
            entry.key
            for entry in everything
            if (entry.namespace, entry.environment) == (namespace, environment)
        }
        recalled = (self.recall((namespace, key, environment.value), error) for key in sorted(keys))
        return [entry for entry in recalled if entry is not None]

    def fallbacks(
        self, error: errors.LLMConfigError, namespace: str, environment: Environment
    ) -> list[ConfigEntry]:
        """Say what the client's own `fallback` has of a namespace."""
        names = sorted(key for known, key in self._fallback if known == namespace)
        prepared = (operations.prepare(operations.GET_CONFIG, namespace, key, environment) for key in names)
        return [
            self._made_up(call, copy.deepcopy(self._fallback[namespace, call.key]), error)
            for call in prepared
        ]

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

    def _observation(self, plan: Plan[Any]) -> Observation:
        """Find who hears how a call ends that did not end well."""
        followed = plan.call.progress.observation
        return followed or self.observers.look_back(plan.call, is_quiet=plan.is_quiet)

    def _attach(self) -> None:
        """Tell observers whom they will hear of."""
        budget = self.stack.budget if self.stack.policy.retry is not None else None
        endpoints = tuple(endpoint.url for endpoint in self.endpoints)
        self.observers.attach(ObservedClient(endpoints=endpoints, budget=budget))

    def _lost(self, message: str) -> None:
        """Tell observers that what was kept on disk is lost."""
        self.observers.notice(Incident("corrupted_snapshot", message))

    # --- Attempts ---

    def begin(self, endpoint: Endpoint, call: Call[T]) -> Attempt[T]:
        """Write one request."""
        call.progress.attempts += 1
        headers = {**self._headers, REQUEST_ID_HEADER: call.request_id, **call.headers}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        held = self._held(call, endpoint)
        if held is not None:
            headers[operations.IF_NONE_MATCH_HEADER] = held.validator
        request = WireRequest(call.operation.method, endpoint, call.target, headers, call.body)
        sending = None
        if call.progress.observation is not None:
            sending = call.progress.observation.sending(endpoint, request.url)
            headers |= sending.headers
        context, limit = current(), self.stack.policy.attempt_timeout
        left = max(context.remaining(), _LEAST_TIMEOUT) if context is not None else inf
        allowed = left if limit is None else min(left, limit)
        as_of = self.cache.writes if self.cache is not None else 0
        return Attempt(call, endpoint, request, allowed if allowed < _FOREVER else None, as_of, sending, held)

    def _held(self, call: Call[Any], endpoint: Endpoint) -> Held | None:
        """Find what the caller, or the cache, has from this very server with an entity tag."""
        held, cache, key = call.held, self.cache, call.entry_key
        if held is None and cache is not None and key is not None and call.operation is operations.GET_CONFIG:
            kept = cache.get(key)
            mark = kept.value.provenance if kept is not None else None
            if kept is not None and mark is not None and mark.validator is not None:
                held = Held(kept.value, mark.endpoint, mark.validator)
        return held if held is not None and held.endpoint == endpoint.url else None

    def read(self, attempt: Attempt[T], reply: Reply) -> Any:
        """Read a reply: a value, an entry for the cache, or the error that the reply means.

        Raises:
            LLMConfigError: What the server, or something in its place, answered.
        """
        call, held = attempt.call, attempt.held
        is_unmodified = reply.status == HTTPStatus.NOT_MODIFIED and held is not None
        if reply.is_success or is_unmodified:
            read: Any = held.value if held is not None and is_unmodified else self._value_in(reply, attempt)
            value = self._judge(read, attempt, reply)
            if not call.operation.is_read:
                call.progress.acknowledged = read_moment(reply)
            if call.progress.observation is not None and attempt.sending is not None:
                call.progress.observation.answered(attempt.sending, reply.status)
            return value
        reply = self._without_secrets(reply, attempt)
        if reply.status == HTTPStatus.NOT_MODIFIED:
            raise refuse_not_modified(reply)
        error = decode_error(reply, now=datetime.now(UTC))
        if call.operation is operations.DELETE_CONFIG and call.progress.may_have_arrived and is_absent(error):
            return None  # an earlier attempt took effect, and its reply was lost
        raise error

    def _value_in(self, reply: Reply, attempt: Attempt[T]) -> T:
        try:
            return attempt.call.operation.read(reply)
        except errors.ResponseDecodeError:
            cleaned = self._without_secrets(reply, attempt)
            if cleaned is reply:
                raise
        # Out here, so that nothing of the first error goes along; what was put out of sight is never a value.
        attempt.call.operation.read(cleaned)
        raise errors.ResponseDecodeError("the reply cannot be read, and says back what it was sent")

    def _without_secrets(self, reply: Reply, attempt: Attempt[Any]) -> Reply:
        sent = {**attempt.request.headers, **attempt.call.progress.authorization}
        return without_secrets(reply, secrets_in(sent, attempt.call.body))

    def blame(self, error: errors.LLMConfigError, attempt: Attempt[Any]) -> None:
        """Tell an attempt's error what it happened to."""
        call = attempt.call
        error.endpoint = error.endpoint or attempt.endpoint.url
        error.attempts = call.progress.attempts
        if error.is_transient and not was_never_sent(error):
            call.progress.may_have_arrived = True
        call.locate(error)
        if call.progress.observation is not None and attempt.sending is not None:
            call.progress.observation.answered(attempt.sending, error.status, error)

    def _judge(self, value: Any, attempt: Attempt[Any], reply: Reply) -> Any:
        call, held = attempt.call, attempt.held
        validator = read_validator(reply)
        is_held = held is not None and value is held.value
        if validator is None and held is not None and is_held:
            validator = held.validator
        if call.operation is operations.GET_CONFIG:
            _check_asked_for(value, call)
            value = self._mark(value, attempt, validator, is_held=is_held)
            self._hold(value, attempt, validator)
            return Fetched(value, attempt.as_of)
        if call.operation is operations.LIST_CONFIGS or call.operation is operations.GET_HISTORY:
            call.progress.following = read_next(reply.headers.get("link"))
        if call.operation is operations.LIST_CONFIGS:
            # The 0.5 server matches namespaces by prefix, and no server promises an order.
            mine = (entry for entry in value if entry.namespace == call.namespace)
            own = [self._mark(entry, attempt, is_held=is_held) for entry in mine]
            own.sort(key=lambda entry: entry.key)
            self._hold(own, attempt, validator)
            return own
        if isinstance(value, ConfigEntry):
            _warn_of_ignored_precondition(value, call, reply)
            if call.operation is operations.SET_CONFIG:
                value = self._written(value, call)
            return self._mark(value, attempt)
        return value

    def _hold(self, value: Any, attempt: Attempt[Any], validator: str | None) -> None:
        """Note what may be asked for again by its tag; a page's tag says nothing of the pages after it."""
        progress = attempt.call.progress
        if validator is not None and progress.following is None:
            progress.held = Held(value, attempt.endpoint.url, validator)

    def _written(self, entry: ConfigEntry, call: Call[Any]) -> ConfigEntry:
        """Put what was written in the place of a placeholder; from now on it is a secret, or no longer."""
        body = json.loads(call.body or b"{}")
        if not body.get("secret"):
            if not entry.secret and call.entry_key is not None:
                self._secrets.discard(call.entry_key)
            return entry
        if entry.is_redacted:
            return entry.model_copy(update={"stored_value": SecretStr(body["value"]), "secret": True})
        return entry.as_secret()

    def _mark(
        self,
        entry: ConfigEntry,
        attempt: Attempt[Any],
        validator: str | None = None,
        *,
        is_held: bool = False,
    ) -> ConfigEntry:
        """Note where an entry came from, and that it is a secret where the server does not say so."""
        if self._secrets and (entry.namespace, entry.key, entry.environment.value) in self._secrets:
            entry = entry.as_secret()
        mark = Provenance(
            endpoint=attempt.endpoint.url,
            fetched_at=self.clock.time(),
            attempts=attempt.call.progress.attempts,
            now=self.clock.time,
            validator=validator,
        )
        # What was held is in other hands already; what was just read is in nobody's.
        return entry.with_provenance(mark) if is_held else entry.mark(mark)

    # --- Outcomes ---

    def finish(self, plan: Plan[T], answer: Answer[Any]) -> T:
        """Make the stack's answer the client's, with its provenance."""
        value, call, cache = answer.value, plan.call, self.cache
        observation = call.progress.observation
        if answer.source == "stale":
            if answer.error is not None:
                observation = self._observation(plan)
            value = self._stale(value.entry if isinstance(value, Fetched) else value, call, answer)
        elif isinstance(value, Fetched):
            if plan.fresh and cache is not None and call.entry_key is not None:
                cache.keep(call.entry_key, value)
            value = value.entry
            self._on_snapshot = False
        elif isinstance(value, ConfigEntry) and not call.operation.is_read:
            self._remember(call, value)
        elif call.operation is operations.DELETE_CONFIG:
            self._forget_absent(call)
        if not call.operation.is_read and call.namespace is not None:  # a free request has none
            self.ledger.note(call)
        if observation is not None:
            observation.succeeded(value, endpoint=getattr(answer.target, "url", None))
        return cast("T", value)

    def _stale(self, entry: ConfigEntry, call: Call[Any], answer: Answer[Any]) -> ConfigEntry:
        cause = self.translate(answer.error, call) if answer.error is not None else None
        if cause is not None and cause is not answer.error:
            cause.__cause__ = answer.error
        source: Source = "snapshot" if answer.answered_by == "snapshot" else "stale"
        if source == "snapshot" and cause is None and not self._on_snapshot:
            self._on_snapshot = True
            log.warning("serving values of an earlier run: no server has answered yet")
        mark = replace(entry.provenance, source=source, error=cause, attempts=answer.calls)
        return entry.with_provenance(mark)

    def _remember(self, call: Call[Any], entry: ConfigEntry) -> None:
        """Keep what a write left behind as the last value known."""
        if self.snapshot is not None and call.entry_key is not None:
            self.snapshot.note(call.entry_key, entry)

    def _forget_absent(self, call: Call[Any]) -> None:
        """Forget what a server says is not there, so that no outage brings it back."""
        if call.entry_key is None:
            return
        if self.cache is not None:
            self.cache.note_absent(call.entry_key)
            if self.cache.shared is not None and call.operation.is_read:
                self.cache.shared.delete_later(call.entry_key)
        if self.snapshot is not None:
            self.snapshot.delete(call.entry_key)

    def settle(self, plan: Plan[T], error: Exception) -> T:
        """Answer in an error's place, where something may stand in; else raise it as one of the SDK's.

        Raises:
            LLMConfigError: What went wrong; an error of the stack's is its cause.
        """
        found = self.translate(error, plan.call)
        if is_absent(found) and plan.call.operation in {operations.GET_CONFIG, operations.DELETE_CONFIG}:
            self._forget_absent(plan.call)
        stand_in = self._stand_in(plan, found)
        if stand_in is not None:
            self._observation(plan).succeeded(stand_in)
            return stand_in
        self._observation(plan).failed(found)
        if found is error:
            raise found
        raise found from error

    def forget_written(self, call: Call[Any]) -> None:
        """Forget what a write has made old, whether or not its outcome is known."""
        if self.cache is not None and not call.operation.is_read and call.entry_key is not None:
            self.cache.delete(call.entry_key)

    def stand_in(
        self, namespace: str, key: str, environment: Environment, error: errors.LLMConfigError
    ) -> ConfigEntry:
        """Answer with the client's own fallback for an entry that could not be resolved.

        Raises:
            LLMConfigError: The error itself, where there is none.
        """
        if (namespace, key) not in self._fallback:
            raise self.reported(error)
        call = operations.prepare(operations.GET_CONFIG, namespace, key, environment)
        self.reported(error, source="default")
        return self._made_up(call, copy.deepcopy(self._fallback[namespace, key]), error)

    def unresolved(self, error: errors.LLMConfigError | None, wanted: Environment) -> errors.LLMConfigError:
        """Say that no environment has an entry, in the words of the most specific one."""
        looked_in = ", ".join(environment.value for environment in reversed(wanted.overrides))
        found = error if error is not None else errors.NotFoundError("no environment to look in")
        return found.add_context(f"looked in {looked_in}")

    # --- Errors ---

    def translate(self, error: Exception, call: Call[Any]) -> errors.LLMConfigError:
        """Make an error of the stack one of the SDK's; it is to be raised `from` the original."""
        if isinstance(error, errors.LLMConfigError):
            return error
        found = self._translation(error, call)
        call.locate(found)
        return found

    def _translation(self, error: Exception, call: Call[Any]) -> errors.LLMConfigError:
        if isinstance(error, CircuitOpenError):
            return errors.ServiceCircuitOpenError(
                f"not asked: {error}",
                retry_after=error.retry_after,
                endpoint=error.name or None,
                attempts=call.progress.attempts or None,
            )
        if isinstance(error, RateLimitedError):
            is_own = any(error.name == each.url for each in self.endpoints)
            why = "to keep to the client's own limit" if is_own else "for the server asked to be left alone"
            return errors.RateLimitExceededError(
                f"not sent, {why}: {error}",
                details=OWN_LIMIT if is_own else None,
                retry_after=error.retry_after,
                endpoint=error.name if is_own else None,
                attempts=call.progress.attempts or None,
            )
        if isinstance(error, DeadlineExceededError):
            return errors.RequestTimeoutError(
                f"the call's time is over: {error}", attempts=call.progress.attempts or None
            )
        if isinstance(error, AllTargetsFailedError):
            each = [self.translate(part, call) for part in error.exceptions]
            told = "; ".join(f"{part.endpoint}: {part.message}" for part in each)
            return errors.AllEndpointsFailedError(
                f"all {len(each)} endpoints failed: {told}",
                errors=each,
                attempts=max((part.attempts or 0 for part in each), default=0),
                retry_after=error.retry_after,
            )
        if isinstance(error, ResilienceError):
            return errors.TransportError(f"not sent: {error}", never_sent=True)
        return errors.TransportError(f"failed in an unforeseen way: {type(error).__name__}: {error}")

    def reported(
        self, error: errors.LLMConfigError, *, source: Source | Literal[""] = ""
    ) -> errors.LLMConfigError:
        """Have the log tell of an error that several quiet calls lead to, and of what stands in."""
        outcome: Outcome = "degraded" if source else "refused" if is_callers_mistake(error) else "failed"
        call = ObservedCall(
            error.operation or operations.GET_CONFIG.name,
            namespace=error.namespace,
            key=error.key,
            environment=error.environment,
            request_id=error.request_id or "",
        )
        now = self.clock.monotonic()
        event = CallEvent(call, outcome, now, source=source, endpoint=error.endpoint, error=error)
        for listener in self._listeners:
            if isinstance(listener, Observer) and listener.writes_log:
                listener.ended(event)
        return error

    # --- Standing in ---

    def _stand_in(self, plan: Plan[T], error: errors.LLMConfigError) -> T | None:
        """Find what may answer in an error's place: a default if absent, a fallback in an outage."""
        call = plan.call
        if call.operation is not operations.GET_CONFIG:
            return None
        if is_absent(error):
            value = plan.default
        elif is_outage(error):
            value = plan.fallback
            if value is UNSET and not plan.fresh and not plan.is_part:
                value = copy.deepcopy(self._fallback.get((call.namespace, call.key), UNSET))
        else:
            return None
        if value is UNSET:
            return None
        return cast("T", self._made_up(call, value, error))

    def _made_up(self, call: Call[Any], value: object, error: errors.LLMConfigError) -> ConfigEntry:
        now = datetime.now(UTC)
        entry = ConfigEntry.model_construct(
            stored_value=value,
            id="",
            namespace=call.namespace,
            key=call.key,
            environment=call.environment,
            version=0,
            metadata=Metadata(created_at=now, created_by="default", updated_at=now, updated_by="default"),
            secret=isinstance(value, SecretStr),
        )
        return entry.with_provenance(Provenance(source="default", error=error, attempts=error.attempts or 0))


def _recalled(entry: ConfigEntry, source: Source, error: errors.LLMConfigError) -> ConfigEntry:
    return entry.with_provenance(replace(entry.provenance, source=source, error=error, attempts=0))


def is_absent(error: errors.LLMConfigError) -> bool:
    """Whether the platform says that there is no such entry; never of a missing route, version or user."""
    return type(error).taxonomy_code == "NOT_FOUND" and error.is_not_found and error.module is Module.CONFIG


class Countdown:
    """What is left of the time that several calls have together.

    Args:
        clock: Time.
        seconds: How much they have.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self._seconds = seconds
        self._end = clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            RequestTimeoutError: There are none.
        """
        left = self._end - self.clock.monotonic()
        if left <= 0:
            raise errors.RequestTimeoutError(f"no answer within {self._seconds:g} s")
        return left


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
    elif isinstance(given, bool):
        policy = SnapshotPolicy() if given else None
    else:
        policy = SnapshotPolicy(path=given)
    if policy is None and options.bootstrap is None:
        return None
    return SnapshotStore(policy, origin=origin, bootstrap=options.bootstrap, clock=clock, on_loss=on_loss)


def _check_asked_for(entry: ConfigEntry, call: Call[Any]) -> None:
    """Refuse an entry that a caller must not get for what it asked for.

    Raises:
        ResponseDecodeError: It is another entry: something between here and there rewrote the path.
        DecryptionError: It has ciphertext or a placeholder in place of the secret.
    """
    found = entry.namespace, entry.key, entry.environment
    if found != call.entry_key:
        raise errors.ResponseDecodeError(f"the server answered with another entry: {' '.join(found)}")
    if entry.is_redacted:
        raise errors.DecryptionError(
            "the server sent ciphertext or a placeholder in place of the secret", module=Module.CONFIG
        )


def _warn_of_ignored_precondition(entry: ConfigEntry, call: Call[Any], reply: Reply) -> None:
    """Say that `expected_version` had no effect, where that can be told: the 0.5 server ignores it."""
    expected = call.expected_version
    if expected is not None and "etag" not in reply.headers and entry.version != expected + 1:
        log.warning(
            "%s: the server ignored expected_version=%d and wrote version %d: a change may have been lost",
            call.location,
            expected,
            entry.version,
            extra={"operation": call.operation.name, "request_id": call.request_id},
        )


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
