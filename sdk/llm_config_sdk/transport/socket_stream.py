"""Byte streams of sockets for sync code: plain ones, and TLS over any of them.

A socket never blocks. Whoever has to wait does so in one place, and no longer than the exchange may last,
however many reads and writes TLS makes of one. httpcore's own streams set a timeout for each, for which every
step asks the operating system three times and lets other threads go first as often.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final, TypeVar

from llm_config_sdk.transport.dialing import dial
from llm_config_sdk.transport.lookups import LOOK_UPS
from llm_config_sdk.transport.tls import holds_back

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_sdk.transport.deadline import Limit

ResultT = TypeVar("ResultT")

_RECORDS: Final = 64 * 1024  # bytes that TLS takes from below at once


class SocketStream:
    """A connected socket.

    Args:
        connected: The socket, which does not block; it is the stream's from here on.
        family: `httpcore` or `httpcore2`, whose exceptions it raises.
    """

    __slots__ = ("_family", "_readable", "_socket")

    def __init__(self, connected: socket.socket, family: Any) -> None:
        with contextlib.suppress(OSError):  # macOS refuses where the other side has gone: reading tells it
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._family = family
        self._readable = select.poll()
        self._readable.register(connected, select.POLLIN)

    @classmethod
    def connect(cls, host: str, port: int, family: Any, deadline: Limit) -> SocketStream:
        """Look the host up, and connect to the address of it that answers first."""
        try:
            return cls(dial(LOOK_UPS.addresses_of(host, port, deadline), deadline), family)
        except socket.gaierror:  # which is told as what it is
            raise
        except TimeoutError as error:
            raise family.ConnectTimeout(error) from error
        except (OSError, UnicodeError) as error:
            raise family.ConnectError(error) from error

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: Limit) -> TlsStream:
        """Encrypt from here on."""
        return TlsStream(self, context, host, self._family, deadline)

    def write(self, data: bytes, deadline: Limit) -> None:
        """Send all of it."""
        while data:
            deadline.left("Write")
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._family.WriteError(error) from error
            if data:
                writable = select.poll()
                writable.register(self._socket, select.POLLOUT)
                _wait(writable, deadline, "Write")

    def read(self, max_bytes: int, deadline: Limit) -> bytes:
        """Wait for some bytes, `max_bytes` at most; none are the end."""
        while True:
            _wait(self._readable, deadline, "Read")
            try:
                return self._socket.recv(max_bytes)
            except BlockingIOError:  # something came, and was not for us: a broken packet
                pass
            except OSError as error:
                raise self._family.ReadError(error) from error

    def is_readable(self) -> bool:
        """Whether there is something to read already, or the end."""
        return bool(self._readable.poll(0))

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class TlsStream:
    """TLS over another stream. Methods as those of `SocketStream`.

    Raises:
        Exception: The family's `ConnectError` or `ConnectTimeout`: there was no handshake.
    """

    __slots__ = ("_below", "_family", "_incoming", "_outgoing", "_tls")

    def __init__(
        self,
        below: SocketStream | TlsStream,
        context: ssl.SSLContext,
        host: str,
        family: Any,
        deadline: Limit,
    ) -> None:
        self._below = below
        self._family = family
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
            self._complete(deadline, self._tls.do_handshake)
            self._flush(deadline)
        except (ssl.SSLError, family.ReadError, family.WriteError) as error:
            raise family.ConnectError(error) from error

    def start_tls(self, context: ssl.SSLContext, host: str, deadline: Limit) -> TlsStream:
        """Encrypt once more: the server behind a proxy that is spoken to by TLS."""
        return TlsStream(self, context, host, self._family, deadline)

    def write(self, data: bytes, deadline: Limit) -> None:
        """Send all of it."""
        while data:
            try:
                data = data[self._complete(deadline, self._tls.write, data) :]
            except ssl.SSLError as error:
                raise self._family.WriteError(error) from error
            self._flush(deadline)

    def read(self, max_bytes: int, deadline: Limit) -> bytes:
        """Wait for some bytes; none are the end, with or without TLS's own word for it.

        HTTP says where a response ends, and h11 knows of one that was cut.
        """
        try:
            if not self._tls.pending() and not self._incoming.pending:
                self._receive(deadline)
            return self._complete(deadline, self._tls.read, max_bytes)
        except ssl.SSLEOFError:
            return b""
        except ssl.SSLError as error:
            raise self._family.ReadError(error) from error

    def is_readable(self) -> bool:
        """Whether there is something to read already, here or below, or the end."""
        return self._below.is_readable() or holds_back(self._tls)

    def close(self) -> None:
        """Close it, without a word of TLS's: HTTP has said what there was to say."""
        self._below.close()

    def _complete(self, deadline: Limit, step: Callable[..., ResultT], *given: Any) -> ResultT:
        """Do something, with as many records from the other side as it takes."""
        while True:
            try:
                return step(*given)
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with contextlib.suppress(Exception):
                    self._flush(deadline)  # an alert: the other side is told what was wrong
                raise
            self._flush(deadline)
            self._receive(deadline)

    def _receive(self, deadline: Limit) -> None:
        received = self._below.read(_RECORDS, deadline)
        if received:
            self._incoming.write(received)
        else:
            self._incoming.write_eof()

    def _flush(self, deadline: Limit) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read(), deadline)


def _wait(ready: select.poll, deadline: Limit, phase: str) -> None:
    while True:
        left = deadline.left(phase)
        if ready.poll(None if left is None else left * 1000):
            return
