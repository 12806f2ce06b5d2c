"""`Idempotency-Key`: one effect for one key, and the same reply for whoever asks again.

After the IETF draft draft-ietf-httpapi-idempotency-key-header, section 2: a finished request is
replayed, one that still runs is a conflict, another body under the same key is refused. The reply
is kept in the same transaction as the effect: no crash can come between the two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .messages import Reply
from .tables import Table

if TYPE_CHECKING:
    from .messages import At
    from .storage import Storage

KEPT_SECONDS: Final = 86_400.0  # a day, our choice: the draft leaves the expiry to the server
KEPT_KEYS: Final = 10_000  # our choice: a bound for the memory of a test server


class KeyInUseError(Exception):
    """The first request under this key has not ended yet."""


class KeyMismatchError(Exception):
    """The key was used for another request."""


@dataclass(frozen=True, slots=True)
class _Running:
    fingerprint: str
    owner: object
    since: float


@dataclass(frozen=True, slots=True)
class _Done:
    fingerprint: str
    since: float  # seconds since 1970-01-01 UTC: it has to mean something after a restart
    reply: Reply


class IdempotencyKeys:
    """The keys seen, with what each of them led to.

    Args:
        storage: Where finished requests are kept.

    Raises:
        ComponentFailureError: From `claim` and `settle`, where the storage says no.
    """

    def __init__(self, storage: Storage) -> None:
        """Begin without keys that are in use."""
        self._running: dict[str, _Running] = {}
        self._done = Table(storage, "idempotency", _as_json, _from_json)

    def reset(self) -> None:
        """Forget which keys are in use."""
        self._running.clear()

    def claim(self, key: tuple[str, str], fingerprint: str, owner: object, at: At) -> Reply | None:
        """Take a key for a request, or return the reply of the request that had it.

        Args:
            key: The user and the header's value.
            fingerprint: What must be the same for the request to count as the same.
            owner: The request itself; claiming again what one holds changes nothing.
            at: Now.

        Raises:
            KeyInUseError: Somebody else's request under this key still runs.
            KeyMismatchError: The key stands for another request.
        """
        name = _name(key)
        done = self._done.get(name)
        if done is not None and at.wall - done.since > KEPT_SECONDS:
            done = None
        use = done or self._running.get(name)
        if use is None:
            self._running[name] = _Running(fingerprint, owner, at.wall)
            return None
        if use.fingerprint != fingerprint:
            raise KeyMismatchError
        if isinstance(use, _Done):
            return use.reply
        if use.owner is not owner:
            raise KeyInUseError
        return None

    def settle(self, key: tuple[str, str], reply: Reply) -> None:
        """Keep the reply of a request that took effect, in the transaction that has the effect."""
        name = _name(key)
        use = self._running.get(name)
        if use is None:
            return
        self._done.pop(name, None)  # one that is too old: the new one goes to the end
        self._done[name] = _Done(use.fingerprint, use.since, reply)
        if len(self._done) > KEPT_KEYS:
            del self._done[next(iter(self._done))]

    def release(self, owner: object) -> None:
        """Give back what a request holds, now that it has ended: without effect, it may be tried again."""
        for name in [name for name, use in self._running.items() if use.owner is owner]:
            del self._running[name]


def _name(key: tuple[str, str]) -> str:
    return json.dumps(key)


def _as_json(done: _Done) -> dict[str, Any]:
    reply = done.reply
    return {
        "fingerprint": done.fingerprint,
        "since": done.since,
        "status": reply.status,
        "headers": reply.headers,
        "body": reply.body.decode(),  # of JSON, or empty: what this server says to a POST that took effect
        "code": reply.code,
    }


def _from_json(told: Any) -> _Done:
    headers = tuple((name, value) for name, value in told["headers"])
    reply = Reply(told["status"], headers, told["body"].encode(), told["code"])
    return _Done(told["fingerprint"], told["since"], reply)
