"""What the sync and the async client have in common: everything but waiting.

Settings, headers, validation, what goes out and how it comes in, defaults and fallbacks, and the translation
of the stack's errors. Nothing here does I/O.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from pydantic import SecretStr

from llm_config_resilience import (
    AllTargetsFailedError,
    CircuitOpenError,
    DeadlineExceededError,
    SystemClock,
    current,
)
from llm_config_sdk import errors, operations
from llm_config_sdk._version import __version__
from llm_config_sdk.cache import EntryCache
from llm_config_sdk.contract import REQUEST_ID_HEADER, USER_ID_HEADER, Environment, Metadata, Module
from llm_config_sdk.decoding import decode_error
from llm_config_sdk.entries import ConfigEntry, Provenance, is_redacted
from llm_config_sdk.operations import Call, Operation, check_header
from llm_config_sdk.policy import CachePolicy, ResiliencePolicy, Stack, is_outage
from llm_config_sdk.settings import read_settings
from llm_config_sdk.transport import Endpoint, WireRequest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm_config_resilience import Answer, Clock, Listener, Pipeline
    from llm_config_sdk.contract import Health
    from llm_config_sdk.decoding import Reply

T = TypeVar("T")

log: Final = logging.getLogger("llm_config_sdk")


class Unset(enum.Enum):
    """Tells "not given" from `None`."""

    UNSET = "not given"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET

Token = str | SecretStr
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
    cache: CachePolicy | None
    headers: Mapping[str, str] | None
    timeout: float | None
    fallback: Mapping[Any, Any] | None
    listeners: Sequence[Listener]
    clock: Clock | None


@dataclass(frozen=True, slots=True)
class Plan(Generic[T]):
    """One call of a client's method, ready to run.

    Attributes:
        call: What is sent.
        pipeline: What it goes through.
        timeout: Seconds in all.
        default: What answers for an absent entry.
        fallback: What answers in an outage.
        fresh: Whether the answer has to come from a server.
    """

    call: Call[T]
    pipeline: Pipeline
    timeout: float
    default: object = UNSET
    fallback: object = UNSET
    fresh: bool = False


class Core:
    """One client's state and decisions.

    Args:
        options: The client's arguments.
    """

    def __init__(self, options: Options) -> None:
        settings = read_settings(
            {
                "base_url": options.base_url,
                "token": options.token,
                "environment": options.environment,
                "user": options.user,
                "backups": tuple(options.backups) or None,
                "timeout": options.timeout,
            }
        )
        if settings.base_url is None:
            raise errors.InvalidRequestError(
                "no server to talk to: pass base_url=… or set LLM_CONFIG_BASE_URL"
            )
        self.options = options
        self.environment = settings.environment
        self.timeout = settings.timeout
        self.user = settings.user
        self.endpoints = tuple(Endpoint.parse(url) for url in (settings.base_url, *settings.backups))
        self.clock: Clock = options.clock if options.clock is not None else SystemClock()
        self.cache = EntryCache(options.cache, self.clock) if options.cache is not None else None
        self.stack = Stack(
            options.resilience,
            self.endpoints,
            cache=(self.cache, self.cache.policy) if self.cache is not None else None,
            listeners=options.listeners,
            clock=self.clock,
        )
        self._fallback = dict(options.fallback or {})
        self._written_secrets: set[tuple[str, str, Environment]] = set()
        self._headers = _common_headers(settings.token, settings.user, options.headers)

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
        changes: dict[str, Any] = {}
        if timeout is not None:
            changes["timeout"] = timeout
        if environment is not None:
            changes["environment"] = environment
        if headers is not None:
            changes["headers"] = {**(self.options.headers or {}), **headers}
        if resilience is not UNSET:
            changes["resilience"] = resilience
        if cache is not UNSET:
            changes["cache"] = cache
        twin = Core(replace(self.options, **changes))
        if cache is UNSET and resilience is UNSET:
            twin.cache, twin.stack = self.cache, self.stack
        twin._written_secrets = self._written_secrets
        return twin

    def __repr__(self) -> str:
        return f"{self.endpoints[0].url!r}, environment={self.environment.value!r}"

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
        environment = self.env(env, operation)
        call = operations.prepare(operation, namespace, key, environment, version=version, headers=headers)
        return Plan(call, self.stack.pipeline_for(call), self.timeout_for(timeout))

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
    ) -> Plan[ConfigEntry] | ConfigEntry:
        """Plan a read, or answer it at once with an entry that is fresh: no I/O, no lock."""
        environment = self.env(env, operations.GET_CONFIG)
        if self.cache is not None and not fresh:
            cached = self.cache.fresh(namespace, key, environment)
            if cached is not None:
                return cached
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
            self._written_secrets.add((namespace, key, environment))
        call = replace(call, target=call.target.partition("?")[0], body=body, headers=headers)
        return Plan(call, self.stack.pipeline_for(call), self.timeout_for(timeout))

    def plan_health(self, timeout: float | None) -> Plan[Health]:
        """Plan one honest question to the primary: no retry, no failover, no circuit breaker."""
        operation = operations.HEALTH_CHECK
        return Plan(Call(operation, operation.path), self.stack.plain, self.timeout_for(timeout))

    def plan_request(
        self, method: str, path: str, params: Mapping[str, Any] | None, json: object, timeout: float | None
    ) -> Plan[Any]:
        """Plan a call that has no method of its own."""
        call = operations.prepare_request(method, path, params, json)
        return Plan(call, self.stack.pipeline_for(call), self.timeout_for(timeout))

    def env(self, env: Environment | str | None, operation: Operation[Any]) -> Environment:
        """Read an environment as a call gave it; left out, the client's own."""
        return self.environment if env is None else operations.parse_environment(env, operation.name)

    def timeout_for(self, timeout: float | None) -> float:
        """Read a call's total timeout; left out, the client's own."""
        if timeout is None:
            return self.timeout
        if timeout <= 0:
            raise errors.InvalidRequestError(f"timeout must be more than 0 seconds, not {timeout!r}")
        return timeout

    def outgoing(self, endpoint: Endpoint, call: Call[Any]) -> tuple[WireRequest, float | None]:
        """Write one attempt, and say how many seconds it may take."""
        headers = {**self._headers, REQUEST_ID_HEADER: call.request_id, **call.headers}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        context = current()
        left = context.remaining() if context is not None else self.timeout
        limit = self.stack.policy.attempt_timeout
        allowed = left if limit is None else min(left, limit)
        return WireRequest(call.operation.method, endpoint, call.target, headers, call.body), allowed

    # --- Coming in ---

    def incoming(self, endpoint: Endpoint, call: Call[T], reply: Reply) -> T:
        """Read one attempt's reply: a value, or the error that it means."""
        if reply.is_success:
            value: Any = call.operation.read(reply)
            return cast("T", self._mark(value, endpoint) if isinstance(value, ConfigEntry) else value)
        error = decode_error(reply, now=datetime.now(UTC))
        if call.operation is operations.DELETE_CONFIG and _attempt() > 1 and is_absent(error):
            return call.operation.read(reply)  # an earlier attempt's effect, whose reply was lost
        raise error

    def _mark(self, entry: Any, endpoint: Endpoint) -> Any:
        """Note where an entry came from."""
        if (entry.namespace, entry.key, entry.environment) in self._written_secrets:
            entry = entry.as_secret()
        # It is new, and nobody else has it yet.
        entry._provenance = Provenance(endpoint=endpoint.url, attempts=_attempt())  # noqa: SLF001
        return entry

    def blame(
        self, error: errors.LLMConfigError, endpoint: Endpoint, call: Call[Any]
    ) -> errors.LLMConfigError:
        """Tell an attempt's error what it happened to."""
        error.endpoint = error.endpoint or endpoint.url
        error.attempts = _attempt()
        call.locate(error)
        return error

    def finish(self, plan: Plan[T], answer: Answer[T]) -> T:
        """Make the stack's answer the client's, with its provenance."""
        value: Any = answer.value
        if plan.call.operation is operations.GET_CONFIG:
            self._refuse_ciphertext(value, plan.call)
            if answer.source == "stale":
                value = self._stale(value, plan.call, answer)
            elif plan.fresh and self.cache is not None:
                self.cache.put(value)
        return cast("T", value)

    def _stale(self, entry: Any, call: Call[Any], answer: Answer[Any]) -> Any:
        cause = self.translate(answer.error, call) if answer.error is not None else None
        if cause is not None:
            log.warning("%s: serving a stale value: %s", call.location, cause, extra=_fields(call))
        mark = replace(entry.provenance, source="stale", error=cause, attempts=answer.calls)
        return entry.with_provenance(mark)

    def settle(self, plan: Plan[T], error: Exception) -> T:
        """Answer in an error's place, where something may stand in; else raise it as one of the SDK's.

        Raises:
            LLMConfigError: What went wrong; an error of the stack's is its cause.
        """
        found = self.translate(error, plan.call)
        stand_in = self._stand_in(plan, found)
        if stand_in is not None:
            return stand_in
        self._report(found, plan.call)
        if found is error:
            raise found
        raise found from error

    def forget_written(self, call: Call[Any]) -> None:
        """Forget what a write has made old, whether or not its outcome is known."""
        if (
            self.cache is not None
            and not call.operation.is_read
            and call.namespace
            and call.key
            and call.environment
        ):
            self.cache.forget(call.namespace, call.key, call.environment)

    def _refuse_ciphertext(self, entry: ConfigEntry, call: Call[Any]) -> None:
        if is_redacted(entry.stored_value):
            error = errors.DecryptionError(
                "the server sent ciphertext or a placeholder in place of the secret",
                module=Module.CONFIG,
                endpoint=entry.endpoint,
            )
            call.locate(error)
            raise error

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
                f"not asked: {error}", retry_after=error.retry_after, endpoint=error.name or None
            )
        if isinstance(error, DeadlineExceededError):
            return errors.RequestTimeoutError(f"the call's time is over: {error}")
        if isinstance(error, AllTargetsFailedError):
            each = [self.translate(part, call) for part in error.exceptions]
            told = "; ".join(f"{part.endpoint}: {part.message}" for part in each)
            return errors.AllEndpointsFailedError(
                f"all {len(each)} endpoints failed: {told}",
                errors=each,
                attempts=max((part.attempts or 0 for part in each), default=0),
                retry_after=error.retry_after,
            )
        return errors.TransportError(f"not sent: {error}", never_sent=True)

    def _report(self, error: errors.LLMConfigError, call: Call[Any]) -> None:
        """Log a call's final error, as the guide asks: what may pass is a warning, what will not an error."""
        level = logging.WARNING if error.is_retriable else logging.ERROR
        log.log(level, "%s", error, extra={**_fields(call), "code": error.code, "attempts": error.attempts})

    # --- Standing in ---

    def _stand_in(self, plan: Plan[T], error: errors.LLMConfigError) -> T | None:
        """Find what may answer in an error's place: a default if absent, a fallback in an outage."""
        call = plan.call
        if call.operation is not operations.GET_CONFIG:
            return None
        if is_absent(error):
            value = plan.default
        elif is_outage(error):
            named = self._fallback.get((call.namespace, call.key), UNSET)
            value = named if plan.fallback is UNSET else plan.fallback
        else:
            return None
        if value is UNSET:
            return None
        if not is_absent(error):
            log.warning("%s: answering with the fallback: %s", call.location, error, extra=_fields(call))
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


def is_absent(error: errors.LLMConfigError) -> bool:
    """Whether the platform says that there is no such entry; never of a missing route, version or user."""
    return type(error).taxonomy_code == "NOT_FOUND" and error.is_not_found and error.module is Module.CONFIG


def _attempt() -> int:
    """How often the call in hand has been sent, this time included."""
    context = current()
    return context.calls if context is not None else 1


def _common_headers(
    token: SecretStr | None, user: str | None, more: Mapping[str, str] | None
) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": f"llm-config-sdk/{__version__}"}
    if user is not None:
        headers[USER_ID_HEADER] = check_header(USER_ID_HEADER, user)
    for name, value in (more or {}).items():
        headers[name] = check_header(name, value)
    if token is not None:
        headers["Authorization"] = check_header("Authorization", f"Bearer {token.get_secret_value()}")
    return headers


def _fields(call: Call[Any]) -> dict[str, object]:
    """Name a call for structured logs."""
    return {
        "operation": call.operation.name,
        "namespace": call.namespace,
        "config_key": call.key,
        "environment": call.environment.value if call.environment else None,
        "request_id": call.request_id,
    }
