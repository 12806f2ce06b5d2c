"""The in-process host: transports for httpx and httpx2, sync and async, with no socket and no thread.

A transport is the library's own HTTP machinery over a network that is not there: the bytes a client
writes go straight to the server's side of the connection (`Wire`), and the time that the server
lets pass is spent in an injected `sleep`, within the request's timeouts. So every fault becomes the
exception that the wire would have caused, because the same code makes it out of the same bytes.
"""

from __future__ import annotations

import math
import threading
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import anyio
import anyio.lowlevel

from .wire import Action, Move, Send, Sleep, Wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from llm_config_mock_server.core import Core
    from llm_config_mock_server.messages import At

Family = Literal["httpx", "httpx2"]

_CORES: Final = {"httpx": "httpcore", "httpx2": "httpcore2"}
_CONNECTIONS: Final = 100  # httpx's own default limits, so that a pool behaves as on the wire
_IDLE_CONNECTIONS: Final = 20
_IDLE_SECONDS: Final = 5.0
_PEER: Final = "127.0.0.1"
_MAPPED: Final = ("TimeoutException", "NetworkError", "ProtocolError", "ProxyError", "UnsupportedProtocol")


class InProcessHost:
    """What all in-process connections of one server share.

    Args:
        core: What answers.
        clock: What reads the time.
        is_away: Whether connections are refused.
    """

    def __init__(self, core: Core, clock: Callable[[], At], *, is_away: bool = False) -> None:
        """Begin with nobody connected."""
        self._core = core
        self._clock = clock
        self._lock = threading.Lock()
        self._open: set[Line] = set()
        self._left_alone: list[Line] = []
        self.is_away: bool = is_away

    def start(self) -> None:
        """Take connections."""
        self.is_away = False

    def stop(self) -> None:
        """Refuse connections and drop the open ones."""
        self.is_away = True
        with self._lock:
            dropped = [*self._open, *self._left_alone]
            self._open.clear()
            self._left_alone.clear()
        for line in dropped:
            line.drop()

    def connect(self) -> Line | None:
        """Open a connection; `None` where it is refused."""
        if self.is_away:
            return None
        line = Line(self, self._core, self._clock)
        with self._lock:
            self._open.add(line)
        return line

    def forget(self, line: Line, *, still_runs: bool) -> None:
        """Let go of a connection that its client closed; what it asked for may still take effect later."""
        with self._lock:
            self._open.discard(line)
            if still_runs:
                self._left_alone.append(line)

    def catch_up(self) -> None:
        """Let what clients gave up waiting for take effect, where its time has come."""
        if not self._left_alone:
            return
        with self._lock:
            waiting, self._left_alone = self._left_alone, []
        for line in waiting:
            line.advance()
        with self._lock:
            self._left_alone += [line for line in waiting if line.is_busy]


