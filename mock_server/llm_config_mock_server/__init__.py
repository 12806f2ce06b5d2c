"""The reference server of the LLM Config Manager platform: the platform in miniature, and a breaker of wires.

`MockServer` serves on a real loopback socket. What goes wrong is said by steps (`error`, `reset`,
`hang`, `drip`, …) that `MockServer.script` ties to requests, and by conditions that make a
component of the platform fail by itself. `FaultProxy` breaks the wire before any other server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
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

# Imported at their first use: pytest imports this package, for its plugin, in runs that use none of it.
_HOMES: Final = {
    "application": ("create_app",),
    "conditions": ("Condition",),
    "faults": (
        "Match",
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
    ),
    "journal": (
        "Entry",
        "Journal",
    ),
    "limiter": ("Limits",),
    "messages": ("At",),
    "proxy": (
        "FaultProxy",
        "Trouble",
    ),
    "server": ("MockServer",),
}
_HOME_BY_NAME: Final = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_BY_NAME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
