"""What must hold whatever goes wrong, and who watches it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Final

from llm_config_resilience.simulation.servers import Reply, ReplyError
from llm_config_resilience.strategies.budget import RatioBudget, RetryBudget
from llm_config_resilience.strategies.bulkhead import Bulkhead
from llm_config_resilience.strategies.cache_fallback import CacheFallback
from llm_config_resilience.strategies.circuit_breaker import CircuitBreaker
from llm_config_resilience.strategies.failover import Failover
from llm_config_resilience.strategies.fallback import Fallback
from llm_config_resilience.strategies.per_key import PerKey
from llm_config_resilience.strategies.retry import Retry
from llm_config_resilience.strategies.single_flight import SingleFlight
from llm_config_resilience.strategies.timeout import Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_config_resilience.events import Event
    from llm_config_resilience.pipeline import Answer, Pipeline
    from llm_config_resilience.simulation.figures import Run
    from llm_config_resilience.simulation.scenario import Scenario
    from llm_config_resilience.strategies.budget import Budget
    from llm_config_resilience.strategies.strategy import Strategy

#: Seconds a call may take beyond its deadline: event loops keep milliseconds. Virtual time costs none.
GRACE: Final = 0.001
#: Violations told of one run: after these, more say nothing new.
_ENOUGH: Final = 20

INVARIANTS: Final = {
    "ends-by-deadline": "a call ends by its deadline, with a millisecond of grace",
    "nothing-hangs": "every call ends",
    "permits-return": "a bulkhead's places are all free once its client is at rest, and never more are taken",
    "probes-return": "no probe of a circuit or of a target is under way once its client is at rest",
    "flights-land": "no flight that others would join is in the air once its client is at rest",
    "budget-holds": "retries are no more than their budget allows",
    "amplification": "servers get no more requests for each call than was promised",
    "no-older-than-allowed": "no value is older than the policy's caches allow, and its age is told truly",
    "not-found-is-an-answer": "a call that was told 404 does not end in an earlier value",
    "recovers": "after the faults, circuits close and calls end well",
    "same-seed-same-trace": "the same seed gives the same trace",
}
"""What is checked in every run, by name."""


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant did not hold.

    Args:
        invariant: Its name in `INVARIANTS`.
        message: What was seen.
        time: When, in virtual seconds.
        client: Whose, by number; `None` for the run as a whole.
    """

    invariant: str
    message: str
    time: float
    client: int | None = None

    def __str__(self) -> str:
        whose = "" if self.client is None else f", client {self.client}"
        rule = INVARIANTS.get(self.invariant, "")
        return f"{self.invariant}: {self.message} (at {self.time:.3f} s{whose}; {rule})"


