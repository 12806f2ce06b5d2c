"""Stop calling what keeps failing, and look now and then whether it is back."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, cast

import pybreaker

from llm_config_resilience.arguments import check_above
from llm_config_resilience.errors import CircuitOpenError, RejectedError
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.circuit import Admission, Circuit, CircuitSettings, Refusal
from llm_config_resilience.strategies.retry_after import seconds_to_wait
from llm_config_resilience.strategies.shared_circuit import Heard, SharedCircuit
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llm_config_resilience.context import Context
    from llm_config_resilience.events import EventKind
    from llm_config_resilience.strategies.circuit import Change, CircuitState

_log = logging.getLogger("llm_config_resilience")

Exclusion: TypeAlias = "type[Exception] | Callable[[Any], bool]"

#: Seconds between two looks at a storage that processes share: how long they may disagree.
_REFRESH_EVERY: Final = 1.0

_KINDS: Final[dict[CircuitState, EventKind]] = {
    "open": "opened",
    "half-open": "half_opened",
    "closed": "closed",
}


class CircuitBreaker(Strategy):
    """Reject calls at once while what is inside is known to be failing.

        breaker = CircuitBreaker(failure_threshold=5, timeout=60.0, name="prices")
        price = Pipeline(Retry(), breaker).call(fetch, "EUR")

    Closed, calls pass and failures are counted. Open, they are rejected with `CircuitOpenError` for `timeout`
    seconds: longer if the failure that opened it carries a longer `retry_after`, longer and jittered when it
    reopens, about ten times as long at most. Then, half-open, `max_probes` at a time are let through:
    `success_threshold` successes close it, a failure opens it again at once. Neither a success nor a failure
    are: cancelled and interrupted calls, errors in `exclude`, and calls turned away further inside. Results
    of calls admitted before the last change of state change nothing, and a probe that hangs gives up its
    place after `timeout` seconds.

    One instance may be shared by threads, event loops and pipelines. No lock is held during a call.

    A pybreaker `storage` other than its memory storage (Redis) shares the state with other processes. A
    thread reads and writes it: calls never wait for it, and where it is out of reach the breaker goes on by
    what it sees itself. Every process sends its own probes, and opens for no longer than `timeout` when it
    hears of an open circuit.

    Args:
        failure_threshold: Failures in a row that open it. Where failures are usual, as five runs of them that
            a success ended within about `timeout` seconds show, chance alone brings such runs about: then
            the run has to be one that chance makes less than once in a million.
        success_threshold: Probes that have to succeed to close it.
        timeout: Seconds it stays open the first time, and a probe's lease.
        max_probes: Probes at a time.
        failure_rate: Opens it as well, when this share (above 0, up to 1) of the calls in the window failed.
        slow_after: Seconds after which a call counts as slow, whether it fails or not; a slow probe opens the
            circuit again. `None` does not look.
        slow_rate: The share of slow calls in the window that opens it. The default, all of them, is
            resilience4j's.
        window: Seconds that `failure_rate` and `slow_rate` look back.
        minimum_calls: Calls there must be in the window before the rates say anything.
        patience: How many times `failure_threshold` a run of failures can have to be, 1 or more, where
            failures are usual. With 1, `failure_threshold` always is enough.
        exclude: Errors that are no failures: exception classes, or predicates given the error.
        listeners: pybreaker listeners; their `state_change` is called, outside any lock and in order.
        storage: A pybreaker storage, which is told of changes of state.
        refresh_every: Seconds between two looks at a shared storage.
        name: For events and errors.

    Raises:
        CircuitOpenError: The circuit is open, or half-open with all places taken.
    """

    role: ClassVar[str] = "breaker"

    def __init__(
        self,
        failure_threshold: int = 5,
        success_threshold: int = 2,
        timeout: float = 60.0,
        *,
        max_probes: int = 1,
        failure_rate: float | None = None,
        slow_after: float | None = None,
        slow_rate: float = 1.0,
        window: float = 10.0,
        minimum_calls: int = 20,
        patience: float = 4.0,
        exclude: Iterable[Exclusion] = (),
        listeners: Iterable[pybreaker.CircuitBreakerListener] = (),
        storage: pybreaker.CircuitBreakerStorage | None = None,
        refresh_every: float = _REFRESH_EVERY,
        name: str = "",
    ) -> None:
        settings = CircuitSettings(
            failure_threshold,
            success_threshold,
            timeout,
            max_probes,
            failure_rate,
            slow_after,
            slow_rate,
            window,
            minimum_calls,
            patience,
        )
        check_above(0, refresh_every=refresh_every)
        self.name = name
        is_local = storage is None or isinstance(storage, pybreaker.CircuitMemoryStorage)
        self._shared = None if storage is None or is_local else SharedCircuit(storage, refresh_every)
        self._mirror = pybreaker.CircuitBreaker(
            fail_max=failure_threshold,
            reset_timeout=timeout,
            success_threshold=success_threshold,
            exclude=list(exclude),
            listeners=[_Guarded(listener) for listener in listeners],
            state_storage=storage if is_local else None,
            name=name or None,
        )
        #: What a storage said before the first call; whose clock that will have is not known yet.
        self._inherited = _state_of(storage) if is_local else None
        self._circuit = Circuit(settings, watched=self._shared is not None or self._inherited is not None)
        self._telling = new_lock()

    @classmethod
    def from_pybreaker(cls, breaker: pybreaker.CircuitBreaker, **settings: Any) -> CircuitBreaker:
        """Take over a pybreaker's thresholds, exclusions, listeners, storage, name and state.

        Args:
            breaker: The breaker; it should not be called through any more.
            **settings: Settings of this class that pybreaker has not.
        """
        return cls(
            breaker.fail_max,
            breaker.success_threshold,
            breaker.reset_timeout,
            exclude=cast("Sequence[Exclusion]", breaker.excluded_exceptions),
            listeners=cast("tuple[pybreaker.CircuitBreakerListener, ...]", cast("Any", breaker).listeners),
            storage=vars(breaker)["_state_storage"],  # pybreaker shows it nowhere else
            name=breaker.name or "",
            **settings,
        )

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r}: {self.state}>"

    @property
    def state(self) -> CircuitState:
        """`"closed"`, `"open"` or `"half-open"`, as of the last call: open turns half-open with a call."""
        return self._circuit.state

    @property
    def probes(self) -> int:
        """Calls that probe at present, while it is half-open."""
        return self._circuit.probes

    @property
    def settings(self) -> CircuitSettings:
        """The figures in force."""
        return self._circuit.settings

    @property
    def pybreaker(self) -> pybreaker.CircuitBreaker:
        """A pybreaker that carries listeners and exclusions, and follows the state."""
        return self._mirror

    @property
    def last_failure(self) -> BaseException | None:
        """The failure that opened the circuit, without its traceback."""
        return self._circuit.last_failure

    def reconfigure(self, **changes: Any) -> None:
        """Change settings and keep the state: counts, an open circuit's time, and who is on the way.

        Args:
            **changes: Thresholds, times and rates by the names that the constructor gives them.
        """
        self._circuit.reconfigure(replace(self._circuit.settings, **changes))

    def force_open(self) -> None:
        """Reject every call until `reset` or `force_closed`."""
        self._force("open", forced=True)

    def force_closed(self) -> None:
        """Let every call pass, whatever fails, until `reset` or `force_open`."""
        self._force("closed", forced=True)

    def reset(self) -> None:
        """Begin anew: closed, nothing counted, nothing forced."""
        self._force("closed", forced=False)

    def refresh(self) -> None:
        """Write to and read from a shared storage now, blocking; the next call acts on what it said."""
        if self._shared is not None:
            self._shared.refresh()

    def before(self, ctx: Context, at: int) -> None:
        """Admit the call, or reject it."""
        ctx.slots[at] = (not ctx.calls and self._circuit.entry) or self._admit(ctx, at)

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Count a success. There is nothing to do on a healthy, closed circuit."""
        del value
        admission = ctx.slots[at]
        if admission is not self._circuit.idle and self._circuit.succeed(admission, ctx.now()):
            self._tell(ctx, at)

    def failed(self, ctx: Context, at: int, error: Exception) -> None:
        """Count a failure, unless it is none; the error goes on as it is."""
        admission, ctx.slots[at] = ctx.slots[at], None
        if isinstance(error, RejectedError) or not self._is_failure(error):
            self._circuit.give_back(admission)
        else:
            self._count_failure(admission, ctx, at, error)

    def released(self, ctx: Context, at: int) -> None:
        """Give the probe's place back; a call that our own deadline ended counts as a failure, if it ran."""
        admission, ctx.slots[at] = ctx.slots[at], None
        if admission is None:
            return
        if ctx.expired() and ctx.calls > admission.calls:
            self._count_failure(admission, ctx, at, TimeoutError("no answer before the deadline"))
        else:
            self._circuit.give_back(admission)

    def describe(self) -> dict[str, Any]:
        """Show the settings that differ from the defaults, the first three always, and the state."""
        usual = asdict(CircuitSettings())
        always = ("failure_threshold", "success_threshold", "timeout")
        shown = {
            key: value
            for key, value in asdict(self._circuit.settings).items()
            if key in always or value != usual[key]
        }
        return {**shown, "state": self.state}

    def _admit(self, ctx: Context, at: int) -> Admission:
        heard, self._inherited = self._inherited, None
        if self._shared is not None:
            heard = self._shared.touch()
        if heard is not None:
            self._adopt(ctx, heard)
        verdict = self._circuit.admit(ctx.now(), ctx.calls)
        self._tell(ctx, at)
        if isinstance(verdict, Admission):
            return verdict
        raise self._rejection(ctx, at, verdict) from self._circuit.last_failure

    def _adopt(self, ctx: Context, heard: Heard) -> None:
        opened_at = ctx.clock.time() if heard.opened_at is None else heard.opened_at
        left = opened_at + self._circuit.settings.timeout - ctx.clock.time()
        self._circuit.adopt(heard.state, ctx.now(), left)
        if self._shared is None:
            self._circuit.unwatch()

    def _rejection(self, ctx: Context, at: int, refusal: Refusal) -> CircuitOpenError:
        error = CircuitOpenError(
            f"{self.name or 'circuit'} is {refusal.state}", name=self.name, retry_after=refusal.wait
        )
        ctx.emit("rejected", at, error=error, delay=refusal.wait)
        return error

    def _count_failure(self, admission: Admission, ctx: Context, at: int, error: Exception) -> None:
        if self._circuit.fail(admission, error, ctx.now(), seconds_to_wait(error, ctx.clock), ctx.random):
            self._tell(ctx, at)

    def _is_failure(self, error: Exception) -> bool:
        # pybreaker's is_system_error *calls* an exception class whose metaclass is not type (ABCMeta), and so
        # excludes every error.
        for exclusion in self._mirror.excluded_exceptions:
            rule = cast("Any", exclusion)
            if isinstance(error, rule) if isinstance(rule, type) else rule(error):
                return False
        return True

    def _force(self, state: CircuitState, *, forced: bool) -> None:
        self._inherited = None
        self._circuit.force(state, forced=forced)
        self._tell()

    def _tell(self, ctx: Context | None = None, at: int = 0) -> None:
        """Tell of changes of state, the circuit's lock free: each once, in order, by whoever is first."""
        changes = self._circuit.changes
        while changes and self._telling.acquire(blocking=False):
            try:
                while changes:
                    self._tell_of(changes.popleft(), ctx, at)
            finally:
                self._telling.release()

    def _tell_of(self, change: Change, ctx: Context | None, at: int) -> None:
        if self._shared is not None and not change.heard:
            now = time.time() if ctx is None else ctx.clock.time()
            self._shared.tell(change.state, now if change.state == "open" else None)
        move = {"open": self._mirror.open, "half-open": self._mirror.half_open, "closed": self._mirror.close}
        try:
            move[change.state]()
        except Exception:  # noqa: BLE001 - the local state is what counts
            _log.exception("The storage of circuit breaker %r failed", self.name)
        if ctx is not None:
            details = {"breaker": self.name, "heard": change.heard}
            error = self._circuit.last_failure if change.state == "open" else None
            ctx.emit(_KINDS[change.state], at, error=error, delay=change.open_for, details=details)


class _Guarded(pybreaker.CircuitBreakerListener):
    """A listener that cannot break a call."""

    def __init__(self, listener: pybreaker.CircuitBreakerListener) -> None:
        self._listener = listener

    def state_change(
        self,
        cb: pybreaker.CircuitBreaker,
        old_state: pybreaker.CircuitBreakerState | None,
        new_state: pybreaker.CircuitBreakerState,
    ) -> None:
        try:
            self._listener.state_change(cb, old_state, new_state)
        except Exception:  # noqa: BLE001 - telling must not change what is told
            _log.exception("A listener of circuit breaker %r failed", cb.name)


def _state_of(storage: pybreaker.CircuitBreakerStorage | None) -> Heard | None:
    """What a storage in memory says, if it is anything but closed."""
    if storage is None or storage.state == "closed":
        return None
    opened_at = cast("Any", storage.opened_at)
    state = cast("CircuitState", storage.state)
    return Heard(state, None if opened_at is None else opened_at.timestamp())
