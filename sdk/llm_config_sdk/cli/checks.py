"""Claims of the demo, checked: what was expected, what was found, and whether the claim holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One claim.

    Attributes:
        claim: What is said to be so.
        expected: What there had to be, in words.
        found: What there was, in words.
        holds: Whether the claim is true.
    """

    claim: str
    expected: str
    found: str
    holds: bool


def equal(claim: str, expected: object, found: object) -> Check:
    """Claim that two things are equal."""
    return Check(claim, worded(expected), worded(found), holds=expected == found)


def true(claim: str, expected: str, found: object, *, holds: bool) -> Check:
    """Claim something that is more than equality; `expected` says it in words."""
    return Check(claim, expected, worded(found), holds=holds)


def is_a(claim: str, expected: type, found: object) -> Check:
    """Claim that something is an instance of a class."""
    return Check(claim, expected.__name__, type(found).__name__, holds=isinstance(found, expected))


def worded(thing: object) -> str:
    """Say a thing in one line."""
    if isinstance(thing, type):
        return thing.__name__
    if isinstance(thing, BaseException):
        return f"{type(thing).__name__}: {thing}"
    if isinstance(thing, tuple | list):
        return ", ".join(map(str, thing)) or "nothing"  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]  # anything can be worded
    return "nothing" if thing is None else str(thing)
