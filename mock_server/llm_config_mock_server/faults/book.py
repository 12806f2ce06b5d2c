"""The rules that are armed: refused where they make no sense, and asked about every request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast, get_args

from llm_config_mock_server.messages import AS_USUAL, At, Request
from llm_config_sdk.contract import Environment

from .match import Match
from .rule import Pick, Repeat, Rule
from .step import Step

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from llm_config_mock_server.randomness import Randomness

Problem = Callable[[Match, Step], str | None]
"""Says what of a fault a host cannot carry, or `None`."""


class FaultBook:
    """The rules that are armed, newest first.

    Args:
        randomness: Where draws derive from.
        lock: Held while rules are read or changed, shared with the core.
    """

    def __init__(self, randomness: Randomness, lock: AbstractContextManager[object]) -> None:
        """Begin without rules."""
        self._randomness = randomness
        self._lock = lock
        self._rules: list[Rule] = []
        self._numbers = 0
        self._restrictions: dict[str, Problem] = {}

    def restrict(self, host: str, problem: Problem) -> None:
        """Refuse from now on to arm what a host cannot carry.

        Args:
            host: The host's name, for the message.
            problem: Says what of a fault it cannot carry, or `None`.

        Raises:
            ValueError: Something is armed already that the host cannot carry.
        """
        with self._lock:
            for rule in self._rules:
                _check_carried(host, problem, rule.match, rule.steps)
            self._restrictions[host] = problem

    def script(
        self,
        match: Match | str,
        steps: Step | Iterable[Step],
        *,
        repeat: Repeat = "never",
        times: int = 1,
        probability: float = 1.0,
        between: tuple[float, float] | None = None,
        every: tuple[float, float] | None = None,
        at: At | None = None,
    ) -> Rule:
        """Arm a rule.

        Args:
            match: Which requests; a string as `Match.parse` reads it.
            steps: What happens to them, one after the other.
            repeat: What comes after the last step (see the module).
            times: How often the whole sequence is gone through before that.
            probability: The share of the matching requests that the rule takes, between 0 and 1.
            between: When, in seconds since the rule was armed: from the first up to the second.
            every: In which part of that: of every so many seconds, the first so many.
            at: Now; the machine's clocks if left out.

        Raises:
            TypeError: What is given as a step is none.
            ValueError: No steps, a figure outside its range, or a fault that a host of this server
                cannot carry.
        """
        sequence = _sequence(steps)
        if not sequence:
            raise ValueError("a rule needs at least one step")
        if repeat not in get_args(Repeat):
            raise ValueError(f"repeat must be one of {', '.join(get_args(Repeat))}, not {repeat!r}")
        if times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be between 0 and 1, not {probability}")
        _check_schedule(between, every)
        wanted = Match.parse(match) if isinstance(match, str) else match
        if wanted.env is not None:
            Environment.parse(wanted.env)
        if wanted.connection:
            _check_connection_steps(sequence)
        with self._lock:
            for host, problem in self._restrictions.items():
                _check_carried(host, problem, wanted, sequence)
            self._numbers += 1
            rule = Rule(
                self,
                self._numbers,
                wanted,
                sequence,
                repeat=repeat,
                times=times,
                probability=probability,
                between=between,
                every=every,
                since=(at or At.now()).monotonic,
            )
            self._rules.insert(0, rule)
            return rule

    def remove(self, rule: Rule) -> None:
        """Take a rule back; once more changes nothing."""
        with self._lock:
            if rule in self._rules:
                self._rules.remove(rule)

    def clear(self) -> None:
        """Take every rule back."""
        with self._lock:
            self._rules.clear()

    def __iter__(self) -> Iterator[Rule]:
        with self._lock:
            return iter(tuple(self._rules))

    def __len__(self) -> int:
        return len(self._rules)

    def __repr__(self) -> str:
        return f"FaultBook({self._rules!r})"

    def pick(self, request: Request, at: At, *, early: bool) -> Pick | None:
        """Choose what happens to a request, or `None` for nothing out of the ordinary."""
        for rule in self._rules:
            if rule.match.covers(request):
                chosen = rule.pick(self._randomness, at, early=early)
                if chosen is not None:
                    return chosen
        return None

    def pick_for_connection(self, at: At) -> Pick | None:
        """Choose what happens to a new connection, or `None` for nothing out of the ordinary."""
        for rule in self._rules:
            if rule.match.connection:
                chosen = rule.pick(self._randomness, at, early=False)
                if chosen is not None:
                    return chosen
        return None


def _check_connection_steps(steps: Iterable[Step]) -> None:
    for step in steps:
        passes = step.effect and step.delivery is AS_USUAL and step.transform is None
        if step.answers or step.transform is not None or (step.effect and not passes):
            raise ValueError(
                f"{step.name} is about a reply: a connection can be let through, late too, or be reset,"
                " closed, hung or sent garbage"
            )


def _sequence(steps: object) -> list[Step]:
    """Take one step or several; a function that makes steps is easily given uncalled."""
    given = list(cast("Iterable[object]", steps)) if isinstance(steps, Iterable) else [steps]
    for step in given:
        if not isinstance(step, Step):
            name = getattr(step, "__name__", repr(step))
            raise TypeError(f"{name} is no step: call what makes one, as in error('NOT_FOUND') or reset()")
    return cast("list[Step]", given)


def _check_schedule(between: tuple[float, float] | None, every: tuple[float, float] | None) -> None:
    if between is not None and not 0 <= between[0] < between[1]:
        raise ValueError(f"between must be two moments after each other, not {between}")
    if every is not None and not 0 < every[1] <= every[0]:
        raise ValueError(f"every must be a period and a shorter part of it, not {every}")


def _check_carried(host: str, problem: Problem, match: Match, steps: Iterable[Step]) -> None:
    for step in steps:
        reason = problem(match, step)
        if reason is not None:
            raise ValueError(
                f"{host} cannot carry the fault {step.name!r}: it {reason}; a MockServer on its socket can"
            )
