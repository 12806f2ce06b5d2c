"""How long to leave alone what keeps failing: longer each time, and not in step with other clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Each repetition in a row doubles the time, up to ten times the first (Polly and resilience4j advise a
#: growing break; the cap keeps a recovered backend from being shunned for hours).
_GROWTH: Final = 2.0
MAX_GROWTH: Final = 10.0
#: A grown time varies by as much either way, so that clients do not come back in step.
_JITTER: Final = 0.1


def grown(seconds: float, repeats: int, draw: Callable[[], float]) -> float:
    """Return `seconds` exactly the first time, and a grown, jittered time after `repeats` in a row.

    Args:
        seconds: The first time.
        repeats: How often it failed again since, 0 the first time.
        draw: Gives at least 0 and below 1.
    """
    if not repeats:
        return seconds
    # The exponent is bounded first: a float overflows after a thousand repetitions.
    factor = min(MAX_GROWTH, _GROWTH ** min(repeats, int(MAX_GROWTH)))
    return seconds * factor * (1 + _JITTER * (2 * draw() - 1))