class InvariantError(AssertionError):
    """A simulation found what must not be. The message ends with what replays it.

    Args:
        violations: What did not hold.
        replay: What replays the run.
    """

    def __init__(self, violations: Sequence[Violation], replay: str) -> None:
        super().__init__(violations, replay)
        self.violations: tuple[Violation, ...] = tuple(violations)
        self.replay = replay

    def __str__(self) -> str:
        return "\n".join([*map(str, self.violations), f"replay it: {self.replay}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Promises:
    """What a policy promises its callers. What is left out is read off its pipeline, as far as it shows.

    Args:
        deadline: Seconds a call may take. Left out, it is that of the outermost `Timeout`, where nothing
            outside of it can wait.
        max_age: Seconds a value may be old. Left out, it is what the `CacheFallback` layers allow.
        amplification: Requests a call that servers may get, over the whole run. Left out, only budgets count.
    """

    deadline: float | None = None
    max_age: float | None = None
    amplification: float | None = None

    def completed(self, pipeline: Pipeline) -> Promises:
        """Fill in what was left out, from a pipeline."""
        return replace(
            self,
            deadline=_deadline(pipeline) if self.deadline is None else self.deadline,
            max_age=_max_age(pipeline) if self.max_age is None else self.max_age,
        )


class Witness:
    """What one call went through: the replies that came while it lasted."""

    __slots__ = ("began", "not_found", "number")

    def __init__(self, number: int, began: float) -> None:
        self.number: int = number
        self.began: float = began
        #: Whether the last reply it got said that there is no such entry.
        self.not_found: bool = False


class Referee:
    """Watches a run, and writes down what must not be.

    Args:
        run: Where to.
        scenario: The world.
        promises: What the policy promises.
    """

    def __init__(self, run: Run, scenario: Scenario, promises: Promises) -> None:
        self._run = run
        self._scenario = scenario
        self._given = promises
        self._promises: dict[int, Promises] = {}
        self._patience: dict[int, float] = {}
        self._budgets: dict[int, dict[int, _Spent]] = {}

    def meets(self, client: int, pipeline: Pipeline | None) -> None:
        """Get to know a client's policy; `None` for one that is no pipeline."""
        layers = () if pipeline is None else pipeline.layers
        self._promises[client] = self._given if pipeline is None else self._given.completed(pipeline)
        self._patience[client] = sum(
            layer.times.stale_if_slow or 0.0 for layer in layers if isinstance(layer, CacheFallback)
        )
        budgets = [layer.budget for layer in layers if isinstance(layer, Retry) and layer.budget is not None]
        self._budgets[client] = {id(budget): _Spent(budget) for budget in budgets}

    def call_ended(self, client: int, call: Witness, now: float, answer: Answer[Any] | None) -> None:
        """Judge how a call ended."""
        promised = self._promises[client]
        took = now - call.began
        if promised.deadline is not None and took > promised.deadline + GRACE:
            message = f"a call took {took:.6f} s, and {promised.deadline:g} s are allowed"
            self.object("ends-by-deadline", message, now, client)
        if answer is None or not isinstance(answer.value, Reply):
            return
        if call.not_found and answer.source in {"stale", "cache"}:
            message = f"{answer.value.key} is not there, and a {answer.source} value was returned"
            self.object("not-found-is-an-answer", message, now, client)
        self._judge_age(client, promised, answer, now)

    def heard(self, client: int, event: Event, pipeline: Pipeline) -> None:
        """Count what budgets are spent on, and what refunds them."""
        if event.kind not in {"retry", "recovered", "gave_up"}:
            return
        layer = pipeline.layers[pipeline.labels.index(event.layer)]
        spent = self._budgets[client].get(id(layer.budget)) if isinstance(layer, Retry) else None
        if spent is None:
            return
        spent.counts[event.kind] += 1
        if event.kind == "retry" and not spent.affords(event.time):
            message = f"{spent.counts['retry']} retries are more than {spent.budget!r} allows"
            self.object("budget-holds", message, event.time, client)

    def replied(self, client: int) -> None:
        """Count an answer, which may refund budgets."""
        for spent in self._budgets[client].values():
            spent.replies += 1

    def at_rest(self, client: int, pipeline: Pipeline, now: float) -> None:
        """Look whether a client that does nothing has given everything back."""
        for layer in strategies(pipeline):
            if isinstance(layer, Bulkhead) and (layer.running or layer.waiting):
                self.object("permits-return", f"{layer!r}, and no call is under way", now, client)
            elif isinstance(layer, SingleFlight) and len(layer):
                self.object(
                    "flights-land", f"{len(layer)} calls would be joined that nobody makes", now, client
                )
            elif isinstance(layer, CircuitBreaker) and layer.probes:
                self.object("probes-return", f"{layer!r} waits for {layer.probes} probes", now, client)
            elif isinstance(layer, Failover):
                probed = [status.target for status in layer.health if status.is_probed]
                if probed:
                    self.object("probes-return", f"{layer!r} waits for probes of {probed}", now, client)

    def over(self, now: float) -> None:
        """Judge the run as a whole."""
        allowed = self._given.amplification
        if allowed is not None and self._run.amplification > allowed:
            message = f"{self._run.amplification:.4f} requests a call, and {allowed:g} were promised"
            self.object("amplification", message, now)

    def object(self, invariant: str, message: str, now: float, client: int | None = None) -> None:
        """Write a violation down."""
        if len(self._run.violations) < _ENOUGH:
            self._run.violations.append(Violation(invariant, message, now, client))

    def _judge_age(self, client: int, promised: Promises, answer: Answer[Any], now: float) -> None:
        # A reply is under way no longer than its client's patience, and that is nobody's fault.
        age, transit = now - answer.value.as_of, self._scenario.patience + GRACE
        if promised.max_age is not None and age > promised.max_age + transit:
            message = f"a {answer.source} value is {age:.3f} s old, and {promised.max_age:g} s are allowed"
            self.object("no-older-than-allowed", message, now, client)
        # An age is told as of when the entry was found; it may be waited with before it stands in.
        if answer.age is not None and age - answer.age > transit + self._patience[client]:
            message = f"a {answer.source} value is {age:.3f} s old, and said to be {answer.age:.3f} s"
            self.object("no-older-than-allowed", message, now, client)


class _Spent:
    """What one client spent of a budget, and what may have been refunded."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.counts: Counter[str] = Counter()
        self.replies = 0

    def affords(self, now: float) -> bool:
        """Whether the retries so far are no more than could be paid for, at the very best."""
        retries, budget = self.counts["retry"], self.budget
        if isinstance(budget, RetryBudget):
            earned = self.replies + budget.retry_cost * self.counts["recovered"]
            return retries * budget.retry_cost <= budget.quota + earned
        if isinstance(budget, RatioBudget):
            # What was earned in one window may be spent in it, not later, and windows begin at full seconds.
            windows = now / budget.ttl + 2
            calls = self.replies + retries + self.counts["gave_up"]
            return retries <= budget.per_second * budget.ttl * windows + budget.ratio * calls
        return True


def strategies(pipeline: Pipeline) -> Iterator[Strategy]:
    """Go through a pipeline's strategies, those that it keeps by key included."""
    for layer in pipeline.layers:
        yield layer
        if isinstance(layer, PerKey):
            yield from layer.strategies.values()


def was_told_not_found(error: BaseException) -> bool:
    """Whether a reply says that there is no such entry."""
    return isinstance(error, ReplyError) and not error.is_retriable


def _deadline(pipeline: Pipeline) -> float | None:
    for layer in pipeline.layers:
        if isinstance(layer, Timeout):
            seconds = layer.describe()["seconds"]
            return float(seconds) if isinstance(seconds, (int, float)) and seconds != inf else None
        if not isinstance(layer, (Fallback, CacheFallback)):
            return None
    return None


def _max_age(pipeline: Pipeline) -> float:
    caches = [layer.times for layer in pipeline.layers if isinstance(layer, CacheFallback)]
    return sum(
        times.ttl + max(times.stale_while_revalidate, times.stale_if_error) + (times.stale_if_slow or 0.0)
        for times in caches
    )
