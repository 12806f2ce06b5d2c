"""Several calls as one: what became of each, one by one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import anyio

from llm_config_sdk.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_config_sdk.errors import LLMConfigError

log: Final = logging.getLogger("llm_config_sdk.many")

_PAIR: Final = 2

T = TypeVar("T")
R = TypeVar("R")

Name = tuple[str, str]
"""A namespace and a key."""


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """What became of one call of several.

    Attributes:
        namespace: What was asked for.
        key: What was asked for.
        value: The result; `None` where there is an error.
        error: What went wrong; `None` where there is a result.
    """

    namespace: str
    key: str
    value: T | None = None
    error: LLMConfigError | None = None

    @property
    def ok(self) -> bool:
        """Whether it succeeded."""
        return self.error is None

    def unwrap(self) -> T:
        """Return the result.

        Raises:
            LLMConfigError: What went wrong.
        """
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # there is one where there is no error


Progress = Callable[["Outcome[Any]", int, int], object]
"""Called after each call with its outcome, how many are done, and how many there are. Errors are logged."""


def names_of(given: Iterable[Name]) -> list[Name]:
    """Check that names are pairs, before anything is asked.

    Raises:
        InvalidRequestError: One of them is none.
    """
    names = list(given)
    for name in names:
        if not isinstance(name, tuple) or len(name) != _PAIR:  # type: ignore[redundant-expr]  # callers err
            raise InvalidRequestError(f"a name must be a pair of namespace and key, not {name!r:.80}")
    return names


def one_by_one(
    work: Callable[[int], R], count: int, on_progress: Callable[[R, int, int], object] | None = None
) -> list[R]:
    """Do several calls in order.

    Args:
        work: Does one, by its number; raises nothing.
        count: How many there are.
        on_progress: Told after each.
    """
    outcomes: list[R] = []
    try:
        for index in range(count):
            outcomes.append(work(index))
            _tell(on_progress, outcomes[-1], len(outcomes), count)
        return outcomes
    finally:
        del outcomes  # the traceback of an error among them leads here, as in `Outcomes.settle`


async def at_once(
    work: Callable[[int], Awaitable[R]],
    count: int,
    on_progress: Callable[[R, int, int], object] | None = None,
) -> list[R]:
    """Do several calls at once; the connections bound how many are on the wire. As `one_by_one` otherwise."""
    outcomes: dict[int, R] = {}

    async def do(index: int) -> None:
        outcomes[index] = await work(index)
        _tell(on_progress, outcomes[index], len(outcomes), count)

    async with anyio.create_task_group() as group:
        for index in range(count):
            group.start_soon(do, index)
    try:
        return [outcomes[index] for index in range(count)]
    finally:
        outcomes.clear()  # as above: on 3.13 the traceback leads to the frames of `do`


def _tell(on_progress: Callable[[R, int, int], object] | None, outcome: R, done: int, count: int) -> None:
    if on_progress is None:
        return
    try:
        on_progress(outcome, done, count)
    except Exception:  # what was done stays done, and is to be told
        log.exception("a callback failed on call %d of %d", done, count)
