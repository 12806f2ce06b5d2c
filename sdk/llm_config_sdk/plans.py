"""What a call is before it runs: what is sent, through which pipeline, and what may stand in."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from llm_config_sdk import errors

if TYPE_CHECKING:
    from llm_config_resilience import Clock, Pipeline
    from llm_config_sdk.operations import Call

T = TypeVar("T")


class Unset(enum.Enum):
    """Tells "not given" from `None`."""

    UNSET = "not given"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET


@dataclass(slots=True)
class Plan(Generic[T]):
    """One call of a client's method, ready to run.

    Attributes:
        call: What is sent.
        pipeline: What it goes through.
        timeout: Seconds in all.
        default: What answers for an absent entry.
        fallback: What answers in an outage.
        fresh: Whether the answer has to come from a server.
        is_quiet: Whether somebody else tells of a failure, so that the log need not.
        is_part: Whether it is one of several for one answer, which alone has the client's fallback.
    """

    call: Call[T]
    pipeline: Pipeline
    timeout: float
    default: object = UNSET
    fallback: object = UNSET
    fresh: bool = False
    is_quiet: bool = False
    is_part: bool = False


class Countdown:
    """What is left of the time that several calls have together.

    Args:
        clock: Time.
        seconds: How much they have.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self._seconds = seconds
        self._end = clock.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            RequestTimeoutError: There are none.
        """
        left = self._end - self.clock.monotonic()
        if left <= 0:
            raise errors.RequestTimeoutError(f"no answer within {self._seconds:g} s")
        return left
