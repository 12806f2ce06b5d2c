"""One stream of small frozen events: logs, metrics and spans are made of it elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable

_log = logging.getLogger("llm_config_resilience")

_NO_DETAILS: Mapping[str, Any] = MappingProxyType({})

EventKind: TypeAlias = Literal[
    "retry",  # an attempt failed, another follows after `delay`
    "gave_up",  # a retriable error is passed on; details["reason"] says why
    "rejected",  # the call was turned away on this side
    "opened",  # a circuit opened, for `delay` seconds
    "half_opened",  # a circuit admits probes
    "closed",  # a circuit closed
    "late",  # a sync result came after its deadline
    "timed_out",  # a deadline ended what was inside
    "failed_over",  # the next target is tried
    "ejected",  # a target is passed over for `delay` seconds
    "readmitted",  # a target answered again
    "served_stale",  # a stale cache entry was the answer
    "refreshing",  # a cache entry is renewed in the background
    "cache_failed",  # the store itself failed and was bypassed
    "fell_back",  # a fallback's source was the answer
    "source_failed",  # a fallback's source failed, the next one is tried
    "hedged",  # a further call is made beside the one that is slow; details["calls"] are under way
    "joined",  # the call waits for the outcome of another one with its key
    "injected",  # chaos changed a call; details["what"] says "fault", "latency" or "result"
    "background_failed",  # detached work ended in an error nobody waits for
    "recovered",  # the call succeeded after more than one attempt
    "failed",  # the call ended in an error; details["seconds"] after it began
    "succeeded",  # the call ended in a value, likewise; only for listeners that want it
    "cancelled",  # the call was cancelled or interrupted, likewise
]

#: What happens to every call is told to those only who ask for it.
_ON_REQUEST: frozenset[EventKind] = frozenset({"succeeded"})


class Event(NamedTuple):
    """Something worth noticing happened in a call.

    Args:
        kind: What happened.
        pipeline: The pipeline's name.
        layer: The strategy's label, `""` for the pipeline as a whole.
        time: When, in seconds on the pipeline's monotonic clock.
        attempt: The attempt's number, from 1.
        target: The failover target in use, if any.
        error: The error concerned, with its traceback: keep it no longer than the event.
        delay: Seconds until the next attempt, probe or readmission.
        details: What else there is to say, by kind.
    """

    kind: EventKind
    pipeline: str
    layer: str
    time: float
    attempt: int = 1
    target: Any = None
    error: BaseException | None = None
    delay: float | None = None
    details: Mapping[str, Any] = _NO_DETAILS


#: Called with each event. One that has an attribute `wants`, a set of kinds, hears of these only; one that
#: has not hears of all but `"succeeded"`, which would build an event for every call:
#:
#:     class Counter:
#:         wants = frozenset({"succeeded", "failed"})
#:
#:         def __call__(self, event: Event) -> None: ...
Listener: TypeAlias = Callable[[Event], object]


def hearers(listeners: Iterable[Listener]) -> dict[EventKind, tuple[Listener, ...]]:
    """Say who hears of what, by the kind of event."""
    everybody = tuple(listeners)
    return {
        kind: tuple(listener for listener in everybody if _wants(listener, kind))
        for kind in get_args(EventKind)
    }


def _wants(listener: Listener, kind: EventKind) -> bool:
    wanted = getattr(listener, "wants", None)
    return kind not in _ON_REQUEST if wanted is None else kind in wanted


def tell(listeners: Iterable[Listener], event: Event) -> None:
    """Hand an event to listeners; one that raises is logged and breaks nothing."""
    for listener in listeners:
        try:
            listener(event)
        except Exception:  # noqa: BLE001 - telling must not change what is told
            _log.exception("A listener failed on %r", event.kind)
