"""What the toolkit raises itself.

    ResilienceError
    ├── RejectedError              the call never ran
    │   ├── CircuitOpenError       (also a pybreaker.CircuitBreakerError)
    │   ├── BulkheadFullError
    │   └── RateLimitedError
    ├── DeadlineExceededError      (also a TimeoutError)
    └── AllTargetsFailedError      (also an ExceptionGroup)

A rejection is made on this side: no breaker counts it and no retry repeats it. Everything else
a called function raises reaches the caller as it is.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

from pybreaker import CircuitBreakerError

if TYPE_CHECKING:
    from collections.abc import Sequence

E = TypeVar("E", bound=BaseException)


class ResilienceError(Exception):
    """Root of the errors this package raises."""


class RejectedError(ResilienceError):
    """The call was turned away on this side and never ran.

    Args:
        message: What turned it away.
        name: The strategy's name.
        retry_after: Seconds after which asking again makes sense, where that is known.
    """

    #: The same call again at once would be turned away again.
    is_retriable = False
    #: Another target may well take it.
    is_transient = True

    def __init__(self, message: str, *, name: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.name, self.retry_after)


class CircuitOpenError(RejectedError, CircuitBreakerError):
    """The circuit breaker is open; its last failure is the `__cause__`."""


class BulkheadFullError(RejectedError):
    """As many calls as are allowed are running, and the queue is full."""


class RateLimitedError(RejectedError):
    """Our own rate limit is used up (a server's 429 is an error of the call instead)."""


class DeadlineExceededError(ResilienceError, TimeoutError):
    """The time allowed for the call, or for one attempt, is over; its message says which."""

    #: It says nothing about the call, only that it was slow: breakers count it.
    is_retriable = True
    is_transient = True


class AllTargetsFailedError(ResilienceError, ExceptionGroup[Exception]):
    """Every target of a `Failover` failed; `.exceptions` has one error a target, in the order tried.

    `targets` are the targets in the same order.
    """

    targets: tuple[Any, ...] = ()

    @classmethod
    def of(cls, failures: Sequence[tuple[Any, Exception]]) -> AllTargetsFailedError:
        """Group the failures of some targets.

        Args:
            failures: Pairs of target and error, in the order tried.
        """
        names = ", ".join(str(target) for target, _ in failures)
        group = cls(f"all targets failed: {names}", [error for _, error in failures])
        group.targets = tuple(target for target, _ in failures)
        return group

    def derive(self, excs: Sequence[Exception], /) -> AllTargetsFailedError:  # type: ignore[override]  # one class for the parts too, as PEP 654 asks
        """Make the group that `split` and `subgroup` hand out."""
        part = AllTargetsFailedError(self.message, excs)
        part.targets = tuple(t for t, e in zip(self.targets, self.exceptions, strict=True) if e in excs)
        return part

    @property
    def is_retriable(self) -> bool:
        """Whether any target may answer when asked again."""
        return any(getattr(error, "is_retriable", True) for error in self.exceptions)

    @property
    def is_transient(self) -> bool:
        """Whether any of the failures is transient."""
        return any(getattr(error, "is_transient", True) for error in self.exceptions)

    @property
    def retry_after(self) -> float | None:
        """Seconds until the first target wants to be asked again, if every one of them says."""
        hints = [getattr(error, "retry_after", None) for error in self.exceptions]
        known = [hint for hint in hints if isinstance(hint, (int, float))]
        return min(known) if len(known) == len(hints) else None


class UsageError(TypeError):
    """The pipeline was used in a way that cannot work; no strategy hides it."""


class PipelineOrderWarning(UserWarning):
    """The order of a pipeline's strategies is a known mistake."""


def forget_frames(error: BaseException) -> None:
    """Take the tracebacks off an error that is kept, and off what it was raised from.

    A traceback keeps every frame below it alive, and through them whoever keeps the error:
    only the garbage collector would end that.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            link.__traceback__ = None
            pending += (link.__cause__, link.__context__)


def trimmed(error: E) -> E:
    """Take the first line off a traceback: the frame that caught it, which comes back where it is raised."""
    trace = error.__traceback__
    if trace is not None:
        error.__traceback__ = trace.tb_next
    return error


def without_frames(error: E) -> E | ResilienceError:
    """Copy an error without its traceback, to keep it while the original goes on its way."""
    try:
        twin = copy.copy(error)
    except Exception:  # noqa: BLE001 - any class may refuse to be built from its args
        try:
            twin = type(error).__new__(type(error), *error.args)
            twin.__dict__.update(error.__dict__)
        except Exception:  # noqa: BLE001 - and any may refuse that too
            return ResilienceError(f"{type(error).__name__}: {error}")
    twin.__traceback__ = None
    return twin


def _rebuild(cls: type[RejectedError], message: str, name: str, retry_after: float | None) -> RejectedError:
    return cls(message, name=name, retry_after=retry_after)