class Line:
    """One in-process connection: bytes in both directions, and no waiting.

    Args:
        host: What it belongs to.
        core: What answers.
        clock: What reads the time.
    """

    def __init__(self, host: InProcessHost, core: Core, clock: Callable[[], At]) -> None:
        """Connect."""
        self._host = host
        self._core = core
        self._clock = clock
        self._lock = threading.Lock()
        self._moves = Wire(core, clock, _PEER).run()
        self._action: Action | None = None
        self._wakes_at: float | None = None
        self._sent = bytearray()  # by the client, and not read by the server
        self._received = bytearray()  # by the client's side, and not read by the client
        self._client_went = False
        self._server_ended = False
        self._is_over = False
        self._is_reset = False
        with self._lock:
            self._go_on(b"")

    @property
    def is_busy(self) -> bool:
        """Whether the server lets time pass."""
        return self._wakes_at is not None

    @property
    def is_readable(self) -> bool:
        """Whether a read would return at once: with bytes, with the end, or with an error."""
        self.advance()
        return bool(self._received) or self._server_ended or self._is_reset

    def write(self, data: bytes) -> None:
        """Send bytes to the server."""
        self._host.catch_up()
        with self._lock:
            self._sent += data
            self._step()

    def read(self, most: int) -> bytes | None:
        """Take bytes from the server, none at the end of the stream, `None` where there is nothing yet.

        Raises:
            ConnectionResetError: The server tore the connection down.
        """
        with self._lock:
            self._step()
            if self._received:
                data = bytes(self._received[:most])
                del self._received[:most]
                return data
            if self._is_reset:
                raise ConnectionResetError("Connection reset by peer")
            return b"" if self._server_ended else None

    @property
    def patience(self) -> float:
        """Seconds until the server goes on by itself; infinite where it does not."""
        wakes_at = self._wakes_at
        return math.inf if wakes_at is None else max(0.0, wakes_at - self._clock().monotonic)

    def wake(self) -> None:
        """Let the server's wait be over, whatever the clock says: it was slept through."""
        with self._lock:
            if self._wakes_at is not None:
                self._wakes_at = -math.inf
            self._step()

    def advance(self) -> None:
        """Let the server go as far as it can without waiting."""
        with self._lock:
            self._step()

    def hang_up(self) -> None:
        """Close the client's side."""
        with self._lock:
            if self._client_went:
                return
            self._client_went = True
            self._step()
        self._host.forget(self, still_runs=self.is_busy)

    def drop(self) -> None:
        """Close the server's side: it stopped."""
        with self._lock:
            self._finish()

    def _step(self) -> None:
        while not self._is_over:
            data = b""
            match self._action:
                case Send(sent, _):
                    if self._client_went:
                        self._finish()
                        return
                    self._received += sent
                case Sleep(_, True) if self._client_went:
                    self._finish()
                    return
                case Sleep(seconds):
                    if not self._has_passed(seconds):
                        return
                case Move.READ:
                    if not self._sent and not self._client_went:
                        return
                    data = bytes(self._sent)
                    self._sent.clear()
                case Move.RESET:
                    self._is_reset = True
                case _:
                    self._server_ended = True
            self._go_on(data)

    def _has_passed(self, seconds: float) -> bool:
        now = self._clock().monotonic
        if self._wakes_at is None:
            self._wakes_at = now + seconds
        if now < self._wakes_at:
            return False
        self._wakes_at = None
        return True

    def _go_on(self, data: bytes) -> None:
        try:
            self._action = self._moves.send(data) if self._action is not None else next(self._moves)
        except StopIteration:
            self._finish()
        except Exception as error:  # noqa: BLE001 - a defect of this host must reach the test
            self._core.defects.append(error)
            self._finish()

    def _finish(self) -> None:
        self._moves.close()
        self._is_over = True
        self._wakes_at = None
        self._server_ended = True


class _Stream:
    """A network stream of httpcore's kind, sync."""

    def __init__(self, core: Any, line: Line, sleep: Callable[[float], None]) -> None:
        self._core = core
        self._line = line
        self._sleep = sleep

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = math.inf if timeout is None else timeout
        while (data := _read(self._core, self._line, max_bytes)) is None:
            wait = self._line.patience
            if wait == left == math.inf:
                raise RuntimeError(
                    "the server hangs and the request has no read timeout: it would wait for ever"
                )
            self._sleep(min(wait, left))
            if wait > left:
                raise self._core.ReadTimeout("timed out")
            left -= wait
            self._line.wake()
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - never waits
        self._line.write(buffer)

    def close(self) -> None:
        self._line.hang_up()

    def start_tls(self, *_: Any, **__: Any) -> _Stream:
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._line.is_readable if info == "is_readable" else None


