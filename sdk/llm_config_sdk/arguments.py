"""What a client's arguments have to be, beyond its settings and the platform's names.

A wrong one is refused where it is given, by its name. It is not shown, for it may be a secret: its kind is.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from inspect import iscoroutinefunction
from types import NoneType
from typing import Any, Final

from pydantic import BaseModel

from llm_config_sdk.errors import InvalidRequestError
from llm_config_sdk.policy import CachePolicy, ResiliencePolicy
from llm_config_sdk.snapshot import SnapshotPolicy

_PATH: Final = (str, os.PathLike)
_WANTED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "backups": ((Iterable,), "base URLs"),
    "bootstrap": ((*_PATH, NoneType), "a path or None"),
    "cache": ((CachePolicy, str, NoneType), "a CachePolicy, the URL of a Redis or None"),
    "cert": ((*_PATH, tuple, NoneType), "a path, or a certificate, its key and its password, or None"),
    "fallback": ((Mapping, NoneType), "a mapping of (namespace, key) to values or None"),
    "headers": ((Mapping, NoneType), "a mapping of names to values or None"),
    "listeners": ((Iterable,), "several callables"),
    "resilience": ((ResiliencePolicy, NoneType), "a ResiliencePolicy or None"),
    "snapshot": ((SnapshotPolicy, *_PATH, bool, NoneType), "a SnapshotPolicy, a path, True, False or None"),
    "values": ((Mapping,), "a mapping of (namespace, key) to values"),
}
_HINTS: Final = {
    "cache": "Pass CachePolicy(ttl=…, …), or None to keep nothing.",
    "fallback": "Pass {('app/llm', 'model'): 'gpt-4', …}.",
    "resilience": "Pass ResiliencePolicy(retry=…, breaker=…, …), or None for one plain call.",
    "values": "Pass {('app/llm', 'model'): 'gpt-4', …}.",
}
_PAIR: Final = 2


def check(**given: Any) -> None:
    """Refuse arguments of another kind than their names ask for.

    Raises:
        InvalidRequestError: One of them is.
    """
    for name, value in given.items():
        kinds, wanted = _WANTED[name]
        if not isinstance(value, kinds):
            raise InvalidRequestError(f"{name} must be {wanted}, not {_kind(value)}", hint=_HINTS.get(name))


def check_fallback(given: Mapping[Any, Any] | None) -> None:
    """Refuse a client's fallback that no read would ever find.

    Raises:
        InvalidRequestError: It is no mapping, or one of its keys is no pair of namespace and key.
    """
    check(fallback=given)
    for name in given or ():
        parts: Any = name
        is_pair = isinstance(name, tuple) and len(parts) == _PAIR
        if not (is_pair and all(isinstance(part, str) for part in parts)):
            raise InvalidRequestError(
                f"fallback must have pairs of namespace and key as its keys, not {name!r:.80}",
                hint=_HINTS["fallback"],
            )


def check_listeners(given: Any) -> None:
    """Refuse what no event can be told to.

    Raises:
        InvalidRequestError: They are not several, or one of them cannot be called.
    """
    check(listeners=given)
    for listener in given:
        if not callable(listener):
            raise InvalidRequestError(f"listeners must be callable, not {_kind(listener)}")


def check_callback(given: Any) -> None:
    """Refuse what could never be told of a change.

    Raises:
        InvalidRequestError: It cannot be called, or its call would only make a coroutine.
    """
    if not callable(given) or iscoroutinefunction(given):
        what = "an async one" if callable(given) else _kind(given)
        raise InvalidRequestError(
            f"callback must be a plain function, not {what}",
            hint="Pass a function that takes a Change; for async code, loop over `watch`.",
        )


def check_clock(given: Any) -> None:
    """Refuse what does not tell the time; `None` is the system's clock.

    Raises:
        InvalidRequestError: It does not.
    """
    if given is not None and (isinstance(given, type) or not hasattr(given, "monotonic")):
        raise InvalidRequestError(f"clock must be a Clock, such as ManualClock(), not {_kind(given)}")


def check_model(given: Any) -> None:
    """Refuse what is no model, before anything is asked.

    Raises:
        InvalidRequestError: It is none.
    """
    if not (isinstance(given, type) and issubclass(given, BaseModel)):
        raise InvalidRequestError(
            f"model must be a subclass of pydantic.BaseModel, not {_kind(given)}",
            hint="Pass such a class; get_fields(…) returns a dictionary.",
        )


def positive_seconds(name: str, given: Any) -> float:
    """Read a time that has to be more than none.

    Raises:
        InvalidRequestError: It is no number, or not more than 0.
    """
    if isinstance(given, bool) or not isinstance(given, (int, float)) or not given > 0:  # NaN is not
        raise InvalidRequestError(f"{name} must be more than 0 seconds, not {given!r:.80}")
    return given


def _kind(value: Any) -> str:
    return f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
