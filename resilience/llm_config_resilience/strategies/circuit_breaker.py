"""Stop calling what keeps failing, and look now and then whether it is back."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, cast

import pybreaker

from llm_config_resilience.errors import CircuitOpenError, RejectedError, without_frames
from llm_config_resilience.strategies.outcome_window import OutcomeWindow
from llm_config_resilience.strategies.retry_after import seconds_to_wait
from llm_config_resilience.strategies.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_config_resilience.context import Context

_log = logging.getLogger("llm_config_resilience")

CircuitState: TypeAlias = Literal["closed", "open", "half-open"]
Exclusion: TypeAlias = "type[Exception] | Callable[[Any], bool]"

#: Each reopening in a row doubles the open time, up to ten times the first (Polly and resilience4j advise a
#: growing break; the cap keeps a recovered backend from being shunned for hours).
_GROWTH = 2.0
_MAX_GROWTH = 10.0
#: A grown open time varies by as much either way, so that clients do not probe in step.
_JITTER = 0.1


class CircuitBreaker(Strategy):
    """Reject calls at once while what is inside is known to be failing.

    Closed, calls pass and failures are counted. Open, they are rejected with `CircuitOpenError` for `timeout`
    seconds (longer, if the failure that opened it carries a longer `retry_after`; longer and jittered when
    it reopens). Then, half-open, `max_probes` at a time are let through: `success_threshold` successes close
    it, a failure opens it again at once. Neither a success nor a failure are: cancelled and interrupted
    calls, errors in `exclude`, and calls turned away further inside. Results of calls admitted before the
    last change of state change nothing, and a probe that hangs gives up its place after `timeout` seconds.

    One instance may be shared by threads, event loops and pipelines. No lock is held during a call.

    Args:
        failure_threshold: Failures in a row that open it.
        success_threshold: Probes that have to succeed to close it.
        timeout: Seconds it stays open the first time, and a probe's lease.
        max_probes: Probes at a time.
        failure_rate: Opens it as well, when this share (above 0, up to 1) of the calls in the window failed.
        window: Seconds that `failure_rate` looks back.
        minimum_calls: Calls there must be in the window before `failure_rate` says anything.
        exclude: Errors that are no failures: exception classes, or predicates given the error.
        listeners: pybreaker listeners; they hear of changes of state, outside any lock.
        storage: A pybreaker storage, which is told of changes of state.
        name: For events and errors.
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
        window: float = 10.0,
        minimum_calls: int = 20,
        exclude: Sequence[Exclusion] = (),
        listeners: Sequence[pybreaker.CircuitBreakerListener] = (),
        storage: pybreaker.CircuitBreakerStorage | None = None,
        name: str = "",
    ) -> None:
        if min(failure_threshold, success_threshold, max_probes, minimum_calls) < 1:
            raise ValueError("thresholds, max_probes and minimum_calls must be 1 or more")
        if timeout <= 0 or window <= 0:
            raise ValueError("timeout and window must be more than 0 seconds")
        if failure_rate is not None and not 0 < failure_rate <= 1:
            raise ValueError("failure_rate is a share: above 0, up to 1")
        self.name = name
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._timeout = timeout
        self._max_probes = max_probes
        self._failure_rate = failure_rate
        self._minimum_calls = minimum_calls
        self._window = None if failure_rate is None else OutcomeWindow(window)
        self._lock = threading.Lock()
        self._state: CircuitState = "closed"
        self._forced = False
        #: Admissions carry the era they were given in; every change of state begins a new one.
        self._era: Any = object()
        self._failures = 0
        self._successes = 0
        self._reopened = 0
        self._open_until = 0.0
        self._probes: dict[object, float] = {}
        self._last_failure: BaseException | None = None
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=failure_threshold,
            reset_timeout=timeout,
            success_threshold=success_threshold,
            exclude=list(exclude),
            listeners=[_Guarded(listener) for listener in listeners],
            state_storage=storage,
            name=name or None,
        )

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.name!r}: {self._state}>"

    @property
    def state(self) -> CircuitState:
        """`"closed"`, `"open"` or `"half-open"`; open turns half-open with the first call that is due."""
        return self._state

    @property
    def pybreaker(self) -> pybreaker.CircuitBreaker:
        """The breaker that carries storage, listeners and exclusions."""
        return self._breaker

    @property
    def last_failure(self) -> BaseException | None:
        """The failure that opened the circuit, without its traceback."""
        return self._last_failure

    def force_open(self) -> None:
        """Reject every call until `reset` or `force_closed`."""
        self._force("open", forced=True)

    def force_closed(self) -> None:
        """Let every call pass, whatever fails, until `reset` or `force_open`."""
        self._force("closed", forced=True)

    def reset(self) -> None:
        """Begin anew: closed, nothing counted, nothing forced."""
        self._force("closed", forced=False)

    def before(self, ctx: Context, at: int) -> None:
        """Admit the call, or reject it."""
        ctx.slots[at] = self._era if self._state == "closed" else self._admit(ctx, at)

    def succeeded(self, ctx: Context, at: int, value: Any) -> None:
        """Count a success. There is nothing to do on a healthy, closed circuit."""
        del value
        if self._failures or self._window is not None or self._state != "closed":
            changed = self._count_success(ctx.slots[at], ctx)
            if changed:
                self._tell(ctx, at)

    def failed(self, ctx: Context, at: int, error: Exception) -> None:
        """Count a failure, unless it is none; the error goes on as it is."""
        admission, ctx.slots[at] = ctx.slots[at], None
        if isinstance(error, RejectedError) or not self._is_failure(error):
            self._give_back(admission)
        elif self._count_failure(admission, ctx, error):
            self._tell(ctx, at, error)

    def released(self, ctx: Context, at: int) -> None:
        """Give the probe's place back; a call that our own deadline ended counts as a failure."""
        admission, ctx.slots[at] = ctx.slots[at], None
        if admission is None:
            return
        if ctx.expired():
            if self._count_failure(admission, ctx, TimeoutError("no answer before the deadline")):
                self._tell(ctx, at)
        else:
            self._give_back(admission)

    def describe(self) -> dict[str, Any]:
        """Show thresholds, time and state."""
        return {
            "failure_threshold": self._failure_threshold,
            "success_threshold": self._success_threshold,
            "timeout": self._timeout,
            "failure_rate": self._failure_rate,
            "state": self._state,
        }

    def _is_failure(self, error: Exception) -> bool:
        # pybreaker's is_system_error *calls* an exception class whose metaclass is not type (ABCMeta), and so
        # excludes every error.
        for exclusion in self._breaker.excluded_exceptions:
            rule = cast("Any", exclusion)
            if isinstance(error, rule) if isinstance(rule, type) else rule(error):
                return False
        return True

    def _admit(self, ctx: Context, at: int) -> Any:
        with self._lock:
            if self._state == "closed":
                return self._era
            now = ctx.now()
            if self._state == "open" and not self._forced and now >= self._open_until:
                self._move("half-open")
                changed = True
            else:
                changed = False
            wait = None if self._forced else max(0.0, self._open_until - now)
            probe: object | None = None
            if self._state == "half-open":
                self._probes = {p: lease for p, lease in self._probes.items() if lease > now}
                if len(self._probes) < self._max_probes:
                    probe = object()
                    self._probes[probe] = now + self._timeout
                else:
                    wait = min(self._probes.values()) - now
        if changed:
            self._tell(ctx, at)
        if probe is not None:
            return probe
        name = self.name or "circuit"
        error = CircuitOpenError(f"{name} is {self._state}", name=self.name, retry_after=wait)
        ctx.emit("rejected", at, error=error, delay=wait)
        raise error from self._last_failure

    def _count_success(self, admission: Any, ctx: Context) -> bool:
        with self._lock:
            if admission is self._era:
                self._failures = 0
                if self._window is not None:
                    self._window.record(ctx.now(), failed=False)
            elif self._probes.pop(admission, None) is not None:
                self._successes += 1
                if self._successes >= self._success_threshold:
                    self._move("closed")
                    return True
            return False

    def _count_failure(self, admission: Any, ctx: Context, error: Exception) -> bool:
        with self._lock:
            now = ctx.now()
            if admission is self._era and self._state == "closed" and not self._forced:
                self._failures += 1
                if self._window is not None:
                    self._window.record(now, failed=True)
                if self._failures < self._failure_threshold and not self._rate_exceeded():
                    return False
                self._reopened = 0
            elif self._probes.pop(admission, None) is not None:
                self._reopened += 1
            else:
                return False
            self._move("open")
            self._open_until = now + self._open_time(ctx, error)
            self._last_failure = without_frames(error)
            return True

    def _rate_exceeded(self) -> bool:
        return (
            self._window is not None
            and self._failure_rate is not None
            and self._window.calls >= self._minimum_calls
            and self._window.failure_rate >= self._failure_rate
        )

    def _open_time(self, ctx: Context, error: Exception) -> float:
        seconds = self._timeout
        if self._reopened:
            seconds *= min(_MAX_GROWTH, _GROWTH**self._reopened)
            seconds *= 1 + _JITTER * (2 * ctx.random() - 1)
        return max(seconds, seconds_to_wait(error, ctx.clock) or 0.0)

    def _give_back(self, admission: Any) -> None:
        with self._lock:
            self._probes.pop(admission, None)

    def _move(self, state: CircuitState) -> None:
        """Change the state, with the lock held: whatever was admitted before counts no more."""
        self._state = state
        self._era = object()
        self._failures = self._successes = 0
        self._probes = {}
        if state == "closed":
            self._reopened = 0
        if self._window is not None:
            self._window.clear()

    def _force(self, state: CircuitState, *, forced: bool) -> None:
        with self._lock:
            changed = self._state != state
            self._forced = forced
            self._move(state)
            self._open_until = float("inf") if forced and state == "open" else 0.0
            self._last_failure = None
        if changed:
            self._tell_pybreaker()

    def _tell(self, ctx: Context, at: int, error: Exception | None = None) -> None:
        """Tell listeners of a change of state, with no lock held."""
        self._tell_pybreaker()
        if ctx.listeners:
            state = self._state
            kind = {"open": "opened", "half-open": "half_opened", "closed": "closed"}[state]
            delay = max(0.0, self._open_until - ctx.now()) if state == "open" else None
            ctx.emit(cast("Any", kind), at, error=error, delay=delay, details={"breaker": self.name})

    def _tell_pybreaker(self) -> None:
        try:
            match self._state:
                case "open":
                    self._breaker.open()
                case "half-open":
                    self._breaker.half_open()
                case "closed":
                    self._breaker.close()
        except Exception:  # noqa: BLE001 - the local state is what counts
            _log.exception("The storage of circuit breaker %r failed", self.name)


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
