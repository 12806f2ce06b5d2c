"""`Idempotency-Key`: one effect for one key, and the same reply for whoever asks again.

After the IETF draft draft-ietf-httpapi-idempotency-key-header, section 2: a finished request is
replayed, one that still runs is a conflict, another body under the same key is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .messages import At, Reply

KEPT_SECONDS: Final = 86_400.0  # a day, our choice: the draft leaves the expiry to the server
KEPT_KEYS: Final = 10_000  # our choice: a bound for the memory of a test server


class KeyInUseError(Exception):
    """The first request under this key has not ended yet."""


class KeyMismatchError(Exception):
    """The key was used for another request."""


@dataclass(slots=True)
class _Use:
    fingerprint: bytes
    owner: object
    since: float
    reply: Reply | None = None


class IdempotencyKeys:
    """The keys seen, with what each of them led to."""

    def __init__(self) -> None:
        """Begin without keys."""
        self._uses: dict[tuple[str, str], _Use] = {}

    def reset(self) -> None:
        """Forget every key."""
        self._uses.clear()

    def claim(self, key: tuple[str, str], fingerprint: bytes, owner: object, at: At) -> Reply | None:
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
        use = self._uses.get(key)
        if use is not None and at.monotonic - use.since > KEPT_SECONDS:
            use = None
        if use is None:
            self._uses.pop(key, None)
            self._uses[key] = _Use(fingerprint, owner, at.monotonic)
            while len(self._uses) > KEPT_KEYS:
                del self._uses[next(iter(self._uses))]
            return None
        if use.fingerprint != fingerprint:
            raise KeyMismatchError
        if use.reply is None and use.owner is not owner:
            raise KeyInUseError
        return use.reply

    def settle(self, key: tuple[str, str], reply: Reply) -> None:
        """Keep the reply of a request that took effect."""
        if key in self._uses:
            self._uses[key].reply = reply
            self._uses[key].owner = None

    def release(self, owner: object) -> None:
        """Give back what a request claimed without taking effect, so that it may be tried again."""
        for key in [key for key, use in self._uses.items() if use.owner is owner]:
            del self._uses[key]
