"""One answer from several environments: overrides in the platform's order, the most specific one first.

A server says of each environment whether it has the entry. In an outage nobody says it, so what is known from
before answers, and says so: a value that stands in for a more specific one, of which nothing is known, is
stale and carries the outage's error. It is never mixed with a server's answer of the same moment: where some
environments can be read and a more specific one cannot, the error is raised.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from llm_config_sdk import errors
from llm_config_sdk.policy import is_outage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_config_sdk.contract import Environment
    from llm_config_sdk.core import Core
    from llm_config_sdk.entries import ConfigEntry
    from llm_config_sdk.plans import Plan

T = TypeVar("T")
A = TypeVar("A")

log: Final = logging.getLogger("llm_config_sdk")


class _Looking(Generic[T]):
    """What was found in each environment.

    Args:
        core: The client's.
        order: The environments.
        timeout: Seconds for all of them; left out, the client's.
    """

    def __init__(self, core: Core, order: tuple[Environment, ...], timeout: float | None) -> None:
        self._core = core
        self._order = order
        self._countdown = core.countdown(timeout)
        self._found: dict[int, T] = {}
        self._failed: dict[int, errors.LLMConfigError] = {}

    @property
    def count(self) -> int:
        """How many environments there are."""
        return len(self._order)

    def saw(self, index: int, found: T) -> None:
        """Note what one of them has."""
        self._found[index] = found

    def failed(self, index: int, error: errors.LLMConfigError) -> None:
        """Note that one of them could not be read."""
        self._failed[index] = error

    def _end(self, answer: A | errors.LLMConfigError) -> A:
        """Return an answer, or raise an error. Its traceback will lead here, so nothing here keeps it."""
        self._failed.clear()
        if not isinstance(answer, errors.LLMConfigError):
            return answer
        try:
            raise answer
        finally:
            del answer

    @property
    def _outage(self) -> errors.LLMConfigError | None:
        """Why the first in order could not be read, of those for which nobody answered."""
        found = (error for index in range(self.count) if (error := self._failed.get(index)) is not None)
        return next((error for error in found if is_outage(error)), None)


class EntryLookup(_Looking["ConfigEntry"]):
    """Finds an entry; made by `Core.lookup`."""

    def __init__(  # made in one place
        self, core: Core, namespace: str, key: str, wanted: Environment, timeout: float | None
    ) -> None:
        super().__init__(core, tuple(reversed(wanted.overrides)), timeout)
        self._name = namespace, key
        self._wanted = wanted
        self._as_of = core.writes_seen

    def undecided(self) -> Iterator[int]:
        """Go through the environments that have to be asked, until one has the entry."""
        for index, environment in enumerate(self._order):
            if self._outage is not None and not self._core.is_shared:
                return  # who is down for one is down for all
            cached = self._core.cached(*self._name, environment)
            if cached is not None:
                self._found[index] = cached
                return
            yield index
            if index in self._found or not self._may_go_on(index):
                return

    def plan(self, index: int) -> Plan[ConfigEntry]:
        """Plan the read of one environment.

        Raises:
            RequestTimeoutError: There is no time left.
        """
        return self._core.plan_part(*self._name, self._order[index], self._countdown.left())

    def saw(self, index: int, found: ConfigEntry) -> None:
        """Note what one environment has: an entry, or a default for one that is absent."""
        if found.source == "default" and found.error is not None:
            self.failed(index, found.error)
        else:
            super().saw(index, found)

    def result(self) -> ConfigEntry:
        """Choose, and tell the log once of what is not as it should be.

        Raises:
            NotFoundError: No environment has it.
            LLMConfigError: One could not be read, and nothing is known that may stand in.
        """
        return self._end(self._choose())

    def _choose(self) -> ConfigEntry | errors.LLMConfigError:
        outage = self._outage
        for index, environment in enumerate(self._order):
            error, entry = self._failed.get(index), self._found.get(index)
            if entry is None and outage is not None and (error is None or is_outage(error)):
                entry = self._core.outcomes.recall((*self._name, environment.value), outage)
            if entry is not None:
                return self._answer(entry, index)
            if error is not None and not is_outage(error) and not self._is_absent(error):
                return self._core.outcomes.reported(error)
        if outage is not None:
            return self._core.outcomes.stand_in(*self._name, self._wanted, outage)
        return self._core.outcomes.unresolved(self._failed.get(0), self._wanted)

    def _answer(self, entry: ConfigEntry, index: int) -> ConfigEntry | errors.LLMConfigError:
        above = [error for place in range(index) if (error := self._failed.get(place)) is not None]
        outage = next((error for error in above if is_outage(error)), None)
        if outage is not None and entry.source == "server":
            return self._core.outcomes.reported(outage)
        if outage is None and not entry.is_stale:
            self._core.remember_resolved(self._name, self._wanted, self._order[: index + 1], self._as_of)
            return entry
        source = entry.source if entry.is_stale else "stale"
        error = outage if outage is not None else entry.error
        if error is not None:
            self._core.outcomes.reported(error, source=source)
        return entry.with_provenance(replace(entry.provenance, source=source, error=error))

    def _may_go_on(self, index: int) -> bool:
        error = self._failed.get(index)
        return error is None or is_outage(error) or self._is_absent(error)

    @staticmethod
    def _is_absent(error: errors.LLMConfigError) -> bool:
        return error.is_not_found


class NamespaceLookup(_Looking["list[ConfigEntry]"]):
    """Finds a namespace's entries; made by `Core.gathering`."""

    def __init__(
        self, core: Core, namespace: str, order: tuple[Environment, ...], timeout: float | None
    ) -> None:
        super().__init__(core, order, timeout)
        self._namespace = namespace
        self._as_of = core.writes_seen

    def plan(self, index: int) -> Plan[list[ConfigEntry]]:
        """Plan the list of one environment.

        Raises:
            LLMConfigError: There is no time left, or another environment has shown that there is an outage.
        """
        if self._outage is not None:
            raise self._outage
        return self._core.plan_list(self._namespace, self._order[index], self._countdown.left())

    def saw(self, index: int, found: list[ConfigEntry]) -> None:
        """Note, and keep, what one environment has."""
        self._core.admit(self._namespace, found, self._as_of)
        super().saw(index, found)

    def entries(self) -> list[ConfigEntry]:
        """Return all of them, the lowest precedence first.

        Raises:
            LLMConfigError: An environment could not be read, and nothing is known that may stand in.
        """
        return self._end(self._gathered())

    def _gathered(self) -> list[ConfigEntry] | errors.LLMConfigError:
        for index in range(self.count):
            error = self._failed.get(index)
            if error is not None and not is_outage(error):
                return error
        if self._outage is None:
            return [entry for index in range(self.count) for entry in self._found[index]]
        return self._recalled(self._outage)

    def _recalled(self, outage: errors.LLMConfigError) -> list[ConfigEntry] | errors.LLMConfigError:
        known = [
            self._found.get(index) or self._core.outcomes.known(outage, self._namespace, environment)
            for index, environment in enumerate(self._order)
        ]
        # A more specific environment, of which nothing is known, is not passed over for a server's answer.
        fallbacks = self._core.outcomes.fallbacks(outage, self._namespace, self._order[-1])
        if any(not known[index] and self._found for index in self._failed) or not (fallbacks or any(known)):
            return outage
        names = ", ".join(environment.value for environment in self._order)
        log.debug("%s [%s]: going on with what was known: %s", self._namespace, names, outage)
        return [*fallbacks, *(entry for each in known for entry in each)]
