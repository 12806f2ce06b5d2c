"""A port that stays ours: while nobody listens, connections are refused and nobody else is given it."""

from __future__ import annotations

import contextlib
import socket
import struct
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

BACKLOG: Final = 1024  # connections that wait to be accepted: a thousand clients may come at once
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)  # struct linger: on, no time


class Port:
    """A TCP port of one interface.

    Args:
        interface: The address.
        wanted: The port; 0 takes a free one.

    Raises:
        OSError: The port cannot be had.
    """

    def __init__(self, interface: str, wanted: int) -> None:
        """Take the port."""
        self._interface = interface
        # Bound and never listening; SO_REUSEADDR lets the listeners share it.
        self._holder = _bound(interface, wanted)
        self.number: int = self._holder.getsockname()[1]
        # Whoever forgets it holds nothing worth a warning.
        weakref.finalize(self, self._holder.close).atexit = False

    def listen(self) -> socket.socket:
        """Return a new socket that listens, without blocking.

        Raises:
            OSError: Somebody else listens.
        """
        listener = _bound(self._interface, self.number)
        try:
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        listener.setblocking(False)
        return listener

    def close(self) -> None:
        """Give the port back."""
        self._holder.close()


def _bound(interface: str, port: int) -> socket.socket:
    # The protocol is named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((interface, port))
    except BaseException:
        bound.close()
        raise
    return bound


def shut(held: socket.socket | TransportSocket) -> None:
    """Shut a socket down, whatever state it is in.

    Before it is closed: a forked child may hold a copy, which would keep the port listening or the
    connection open.
    """
    with contextlib.suppress(OSError):
        held.shutdown(socket.SHUT_RDWR)


def arm_reset(held: socket.socket | TransportSocket) -> None:
    """Make the coming close of a socket an RST."""
    with contextlib.suppress(OSError):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
