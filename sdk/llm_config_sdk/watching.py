"""Changes as they happen: polling, with what changed told by comparing.

What is compared and how long to wait is decided here without I/O; the clients' two watchers do the asking.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from llm_config_resilience import Gate
from llm_config_sdk.arguments import positive_seconds
from llm_config_sdk.errors import LLMConfigError
from llm_config_sdk.policy import is_outage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from llm_config_resilience import Clock
    from llm_config_sdk.entries import ConfigEntry
    from llm_config_sdk.operations import Held

log: Final = logging.getLogger("llm_config_sdk.watching")

INTERVAL: Final = 30.0  # seconds between two polls
JITTER: Final = 0.1  # share of the interval, to either side, so that watchers do not ask in step

ChangeKind = Literal["created", "updated", "deleted", "unavailable", "recovered"]


@dataclass(frozen=True, slots=True)
class Change:
    """Something that a watcher has to say.

    Attributes:
        kind: `created`, `updated` and `deleted` are of one entry; `unavailable` says that no server answers
            any more (once an outage), `recovered` that one does again.
        namespace: What is watched.
        key: The entry's key; `None` for an outage of a watched namespace.
        old: The entry before, if there was one.
        new: The entry now, if there is one.
        error: Why no server answers.
    """

    kind: ChangeKind
    namespace: str
    key: str | None = None
    old: ConfigEntry | None = None
    new: ConfigEntry | None = None
    error: LLMConfigError | None = None


class Tracker:
    """What a watcher knows: the entries as they were, and whether there is an outage.

    The first answer is what later ones are compared with, and no change itself unless `initial` says so.

    Args:
        namespace: What is watched.
        key: The one entry that is watched; `None` for the whole namespace.
        interval: Seconds between two polls.
        initial: Whether all entries of the first answer are told as created.

    Attributes:
        held: The last answer, where it came with an entity tag: the next poll asks by it.
    """

    def __init__(self, namespace: str, key: str | None, interval: float, *, initial: bool = False) -> None:
        self.namespace = namespace
        self.key = key
        self._interval = positive_seconds("interval", interval)
        self._known: dict[str, ConfigEntry] | None = {} if initial else None
        self._unavailable = False
        self.held: Held | None = None

    def saw(self, entries: Iterable[ConfigEntry]) -> list[Change]:
        """Compare an answer with the one before."""
        now = {entry.key: entry for entry in entries}
        changes: list[Change] = []
        if self._unavailable:
            self._unavailable = False
            changes.append(Change("recovered", self.namespace, self.key))
        if self._known is not None:
            changes += self._compare(self._known, now)
        self._known = now
        return changes

    def _compare(self, before: dict[str, ConfigEntry], now: dict[str, ConfigEntry]) -> Iterable[Change]:
        for key in sorted(before.keys() | now.keys()):
            old, new = before.get(key), now.get(key)
            if old is None:
                yield Change("created", self.namespace, key, None, new)
            elif new is None:
                yield Change("deleted", self.namespace, key, old, None)
            elif (old.id, old.version, old.stored_value) != (new.id, new.version, new.stored_value):
                yield Change("updated", self.namespace, key, old, new)

    def failed(self, error: LLMConfigError) -> list[Change]:
        """Take note of a poll that failed: an outage is told once; anything else is the caller's to see.

        Raises:
            LLMConfigError: It is no outage (denied, invalid), and will not pass by waiting.
        """
        if not is_outage(error):
            raise error
        if self._unavailable:
            return []
        self._unavailable = True
        return [Change("unavailable", self.namespace, self.key, error=error)]

    def delay(self) -> float:
        """Seconds until the next poll."""
        return self._interval * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # jitter, no secret


class Watch:
    """An iterator of changes; waits for the next one. Ends when it, or its client, is closed.

    Args:
        tracker: What is known.
        poll: Asks a server for the entries.
        clock: Time.
        closing: Opened when the client closes.
    """

    def __init__(
        self, tracker: Tracker, poll: Callable[[], Iterable[ConfigEntry]], clock: Clock, closing: Gate
    ) -> None:
        self._tracker = tracker
        self._poll = poll
        self._clock = clock
        self._closing = Gate(outlives_calls=True)
        self._pending: list[Change] = []
        self._polled = False
        self._closing.follow(closing)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        while not self._pending:
            if self._closing.is_open or (
                self._polled and self._clock.wait(self._closing, self._tracker.delay())
            ):
                raise StopIteration
            self._polled = True
            try:
                self._pending += self._tracker.saw(self._poll())
            except LLMConfigError as error:
                self._pending += self._tracker.failed(error)
        return self._pending.pop(0)

    def close(self) -> None:
        """End the iteration, at once, from any thread."""
        self._closing.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncWatch:
    """As `Watch`, for `async for`."""

    def __init__(
        self,
        tracker: Tracker,
        poll: Callable[[], Awaitable[Iterable[ConfigEntry]]],
        clock: Clock,
        closing: Gate,
    ) -> None:
        self._tracker = tracker
        self._poll = poll
        self._clock = clock
        self._closing = Gate(outlives_calls=True)
        self._pending: list[Change] = []
        self._polled = False
        self._closing.follow(closing)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._pending:
            if self._closing.is_open or (
                self._polled and await self._clock.wait_async(self._closing, self._tracker.delay())
            ):
                raise StopAsyncIteration
            self._polled = True
            try:
                self._pending += self._tracker.saw(await self._poll())
            except LLMConfigError as error:
                self._pending += self._tracker.failed(error)
        return self._pending.pop(0)

    def close(self) -> None:
        """End the iteration, at once."""
        self._closing.open()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def tell(callback: Callable[[Change], object], change: Change) -> None:
    """Tell a callback; one that raises is logged, and hears of the next change all the same."""
    try:
        callback(change)
    except Exception:
        log.exception("a callback failed on a change of %s", change.namespace)
