"""The reference server of the LLM Config Manager platform: the platform in miniature, and a breaker of wires.

`MockServer` serves on a real loopback socket. What goes wrong is said by steps (`error`, `reset`,
`hang`, `drip`, …) that `MockServer.script` ties to requests, and by conditions that make a
component of the platform fail by itself. `FaultProxy` breaks the wire before any other server.
"""

from __future__ import annotations

from .application import create_app
from .conditions import Condition
from .faults import (
    Match,
    Rule,
    Step,
    close,
    drip,
    error,
    garbage,
    half_close,
    hang,
    html,
    latency,
    long_tail,
    malformed,
    mislabelled,
    ok,
    oversized,
    reset,
    respond,
    stale,
    stall,
    truncate,
)
from .journal import Entry, Journal
from .limiter import Limits
from .messages import At
from .proxy import FaultProxy, Trouble
from .server import MockServer

__all__ = [
    "At",
    "Condition",
    "Entry",
    "FaultProxy",
    "Journal",
    "Limits",
    "Match",
    "MockServer",
    "Rule",
    "Step",
    "Trouble",
    "close",
    "create_app",
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
