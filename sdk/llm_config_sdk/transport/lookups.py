"""The addresses of a host's name, for sync code, which waits no longer than its deadline.

Nothing interrupts the system while it asks name servers, for half a minute where none of them answers. So it
asks in a thread of its own, one for all who want to know the same, and who has no time left goes.
"""

from __future__ import annotations

import copy
import socket
import threading
from typing import TYPE_CHECKING, Final

from llm_config_resilience.locks import new_lock, renew_in_child

if TYPE_CHECKING:
    from llm_config_sdk.transport.deadline import Limit
    from llm_config_sdk.transport.dialing import Address


class _LookUp:
    """One that is under way, or over."""

    __slots__ = ("addresses", "error", "over")

    def __init__(self) -> None:
        self.over = threading.Event()
        self.addresses: list[Address] = []
        self.error: Exception | None = None


class LookUps:
    """Those that are under way, of all connections."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], _LookUp] = {}
        self._lock = new_lock()
        renew_in_child(self)

    def addresses_of(self, host: str, port: int, deadline: Limit) -> list[Address]:
        """Find a host's addresses, each once, best first.

        Args:
            host: A name, or an address, which is its own.
            port: What it will be asked for.
            deadline: How long the caller waits.

        Raises:
            socket.gaierror: It has none, or nobody can say.
            UnicodeError: A part of the name is empty, or longer than the DNS allows.
            Exception: The family's `ConnectTimeout`.
        """
        try:
            return _ask(host, port, socket.AI_NUMERICHOST)
        except socket.gaierror:
            pass
        look_up = self._joined(host, port)
        while not look_up.over.is_set():
            left = deadline.left("Connect")
            look_up.over.wait(left)
        if look_up.error is not None:
            raise copy.copy(look_up.error)  # others raise it, too
        return look_up.addresses

    def renew_after_fork(self) -> None:
        """In a forked child, ask again: who was asking is not here."""
        self._under_way = {}

    def _joined(self, host: str, port: int) -> _LookUp:
        """Join the look-up that is under way, or begin one."""
        with self._lock:
            look_up = self._under_way.get((host, port))
            if look_up is not None:
                return look_up
            look_up = self._under_way[host, port] = _LookUp()
        thread = threading.Thread(target=self._run, args=(look_up, host, port), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # there can be no more threads, or no more of them as the program ends
            self._run(look_up, host, port)
        except BaseException:  # the caller was interrupted: nobody is to wait for what may never have begun
            self._end(look_up, host, port)
            raise
        return look_up

    def _run(self, look_up: _LookUp, host: str, port: int) -> None:
        try:
            look_up.addresses = _ask(host, port)
        except Exception as error:  # noqa: BLE001  # whoever waits is told
            look_up.error = error.with_traceback(None)
        finally:
            self._end(look_up, host, port)

    def _end(self, look_up: _LookUp, host: str, port: int) -> None:
        with self._lock:
            if self._under_way.get((host, port)) is look_up:
                del self._under_way[host, port]
        look_up.over.set()


def _ask(host: str, port: int, flags: int = 0) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((int(family), target) for family, *_, target in found))


LOOK_UPS: Final = LookUps()
