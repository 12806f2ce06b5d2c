"""The far side of a simulation: messages on their way, servers with so many workers, and what ails them."""

from __future__ import annotations

from collections import deque
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from llm_config_resilience.simulation.scenario import (
    Errors,
    Missing,
    Outage,
    Partition,
    Slow,
    Throttle,
)

if TYPE_CHECKING:
    import asyncio
    import random
    from collections.abc import Callable

    from llm_config_resilience.simulation.scenario import Fault, Scenario
    from llm_config_resilience.simulation.virtual_time import VirtualClock, VirtualLoop

#: Of its speed, what a server begins with that has to warm up.
_COLD: Final = 0.1

_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
_BROKEN: Final = 500
_BUSY: Final = 503


class Reply(NamedTuple):
    """What a simulated server answers.

    Args:
        key: The entry's key.
        as_of: When the server read it, in virtual seconds: how old the value is.
        server: The server's name.
    """

    key: str
    as_of: float
    server: str


class ReplyError(Exception):
    """A simulated server answered with an error.

    Args:
        status: As in HTTP: 404, 429, 500 or 503.
        retry_after: Seconds to leave the server alone, or an HTTP date, if it says so.
    """

    def __init__(self, status: int, retry_after: float | str | None = None) -> None:
        super().__init__(status, retry_after)
        self.status = status
        self.retry_after = retry_after
        #: Whether the same call may be repeated.
        self.is_retriable: bool = status != _NOT_FOUND
        #: Whether all callers are to leave the server alone for a while.
        self.is_rate_limited: bool = status == _TOO_MANY
        #: Whether another server may do better.
        self.is_transient: bool = status >= _BROKEN

    def __str__(self) -> str:
        return f"status {self.status}"


class Exchange:
    """One request, until its reply has come or its client has given it up."""

    __slots__ = ("client", "key", "sent", "server", "waiting")

    def __init__(
        self, client: int, server: Server, key: str, sent: float, waiting: asyncio.Future[Reply]
    ) -> None:
        self.client: int = client
        self.server: Server = server
        self.key: str = key
        self.sent: float = sent
        self.waiting: asyncio.Future[Reply] = waiting

    def answer(self, outcome: Reply | Exception) -> None:
        """Hand the outcome over, if somebody still waits."""
        if self.waiting.done():
            return
        if isinstance(outcome, Reply):
            self.waiting.set_result(outcome)
        else:
            self.waiting.set_exception(outcome)


class Network:
    """Carries messages between clients and servers, or loses them.

    Args:
        loop: Whose time it is.
        scenario: How quick it is.
        source: What latencies are drawn from.
    """

    def __init__(self, loop: VirtualLoop, scenario: Scenario, source: random.Random) -> None:
        self._loop = loop
        self._scenario = scenario
        self._random = source
        self._partitions: list[Partition] = []
        #: Whether all is well and nothing takes long, at the end of a run.
        self.is_calm = False

    def send(self, exchange: Exchange) -> None:
        """Send a request."""
        if self._is_cut(exchange):
            self.lose(exchange)
        else:
            self._loop.call_at(exchange.sent + self._latency(), exchange.server.receive, exchange)

    def reply(self, exchange: Exchange, outcome: Reply | Exception, at: float) -> None:
        """Have a server's reply leave at a time."""
        arrives, gives_up = at + self._latency(), exchange.sent + self._scenario.patience
        if arrives < gives_up:
            self._loop.call_at(arrives, self._deliver, exchange, outcome)
        else:
            self.lose(exchange)

    def lose(self, exchange: Exchange) -> None:
        """Let the client hear nothing, and give up in the end."""
        self._loop.call_at(
            exchange.sent + self._scenario.patience, exchange.answer, TimeoutError("no answer in time")
        )

    def begin(self, fault: Fault) -> None:
        """Let something go wrong."""
        if isinstance(fault, Partition):
            self._partitions.append(fault)

    def end(self, fault: Fault) -> None:
        """Let it be well again."""
        if isinstance(fault, Partition):
            self._partitions.remove(fault)

    def _deliver(self, exchange: Exchange, outcome: Reply | Exception) -> None:
        if self._partitions and self._is_cut(exchange):
            self.lose(exchange)
            return
        exchange.answer(outcome)

    def _is_cut(self, exchange: Exchange) -> bool:
        return any(
            fault.server in {None, exchange.server.number}
            and is_among_the_first(exchange.client, fault.share, self._scenario.clients)
            for fault in self._partitions
        )

    def _latency(self) -> float:
        return 0.0 if self.is_calm else self._scenario.network.draw(self._random)


