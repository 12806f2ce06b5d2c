"""One request of a call: how it is written, how its reply is read, and what an error of it is told.

Nothing here does I/O; the clients send in between.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pydantic import SecretStr

from llm_config_resilience import current
from llm_config_sdk import errors, operations
from llm_config_sdk.cache import Fetched
from llm_config_sdk.contract import REQUEST_ID_HEADER, Module
from llm_config_sdk.decoding import decode_error, read_moment, read_validator, refuse_not_modified
from llm_config_sdk.entries import ConfigEntry, Provenance
from llm_config_sdk.operations import Call, Held
from llm_config_sdk.paging import read_next
from llm_config_sdk.policy import is_absent, was_never_sent
from llm_config_sdk.redaction import secrets_in, without_secrets
from llm_config_sdk.transport import Endpoint, WireRequest

if TYPE_CHECKING:
    from llm_config_sdk.core import Core
    from llm_config_sdk.decoding import Reply
    from llm_config_sdk.observability.events import Sending

T = TypeVar("T")

log: Final = logging.getLogger("llm_config_sdk")

_LEAST_TIMEOUT: Final = 0.001  # seconds; to a socket, 0 means not to wait rather than to have no time
_FOREVER: Final = 1e9  # seconds: no socket and no lock can be told to wait for ten times as long


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


class Attempts:
    """The attempts of one client's calls.

    Args:
        core: The client's state.
    """

    def __init__(self, core: Core) -> None:
        self._core = core

    def begin(self, endpoint: Endpoint, call: Call[T]) -> Attempt[T]:
        """Write one request."""
        call.progress.attempts += 1
        headers = {**self._core.headers, REQUEST_ID_HEADER: call.request_id, **call.headers}
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
        context, limit = current(), self._core.stack.policy.attempt_timeout
        left = max(context.remaining(), _LEAST_TIMEOUT) if context is not None else inf
        allowed = left if limit is None else min(left, limit)
        as_of = self._core.cache.writes if self._core.cache is not None else 0
        return Attempt(call, endpoint, request, allowed if allowed < _FOREVER else None, as_of, sending, held)

    def _held(self, call: Call[Any], endpoint: Endpoint) -> Held | None:
        """Find what the caller, or the cache, has from this very server with an entity tag."""
        held, cache, key = call.held, self._core.cache, call.entry_key
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
        try:
            raise error
        finally:
            del error  # as in `Outcomes.settle`

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
                self._core.secrets.discard(call.entry_key)
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
        if self._core.secrets and (entry.namespace, entry.key, entry.environment.value) in self._core.secrets:
            entry = entry.as_secret()
        mark = Provenance(
            endpoint=attempt.endpoint.url,
            fetched_at=self._core.clock.time(),
            attempts=attempt.call.progress.attempts,
            now=self._core.clock.time,
            validator=validator,
        )
        # What was held is in other hands already; what was just read is in nobody's.
        return entry.with_provenance(mark) if is_held else entry.mark(mark)


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
