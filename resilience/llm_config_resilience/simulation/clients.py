"""Clients on virtual time: each with a pipeline of its own, making calls through whatever goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import random
import warnings
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from llm_config_resilience.context import current
from llm_config_resilience.errors import PipelineOrderWarning, RejectedError
from llm_config_resilience.pipeline import Answer, Pipeline
from llm_config_resilience.simulation import virtual_time
from llm_config_resilience.simulation.figures import Run
from llm_config_resilience.simulation.invariants import (
    InvariantError,
    Promises,
    Referee,
    Violation,
    Witness,
    strategies,
    was_told_not_found,
)
from llm_config_resilience.simulation.scenario import ClockStep, Restart, Scenario, Throttle
from llm_config_resilience.simulation.servers import (
    Exchange,
    Network,
    Reply,
    Server,
    is_among_the_first,
    key_name,
    schedule,
)
from llm_config_resilience.simulation.virtual_time import StandstillError, VirtualClock, VirtualLoop
from llm_config_resilience.strategies.chaos import Chaos
from llm_config_resilience.strategies.circuit_breaker import CircuitBreaker
from llm_config_resilience.strategies.failover import Failover

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llm_config_resilience.events import Event
    from llm_config_resilience.simulation.figures import Ending

#: What a client calls its function through: a `Pipeline`, or an `async def` that is given the function and
#: its arguments and calls it as it sees fit.
Caller: TypeAlias = "Pipeline | Callable[..., Awaitable[Any]]"
#: Makes one for each client; given the servers' names if it has a parameter without a default.
Policy: TypeAlias = "Callable[[], Caller] | Callable[[tuple[str, ...]], Caller]"

#: A circuit or an ejected target is left alone for up to ten times its first time, a tenth more with jitter.
_LONGEST_GROWTH: Final = 11.0
#: Seconds between the calls that a run ends with: more than any rate limit worth having asks for.
_PAUSE: Final = 10.0
#: Runs of which one is made twice, to see whether the second is the same.
_REPEAT_EVERY: Final = 10

_WATCHED: Final = frozenset(
    {
        "retry",
        "gave_up",
        "rejected",
        "opened",
        "half_opened",
        "closed",
        "timed_out",
        "failed_over",
        "ejected",
        "readmitted",
        "served_stale",
        "refreshing",
        "fell_back",
        "hedged",
        "joined",
        "injected",
        "background_failed",
        "recovered",
    }
)

_witness: ContextVar[Witness | None] = ContextVar("llm_config_resilience.simulation.call", default=None)


def simulate(
    policy: Policy,
    scenario: Scenario | None = None,
    *,
    seed: int | str = 0,
    promises: Promises | None = None,
    check: bool = True,
    keep_trace: bool = False,
) -> Run:
    """Run clients through a scenario in virtual time, and watch what becomes of their calls.

        run = simulate(lambda: Pipeline(Timeout(5), Retry(), CircuitBreaker()), SCENARIOS["outage"])
        assert run.amplification < 1.1
        assert not run.violations

    Each client's pipeline is built anew on the simulation's clock, with its randomness and, beside its own
    listeners, the simulation's: the policy may be the one that production has. Jitter, hedges, tenacity's
    waits and `Chaos` layers draw from the seed. The engine that runs is the real one, in its async colour.
    What talks to the world beyond the process (a Redis, a thread) has no place here.

    Args:
        policy: Makes a `Pipeline` for each client, and for each that restarts; given the servers' names if it
            has a parameter without a default, for a `Failover`. The function that goes through it takes a key
            and returns a `Reply`, or raises a `ReplyError` or an `OSError`.
        scenario: The world; one drawn from the seed unless given.
        seed: What everything random in the run is drawn from.
        promises: What the policy promises beyond what shows.
        check: Whether invariants are watched, and the run ends with a look whether all has recovered.
        keep_trace: Whether the run keeps what happened, line by line.

    Returns:
        Figures, and the invariants that did not hold.

    Raises:
        TypeError: The policy makes something that no call can go through.
    """
    world = scenario or Scenario.drawn(seed)
    run = Run(world, seed)
    try:
        virtual_time.run_virtually(
            lambda loop: _Simulation(
                loop, policy, run, promises or Promises(), check=check, keep_trace=keep_trace
            ).main(),
            seed=seed,
        )
    except StandstillError as standstill:
        run.violations.append(Violation("nothing-hangs", str(standstill), world.seconds))
    return run


def explore(
    policy: Policy,
    seeds: int = 1000,
    *,
    first: int = 0,
    scenario: Scenario | None = None,
    promises: Promises | None = None,
    replay: str = "simulate({policy}, seed={seed}, keep_trace=True)",
) -> list[Run]:
    """Simulate by one seed after the other, each in a world of its own, and raise at the first that fails.

    Every tenth run is made twice: the same seed has to give the same trace.

    Args:
        policy: As for `simulate`.
        seeds: How many.
        first: The first one.
        scenario: The world, if it is to be the same for all.
        promises: As for `simulate`.
        replay: What an error says replays the run; `{policy}` and `{seed}` are filled in.

    Returns:
        The runs.

    Raises:
        InvariantError: An invariant did not hold.
    """
    runs: list[Run] = []
    for seed in range(first, first + seeds):
        run = simulate(policy, scenario, seed=seed, promises=promises)
        if seed % _REPEAT_EVERY == 0:
            require_same(run, simulate(policy, scenario, seed=seed, promises=promises))
        if run.violations:
            name = getattr(policy, "__qualname__", repr(policy))
            raise InvariantError(run.violations, replay.format(policy=name, seed=seed))
        runs.append(run)
    return runs


def require_same(run: Run, again: Run) -> None:
    """Write a violation into a run, unless another one has the same trace."""
    if run.digest != again.digest:
        message = f"traces {run.digest} and {again.digest} of seed {run.seed} differ"
        run.violations.append(Violation("same-seed-same-trace", message, run.scenario.seconds))


class _Simulation:
    """One run, from the first call to the last."""

    def __init__(
        self,
        loop: VirtualLoop,
        policy: Policy,
        run: Run,
        promises: Promises,
        *,
        check: bool,
        keep_trace: bool,
    ) -> None:
        self.loop = loop
        self.run = run
        self.scenario = run.scenario
        self.referee = Referee(run, run.scenario, promises) if check else None
        self.under_way: dict[asyncio.Task[None], None] = {}
        self._policy = cast("Callable[..., Caller]", policy)
        self._wants_servers = any(
            parameter.default is parameter.empty
            for parameter in inspect.signature(policy).parameters.values()
        )
        self._digest = hashlib.blake2b(digest_size=16)
        self._trace = run.trace if keep_trace else None
        self.network = Network(loop, self.scenario, self.source("network"))
        self.servers = [
            Server(
                number,
                loop,
                self.network,
                scenario=self.scenario,
                source=self.source(f"server {number}"),
                clock=VirtualClock(loop),
                heard=self._arrived,
            )
            for number in range(self.scenario.servers)
        ]
        self.by_name = {server.name: server for server in self.servers}
        self.clients = [_Client(self, number) for number in range(self.scenario.clients)]

    def source(self, name: str) -> random.Random:
        """A source of randomness that no other part of the world draws from."""
        return random.Random(f"{self.run.seed} {name}")  # noqa: S311  # a simulation, no secret

    def make_caller(self) -> Caller:
        """Have the policy make what a client calls through."""
        made = self._policy(tuple(self.by_name)) if self._wants_servers else self._policy()
        if not isinstance(made, Pipeline) and not callable(made):
            raise TypeError(
                f"the policy has to make a Pipeline or an async function, not a {type(made).__name__}"
            )
        return made

    def say(self, what: str) -> None:
        """Write a line of the trace."""
        line = f"{self.loop.time()!r} {what}\n"
        self._digest.update(line.encode())
        if self._trace is not None:
            self._trace.append(line.rstrip())

    async def main(self) -> None:
        """Run the world."""
        for fault in self.scenario.faults:
            if isinstance(fault, (Restart, ClockStep)):
                self.loop.call_at(fault.start, self._befall, fault)
            else:
                schedule(fault, self.loop, self.network, self.servers)
        for client in self.clients:
            client.begin()
        await asyncio.sleep(max(self.scenario.seconds, self.scenario.faults_end))
        while self.under_way:
            await asyncio.wait(list(self.under_way))
        if self.referee is not None:
            self.network.is_calm = True
            for server in self.servers:
                server.clear()
            await asyncio.gather(*(client.recover() for client in self.clients))
            self.referee.over(self.loop.time())
        self.run.digest = self._digest.hexdigest()

    def _befall(self, fault: Restart | ClockStep) -> None:
        for client in self.clients:
            if is_among_the_first(client.number, fault.share, self.scenario.clients):
                if isinstance(fault, Restart):
                    client.restart()
                else:
                    client.clock.step_wall(fault.seconds)

    def _arrived(self, exchange: Exchange) -> None:
        self.say(f"{exchange.server.name} gets {exchange.key} of client {exchange.client}")
        if not self.network.is_calm:
            self.run.count_request(exchange.server.name, self.loop.time())


class _Client:
    """One process that makes calls through its policy."""

    def __init__(self, simulation: _Simulation, number: int) -> None:
        self.number = number
        self._simulation = simulation
        self._loop = simulation.loop
        self._run = simulation.run
        self._scenario = simulation.scenario
        self._random = simulation.source(f"client {number}")
        self.clock = VirtualClock(simulation.loop)
        self._pipeline: Pipeline | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._calls = 0
        self._answer = self._start()

    def begin(self) -> None:
        """Make the first call in its time."""
        self._loop.call_at(self._loop.time() + self._random.expovariate(self._scenario.rate), self._next)

    def restart(self) -> None:
        """End whatever runs, and begin anew."""
        self._simulation.say(f"client {self.number} restarts")
        for task in self._tasks:
            task.cancel()
        if self._pipeline is not None:
            self._pipeline.close()
        self._tasks = {}
        self._answer = self._start()

    def judge(self, event: Event) -> None:
        """Have the referee hear of an event."""
        if self._simulation.referee is not None and self._pipeline is not None:
            self._simulation.referee.heard(self.number, event, self._pipeline)

    async def recover(self) -> None:
        """See whether all that guards the servers lets calls through again, once it had its time."""
        pipeline = self._pipeline
        if pipeline is None or self._simulation.referee is None:
            return
        layers = list(strategies(pipeline))
        for layer in layers:
            if isinstance(layer, Chaos):
                layer.enabled = False
        await asyncio.sleep(self._longest_break(layers))
        answer: Answer[Any] | None = None
        error: Exception | None = None
        for number in range(2 + sum(map(_successes_wanted, layers))):
            await asyncio.sleep(_PAUSE)
            try:
                answer, error = await pipeline.answer_async(self._ask, f"after-{number}"), None
            except Exception as caught:  # noqa: BLE001  # whatever it is, it is the end that counts
                answer, error = None, caught
        now = self._loop.time()
        open_circuits = [
            layer
            for layer in pipeline.layers
            if isinstance(layer, CircuitBreaker) and layer.state != "closed"
        ]
        if answer is None or answer.degraded or (open_circuits and answer.source == "call"):
            state = f"{error!r}" if answer is None else f"a {answer.source} answer, {open_circuits}"
            message = f"all is well again, and still there is {state}"
            self._simulation.referee.object("recovers", message, now, self.number)
        if pipeline.drain(0):
            self._simulation.referee.at_rest(self.number, pipeline, now)

    def _start(self) -> Callable[..., Awaitable[Answer[Any]]]:
        made = self._simulation.make_caller()
        if not isinstance(made, Pipeline):
            if self._simulation.referee is not None:
                self._simulation.referee.meets(self.number, None)
            return _answering(made)
        for layer in made.layers:
            if isinstance(layer, Chaos):
                layer.seed = f"{self._run.seed} {self.number}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PipelineOrderWarning)  # whoever made it has been told
            self._pipeline = pipeline = Pipeline(
                *made.layers,
                name=made.name,
                listeners=(*made.listeners, _Tap(self._simulation, self)),
                clock=self.clock,
                random=self._random.random,
            )
        if self._simulation.referee is not None:
            self._simulation.referee.meets(self.number, pipeline)
        return pipeline.answer_async

    def _next(self) -> None:
        if self._loop.time() >= self._scenario.seconds:
            return
        key = key_name(self._random.randrange(self._scenario.keys))
        task = self._loop.create_task(self._call(key, self._calls))
        self._calls += 1
        self._tasks[task] = None
        self._simulation.under_way[task] = None
        task.add_done_callback(self._over)
        if self._scenario.cancelled and self._random.random() < self._scenario.cancelled:
            self._loop.call_later(self._random.expovariate(2 / self._scenario.patience), task.cancel)
        self.begin()

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        self._simulation.under_way.pop(task, None)
        referee, pipeline = self._simulation.referee, self._pipeline
        if referee is not None and pipeline is not None and not self._tasks and pipeline.drain(0):
            referee.at_rest(self.number, pipeline, self._loop.time())

    async def _call(self, key: str, number: int) -> None:
        call = Witness(number, self._loop.time())
        _witness.set(call)
        self._run.calls += 1
        answer: Answer[Any] | None = None
        why = ""
        try:
            answer = await self._answer(self._ask, key)
            ending = _ending_of(answer)
        except asyncio.CancelledError:
            ending = "cancelled"
        except RejectedError as error:
            ending, why = "rejected", type(error).__name__
        except Exception as error:  # noqa: BLE001  # a policy may let anything through
            ending, why = "failed", type(error).__name__
        now = self._loop.time()
        self._simulation.say(f"client {self.number} call {number} {key} ends: {ending} {why}")
        self._run.count_ending(ending, call.began, now)
        if self._simulation.referee is not None:
            self._simulation.referee.call_ended(self.number, call, now, answer)

    async def _ask(self, *args: Any) -> Reply:
        key: str = args[-1]
        context = current()
        target = args[0] if len(args) > 1 else None if context is None else context.target
        server = self._simulation.servers[0] if target is None else self._simulation.by_name[target]
        waiting: asyncio.Future[Reply] = self._loop.create_future()
        self._simulation.network.send(Exchange(self.number, server, key, self._loop.time(), waiting))
        call = _witness.get()
        try:
            reply = await waiting
        except Exception as error:
            if call is not None:
                call.not_found = was_told_not_found(error)
            raise
        if call is not None:
            call.not_found = False
        if self._simulation.referee is not None:
            self._simulation.referee.replied(self.number)
        return reply

    def _longest_break(self, layers: list[Any]) -> float:
        """Seconds after which nothing may be left alone any longer for what has happened."""
        guards = [layer.settings.timeout for layer in layers if isinstance(layer, CircuitBreaker)]
        guards += [layer.settings.failback_after for layer in layers if isinstance(layer, Failover)]
        asked = [fault.retry_after or 0.0 for fault in self._scenario.faults if isinstance(fault, Throttle)]
        steps = sum(abs(fault.seconds) for fault in self._scenario.faults if isinstance(fault, ClockStep))
        return _LONGEST_GROWTH * max(guards, default=0.0) + max(asked, default=0.0) + steps


class _Tap:
    """Hears what a client's policy does."""

    wants = _WATCHED

    def __init__(self, simulation: _Simulation, client: _Client) -> None:
        self._simulation = simulation
        self._client = client

    def __call__(self, event: Event) -> None:
        number = self._client.number
        self._simulation.say(f"client {number} {event.kind} {event.layer} {event.attempt} {event.delay!r}")
        self._simulation.run.count_event(event, number)
        self._client.judge(event)


def _successes_wanted(layer: Any) -> int:
    if isinstance(layer, (CircuitBreaker, Failover)):
        return layer.settings.success_threshold
    return 0


def _ending_of(answer: Answer[Any]) -> Ending:
    if answer.source in {"call", "cache"}:
        return cast("Ending", answer.source)
    if not answer.degraded:
        return "cache"
    return "stale" if answer.source == "stale" else "fallback"


def _answering(caller: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Answer[Any]]]:
    async def answer(fn: Callable[..., Awaitable[Any]], *args: Any) -> Answer[Any]:
        value = await caller(fn, *args)
        return Answer(value, "call", "", degraded=False, error=None, attempts=1, calls=1, target=None)

    return answer
