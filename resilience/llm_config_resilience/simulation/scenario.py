"""What the world is like, and what goes wrong in it when: data, made by hand or drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

Way: TypeAlias = Literal["refuse", "hang", "error"]


@dataclass(frozen=True, slots=True)
class Latency:
    """How long something takes: a log-normal distribution, as measured latencies have.

    Args:
        median: Seconds that half of them stay below.
        spread: The logarithm's standard deviation: 0 is always the median, 0.5 puts the 99th percentile at
            3.2 times the median, 1 at 10 times.
    """

    median: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        if self.median < 0 or self.spread < 0:
            raise ValueError("median and spread are 0 or more")

    def draw(self, source: random.Random) -> float:
        """Draw one, in seconds."""
        return self.median * source.lognormvariate(0.0, self.spread) if self.spread else self.median


@dataclass(frozen=True, slots=True)
class Outage:
    """A server is away. What it was working on is torn down as it goes.

    Args:
        start: When, in seconds.
        end: When it is back.
        server: Which, by number; `None` for all.
        way: What clients see: a refused connection, no answer at all, or a 503.
        warm_up: Seconds after its return in which it becomes quick again, from a tenth of its speed.
    """

    start: float
    end: float
    server: int | None = None
    way: Way = "refuse"
    warm_up: float = 0.0


@dataclass(frozen=True, slots=True)
class Errors:
    """A share of the answers are errors that may pass (a 500).

    Args:
        start: When, in seconds.
        end: Until when.
        rate: The share, 0 to 1.
        server: Which server's, by number; `None` for all.
    """

    start: float
    end: float
    rate: float
    server: int | None = None


@dataclass(frozen=True, slots=True)
class Slow:
    """A server takes longer for everything, and can do so much less.

    Args:
        start: When, in seconds.
        end: Until when.
        factor: How many times as long.
        server: Which, by number; `None` for all.
    """

    start: float
    end: float
    factor: float
    server: int | None = None


@dataclass(frozen=True, slots=True)
class Throttle:
    """A server turns everybody away with a 429.

    Args:
        start: When, in seconds.
        end: Until when.
        retry_after: Seconds it asks to be left alone; `None` if it does not say.
        server: Which, by number; `None` for all.
        as_date: Whether it says so as an HTTP date, by its own wall clock.
    """

    start: float
    end: float
    retry_after: float | None = 1.0
    server: int | None = None
    as_date: bool = False


@dataclass(frozen=True, slots=True)
class Partition:
    """Some clients cannot reach a server: what they send is lost, and they hear nothing.

    Args:
        start: When, in seconds.
        end: Until when.
        share: Of the clients, 0 to 1: the first of them.
        server: Which, by number; `None` for all.
    """

    start: float
    end: float
    share: float = 1.0
    server: int | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """An entry is not there: a 404.

    Args:
        start: When, in seconds.
        end: Until when.
        key: Which, by number.
    """

    start: float
    end: float
    key: int = 0


@dataclass(frozen=True, slots=True)
class ClockStep:
    """The wall clocks of some clients are set.

    Args:
        start: When, in seconds.
        seconds: How far they are set forward, or back if below 0.
        share: Of the clients, 0 to 1: the first of them.
    """

    start: float
    seconds: float
    share: float = 1.0

    @property
    def end(self) -> float:
        """When it is over: at once."""
        return self.start


@dataclass(frozen=True, slots=True)
class Restart:
    """Some clients end, whatever they were at, and begin anew, knowing nothing.

    Args:
        start: When, in seconds.
        share: Of the clients, 0 to 1: the first of them.
    """

    start: float
    share: float = 1.0

    @property
    def end(self) -> float:
        """When it is over: at once."""
        return self.start


Fault: TypeAlias = Outage | Errors | Slow | Throttle | Partition | Missing | ClockStep | Restart


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A world: how many clients and servers there are, how quick they are, and what goes wrong when.

    A server has `workers` that each deal with one request at a time, in the order of arrival; `queue` more
    may wait, and what comes then gets a 503. A request whose client has gone is worked on all the same. So a
    server that is asked for more than `workers / service_time` a second grows slow, then turns away, and
    retries make that worse: storms are visible.

    Args:
        name: For tables.
        seconds: How long clients make calls.
        clients: How many there are.
        rate: Calls a second that each of them makes, at random moments (a Poisson process).
        servers: How many there are; they know the same.
        service_time: How long a worker takes for a request.
        network: How long a message takes one way.
        workers: Requests that a server deals with at once.
        queue: Requests that may wait besides.
        keys: How many entries there are; each call reads one.
        patience: Seconds after which a client's transport gives a request up, as HTTP libraries do.
        cancelled: Share of the calls whose callers give up after a while, 0 to 1.
        faults: What goes wrong.
    """

    name: str = ""
    seconds: float = 150.0
    clients: int = 20
    rate: float = 1.0
    servers: int = 1
    service_time: Latency = Latency(0.01, 0.5)
    network: Latency = Latency(0.001, 0.5)
    workers: int = 16
    queue: int = 200
    keys: int = 4
    patience: float = 5.0
    cancelled: float = 0.0
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        if min(self.clients, self.servers, self.workers, self.keys) < 1 or self.queue < 0:
            raise ValueError("clients, servers, workers and keys are 1 or more, queue 0 or more")
        if min(self.seconds, self.rate, self.patience) <= 0 or not 0 <= self.cancelled <= 1:
            raise ValueError("seconds, rate and patience are more than 0, cancelled is a share")

    @property
    def faults_end(self) -> float:
        """When the last fault is over, warming up included, in seconds; 0 without faults."""
        return max((fault.end + getattr(fault, "warm_up", 0.0) for fault in self.faults), default=0.0)

    def with_options(self, **changes: Any) -> Scenario:
        """Copy the scenario with some of it changed."""
        return replace(self, **changes)

    @classmethod
    def drawn(cls, seed: object) -> Scenario:
        """Draw a small world in which several things go wrong, at times together; the end of it is calm.

        Args:
            seed: The same one draws the same world.
        """
        return _drawn(random.Random(f"scenario {seed}"))  # noqa: S311  # a simulation, no secret