class _AsyncStream:
    """A network stream of httpcore's kind, async."""

    def __init__(self, core: Any, line: Line, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._core = core
        self._line = line
        self._sleep = sleep

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await anyio.lowlevel.checkpoint()
        left = math.inf if timeout is None else timeout
        while (data := _read(self._core, self._line, max_bytes)) is None:
            wait = self._line.patience
            if wait == left == math.inf:
                await anyio.sleep_forever()
            await self._sleep(min(wait, left))
            if wait > left:
                raise self._core.ReadTimeout("timed out")
            left -= wait
            self._line.wake()
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002 - never waits
        self._line.write(buffer)

    async def aclose(self) -> None:
        self._line.hang_up()

    async def start_tls(self, *_: Any, **__: Any) -> _AsyncStream:
        return self

    def get_extra_info(self, info: str) -> Any:
        return self._line.is_readable if info == "is_readable" else None


def _read(core: Any, line: Line, most: int) -> bytes | None:
    try:
        return line.read(most)
    except ConnectionResetError as error:
        raise core.ReadError(str(error)) from error


def _connected(core: Any, host: InProcessHost) -> Line:
    line = host.connect()
    if line is None:
        raise core.ConnectError("Connection refused")
    return line


class _Backend:
    """A network backend of httpcore's kind, sync."""

    def __init__(self, core: Any, host: InProcessHost, sleep: Callable[[float], None]) -> None:
        self._core = core
        self._host = host
        self._sleep = sleep

    def connect_tcp(self, *_: Any, **__: Any) -> _Stream:
        return _Stream(self._core, _connected(self._core, self._host), self._sleep)


class _AsyncBackend:
    """A network backend of httpcore's kind, async."""

    def __init__(self, core: Any, host: InProcessHost, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._core = core
        self._host = host
        self._sleep = sleep

    async def connect_tcp(self, *_: Any, **__: Any) -> _AsyncStream:
        return _AsyncStream(self._core, _connected(self._core, self._host), self._sleep)


class _Body:
    def __init__(self, family: Family, stream: Any) -> None:
        self._family: Family = family
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except Exception as error:  # noqa: BLE001 - anything but httpcore's own is raised again
            _raise_mapped(self._family, error)

    def close(self) -> None:
        self._stream.close()


class _AsyncBody:
    def __init__(self, family: Family, stream: Any) -> None:
        self._family: Family = family
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._stream:
                yield part
        except Exception as error:  # noqa: BLE001 - anything but httpcore's own is raised again
            _raise_mapped(self._family, error)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Transport:
    """Carries requests of sync clients to a server in this process."""

    def __init__(self, family: Family, host: InProcessHost, sleep: Callable[[float], None]) -> None:
        core = import_module(_CORES[family])
        self._family: Family = family
        self._pool = core.ConnectionPool(network_backend=_Backend(core, host, sleep), **_pool_options())

    def handle_request(self, request: Any) -> Any:
        """Carry one request."""
        try:
            reply = self._pool.handle_request(_lowered(self._family, request))
        except Exception as error:  # noqa: BLE001 - anything but httpcore's own is raised again
            _raise_mapped(self._family, error)
        return _raised(self._family, reply, _classes(self._family)["body"](self._family, reply.stream))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _AsyncTransport:
    """Carries requests of async clients to a server in this process."""

    def __init__(
        self, family: Family, host: InProcessHost, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        core = import_module(_CORES[family])
        self._family: Family = family
        self._pool = core.AsyncConnectionPool(
            network_backend=_AsyncBackend(core, host, sleep), **_pool_options()
        )

    async def handle_async_request(self, request: Any) -> Any:
        """Carry one request."""
        try:
            reply = await self._pool.handle_async_request(_lowered(self._family, request))
        except Exception as error:  # noqa: BLE001 - anything but httpcore's own is raised again
            _raise_mapped(self._family, error)
        return _raised(self._family, reply, _classes(self._family)["async_body"](self._family, reply.stream))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._pool.aclose()


def sync_transport(host: InProcessHost, family: Family, sleep: Callable[[float], None]) -> Any:
    """Make a transport for the sync clients of a family.

    Raises:
        ValueError: There is no such family.
        ImportError: The family is not installed.
    """
    return _classes(family)["transport"](family, host, sleep)


def async_transport(host: InProcessHost, family: Family, sleep: Callable[[float], Awaitable[None]]) -> Any:
    """Make a transport for the async clients of a family. Raises as `sync_transport`."""
    return _classes(family)["async_transport"](family, host, sleep)


@cache
def _classes(family: Family) -> dict[str, Any]:
    # The clients ask that bodies be of their own family's classes, and types that transports are.
    if family not in _CORES:
        raise ValueError(f"unknown family {family!r}: expected one of {', '.join(_CORES)}")
    library = import_module(family)
    return {
        "body": type("Body", (_Body, library.SyncByteStream), {}),
        "async_body": type("AsyncBody", (_AsyncBody, library.AsyncByteStream), {}),
        "transport": type("MockServerTransport", (_Transport, library.BaseTransport), {}),
        "async_transport": type(
            "AsyncMockServerTransport", (_AsyncTransport, library.AsyncBaseTransport), {}
        ),
    }


def _pool_options() -> dict[str, Any]:
    import ssl  # noqa: PLC0415 - httpcore wants a context for https URLs; ours shakes no hands

    return {
        "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        "max_connections": _CONNECTIONS,
        "max_keepalive_connections": _IDLE_CONNECTIONS,
        "keepalive_expiry": _IDLE_SECONDS,
    }


def _lowered(family: Family, request: Any) -> Any:
    """Return a client's request in the terms of its core."""
    core = import_module(_CORES[family])
    url = request.url
    return core.Request(
        method=request.method,
        url=core.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _raised(family: Family, reply: Any, body: Any) -> Any:
    """Return a core's reply in the terms of its client."""
    library = import_module(family)
    return library.Response(reply.status, headers=reply.headers, stream=body, extensions=reply.extensions)


def _raise_mapped(family: Family, error: Exception) -> NoReturn:
    """Raise a core's exception as the client's of the same name, anything else as it is."""
    core = import_module(_CORES[family])
    if not isinstance(error, tuple(getattr(core, name) for name in _MAPPED)):
        raise error
    raise getattr(import_module(family), type(error).__name__)(str(error)) from error
