"""Faults: what is to go wrong, for which requests, how often.

A *rule* joins a `Match` to a sequence of *steps*. Of several rules that match, the one scripted
last wins. Each request takes the next step of its rule's sequence; `repeat` says what comes after
the last one:

- `"never"` (the default): the rule is spent and requests pass. `[error(…), error(…)]` fails twice.
- `"last"`: the last step again and again. `[ok(), error(…)]` passes once, then fails for good.
- `"all"`: the sequence from its beginning.
- `"random"`: any step, drawn anew for every request.

Where two are asked for at once (`between` and `every`, a probability and a sequence), both hold.
"""

from __future__ import annotations

from typing import Final

from .answers import error, html, malformed, mislabelled, oversized, respond
from .book import FaultBook, Problem
from .delays import Delay, long_tail
from .delivery import close, drip, garbage, half_close, hang, reset, stale, stall, truncate
from .match import Match
from .rule import PASS, Pick, Repeat, Rule
from .step import ErrorSpec, Step, latency, ok

CHAOS_RATE: Final = 0.1  # the guide's `inject_random_failure`

__all__ = [
    "CHAOS_RATE",
    "PASS",
    "Delay",
    "ErrorSpec",
    "FaultBook",
    "Match",
    "Pick",
    "Problem",
    "Repeat",
    "Rule",
    "Step",
    "close",
    "drip",
    "error",
    "garbage",
    "half_close",
    "hang",
    "html",
    "latency",
    "long_tail",
    "malformed",
    "mislabelled",
    "ok",
    "oversized",
    "reset",
    "respond",
    "stale",
    "stall",
    "truncate",
]
