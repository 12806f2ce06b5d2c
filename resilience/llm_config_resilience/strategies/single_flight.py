"""One call for all who ask for the same at the same time."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, ClassVar

from llm_config_resilience.clock import in_trio
from llm_config_resilience.directives import Directive, Park, Raise, Return
from llm_config_resilience.gate import Gate
from llm_config_resilience.locks import new_lock, renew_in_child
from llm_config_resilience.strategies.cache_fallback import typed
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context


#: Who leads from the beginning waits for nobody, and most flights have one seat alone.
_NEVER_WAITED_AT = Gate()


class _Seat:
    """One call's part in a flight."""

    __slots__ = ("flight", "gate", "leads")

    def __init__(self, flight: _Flight, *, leads: bool) -> None:
        self.flight = flight
        self.leads = leads
        self.gate = _NEVER_WAITED_AT if leads else Gate()


class _Flight:
    """The call under way for a key, and what became of it."""

    # It does not know who leads: a seat knows its flight, and that would be a cycle.
    __slots__ = ("error", "key", "outcome", "value", "waiting")

    def __init__(self, key: Any) -> None:
        self.key = key
        #: Made for the first who joins: most flights have one seat alone.
        self.waiting: OrderedDict[_Seat, None] | None = None
        self.value: Any = None
        self.error: Exception | None = None
        #: How the value came about, on a context of nobody's.
        self.outcome: Context | None = None


class SingleFlight(Strategy):
    """Make one call for all concurrent callers of a key; they share its result, or its error.

        price = Pipeline(SingleFlight(lambda currency: currency), Retry()).call(fetch, "EUR")

    The first caller makes it, in its own time: when it is cancelled or its own deadline passes, the next one
    makes the call anew, and the others stay where they are. A caller waits until its own deadline at most.

    Sync callers share with those of other threads, async callers with those of their event loop, and neither
    with the other. A call made inside its own flight goes through, as it cannot wait for itself. The result
    is one object for all. Of an error each caller gets a copy, as tracebacks grow where an error is raised;
    one that cannot be copied is shared without its traceback.

    Stands outside of `Hedge`, whose hedges would join the flight they are to overtake.

    Args:
        key: What is called for, or a function of the call's arguments that gives it; hashable. Keys of
            different types differ, so `1`, `True` and `1.0` are three.
        name: For events.

    Raises:
        DeadlineExceededError: The flight did not land within the caller's deadline.
    """

    role: ClassVar[str] = "single_flight"

    def __init__(self, key: Any, *, name: str = "") -> None:
        self.name = name
        self._key = key
        self._flights: dict[Any, _Flight] = {}
        self._lock = new_lock()
        renew_in_child(self)

    def __len__(self) -> int:
        return len(self._flights)

    def __bool__(self) -> bool:
        return True

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Lead a flight, or join the one there is."""
        key = self._key(*ctx.args, **ctx.kwargs) if callable(self._key) else self._key
        place = (_airspace(ctx), typed(key))
        with self._lock:
            flight = self._flights.get(place)
            if flight is None:
                self._flights[place] = flight = _Flight(place)
                ctx.slots[at] = _Seat(flight, leads=True)
                return None
            if _is_inside(ctx, flight):
                return None
            ctx.slots[at] = seat = _Seat(flight, leads=False)
            if flight.waiting is None:
                flight.waiting = OrderedDict()
            flight.waiting[seat] = None
        ctx.emit("joined", at)
        return Park(seat.gate, then=self._arrive)

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Share the result."""
        seat: _Seat | None = ctx.slots[at]
        if seat is not None:
            ctx.slots[at] = None
            self._land(ctx, seat.flight, value, None)

    def failed(self, ctx: Context, at: int, error: Exception) -> None:
        """Share the error, unless it is only this caller's time that is up."""
        seat: _Seat | None = ctx.slots[at]
        if seat is None:
            return
        if ctx.expired():
            self.released(ctx, at)
            return
        ctx.slots[at] = None
        self._land(ctx, seat.flight, None, error)

    def released(self, ctx: Context, at: int) -> None:
        """Hand the lead over, or leave."""
        seat: _Seat | None = ctx.slots[at]
        if seat is None:
            return
        ctx.slots[at] = None
        flight = seat.flight
        with self._lock:
            if not seat.leads:
                if flight.waiting:
                    flight.waiting.pop(seat, None)
                return
            if not flight.waiting:
                self._end(flight)
                return
            heir, _ = flight.waiting.popitem(last=False)
            heir.leads = True
        heir.gate.open()

    def renew_after_fork(self) -> None:
        """In a forked child, wait for no flight of the parent's: its leader is not here."""
        self._flights = {}

    def describe(self) -> dict[str, Any]:
        """Show what the key is made of."""
        return {"key": self._key}

    def _end(self, flight: _Flight) -> None:
        """Let the next caller begin one, where nobody has. The lock is held."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _land(self, ctx: Context, flight: _Flight, value: Any, error: Exception | None) -> None:
        with self._lock:
            self._end(flight)
            waiting, flight.waiting = flight.waiting, None
        if not waiting:
            return
        flight.value = value
        flight.error = None if error is None else copy_of(error) or error
        flight.outcome = ctx.fork()
        flight.outcome.slots = []
        for seat in waiting:
            seat.gate.open()

    def _arrive(self, ctx: Context, at: int) -> Directive | None:
        seat: _Seat = ctx.slots[at]
        if seat.leads:
            return None
        ctx.slots[at] = None
        flight = seat.flight
        if flight.error is not None:
            return Raise(copy_of(flight.error) or flight.error.with_traceback(None))
        outcome = flight.outcome
        if outcome is None:
            raise RuntimeError("a flight that landed has an outcome")
        ctx.join(outcome)
        return Return(
            flight.value, outcome.degraded, outcome.source, outcome.error, outcome.age, outcome.index
        )


def copy_of(error: Exception) -> Exception | None:
    """Copy an error for another caller, with its causes and notes and without its traceback.

    Args:
        error: The error.

    Returns:
        The copy, or `None` if the class cannot be copied faithfully.
    """
    try:
        twin = copy.copy(error)
        faithful = type(twin) is type(error) and twin.args == error.args and str(twin) == str(error)
    except Exception:  # noqa: BLE001 - any class may refuse to be built from its args
        return None
    if not faithful:
        return None
    twin.__cause__, twin.__context__ = error.__cause__, error.__context__
    twin.__suppress_context__ = error.__suppress_context__
    if hasattr(error, "__notes__"):
        twin.__notes__ = list(error.__notes__)
    return twin.with_traceback(None)


def _airspace(ctx: Context) -> object:
    """What callers must have in common to wait for each other: the event loop, in async."""
    if not ctx.is_async:
        return None
    if in_trio():
        import trio  # noqa: PLC0415 - loaded already

        return trio.lowlevel.current_trio_token()
    return asyncio.get_running_loop()


def _is_inside(ctx: Context, flight: _Flight) -> bool:
    """Whether the call was made by the one that leads the flight, at whatever depth."""
    outer = ctx.parent
    while outer is not None:
        if any(isinstance(slot, _Seat) and slot.leads and slot.flight is flight for slot in outer.slots):
            return True
        outer = outer.parent
    return False
