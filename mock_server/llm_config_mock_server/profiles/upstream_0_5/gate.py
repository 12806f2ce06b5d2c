"""The gate: who may pass how often. Two buckets for each request, and bans that look like limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from llm_config_mock_server.limiter import Limits
from llm_config_mock_server.messages import NANOSECONDS

from .words import RefusedError, flat

if TYPE_CHECKING:
    from llm_config_mock_server.messages import At

DOCUMENTED: Final = Limits(rate=10, burst=10)  # of everybody anonymous together, and of every address
AUTHENTICATED: Final = Limits(rate=100, burst=50)  # of everybody with any `Authorization` together
BAN_SECONDS: Final = 3600
VIOLATIONS_TO_A_BAN: Final = 10


class Bucket:
    """GCRA as the `governor` crate has it: a bucket that was never used counts as just used.

    So from cold `burst` requests pass at once, and one more after a long rest.
    """

    def __init__(self, limits: Limits) -> None:
        """Begin cold."""
        self._interval = round(NANOSECONDS / limits.rate)
        self._tolerance = self._interval * limits.burst
        self._due: int | None = None

    def take(self, now: int) -> bool:
        """Count a request at a moment (nanoseconds), unless it comes too early."""
        due = now + self._interval if self._due is None else self._due
        if now < due - self._tolerance:
            return False
        self._due = max(due, now) + self._interval
        return True


class Gate:
    """Lets requests through, counts violations, and bans.

    Args:
        limits: Of everybody anonymous together, and of each address.
    """

    def __init__(self, limits: Limits = DOCUMENTED) -> None:
        """Begin with everybody at a standstill."""
        self._limits = limits
        self._everybody = {False: Bucket(limits), True: Bucket(AUTHENTICATED)}
        self._addresses: dict[str, Bucket] = {}
        self._violations: dict[str, int] = {}
        self._banned_at: dict[str, int] = {}

    def pass_through(self, address: str, at: At, *, authenticated: bool) -> None:
        """Count a request.

        Args:
            address: The peer's; `X-Forwarded-For` is not looked at.
            at: Now; only its monotonic clock counts.
            authenticated: Whether there is any `Authorization` header.

        Raises:
            RefusedError: It comes too early, or the address is banned; nobody can tell which.
        """
        now = round(at.monotonic * NANOSECONDS)
        banned_at = self._banned_at.get(address)
        if banned_at is not None and now - banned_at < BAN_SECONDS * NANOSECONDS:
            raise _refused()
        if not self._everybody[authenticated].take(now):
            self._count_violation(address, now)
            raise _refused()
        if not self._addresses.setdefault(address, Bucket(self._limits)).take(now):
            self._count_violation(address, now)
            raise _refused()

    def _count_violation(self, address: str, now: int) -> None:
        if address not in self._addresses:
            return
        violations = self._violations[address] = self._violations.get(address, 0) + 1
        if violations >= VIOLATIONS_TO_A_BAN:
            self._banned_at[address] = now


def _refused() -> RefusedError:
    return RefusedError(flat(429, "Rate limit exceeded. Please try again later"))
