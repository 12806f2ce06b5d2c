"""When an exchange has to be over, and what is raised then."""

from __future__ import annotations

import time
from typing import Any, Final, Protocol

import anyio

_LONGEST: Final = 1e6  # seconds, eleven days; the operating system counts milliseconds, and not for ever


class Limit(Protocol):
    """What a stream asks before it waits."""

    def left(self, phase: str) -> float | None:
        """Seconds that are left; raises the family's timeout for the phase (`Read`, …) where none are."""


class Deadline:
    """When an exchange has to be over. It begins as it is entered, with waiting for a connection.

    Args:
        family: `httpcore` or `httpcore2`, for its timeout exceptions.
        timeout: Seconds from now; `None`, and more than eleven days, for as long as it takes.
    """

    __slots__ = ("_at", "_family", "_phase")

    def __init__(self, family: Any, timeout: float | None) -> None:
        self._family = family
        self._at = None if timeout is None or timeout > _LONGEST else time.monotonic() + timeout
        self._phase = "Pool"

    def __enter__(self) -> None:
        """Begin the exchange. In sync each step is given what is left, and that is all."""

    def __exit__(self, *raised: Any) -> bool | None:  # noqa: PYI036  # handed on
        """End it."""

    def remaining(self) -> float | None:
        """Seconds that are left, 0 or more; `None` for as long as it takes."""
        return None if self._at is None else max(0.0, self._at - time.monotonic())

    def left(self, phase: str = "") -> float | None:
        """Seconds that are left; raises the family's timeout for the phase (`Read`, …) where none are.

        Without a phase it is the one that was begun last.
        """
        if phase:
            self._phase = phase
        if self._at is None:
            return None
        left = self._at - time.monotonic()
        if left <= 0.0:
            raise self.timed_out()
        return left

    def check(self) -> None:
        """Raise the family's timeout where what was read comes too late."""
        self.left("Read")

    def timed_out(self) -> Exception:
        """Make the family's timeout for the phase that was begun last."""
        timeout: Exception = getattr(self._family, f"{self._phase}Timeout")("the deadline has passed")
        return timeout


class AsyncDeadline(Deadline):
    """When an exchange has to be over, in async: it is interrupted then, wherever it waits. As `Deadline`."""

    __slots__ = ("_scope",)

    def __enter__(self) -> None:
        """Begin the exchange."""
        self._scope = anyio.move_on_after(self.remaining())
        self._scope.__enter__()

    def __exit__(self, *raised: Any) -> bool | None:  # noqa: PYI036  # handed on
        """End it; raise the family's timeout if it was interrupted."""
        swallows = self._scope.__exit__(*raised)
        if self._scope.cancelled_caught:
            raise self.timed_out() from None
        return swallows


class Connecting:
    """A deadline that what is said to a proxy keeps: where it is late, no request was sent yet."""

    __slots__ = ("_deadline",)

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def left(self, phase: str) -> float | None:
        """Seconds that are left, whatever is done in them."""
        del phase
        return self._deadline.left("Connect")

    def check(self) -> None:
        """Raise the family's timeout where they are over."""
        self._deadline.left("Connect")
