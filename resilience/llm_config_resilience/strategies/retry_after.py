"""Read how long a server asks to be left alone."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_config_resilience.clock import Clock


def seconds_to_wait(error: Exception | None, clock: Clock) -> float | None:
    """Return what an error's `retry_after` asks for, in seconds; `None` if it asks for nothing.

    It may be a number of seconds, a `datetime`, or the text of a Retry-After header (RFC 9110, 10.2.3:
    seconds or an HTTP date). What lies in the past is 0; what cannot be read is ignored.

    Args:
        error: The error.
        clock: Whose wall time a date is compared with.
    """
    hint = getattr(error, "retry_after", None)
    if isinstance(hint, str):
        hint = _parse(hint.strip())
    if isinstance(hint, datetime):
        aware = hint if hint.tzinfo is not None else hint.replace(tzinfo=UTC)
        hint = aware.timestamp() - clock.time()
    if isinstance(hint, bool) or not isinstance(hint, (int, float)) or not isfinite(hint):
        return None
    return max(0.0, float(hint))


def _parse(text: str) -> float | datetime | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(text)
    except ValueError:
        return None