# --- By name ------------------------------------------------------------------------------------


def _flapping() -> tuple[Fault, ...]:
    return tuple(Outage(start, start + 5.0, way="error") for start in range(30, 90, 10))


SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="calm"),
        Scenario(name="outage", faults=(Outage(30.0, 90.0),)),
        Scenario(name="hang", faults=(Outage(30.0, 90.0, way="hang"),)),
        # Two thirds of what the server can do; with every call made three times it is twice as much. What
        # waits in line for longer than clients do is worked on in vain.
        Scenario(
            name="retry-storm",
            clients=5,
            rate=4.0,
            workers=1,
            queue=200,
            service_time=Latency(0.033, 0.2),
            faults=(Slow(30.0, 60.0, 50.0),),
        ),
        Scenario(name="flapping", faults=_flapping()),
        Scenario(name="errors", faults=(Errors(30.0, 90.0, 0.1),)),
        Scenario(name="slow-endpoint", servers=2, faults=(Slow(30.0, 90.0, 100.0, server=0),)),
        Scenario(name="slow-start", faults=(Outage(30.0, 45.0, warm_up=45.0),)),
        Scenario(name="partition", servers=2, faults=(Partition(30.0, 90.0, 0.5, server=0),)),
        Scenario(name="failover", servers=2, faults=(Outage(30.0, 90.0, server=0),)),
        Scenario(name="throttle", faults=(Throttle(30.0, 90.0, 5.0),)),
        Scenario(
            name="clock-steps",
            faults=(
                Throttle(30.0, 40.0, 5.0, as_date=True),
                ClockStep(32.0, -3600.0, 0.5),
                ClockStep(36.0, 7200.0, 0.5),
            ),
        ),
        Scenario(
            name="restarts",
            faults=(Outage(30.0, 60.0), *(Restart(at, 0.5) for at in (35.0, 50.0, 65.0))),
        ),
        Scenario(name="cancellations", cancelled=0.3, faults=(Slow(30.0, 90.0, 50.0),)),
    )
}
"""What is worth trying a policy against, by name."""


# --- From a seed --------------------------------------------------------------------------------

#: Virtual seconds a drawn world lasts, and the part of it in which things go wrong.
_DRAWN_SECONDS: Final = 40.0
_TROUBLE: Final = (3.0, 25.0)
_WAYS: Final[tuple[Way, ...]] = ("refuse", "hang", "error")


def _drawn(draw: random.Random) -> Scenario:
    servers = draw.choice((1, 1, 2, 3))
    return Scenario(
        name="drawn",
        seconds=_DRAWN_SECONDS,
        clients=draw.choice((1, 2, 3)),
        rate=draw.uniform(0.5, 2.0),
        servers=servers,
        service_time=Latency(draw.choice((0.005, 0.05, 0.3)), draw.choice((0.0, 0.5, 1.0))),
        network=Latency(draw.choice((0.0005, 0.005, 0.05)), draw.choice((0.0, 0.5))),
        workers=draw.choice((1, 2, 8)),
        queue=draw.choice((0, 3, 50)),
        keys=draw.choice((1, 2, 4)),
        patience=draw.choice((1.0, 2.0, 5.0)),
        cancelled=draw.choice((0.0, 0.0, 0.2, 0.5)),
        faults=tuple(_drawn_fault(draw, servers) for _ in range(draw.randint(1, 5))),
    )


def _drawn_fault(draw: random.Random, servers: int) -> Fault:  # noqa: PLR0911  # a table in disguise
    start = draw.uniform(*_TROUBLE)
    end = min(_TROUBLE[1], start + draw.choice((0.5, 3.0, 10.0)))
    server = draw.choice((None, *range(servers)))
    share = draw.choice((0.5, 1.0))
    match draw.randrange(9):
        case 0 | 1:
            warm_up = draw.choice((0.0, 0.0, 5.0))
            return Outage(start, end, server, draw.choice(_WAYS), warm_up)
        case 2:
            return Errors(start, end, draw.choice((0.1, 0.5, 0.9)), server)
        case 3:
            return Slow(start, end, draw.choice((5.0, 50.0)), server)
        case 4:
            asked = draw.choice((None, 0.5, 2.0, 90.0))
            return Throttle(start, end, asked, server, as_date=draw.random() < 0.5)  # noqa: PLR2004  # a coin
        case 5:
            return Partition(start, end, share, server)
        case 6:
            return Missing(start, end)
        case 7:
            return ClockStep(start, draw.choice((-3600.0, -1.0, 1.0, 3600.0)), share)
        case _:
            return Restart(start, share)
