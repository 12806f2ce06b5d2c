"""Which errors a strategy acts on: exception classes, or a predicate given the error."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

from llm_config_resilience.errors import RejectedError

Condition: TypeAlias = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], object]
Predicate: TypeAlias = Callable[[Exception], object]


def matcher(on: Condition) -> Predicate:
    """Make a predicate of exception classes; leave a predicate as it is.

    Raises:
        TypeError: It is neither.
    """
    classes: Any = on
    if isinstance(on, (type, tuple)):
        with suppress(TypeError):
            isinstance(None, classes)
            return lambda error: isinstance(error, classes)
    elif callable(on):
        return on
    raise TypeError(f"on must be exception classes or a predicate, not {on!r:.80}")


def retriable(error: Exception) -> bool:
    """Whether the same call may be repeated: what `Retry` acts on unless told otherwise.

    The error's own `is_retriable` decides, then its `is_transient`, then its class: `OSError` (which
    `ConnectionError` and `TimeoutError` are).
    """
    return _ask(error, "is_retriable", "is_transient")


def transient(error: Exception) -> bool:
    """Whether another target may do better: what `Failover` acts on unless told otherwise.

    The error's own `is_transient` decides, then its `is_retriable`, then its class: `OSError` (which
    `ConnectionError` and `TimeoutError` are).
    """
    return _ask(error, "is_transient", "is_retriable")


def unavailable(error: Exception) -> bool:
    """Whether there is no answer at all: what `CacheFallback` serves a stale value for.

    Transient errors, and calls turned away on this side. What is not found, denied or invalid *is* an
    answer, and never hidden.
    """
    return isinstance(error, RejectedError) or transient(error) or retriable(error)


def _ask(error: Exception, *attributes: str) -> bool:
    for attribute in attributes:
        said = getattr(error, attribute, None)
        if isinstance(said, bool):
            return said
    return isinstance(error, OSError)
