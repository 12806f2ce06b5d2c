"""What becomes of a call: the stack's answer or error as the client's, and what may stand in its place.

Nothing here does I/O.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from pydantic import SecretStr

from llm_config_resilience import (
    AllTargetsFailedError,
    CircuitOpenError,
    DeadlineExceededError,
    RateLimitedError,
    ResilienceError,
)
from llm_config_sdk import errors, operations
from llm_config_sdk.cache import Fetched
from llm_config_sdk.contract import Environment, Metadata
from llm_config_sdk.entries import ConfigEntry, Provenance
from llm_config_sdk.hints import OWN_LIMIT
from llm_config_sdk.observability.events import CallEvent, ObservedCall, Observer
from llm_config_sdk.observability.families import is_callers_mistake
from llm_config_sdk.plans import UNSET, Plan
from llm_config_sdk.policy import is_absent, is_outage

if TYPE_CHECKING:
    from llm_config_resilience import Answer
    from llm_config_sdk.cache import Key
    from llm_config_sdk.contract import Source
    from llm_config_sdk.core import Core
    from llm_config_sdk.observability.events import Outcome
    from llm_config_sdk.observability.observers import Observation
    from llm_config_sdk.operations import Call

T = TypeVar("T")

log: Final = logging.getLogger("llm_config_sdk")


class Outcomes:
    """The outcomes of one client's calls.

    Args:
        core: The client's state.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._on_snapshot = False  # whether the last answer was a snapshot's: told once, not at every read

    def finish(self, plan: Plan[T], answer: Answer[Any]) -> T:
        """Make the stack's answer the client's, with its provenance."""
        value, call, cache = answer.value, plan.call, self._core.cache
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
            self._core.ledger.note(call)
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
        if self._core.snapshot is not None and call.entry_key is not None:
            self._core.snapshot.note(call.entry_key, entry)

    def _forget_absent(self, call: Call[Any]) -> None:
        """Forget what a server says is not there, so that no outage brings it back."""
        if call.entry_key is None:
            return
        if self._core.cache is not None:
            self._core.cache.note_absent(call.entry_key)
            if self._core.cache.shared is not None and call.operation.is_read:
                self._core.cache.shared.delete_later(call.entry_key)
        if self._core.snapshot is not None:
            self._core.snapshot.delete(call.entry_key)

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
        try:
            if found is error:
                raise found
            raise found from error
        finally:
            del found, error  # its traceback leads here: it would live until the collector comes by

    def forget_written(self, call: Call[Any]) -> None:
        """Forget what a write has made old, whether or not its outcome is known."""
        if self._core.cache is not None and not call.operation.is_read and call.entry_key is not None:
            self._core.cache.delete(call.entry_key)

    def stand_in(
        self, namespace: str, key: str, environment: Environment, error: errors.LLMConfigError
    ) -> ConfigEntry | errors.LLMConfigError:
        """Find the client's own fallback for an entry that could not be resolved; else the error."""
        if (namespace, key) not in self._core.fallback:
            return self.reported(error)
        call = operations.prepare(operations.GET_CONFIG, namespace, key, environment)
        self.reported(error, source="default")
        return self._made_up(call, copy.deepcopy(self._core.fallback[namespace, key]), error)

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
            is_own = any(error.name == each.url for each in self._core.endpoints)
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
        now = self._core.clock.monotonic()
        event = CallEvent(call, outcome, now, source=source, endpoint=error.endpoint, error=error)
        for listener in self._core.listeners:
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
                value = copy.deepcopy(self._core.fallback.get((call.namespace, call.key), UNSET))
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

    def _observation(self, plan: Plan[Any]) -> Observation:
        """Find who hears how a call ends that did not end well."""
        followed = plan.call.progress.observation
        return followed or self._core.observers.look_back(plan.call, is_quiet=plan.is_quiet)

    # --- What was known ---

    def recall(self, key: Key, error: errors.LLMConfigError) -> ConfigEntry | None:
        """Say what is known of an entry in an outage: from the cache, else from the snapshot; no I/O."""
        if self._core.strict:
            return None
        cache, snapshot = self._core.cache, self._core.snapshot
        if cache is not None and (kept := cache.get(key)) is not None:
            usable = cache.policy.ttl + cache.policy.stale_if_error
            if self._core.clock.monotonic() - kept.stored_at < usable:
                return _recalled(kept.value, "stale", error)
        kept = snapshot.get(key) if snapshot is not None else None
        if kept is None or snapshot is None or self._core.clock.time() - kept.stored_at >= snapshot.max_age:
            return None
        return _recalled(kept.value, "snapshot", error)

    def known(
        self, error: errors.LLMConfigError, namespace: str, environment: Environment
    ) -> list[ConfigEntry]:
        """Recall a namespace's entries in an outage."""
        everything = [
            *(self._core.snapshot.entries() if self._core.snapshot is not None else ()),
            *(self._core.cache.entries() if self._core.cache is not None else ()),
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
        names = sorted(key for known, key in self._core.fallback if known == namespace)
        prepared = (operations.prepare(operations.GET_CONFIG, namespace, key, environment) for key in names)
        return [
            self._made_up(call, copy.deepcopy(self._core.fallback[namespace, call.key]), error)
            for call in prepared
        ]


def _recalled(entry: ConfigEntry, source: Source, error: errors.LLMConfigError) -> ConfigEntry:
    return entry.with_provenance(replace(entry.provenance, source=source, error=error, attempts=0))
