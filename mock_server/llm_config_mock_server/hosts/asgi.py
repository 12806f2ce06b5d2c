"""The ASGI host: the server as an application, for mounting and for uvicorn.

An application sees replies, not connections: it can be slow, silent and wrong, but it cannot reset,
cut short or garble. What it cannot carry is refused when it is armed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import anyio

from llm_config_mock_server.messages import Delivery, End, Later, Outcome, Reply, Request, Stream

from .parsing import head_problem, parsing_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from llm_config_mock_server.core import Core, Exchange
    from llm_config_mock_server.faults import Match, Step
    from llm_config_mock_server.messages import At

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_TOO_LARGE: Final = 413
_NO_BODY: Final = frozenset({204, 304})
_CARRIED_ENDS: Final = frozenset({End.KEEP, End.HANG})
_SERVERS_OWN: Final = frozenset({"date", "content-length", "transfer-encoding"})  # headers

_T = TypeVar("_T")


def asgi_problem(match: Match, step: Step) -> str | None:
    """Say what of a fault an ASGI application cannot carry, or `None`."""
    delivery = step.delivery
    if match.connection:
        return "is about connections, which an ASGI application never sees"
    if delivery.raw is not None:
        return "sends bytes that are no HTTP, which ASGI has no words for"
    if delivery.cut_head is not None or delivery.head is not None:
        return "breaks up the head, which the ASGI server sends in one piece"
    if delivery.end not in _CARRIED_ENDS:
        return f"ends the connection ({delivery.end}), which belongs to the ASGI server"
    return None


class Gateway:
    """Serves a core to an ASGI server.

    Args:
        core: What answers.
        clock: What reads the time.
    """

    def __init__(self, core: Core, clock: Callable[[], At]) -> None:
        """Take the host's place at the core: from now on, only faults that it can carry are armed."""
        self._core = core
        self._clock = clock
        self._parsing = parsing_of(core.profile.name)
        core.faults.restrict("the ASGI host", asgi_problem)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one scope: a request, or the application's lifespan."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await _lifespan(receive, send)
            case "websocket":
                await send({"type": "websocket.close"})
            case other:
                raise ValueError(f"the ASGI host knows http and lifespan, not {other!r}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request(scope)
        exchange = self._core.begin(request, self._clock())
        outcome: Outcome | None = None
        try:
            problem = head_problem(request, self._parsing)
            if problem is not None:
                outcome = exchange.refuse(*problem, self._clock())
            else:
                outcome = await self._ask(exchange.answer_head)
            if outcome is None:
                outcome = await self._late(exchange, receive)
        finally:
            if outcome is None:
                exchange.abandon()
        if outcome is None:
            return
        if outcome.reply is not None and outcome.reply.stream is not None:
            await self._send_stream(outcome.reply, outcome.reply.stream, request, receive, send)
        else:
            await _deliver(outcome, request, receive, send)

    async def _send_stream(
        self, reply: Reply, stream: Stream, request: Request, receive: Receive, send: Send
    ) -> None:
        try:
            await send(
                {"type": "http.response.start", "status": reply.status, "headers": _headers(reply, None)}
            )
            while request.method != "HEAD":
                piece = stream.next(self._clock())
                if piece is None:
                    break
                if not isinstance(piece, Later):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                elif await _goes_within(piece.seconds, receive):
                    return
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            stream.close()

    async def _ask(self, question: Callable[[At], _T | Later]) -> _T:
        while True:
            answer = question(self._clock())
            if not isinstance(answer, Later):
                return answer
            await anyio.sleep(answer.seconds)

    async def _late(self, exchange: Exchange, receive: Receive) -> Outcome | None:
        body = bytearray()
        longest = self._core.platform.options.body_max_bytes
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > longest:
                return exchange.refuse(_TOO_LARGE, f"the body may have {longest} bytes", self._clock())
            if not message.get("more_body", False):
                break
        return await self._ask(lambda at: exchange.answer(bytes(body), at))


def _request(scope: Scope) -> Request:
    raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    path = raw.partition(b"?")[0].decode("latin-1")
    root: str = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(f"{root}/"):
        path = path.removeprefix(root)
    query: bytes = scope.get("query_string", b"")
    return Request(
        scope["method"],
        f"{path}?{query.decode('latin-1')}" if query else path,
        tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        peer=(scope.get("client") or ("",))[0],
    )


async def _deliver(outcome: Outcome, request: Request, receive: Receive, send: Send) -> None:
    reply, delivery = outcome.reply, outcome.delivery
    if delivery.delay:
        await anyio.sleep(delivery.delay)
    if reply is not None:
        await _send_reply(reply, delivery, request, send)
    if delivery.end is End.HANG:
        while (await receive())["type"] != "http.disconnect":
            pass


async def _send_reply(reply: Reply, delivery: Delivery, request: Request, send: Send) -> None:
    headers = _headers(reply, None if reply.status in _NO_BODY else len(reply.body))
    body = b"" if request.method == "HEAD" or reply.status in _NO_BODY else reply.body
    stalls = delivery.cut_body is not None
    if delivery.cut_body is not None:
        body = body[: min(delivery.cut_body, max(0, len(body) - 1))]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    drip = delivery.body
    size, interval = (len(body) or 1, math.inf) if drip is None else (drip.size, drip.interval)
    for start in range(0, len(body), size):
        await send({"type": "http.response.body", "body": body[start : start + size], "more_body": True})
        if start + size < len(body):
            await anyio.sleep(interval)
    if not stalls:
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _headers(reply: Reply, length: int | None) -> list[tuple[bytes, bytes]]:
    headers = [
        (name.lower().encode("ascii"), value.encode("latin-1"))
        for name, value in reply.headers
        if name.lower() not in _SERVERS_OWN
    ]
    return headers if length is None else [*headers, (b"content-length", b"%d" % length)]


async def _goes_within(seconds: float, receive: Receive) -> bool:
    """Wait, and say whether the client went meanwhile."""
    with anyio.move_on_after(seconds):
        while (await receive())["type"] != "http.disconnect":
            pass
        return True
    return False


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
