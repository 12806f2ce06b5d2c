"""How long a step waits: a figure, a range, or a draw from a distribution."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, Final

Delay = float | tuple[float, float] | Callable[[random.Random], float]
"""Seconds: fixed, uniform between two bounds, or drawn by a function of a random source."""

_P99_DEVIATIONS: Final = (
    2.326  # standard deviations from the median of a normal distribution to its 99th percentile
)


def long_tail(median: float, p99: float) -> Callable[[random.Random], float]:
    """Make a delay that is usually near its median and sometimes far above, as latency is in life.

        latency(long_tail(median=0.02, p99=0.5))

    Args:
        median: Seconds that half of the draws stay below.
        p99: Seconds that 99 of 100 draws stay below; the draws follow a log-normal distribution.

    Raises:
        ValueError: The figures are not positive, or the wrong way round.
    """
    if not 0 < median <= p99:
        raise ValueError(f"a long tail needs 0 < median <= p99, not {median} and {p99}")
    deviation = math.log(p99 / median) / _P99_DEVIATIONS
    return lambda source: source.lognormvariate(math.log(median), deviation)


def check_delay(name: str, delay: Any) -> None:
    """Refuse what is no delay.

    Raises:
        ValueError: It is none, or less than none.
    """
    bounds: Any = delay
    if callable(delay):
        return
    try:
        low, high = bounds if isinstance(delay, tuple) else (bounds, bounds)
        is_delay = bool(0 <= low <= high)
    except (TypeError, ValueError):
        is_delay = False
    if not is_delay:
        raise ValueError(f"{name} must be 0 or more seconds, a range of them, or a function, not {delay!r}")


def draw(delay: Delay, source: random.Random) -> float:
    """Draw how many seconds a delay is this time."""
    if callable(delay):
        return delay(source)
    return source.uniform(*delay) if isinstance(delay, tuple) else delay
