"""Connecting to a host that has several addresses, for sync code: side by side, as RFC 8305 has it.

One after the other, an address that leads nowhere would take the time that the next one needs. In async it is
anyio that does the same.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import defaultdict, deque
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_config_sdk.transport.deadline import Limit

Address = tuple[int, Any]
"""The family of an address, and what a socket of it connects to."""

# Seconds until the next address is tried beside the others, and the least of them (RFC 8305, section 5).
_HEAD_START: Final = 0.25
_LEAST_HEAD_START: Final = 0.01
_UNDER_WAY: Final = frozenset({errno.EINPROGRESS, errno.EINTR})


def dial(addresses: Iterable[Address], deadline: Limit) -> socket.socket:
    """Connect to the address that answers first.

    Args:
        addresses: Best first; their families take turns.
        deadline: How long the caller waits.

    Returns:
        The connected socket, which does not block.

    Raises:
        OSError: None can be reached: why not the last one, with the others' reasons behind it.
        Exception: The family's `ConnectTimeout`.
    """
    untried, race = deque(_in_turns(addresses)), _Race()
    try:
        while untried or race.is_on:
            if untried:
                race.enter(untried.popleft())
            left = deadline.left("Connect")
            winner = race.winner(_head_start(left, len(untried))) if race.is_on else None
            if winner is not None:
                return winner
    finally:
        race.end()
    if not race.failures:
        raise OSError("it has no address")
    *others, last = race.failures
    raise last from ExceptionGroup("other addresses", others) if others else None


class _Race:
    """Connections that are being made.

    Attributes:
        failures: Why those that were not made were not.
    """

    def __init__(self) -> None:
        self.failures: list[OSError] = []
        self._running: dict[int, socket.socket] = {}
        self._poll = select.poll()

    @property
    def is_on(self) -> bool:
        """Whether anybody runs."""
        return bool(self._running)

    def enter(self, address: Address) -> None:
        """Let one more run."""
        family, target = address
        try:
            runner = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            self.failures.append(error.with_traceback(None))  # whose frames would hold the error itself
            return
        self._running[runner.fileno()] = runner
        self._poll.register(runner, select.POLLOUT)
        runner.setblocking(False)
        try:
            runner.connect(target)  # not `connect_ex`: guards that keep tests off the network replace this
        except OSError as error:
            if error.errno not in _UNDER_WAY:
                self._drop(runner, error.with_traceback(None))

    def winner(self, seconds: float | None) -> socket.socket | None:
        """Wait for one that is connected; `None` where time is up, or somebody fell."""
        for number, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            runner = self._running[number]
            code = runner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return self._running.pop(number)
            self._drop(runner, OSError(code, os.strerror(code)))
        return None

    def end(self) -> None:
        """Send home whoever still runs."""
        for runner in self._running.values():
            runner.close()

    def _drop(self, runner: socket.socket, failure: OSError) -> None:
        self._poll.unregister(runner)
        del self._running[runner.fileno()]
        runner.close()
        self.failures.append(failure)


def _head_start(left: float | None, untried: int) -> float | None:
    """Share what is left of the time out, so that each of the others has its turn."""
    if left is None or not untried:
        return _HEAD_START if untried else left
    return min(_HEAD_START, max(_LEAST_HEAD_START, left / (untried + 1)), left)


def _in_turns(addresses: Iterable[Address]) -> list[Address]:
    """Let the families of addresses take turns (RFC 8305, section 4)."""
    by_family: defaultdict[int, list[Address]] = defaultdict(list)
    for address in addresses:
        by_family[address[0]].append(address)
    return [address for turn in zip_longest(*by_family.values()) for address in turn if address is not None]
