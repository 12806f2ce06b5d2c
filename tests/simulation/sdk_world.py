"""The real client before the real server, in virtual time: what only the SDK can promise.

`AsyncConfigClient` is given an httpx client whose transport brings requests to a `MockServer` in this
process. The event loop's time is virtual, so httpcore's pool, anyio's limits and the server's delays all go
by it: nothing is replaced but time and the wire. A `Scenario` of the toolkit says what goes wrong and when. A
`Ledger` under the servers knows what was really written, and when.

Not here: sockets, TLS and threads (the snapshot's writer is one), which virtual time cannot reach.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from llm_config_mock_server import MockServer, close, error, hang, html, latency, malformed, reset, truncate
from llm_config_mock_server.messages import NANOSECONDS, At
from llm_config_mock_server.storage import Address, MemoryStorage
from llm_config_resilience.simulation import (
    ClockStep,
    Errors,
    Missing,
    Outage,
    Partition,
    Restart,
    Scenario,
    Slow,
    Throttle,
    VirtualClock,
    run_virtually,
)
from llm_config_resilience.simulation.invariants import strategies
from llm_config_resilience.simulation.servers import is_among_the_first
from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    CachePolicy,
    Environment,
    LLMConfigError,
    NotFoundError,
    ResiliencePolicy,
    RetryPolicy,
)

NAMESPACE = "app/llm"
ENVIRONMENT = Environment.PRODUCTION
#: Seconds a call may take beyond its deadline: what the SDK promises of its own connections.
GRACE = 0.05
#: The default stack, with a breaker that is quick enough for a small world.
OPEN_FOR = 3.0
#: Virtual seconds a world lasts, and how much quicker things go wrong than in the toolkit's.
SECONDS = 16.0
PACE = 0.6
#: Shares of the calls; what is left deletes.
READS, FRESH_READS, WRITES = 0.65, 0.1, 0.3
FAILBACK = 3.0
LONGEST_BREAK = 11 * OPEN_FOR


class Ledger(MemoryStorage):
    """What was really written, and when."""

    def __init__(self, now):
        super().__init__()
        self._now = now
        #: By key, a line for every change: when, and the value, `None` where it was deleted.
        self.changes = {}

    def write(self, address, record, *, snapshot):
        super().write(address, record, snapshot=snapshot)
        self._note(address, json.loads(record)["value"])

    def remove(self, address):
        removed = super().remove(address)
        if removed:
            self._note(address, None)
        return removed

    def times_written(self, key, value):
        return sum(written == value for _, written in self.changes.get(key, ()))

    def written_at(self, key, value):
        return next(at for at, written in self.changes[key] if written == value)

    def valid_until(self, key, value):
        """When a value that was read was replaced; infinite while it is the newest."""
        changes = self.changes[key]
        last = max(number for number, (_, written) in enumerate(changes) if written == value)
        return changes[last + 1][0] if last + 1 < len(changes) else float("inf")

    def _note(self, address: Address, value):
        self.changes.setdefault(address.key, []).append((self._now(), value))


@dataclass
class Outcome:
    """What came of a run."""

    seed: int
    calls: int = 0
    requests: int = 0
    writes: int = 0
    endings: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    digest: str = ""


class Wire(httpx.AsyncBaseTransport):
    """Between one client and all servers: it takes time, and may be cut."""

    def __init__(self, world, number):
        self._world = world
        self._number = number
        self._inner = {name: server.async_transport() for name, server in world.servers.items()}

    async def handle_async_request(self, request):
        name = request.url.host
        limits = request.extensions["timeout"]
        self._world.outcome.requests += 1
        self._world.say(f"client {self._number} sends {request.method} {request.url.path} to {name}")
        await asyncio.sleep(self._world.one_way())
        if self._world.is_cut(self._number, name):
            await self._lose(limits.get("connect"))
            raise httpx.ConnectTimeout("no connection", request=request)
        reply = await self._inner[name].handle_async_request(request)
        await asyncio.sleep(self._world.one_way())
        if self._world.is_torn(name):
            await reply.aclose()
            raise httpx.ReadError("connection reset", request=request)
        if self._world.is_cut(self._number, name):
            await reply.aclose()
            await self._lose(limits.get("read"))
            raise httpx.ReadTimeout("no answer", request=request)
        return reply

    async def aclose(self):
        for transport in self._inner.values():
            await transport.aclose()

    @staticmethod
    async def _lose(limit):
        if limit is None:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(limit)


class World:
    """Servers with one ledger, clients, and what goes wrong."""

    def __init__(self, loop, seed, policy):
        self.loop = loop
        self.scenario = drawn_scenario(seed)
        self.outcome = Outcome(seed)
        self.random = random.Random(f"sdk {seed}")
        self.policy = policy
        self.ledger = Ledger(loop.time)
        self.servers = {f"server-{n}": self._server(n) for n in range(self.scenario.servers)}
        self.hosts = {name: server._in_process_host() for name, server in self.servers.items()}
        self.token = self.servers["server-0"].token("admin")
        for server in self.servers.values():
            server.token("admin")
        self.tasks = {}
        self.partitions = []
        self._digest = hashlib.blake2b(digest_size=16)
        for key in self.keys:
            self.servers["server-0"].put(NAMESPACE, key, f"{key} at first", env=ENVIRONMENT)
        self.clients = [Client(self, number) for number in range(self.scenario.clients)]

    @property
    def keys(self):
        return [f"key-{number}" for number in range(self.scenario.keys)]

    def say(self, what):
        self._digest.update(f"{self.loop.time()!r} {what}\n".encode())

    def object(self, what):
        self.outcome.violations.append(f"{what} (at {self.loop.time():.3f} s)")

    @property
    def longest_hint(self):
        """Seconds that a server may have asked to be left alone for."""
        asked = [fault.retry_after or 0.0 for fault in self.scenario.faults if isinstance(fault, Throttle)]
        return max(asked, default=0.0)

    def one_way(self):
        return self.scenario.network.draw(self.random)

    def is_cut(self, client, server):
        return any(
            fault.server in {None, int(server[-1])}
            and is_among_the_first(client, fault.share, self.scenario.clients)
            for fault in self.partitions
        )

    def is_torn(self, server):
        """Whether a reply gets lost, though the request had its effect."""
        now = self.loop.time()
        return any(
            isinstance(fault, Errors)
            and fault.start <= now < fault.end
            and fault.server in {None, int(server[-1])}
            and self.random.random() < fault.rate
            for fault in self.scenario.faults
        )

    async def main(self):
        for fault in self.scenario.faults:
            self._arrange(fault)
        for client in self.clients:
            client.begin()
        await asyncio.sleep(max(self.scenario.seconds, self.scenario.faults_end))
        while self.tasks:
            await asyncio.wait(list(self.tasks))
        for server in self.servers.values():
            server.faults.clear()
        await asyncio.gather(*(client.recover() for client in self.clients))
        self._judge_writes()
        for client in self.clients:
            await client.end()
        self.outcome.digest = self._digest.hexdigest()
        return self.outcome

    def _server(self, number):
        clock = VirtualClock(self.loop)
        return MockServer(
            seed=self.outcome.seed,
            storage=self.ledger,
            clock=lambda: At(int(clock.time() * NANOSECONDS), clock.monotonic()),
            limits=False,
        )

    def _judge_writes(self):
        for client in self.clients:
            for key, value, is_acknowledged in client.writes:
                times = self.ledger.times_written(key, value)
                if times > 1:
                    self.object(f"no-write-twice: {value!r} was written {times} times")
                if is_acknowledged and not times:
                    self.object(f"no-write-lost: {value!r} was acknowledged and never written")

    # --- What goes wrong ---

    def _arrange(self, fault):
        at, until = partial(self.loop.call_at, fault.start), partial(self.loop.call_at, fault.end)
        window = (fault.start, fault.end)
        concerned = [n for n in self.servers if getattr(fault, "server", None) in {None, int(n[-1])}]
        match fault:
            case Partition():
                at(self.partitions.append, fault)
                until(self.partitions.remove, fault)
            case Missing():
                key = self.keys[fault.key]
                at(self._remove, key)
                until(self._put, key)
            case ClockStep() | Restart():
                at(self._befall, fault)
            case Outage(way="refuse"):
                for name in concerned:
                    at(self.hosts[name].stop)
                    until(self.hosts[name].start)
            case _:
                for name in concerned:
                    steps, probability = self._steps(fault)
                    self.servers[name].script(
                        "/api/*", steps, repeat="random", probability=probability, between=window
                    )

    def _steps(self, fault):
        match fault:
            case Outage(way="hang"):
                return [hang()], 1.0
            case Outage():
                return [error("SERVICE_UNAVAILABLE")], 1.0
            case Throttle():
                return [error("RATE_LIMIT_EXCEEDED", retry_after=fault.retry_after)], 1.0
            case Slow():
                seconds = fault.factor * self.scenario.service_time.median
                # Before the effect, or after it: a write that a caller gives up may have been made.
                return [latency(seconds), latency(after=seconds)], 1.0
            case Errors():
                broken = [
                    error("INTERNAL_ERROR"),
                    reset(),
                    reset(keep=40),
                    close(),
                    truncate(),
                    malformed(),
                    html(502),
                ]
                return broken, fault.rate

    def _remove(self, key):
        server = self.servers["server-0"]
        server._core.platform.store.delete(Address(NAMESPACE, key, ENVIRONMENT))

    def _put(self, key):
        self.servers["server-0"].put(NAMESPACE, key, f"{key} again", env=ENVIRONMENT)

    def _befall(self, fault):
        for client in self.clients:
            if is_among_the_first(client.number, fault.share, self.scenario.clients):
                client.clock.step_wall(fault.seconds) if isinstance(fault, ClockStep) else client.restart()


class Client:
    """An application that reads and writes."""

    def __init__(self, world, number):
        self.number = number
        self.world = world
        self.clock = VirtualClock(world.loop)
        self.writes = []
        self._random = random.Random(f"sdk {world.outcome.seed} {number}")
        self._tasks = {}
        self._old = []
        self._start()

    def _start(self):
        #: By key: since when its absence is known, and when what was acknowledged last was told and written.
        self._absent = {}
        self._acknowledged = {}
        self._http = httpx.AsyncClient(transport=Wire(self.world, self.number), trust_env=False)
        first, *others = [f"http://{name}" for name in self.world.servers]
        self.sdk = AsyncConfigClient(
            first,
            backups=others,
            token=self.world.token,
            environment=ENVIRONMENT,
            http_client=self._http,
            clock=self.clock,
            timeout=self.world.policy["timeout"],
            resilience=self.world.policy["resilience"],
            cache=self.world.policy["cache"],
        )

    def restart(self):
        for task in self._tasks:
            task.cancel()
        self._old.append((self.sdk, self._http))
        self._start()

    async def end(self):
        for sdk, http in [*self._old, (self.sdk, self._http)]:
            await sdk.aclose()
            await http.aclose()

    def begin(self):
        self.world.loop.call_later(self._random.expovariate(self.world.scenario.rate), self._next)

    async def recover(self):
        """Once everything had its time, every entry is read first hand again, and nothing is left in use."""
        await asyncio.sleep(LONGEST_BREAK + self.world.longest_hint)
        for key in self.world.keys * 2:
            await asyncio.sleep(1.0)
            try:
                entry = await self.sdk.get_config(NAMESPACE, key, fresh=True, default="default")
            except LLMConfigError as caught:
                entry = caught
        if isinstance(entry, LLMConfigError):
            self.world.object(f"recovers: all is well, and {self.number} still gets {entry!r}")
        stack = self.sdk._core.stack
        for pipeline in (stack.reads, stack.cached_reads, stack.writes, stack.repeatable_writes):
            for layer in strategies(pipeline):
                if getattr(layer, "probes", 0):
                    self.world.object(f"probes-return: {layer!r} waits for {layer.probes}")
                if any(getattr(status, "is_probed", False) for status in getattr(layer, "health", ())):
                    self.world.object(f"probes-return: {layer!r} waits for a target's probe")
                if layer.role == "single_flight" and len(layer):
                    self.world.object(f"flights-land: {len(layer)} calls would be joined that nobody makes")

    def _next(self):
        if self.world.loop.time() >= self.world.scenario.seconds:
            return
        task = self.world.loop.create_task(self._call())
        self._tasks[task] = self.world.tasks[task] = None
        task.add_done_callback(self._over)
        if self._random.random() < self.world.scenario.cancelled:
            self.world.loop.call_later(self._random.expovariate(2.0), task.cancel)
        self.begin()

    def _over(self, task):
        self._tasks.pop(task, None)
        self.world.tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()

    async def _call(self):
        outcome = self.world.outcome
        outcome.calls += 1
        kind = self._random.random()
        # The first key is only read: nobody brings back what is missing there.
        key = self._random.choice(self.world.keys if kind < READS else self.world.keys[1:])
        began = self.world.loop.time()
        try:
            if kind < READS:
                ending = await self._read(key, began, fresh=kind < FRESH_READS)
            elif kind < READS + WRITES:
                ending = await self._write(key, idempotent=kind < READS + WRITES / 2)
            else:
                await self.sdk.delete_config(NAMESPACE, key)
                ending = "deleted"
        except asyncio.CancelledError:
            ending = "cancelled"
        except LLMConfigError as caught:
            ending = type(caught).__name__
        took = self.world.loop.time() - began
        if took > self.world.policy["timeout"] + GRACE:
            self.world.object(f"ends-by-deadline: a call took {took:.6f} s and ended {ending}")
        outcome.endings[ending] = outcome.endings.get(ending, 0) + 1
        self.world.say(f"client {self.number} {key} {ending}")

    async def _read(self, key, began, *, fresh):
        sdk = self.sdk
        try:
            entry = await sdk.get_config(NAMESPACE, key, fresh=fresh)
        except NotFoundError as caught:
            # A 404 that was garbled on its way may be anybody's, and says nothing of the entry.
            if sdk is self.sdk and caught.is_not_found:
                self._absent[key] = max(began, self._absent.get(key, began))
            raise
        now, what = self.world.loop.time(), f"{entry.source} {entry.value!r}"
        valid_until = self.world.ledger.valid_until(key, entry.value)
        policy = self.world.policy["cache"]
        allowed = self.world.policy["timeout"] + GRACE  # that a flight may take, which this call joined
        if policy is not None:
            kept = {
                "cache": policy.stale_while_revalidate,
                "stale": max(policy.stale_while_revalidate, policy.stale_if_error),
            }
            allowed += policy.ttl + kept[entry.source] if entry.source in kept else 0.0
        if now - valid_until > allowed:
            age = now - valid_until
            self.world.object(f"no-older-than-allowed: {what} was replaced {age:.3f} s ago")
        absent_since = self._absent.get(key)
        if sdk is self.sdk and absent_since is not None and valid_until < absent_since <= began:
            self.world.object(
                f"not-found-is-an-answer: {what} is known since {absent_since:.3f} s to be gone"
            )
        told, written = self._acknowledged.get(key, (float("inf"), 0.0))
        if sdk is self.sdk and told <= began and valid_until <= written:
            self.world.object(f"reads-own-writes: {what}, after a newer one was written")
        return entry.source

    async def _write(self, key, *, idempotent):
        sdk = self.sdk
        value = f"write {len(self.writes)} of {self.number}"
        number = len(self.writes)
        self.writes.append((key, value, False))
        self.world.outcome.writes += 1
        await sdk.set_config(NAMESPACE, key, value, idempotency_key=value if idempotent else None)
        self.writes[number] = (key, value, True)
        if sdk is self.sdk and self.world.ledger.times_written(key, value):
            told, written = self.world.loop.time(), self.world.ledger.written_at(key, value)
            if written > self._acknowledged.get(key, (0.0, 0.0))[1]:
                self._acknowledged[key] = (told, written)
        return "written"


def has_length(fault):
    return not isinstance(fault, (ClockStep, Restart))


def drawn_scenario(seed):
    """A world of the toolkit's, in less time, with replies that get lost: writes whose fate is not known."""
    drawn = Scenario.drawn(seed)
    draw = random.Random(f"sdk scenario {seed}")
    faults = [
        replace(fault, start=fault.start * PACE, **({"end": fault.end * PACE} if has_length(fault) else {}))
        for fault in drawn.faults
    ]
    start = draw.uniform(2.0, 10.0)
    faults.append(Errors(start, start + 4.0, draw.choice((0.2, 0.5)), server=draw.choice((None, 0))))
    # Something is known to be gone, and then nobody answers.
    start = draw.uniform(2.0, 10.0)
    faults += [Missing(start, start + 5.0), Outage(start + 2.0, start + 4.0)]
    return drawn.with_options(seconds=SECONDS, rate=1.0, keys=max(2, drawn.keys), faults=tuple(faults))


def drawn_policy(seed):
    """Figures of the default stack, drawn from a seed."""
    draw = random.Random(f"sdk policy {seed}")
    cache = CachePolicy(
        ttl=draw.choice((0.0, 1.0, 3.0)),
        stale_while_revalidate=draw.choice((0.0, 0.0, 2.0)),
        stale_if_error=draw.choice((0.0, 5.0, 60.0)),
        stale_if_slow=draw.choice((None, None, 0.3)),
    )
    return {
        "timeout": draw.choice((1.0, 3.0, 10.0)),
        "cache": draw.choice((cache, cache, cache, None)),
        "resilience": ResiliencePolicy(
            retry=RetryPolicy(max_attempts=draw.choice((2, 3)), initial_backoff=draw.choice((0.0, 0.1))),
            breaker=BreakerPolicy(failure_threshold=draw.choice((1, 3, 5)), timeout=OPEN_FOR),
            attempt_timeout=draw.choice((0.5, 2.0, 5.0)),
            failback_after=FAILBACK,
        ),
    }


def simulate_sdk(seed):
    """Run one world to its end."""
    return run_virtually(lambda loop: World(loop, seed, drawn_policy(seed)).main(), seed=seed)
