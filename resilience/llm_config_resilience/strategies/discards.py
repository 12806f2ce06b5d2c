"""Closing results that nobody will get: those of hedges that lost, of attempts that are repeated."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("llm_config_resilience")

#: Seconds closing a result may take in async, where it cannot be cancelled otherwise: it says goodbye to a
#: peer at most, which takes a round trip.
_CLOSING_SECONDS = 5.0


def closer_of(value: object, *, is_async: bool) -> Callable[[], Any] | None:
    """Return what closes a value, or `None` if nothing does.

    Args:
        value: A result.
        is_async: Whether what is returned may be awaited: `aclose` is preferred then.
    """
    closers = ("aclose", "close") if is_async else ("close",)
    found = (getattr(value, name, None) for name in closers)
    return next((closer for closer in found if callable(closer)), None)


def discard(value: object) -> None:
    """Close a result, if it can be closed. What goes wrong is logged.

    Args:
        value: The result.
    """
    close = closer_of(value, is_async=False)
    if close is None:
        return
    try:
        close()
    except Exception:  # noqa: BLE001 - the call it was for has its outcome
        _log.exception("Closing a discarded %s failed", type(value).__name__)


async def discard_async(value: object) -> None:
    """Close a result, if it can be closed, also while the task is being cancelled. What goes wrong is logged.

    Args:
        value: The result.
    """
    close = closer_of(value, is_async=True)
    if close is None:
        return
    import anyio  # noqa: PLC0415 - sync users never need it

    try:
        with anyio.move_on_after(_CLOSING_SECONDS, shield=True):
            closing = close()
            if hasattr(closing, "__await__"):
                await closing
    except Exception:  # noqa: BLE001 - the call it was for has its outcome
        _log.exception("Closing a discarded %s failed", type(value).__name__)
