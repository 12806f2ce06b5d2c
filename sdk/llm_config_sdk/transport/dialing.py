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

_HEAD_START: Final = 0.25  # seconds until the next address is tried beside the others (RFC 8305, section 5)
_BEGUN: Final = frozenset({0, errno.EINPROGRESS})


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
            is_brief = untried and (left is None or left > _HEAD_START)
            winner = race.winner(_HEAD_START if is_brief else left) if race.is_on else None
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
            self.failures.append(error)
            return
        self._running[runner.fileno()] = runner
        self._poll.register(runner, select.POLLOUT)
        runner.setblocking(False)
        code = runner.connect_ex(target)
        if code not in _BEGUN:
            self._drop(runner, code)

    def winner(self, seconds: float | None) -> socket.socket | None:
        """Wait for one that is connected; `None` where time is up, or somebody fell."""
        for number, _ in self._poll.poll(None if seconds is None else seconds * 1000):
            runner = self._running[number]
            code = runner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                return self._running.pop(number)
            self._drop(runner, code)
        return None

    def end(self) -> None:
        """Send home whoever still runs."""
        for runner in self._running.values():
            runner.close()

    def _drop(self, runner: socket.socket, code: int) -> None:
        self._poll.unregister(runner)
        del self._running[runner.fileno()]
        runner.close()
        self.failures.append(OSError(code, os.strerror(code)))


def _in_turns(addresses: Iterable[Address]) -> list[Address]:
    """Let the families of addresses take turns (RFC 8305, section 4)."""
    by_family: defaultdict[int, list[Address]] = defaultdict(list)
    for address in addresses:
        by_family[address[0]].append(address)
    return [address for turn in zip_longest(*by_family.values()) for address in turn if address is not None]
