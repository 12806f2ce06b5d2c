"""The addresses of a host's name, for sync code, which waits no longer than its deadline.

Nothing interrupts the system while it asks name servers, for half a minute where none of them answers. So it
asks in a thread of its own, one for all who want to know the same, and who has no time left goes.
"""

from __future__ import annotations

import copy
import socket
import threading
from typing import TYPE_CHECKING, Final

from llm_config_resilience.locks import renew_in_child

if TYPE_CHECKING:
    from llm_config_sdk.transport.deadline import Limit
    from llm_config_sdk.transport.dialing import Address


class _LookUp:
    """One that is under way, or over: with addresses, an error, or neither where nobody asked."""

    __slots__ = ("addresses", "error", "over")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.addresses: list[Address] | None = None
        self.error: BaseException | None = None


class LookUps:
    """Those that are under way, of all connections."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], _LookUp] = {}
        renew_in_child(self)

    def addresses_of(self, host: str, port: int, deadline: Limit) -> list[Address]:
        """Find a host's addresses, each once, best first.

        Args:
            host: A name, or an address, which is its own.
            port: What it will be asked for.
            deadline: How long the caller waits.

        Raises:
            socket.gaierror: It has none, or nobody can say.
            OSError: The system has not what it takes to ask.
            UnicodeError: A part of the name is empty, or longer than the DNS allows.
            Exception: The family's `ConnectTimeout`.
        """
        try:
            return _ask(host, port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        while True:
            look_up = self._joined(host, port)
            if look_up is None:
                return _ask(host, port)
            while not look_up.over.is_set():
                left = deadline.left("Connect")
                look_up.over.wait(left)
            if look_up.error is not None:
                raise copy.copy(look_up.error)  # others raise it, too
            if look_up.addresses is not None:
                return look_up.addresses

    def renew_after_fork(self) -> None:
        """In a forked child, ask again: who was asking is not here."""
        self._under_way = {}

    def _joined(self, host: str, port: int) -> _LookUp | None:
        """Join the look-up that is under way, or begin one; `None` where no thread is to be had."""
        own = _LookUp()
        try:
            look_up = self._under_way.setdefault((host, port), own)
            if look_up is own:
                asks = threading.Thread(
                    target=self._run, args=(own, host, port), name="llm-config-look-up", daemon=True
                )
                asks.start()
        except RuntimeError:  # no more of them, or none as the program ends, or in this interpreter
            self._end(own, host, port)
            return None
        except BaseException:  # the caller was interrupted: nobody is to wait for what may never have begun
            self._end(own, host, port)
            raise
        return look_up

    def _run(self, look_up: _LookUp, host: str, port: int) -> None:
        try:
            look_up.addresses = _ask(host, port)
        except BaseException as error:  # noqa: BLE001  # whoever waits is told
            look_up.error = error.with_traceback(None)
        self._end(look_up, host, port)

    def _end(self, look_up: _LookUp, host: str, port: int) -> None:
        if self._under_way.get((host, port)) is look_up:  # no lock: to lose another's costs asking twice
            self._under_way.pop((host, port), None)
        look_up.over.set()


def _ask(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((int(family), target) for family, *_, target in found))


LOOK_UPS: Final = LookUps()
