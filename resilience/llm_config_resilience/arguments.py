"""What arguments have to be: said by their names where they are given, not by an operator far from there.

Each check takes arguments by name, and raises `TypeError` where one is of another kind, `ValueError` where it
is out of bounds. A `bool` is no number here, and NaN is out of all bounds.
"""

from __future__ import annotations

from typing import Any


def check_at_least(least: float, **given: Any) -> None:
    """Refuse what is no number, or below `least`."""
    for name, value in given.items():
        _check_number(name, value)
        if not value >= least:
            raise ValueError(f"{name} must be {least:g} or more, not {value!r}")


def check_above(limit: float, **given: Any) -> None:
    """Refuse what is no number above `limit`."""
    for name, value in given.items():
        _check_number(name, value)
        if not value > limit:
            raise ValueError(f"{name} must be more than {limit:g}, not {value!r}")


def check_share(**given: Any) -> None:
    """Refuse what is no share: a number from 0 to 1."""
    for name, value in given.items():
        _check_number(name, value)
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be a share, from 0 to 1, not {value!r}")


def check_count(least: int, **given: Any) -> None:
    """Refuse what is no whole number, or below `least`."""
    for name, value in given.items():
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be a whole number, not {value!r:.80}")
        if value < least:
            raise ValueError(f"{name} must be {least} or more, not {value!r}")


def check_callable(**given: Any) -> None:
    """Refuse what cannot be called."""
    for name, value in given.items():
        if not callable(value):
            raise TypeError(f"{name} must be a function, not {value!r:.80}")


def check_is(wanted: type, **given: Any) -> None:
    """Refuse what is no object of a class."""
    for name, value in given.items():
        if not isinstance(value, wanted):
            article = "an" if wanted.__name__[0] in "AEIOU" else "a"
            raise TypeError(f"{name} must be {article} {wanted.__name__}, not {_shown(value)}")


def check_has(what: str, *methods: str, **given: Any) -> None:
    """Refuse what has not the methods of a protocol, and a class where an object of it is wanted.

    Args:
        what: What is wanted, with its article.
        *methods: The protocol's methods that are looked for.
        **given: The arguments.
    """
    for name, value in given.items():
        if isinstance(value, type) or not all(hasattr(value, method) for method in methods):
            raise TypeError(f"{name} must be {what}, not {_shown(value)}")


def _shown(value: Any) -> str:
    return f"the class {value.__name__} itself" if isinstance(value, type) else f"{value!r:.80}"


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or hasattr(value, "__index__")):
        raise TypeError(f"{name} must be a number, not {value!r:.80}")
