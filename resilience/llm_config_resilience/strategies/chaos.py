"""Faults, latency and wrong results on purpose, to see what the rest of a pipeline makes of them."""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from llm_config_resilience.arguments import check_at_least, check_share
from llm_config_resilience.directives import Directive, Raise, Return, Wait
from llm_config_resilience.errors import DeadlineExceededError, without_frames
from llm_config_resilience.locks import new_lock
from llm_config_resilience.strategies.strategy import HOOKS, Strategy

if TYPE_CHECKING:
    from llm_config_resilience.context import Context

Fault: TypeAlias = Exception | Callable[[], Exception]

#: Share of the calls that is changed unless told otherwise.
_RATE: Final = 0.1
#: Seconds before the deadline at which a latency beyond it ends: a wait up to the deadline is refused.
_LAST_MOMENT: Final = 0.001
#: What a 64 bit number is divided by to give at least 0 and below 1.
_RANGE: Final = 2.0**64


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


_UNCHANGED = _Unchanged()


def injected() -> Exception:
    """Make the default fault, a `ConnectionError`: it is transient."""
    return ConnectionError("a fault injected by chaos")


class Chaos(Strategy):
    """Make calls fail, take long or return something else; the innermost layer, in place of a bad backend.

    Which calls are changed depends on the seed and on how many came before, not on time or on the order of
    threads: the same seed changes the same calls. A latency beyond the deadline ends in
    `DeadlineExceededError` when the deadline has come, as a backend that hangs would.

    Args:
        fault_rate: Share of the calls that fail, 0 to 1, without reaching the function.
        error: What they fail with: an error (copied each time), its class, or a function that makes one.
        latency: Seconds that calls are delayed, or the least and the most of them; 0 for not at all.
        latency_rate: Share of the calls that are delayed, 0 to 1. A call may be delayed and fail then.
        result: What calls return in place of their result, or a function that makes it of the result.
        result_rate: Share of the calls whose result is changed, 0 to 1.
        when: Given the call's arguments; calls for which it answers false are left alone, and not counted.
        seed: Makes it repeatable. Unless given one is drawn; it is in `seed`, to be told in a report.
        enabled: Whether it does anything. May be set at any time: `chaos.enabled = False`.
        name: For events.
    """

    role: ClassVar[str] = "chaos"

    def __init__(
        self,
        fault_rate: float = _RATE,
        error: Fault = injected,
        latency: float | tuple[float, float] = 0.0,
        *,
        latency_rate: float = _RATE,
        result: Any = _UNCHANGED,
        result_rate: float = _RATE,
        when: Callable[..., object] | None = None,
        seed: int | str | None = None,
        enabled: bool = True,
        name: str = "",
    ) -> None:
        check_share(fault_rate=fault_rate, latency_rate=latency_rate, result_rate=result_rate)
        self._low, self._high = latency if isinstance(latency, tuple) else (latency, latency)
        check_at_least(0, latency=self._low)
        if not self._low <= self._high:
            raise ValueError(f"latency must be seconds, or the least and the most of them, not {latency!r}")
        self.name = name
        self.enabled = enabled
        self.seed: int | str = secrets.randbits(64) if seed is None else seed
        self._fault_rate = fault_rate
        self._error = error
        self._latency_rate = latency_rate if self._high else 0.0
        self._result = result
        self._result_rate = 0.0 if result is _UNCHANGED else result_rate
        self._when = when
        self._count = 0
        self._lock = new_lock()
        self.hooks: frozenset[str] = HOOKS if self._result_rate else HOOKS - {"succeeded"}

    def before(self, ctx: Context, at: int) -> Directive | None:
        """Delay the call, fail it, or let it go on."""
        if not self.enabled or (self._when is not None and not self._when(*ctx.args, **ctx.kwargs)):
            return None
        fault, slow, changed, share = self._draw()
        ctx.slots[at] = changed < self._result_rate
        then = self._fail if fault < self._fault_rate else None
        if slow < self._latency_rate:
            return self._delay(ctx, at, self._low + share * (self._high - self._low), then)
        return None if then is None else then(ctx, at)

    def succeeded(self, ctx: Context, at: int, value: Any) -> Directive | None:
        """Change the result."""
        if not ctx.slots[at]:
            return None
        ctx.emit("injected", at, details={"what": "result"})
        # The layers outside must take it for the function's own.
        return Return(self._result(value) if callable(self._result) else self._result, source="call")

    def describe(self) -> dict[str, Any]:
        """Show what is done how often."""
        return {
            "enabled": self.enabled,
            "fault_rate": self._fault_rate,
            "latency": (self._low, self._high),
            "latency_rate": self._latency_rate,
            "result_rate": self._result_rate,
            "seed": self.seed,
        }

    def _draw(self) -> tuple[float, ...]:
        """Four numbers, at least 0 and below 1, that depend on the seed and the count alone."""
        with self._lock:
            count = self._count
            self._count += 1
        digest = hashlib.blake2b(f"{self.seed!r}:{count}".encode(), digest_size=32).digest()
        return tuple(number / _RANGE for number in struct.unpack(">4Q", digest))

    def _delay(
        self, ctx: Context, at: int, seconds: float, then: Callable[[Context, int], Directive] | None
    ) -> Directive:
        ctx.emit("injected", at, delay=seconds, details={"what": "latency"})
        left = ctx.remaining() - _LAST_MOMENT
        if seconds <= left:
            return Wait(seconds, then=then)
        return Wait(max(0.0, left), then=partial(self._expire, seconds))

    def _expire(self, seconds: float, _ctx: Context, _at: int) -> Directive:
        return Raise(DeadlineExceededError(f"a latency of {seconds:g} s, injected by chaos"))

    def _fail(self, ctx: Context, at: int) -> Directive:
        error = without_frames(self._error) if isinstance(self._error, Exception) else self._error()
        ctx.emit("injected", at, error=error, details={"what": "fault"})
        return Raise(error)
