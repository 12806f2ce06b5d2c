"""HTTP/1.1 on one connection, without I/O: a request becomes bytes, and bytes become a reply.

h11 keeps the protocol's state (RFC 9112). Here is what it is asked, and when a connection may be used again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import h11

from llm_config_sdk.transport.exchange import ReplyReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_sdk.decoding import Reply

MAX_HEAD_BYTES: Final = 100 * 1024
"""Bytes of a response's status line and headers: more than any proxy or server is known to send."""


_END: Final = h11.EndOfMessage()
_BODILESS: Final = {
    method: h11.Request(method=method, target="/", headers=[("Host", "")])
    for method in ("GET", "HEAD", "OPTIONS", "DELETE")
}
"""What h11 is told of a request without a body: it has to know no more of one to read the response.

To check each name and value is what costs it most; `write_head` checks the same, in a third of the time.
"""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of RFC 9110, section 5.6.2
_is_name: Final = lru_cache(maxsize=256)(_NAME.fullmatch)  # names are few, and the same again and again
_VALUE: Final = re.compile(rb"(?:[^\x00\s]+(?:[ \t]+[^\x00\s]+)*)?")  # section 5.5, and what h11 lets pass
_TARGET: Final = re.compile(r"[!-~]+")


def write_head(method: str, target: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Write the head of a request (RFC 9112, sections 2 and 3), byte for byte as h11 does.

    Raises:
        h11.LocalProtocolError: It would be no HTTP, or would smuggle something in.
    """
    if _TARGET.fullmatch(target) is None:
        raise h11.LocalProtocolError("Illegal target characters")
    lines = [f"{method} {target} HTTP/1.1\r\n".encode("ascii")]
    for name, value in headers:
        if _is_name(name) is None or _VALUE.fullmatch(value) is None:
            raise h11.LocalProtocolError(f"Illegal header name or value: {name[:80]!r}")
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(b"\r\n")
    return b"".join(lines)


class Http11:
    """One connection's side of the protocol.

    Args:
        max_response_bytes: Bytes of a body, on the wire and after decompression.
    """

    __slots__ = ("_max_bytes", "_reader", "_state", "_untold")

    def __init__(self, max_response_bytes: int) -> None:
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._max_bytes = max_response_bytes
        self._reader: ReplyReader | None = None
        self._untold: h11.Request | None = None

    def request(
        self, method: str, target: str, headers: list[tuple[bytes, bytes]], body: bytes | None = None
    ) -> bytes:
        """Begin an exchange.

        Returns:
            The bytes to send.

        Raises:
            h11.LocalProtocolError: They would be no HTTP.
        """
        state = self._state
        self._reader = None
        self._untold = None if body else _BODILESS.get(method)
        if self._untold is not None:
            return write_head(method, target, headers)
        if state.our_state is h11.DONE:
            state.start_next_cycle()
        parts = [state.send(h11.Request(method=method, target=target, headers=headers))]
        if body:
            parts.append(state.send(h11.Data(data=body)))
        parts.append(state.send(_END))
        return b"".join(part for part in parts if part)

    def sent(self) -> None:
        """Note that the request has left, as far as it could. It is called before anything is received.

        What h11 has yet to be told is told now: it costs nothing while the server is at work.
        """
        state, request = self._state, self._untold
        if request is not None:
            self._untold = None
            if state.our_state is h11.DONE:
                state.start_next_cycle()
            state.send(request)
            state.send(_END)

    def receive(self, data: bytes, still_in_time: Callable[[], object]) -> bool:
        """Take the next bytes from the wire, none at its end; say whether more are wanted.

        Args:
            data: The bytes.
            still_in_time: Raises where time is up. One read may bring ten thousand chunks, which take long,
                or interim responses.

        Raises:
            h11.RemoteProtocolError: They are no HTTP, or end too early.
        """
        state = self._state
        if not data and state.their_state is h11.SEND_RESPONSE:
            raise h11.RemoteProtocolError("the server closed the connection without a response")
        state.receive_data(data)
        while (event := state.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Data):
                still_in_time()
                if self._reader is not None and not self._reader.feed(event.data):
                    return False
            elif isinstance(event, h11.Response):
                headers = event.headers.raw_items()
                self._reader = ReplyReader(event.status_code, headers, max_bytes=self._max_bytes)
            elif isinstance(event, h11.InformationalResponse):
                still_in_time()
            else:  # the end, or a tunnel's beginning
                return False
        return True

    def reply(self) -> Reply:
        """Finish the exchange.

        Raises:
            ResponseDecodeError: The body is too large, or not what the headers say.
        """
        if self._reader is None:
            raise h11.RemoteProtocolError("there was no response")
        return self._reader.reply()

    @property
    def is_reusable(self) -> bool:
        """Whether it may carry another exchange: both sides are done, and nothing is left over."""
        state = self._state
        left_over, has_ended = state.trailing_data
        is_done = state.our_state is h11.DONE and state.their_state is h11.DONE
        return is_done and not left_over and not has_ended