class Server:
    """Workers that take requests in the order of arrival, and a queue before them.

    Args:
        number: Which it is, from 0.
        loop: Whose time it is.
        network: Takes the replies.
        scenario: What it can do.
        source: What service times and errors are drawn from.
        clock: Its wall clock.
        heard: Told of every request that arrives.
    """

    def __init__(
        self,
        number: int,
        loop: VirtualLoop,
        network: Network,
        *,
        scenario: Scenario,
        source: random.Random,
        clock: VirtualClock,
        heard: Callable[[Exchange], object],
    ) -> None:
        self.number = number
        self.name: str = f"server-{number}"
        self._loop = loop
        self._network = network
        self._scenario = scenario
        self._random = source
        self._clock = clock
        self._heard = heard
        self._faults: list[Fault] = []
        self._missing = [fault for fault in scenario.faults if isinstance(fault, Missing)]
        self._warm_from = self._warm_until = 0.0
        #: What a worker is at; there are never more of them than workers.
        self._open: dict[Exchange, None] = {}
        self._queue: deque[Exchange] = deque()

    def receive(self, exchange: Exchange) -> None:
        """Take a request: a worker's, in line, or turned away."""
        now = self._loop.time()
        self._heard(exchange)
        for fault in self._faults:
            outcome = self._trouble(fault)
            if outcome is not None:
                self._network.reply(exchange, outcome, now)
                return
            if isinstance(fault, Outage):
                self._network.lose(exchange)
                return
        if self._network.is_calm or len(self._open) < self._scenario.workers:
            self._work_on(exchange)
        elif len(self._queue) < self._scenario.queue:
            self._queue.append(exchange)
        else:
            self._network.reply(exchange, ReplyError(_BUSY), now)

    def clear(self) -> None:
        """Forget whoever waits, and be warm."""
        self._open.clear()
        self._queue.clear()
        self._warm_until = 0.0

    def begin(self, fault: Fault) -> None:
        """Let something go wrong."""
        self._faults.append(fault)
        if isinstance(fault, Outage):
            self._go_down(torn=fault.way != "hang")

    def end(self, fault: Fault) -> None:
        """Let it be well again."""
        self._faults.remove(fault)
        if isinstance(fault, Outage) and fault.warm_up:
            self._warm_from = self._loop.time()
            self._warm_until = self._warm_from + fault.warm_up

    def _work_on(self, exchange: Exchange) -> None:
        self._open[exchange] = None
        now = self._loop.time()
        self._loop.call_at(now + self._service_time(now), self._finish, exchange)

    def _finish(self, exchange: Exchange) -> None:
        if exchange not in self._open:
            return  # it was torn down
        del self._open[exchange]
        if self._queue:
            self._work_on(self._queue.popleft())
        now = self._loop.time()
        outcome: Reply | Exception = Reply(exchange.key, now, self.name)
        if any(f.start <= now < f.end and exchange.key == key_name(f.key) for f in self._missing):
            outcome = ReplyError(_NOT_FOUND)
        self._network.reply(exchange, outcome, now)

    def _go_down(self, *, torn: bool) -> None:
        now = self._loop.time()
        for exchange in (*self._open, *self._queue):
            if torn:
                self._network.reply(exchange, ConnectionResetError("connection reset"), now)
            else:
                self._network.lose(exchange)
        self.clear()

    def _trouble(self, fault: Fault) -> Exception | None:
        match fault:
            case Outage(way="refuse"):
                return ConnectionRefusedError("connection refused")
            case Outage(way="error"):
                return ReplyError(_BUSY)
            case Throttle():
                return ReplyError(_TOO_MANY, self._retry_after(fault))
            case Errors() if self._random.random() < fault.rate:
                return ReplyError(_BROKEN)
            case _:
                return None

    def _retry_after(self, fault: Throttle) -> float | str | None:
        if fault.retry_after is None or not fault.as_date:
            return fault.retry_after
        return formatdate(self._clock.time() + fault.retry_after, usegmt=True)

    def _service_time(self, now: float) -> float:
        if self._network.is_calm:
            return 0.0
        seconds = self._scenario.service_time.draw(self._random)
        for fault in self._faults:
            if isinstance(fault, Slow):
                seconds *= fault.factor
        if now < self._warm_until:
            warmth = (now - self._warm_from) / (self._warm_until - self._warm_from)
            seconds /= _COLD + (1 - _COLD) * warmth
        return seconds


def key_name(number: int) -> str:
    """Name an entry."""
    return f"key-{number}"


def is_among_the_first(number: int, share: float, of: int) -> bool:
    """Whether a client is one of those that a fault concerns: at least one is."""
    return number < max(1, round(share * of))


def schedule(fault: Fault, loop: VirtualLoop, network: Network, servers: list[Server]) -> None:
    """Have a fault of servers or of the network begin and end in its time."""
    begins: list[Callable[[Fault], object]] = []
    ends: list[Callable[[Fault], object]] = []
    if isinstance(fault, Partition):
        begins, ends = [network.begin], [network.end]
    elif isinstance(fault, (Outage, Errors, Slow, Throttle)):
        for server in servers:
            if fault.server in {None, server.number}:
                begins.append(server.begin)
                ends.append(server.end)
    for begin in begins:
        loop.call_at(fault.start, partial(begin, fault))
    for end in ends:
        loop.call_at(fault.end, partial(end, fault))
