"""A rule: which step of its sequence a request gets, at what time and with what probability."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from .delays import draw
from .step import Step, ok

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from types import TracebackType

    from llm_config_mock_server.messages import At
    from llm_config_mock_server.randomness import Randomness

    from .book import FaultBook
    from .match import Match

Repeat = Literal["never", "last", "all", "random"]


@dataclass(frozen=True, slots=True)
class Pick:
    """A step that a rule chose for a request, with its delays drawn (seconds)."""

    step: Step
    before: float
    after: float


PASS: Final = Pick(ok(), 0.0, 0.0)


class Rule:
    """A scripted fault, armed: tells what became of it, and can be taken back.

    As a context manager it is taken back at the end of the block.
    """

    def __init__(
        self,
        book: FaultBook,
        number: int,
        match: Match,
        steps: Sequence[Step],
        *,
        repeat: Repeat,
        times: int,
        probability: float,
        between: tuple[float, float] | None,
        every: tuple[float, float] | None,
        since: float,
    ) -> None:
        """Arm a rule; `FaultBook.script` is how one is made."""
        self._book = book
        self.number = number
        self.match = match
        self.steps: tuple[Step, ...] = tuple(steps) * times
        self.repeat: Repeat = repeat
        self.probability = probability
        self.between = between
        self.every = every
        self.since = since
        self.judged: int = 0
        self.fired: int = 0

    @property
    def is_spent(self) -> bool:
        """Whether the rule has nothing left to do."""
        return self.repeat == "never" and self.fired >= len(self.steps)

    def remove(self) -> None:
        """Take the rule back; once more changes nothing."""
        self._book.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        names = ", ".join(step.name for step in self.steps)
        return f"<Rule {self.number}: {self.match} -> [{names}], repeat {self.repeat}, fired {self.fired}>"

    def pick(self, randomness: Randomness, at: At, *, early: bool) -> Pick | None:
        """Choose the step for a request that matches, or `None` where the rule lets it be.

        Args:
            randomness: Where draws derive from.
            at: Now.
            early: Only the head is there: nothing but a step at the head may be chosen, and
                nothing is counted unless one is.
        """
        if self.is_spent:
            return None
        if not self._is_time(at.monotonic - self.since):
            return None
        source = randomness.derive("rule", self.number, self.judged)
        drawn = self.probability >= 1.0 or source.random() < self.probability
        step = self._next(source) if drawn else None
        if early and (step is None or not step.early):
            return None
        self.judged += 1
        if step is None:
            return None
        self.fired += 1
        return Pick(step, draw(step.before, source), draw(step.after, source))

    def _is_time(self, age: float) -> bool:
        begin, end = self.between or (0.0, math.inf)
        if not begin <= age < end:
            return False
        if self.every is None:
            return True
        period, length = self.every
        return (age - begin) % period < length

    def _next(self, source: random.Random) -> Step:
        if self.repeat == "random":
            return source.choice(self.steps)
        if self.repeat == "all":
            return self.steps[self.fired % len(self.steps)]
        return self.steps[min(self.fired, len(self.steps) - 1)]
