"""What one call knows about itself, and what its layers remember of it."""

from __future__ import annotations

import itertools
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any

from llm_config_resilience.errors import forget_frames
from llm_config_resilience.events import Event, tell
from llm_config_resilience.rehearsal import rehearsal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_config_resilience.clock import Clock
    from llm_config_resilience.directives import Return
    from llm_config_resilience.events import EventKind, Listener
    from llm_config_resilience.pipeline import Pipeline

#: A timer may fire early by as much as an event loop rounds: uvloop keeps milliseconds.
_TIMER_GRAIN = 0.001


#: Numbers for calls, where one has to be named.
_tickets = itertools.count(1)


class Context:
    """One call through a pipeline.

    A called function gets it from `current()`. Every layer keeps what it remembers of the call in
    `slots[at]`, never on the strategy, which other calls share.
    """

    # Defaults on the class cost a call nothing until it differs from them.
    #: Which try this is, from 1.
    attempt: int = 1
    #: The target in use, under a `Failover`.
    target: Any = None
    #: Whether the answer is second best.
    degraded: bool = False
    #: Where the answer comes from: `"call"`, `"cache"`, `"stale"`, `"fallback"`, …
    source: str = "call"
    #: The label of the layer that answered; `""` for the called function.
    answered_by: str = ""
    #: What made a degraded answer necessary, without its traceback.
    error: Exception | None = None
    #: The call this one was made in, through a pipeline on the same clock.
    parent: Context | None = None
    #: Whether the call is made in async code. Gates and waits need not ask: the engine does what is right.
    is_async: bool = False
    #: Whether the call is over; a task it left behind is not bound by it any more.
    over: bool = False
    #: When it began, in seconds on `clock`, where somebody listens.
    began: float | None = None
    #: How old the answer is, in seconds, where it comes from a cache.
    age: float | None = None
    #: Which of a fallback's sources answered, from 0.
    index: int | None = None
    #: What `PerKey` chose for this call, by layer.
    chosen: dict[int, Any] | None = None
    #: Names the call to retries further in, which leave it on errors they gave up; see `Retry`.
    ticket: int | None = None

    def __init__(
        self, pipeline: Pipeline, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.pipeline = pipeline
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.slots: list[Any] = pipeline.blank.copy()
        #: How often the function was called so far, this time included.
        self.calls: int = 0
        #: When the call must be over, on `clock`; `inf` for never.
        self.deadline: float = inf
        parent = _current.get()
        if parent is not None and not parent.over and parent.pipeline.clock is pipeline.clock:
            self.parent = parent
            self.deadline = parent.deadline

    def __repr__(self) -> str:
        return f"<Context of {self.pipeline.name or 'a pipeline'}: attempt {self.attempt}, call {self.calls}>"

    @property
    def clock(self) -> Clock:
        """The pipeline's clock; in a rehearsal one that never sleeps."""
        drill = rehearsal.get()
        return self.pipeline.clock if drill is None else drill.clock(self.pipeline.clock)

    @property
    def listeners(self) -> tuple[Listener, ...]:
        """Who hears of events. Ask before building one: usually nobody does."""
        drill = rehearsal.get()
        return self.pipeline.listeners if drill is None else self.pipeline.listeners + drill.listeners

    def now(self) -> float:
        """Seconds on the pipeline's monotonic clock."""
        return self.pipeline.now()

    def remaining(self) -> float:
        """Seconds until the deadline, never below 0; `inf` without one."""
        if self.deadline == inf:
            return inf
        return max(0.0, self.deadline - self.now())

    def expired(self) -> bool:
        """Whether the deadline has passed, as far as timers can tell."""
        return self.deadline != inf and self.now() >= self.deadline - _TIMER_GRAIN

    def random(self) -> float:
        """Draw from the pipeline's source of randomness: at least 0, below 1."""
        return self.pipeline.random()

    def emit(
        self,
        kind: EventKind,
        at: int | None = None,
        *,
        error: BaseException | None = None,
        delay: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell the pipeline's listeners, if there are any.

        Args:
            kind: What happened.
            at: The layer it happened in; `None` for the pipeline as a whole.
            error: The error concerned.
            delay: Seconds until what follows.
            details: What else there is to say.
        """
        listeners = self.pipeline.hearers[kind]
        drill = rehearsal.get()
        if drill is not None:
            listeners += drill.listeners
        if listeners:
            layer = "" if at is None else self.pipeline.labels[at]
            event = Event(
                kind,
                self.pipeline.name,
                layer,
                self.now(),
                self.attempt,
                self.target,
                error,
                delay,
                details or {},
            )
            tell(listeners, event)

    def fork(self) -> Context:
        """Make a context of its own for a branch: the same call, with slots and counts of its own."""
        # What a retry in the branch gives up, one outside of it knows by the ticket.
        self.take_ticket()
        twin = self.__class__.__new__(self.__class__)
        twin.__dict__.update(self.__dict__)
        twin.slots = self.slots[:]
        if self.chosen is not None:
            twin.chosen = self.chosen.copy()
        twin.calls = 0
        return twin

    def take_ticket(self) -> int:
        """Return the number that names this call and its branches."""
        if self.ticket is None:
            self.ticket = next(_tickets)
        return self.ticket

    def detach(self) -> Context:
        """Fork for work that outlives the call: the caller's deadline does not bind it."""
        twin = self.fork()
        twin.deadline = inf
        twin.parent = None
        return twin

    def join(self, branch: Context) -> None:
        """Take over from a branch what became of the call there."""
        self.calls += branch.calls
        self.attempt = max(self.attempt, branch.attempt)
        self.target = branch.target
        self.degraded = branch.degraded
        self.source = branch.source
        self.answered_by = branch.answered_by
        self.error = branch.error
        self.age = branch.age
        self.index = branch.index

    def answer(self, at: int, given: Return, error: Exception | None) -> None:
        """Note where the answer comes from. The engine calls this when it performs a `Return`."""
        self.source = given.source or self.pipeline.labels[at]
        self.answered_by = "" if self.source == "call" else self.pipeline.labels[at]
        self.degraded = given.degraded
        self.age = given.age
        self.index = given.index
        self.error = given.error if given.error is not None else error
        if self.error is not None:
            forget_frames(self.error)

    def renew(self) -> None:
        """Forget where an answer came from, as the call goes in once more."""
        if self.source != "call":
            self.degraded = False
            self.source = "call"
            self.answered_by = ""
            self.error = self.age = self.index = None


class AsyncContext(Context):
    """One call through a pipeline in async code."""

    is_async = True


_current: ContextVar[Context | None] = ContextVar("llm_config_resilience.current", default=None)


def current() -> Context | None:
    """Return the context of the innermost pipeline call the code runs in; `None` outside of one.

    A called function finds its deadline, attempt and target here:

        context = current()
        timeout = 5.0 if context is None else min(5.0, context.remaining())
    """
    context = _current.get()
    return None if context is None or context.over else context


#: For the engine alone, which sets it around every segment.
current_context = _current
