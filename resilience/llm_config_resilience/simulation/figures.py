"""What came of a run, counted as it goes: for tables, plots and assertions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from llm_config_resilience.events import Event
    from llm_config_resilience.simulation.invariants import Violation
    from llm_config_resilience.simulation.scenario import Scenario

#: How a call ended. `"call"`: a first-hand answer; `"cache"`: an earlier one, fresh or just being renewed;
#: `"stale"` and `"fallback"`: something second best; `"failed"`: an error; `"rejected"`: turned away on this
#: side; `"cancelled"`: its caller gave up.
Ending: TypeAlias = Literal["call", "cache", "stale", "fallback", "failed", "rejected", "cancelled"]

#: Endings that are as good as on a good day.
GOOD: Final[frozenset[Ending]] = frozenset({"call", "cache"})
#: Endings that hand the caller a value.
_ANSWERED: Final[frozenset[Ending]] = frozenset({"call", "cache", "stale", "fallback"})
#: The share of a second's calls that must end well for the second to count as well.
_WELL: Final = 0.99
#: Events that the circuits' history is made of.
_TRANSITIONS: Final = frozenset({"opened", "half_opened", "closed"})


@dataclass(frozen=True, slots=True)
class Transition:
    """A circuit changed its state.

    Args:
        time: When, in virtual seconds.
        client: Whose circuit, by number.
        circuit: Which; its name or its label in the pipeline.
        state: `"opened"`, `"half_opened"` or `"closed"`.
    """

    time: float
    client: int
    circuit: str
    state: str


@dataclass(slots=True)
class Run:
    """What came of a simulation. Times are virtual seconds.

    Attributes:
        scenario: The world.
        seed: What all that is random in it was drawn from.
        calls: Calls that were made.
        endings: How they ended: `Ending`, and how many did.
        requests: Requests that arrived at a server.
        events: Events of the policies, by kind.
        transitions: What the circuits did.
        violations: Invariants that did not hold.
        ended: By ending, calls that ended in each second.
        load: By server, requests that arrived in each second.
        begun: Calls that began in each second, but for those whose callers gave up.
        well: Those of them that ended as on a good day.
        durations: How long each call took, but for those whose callers gave up.
        digest: The same for the same trace, and for no other.
        trace: What happened, a line each, where the run was asked to keep it.
    """

    scenario: Scenario
    seed: int | str
    calls: int = 0
    endings: Counter[Ending] = field(default_factory=Counter[Ending])
    requests: int = 0
    events: Counter[str] = field(default_factory=Counter[str])
    transitions: list[Transition] = field(default_factory=list[Transition])
    violations: list[Violation] = field(default_factory=list["Violation"])
    ended: dict[Ending, Counter[int]] = field(default_factory=dict[Ending, Counter[int]])
    load: dict[str, Counter[int]] = field(default_factory=dict[str, Counter[int]])
    begun: Counter[int] = field(default_factory=Counter[int])
    well: Counter[int] = field(default_factory=Counter[int])
    durations: list[float] = field(default_factory=list[float])
    digest: str = ""
    trace: list[str] = field(default_factory=list[str])
    #: Whether `durations` is in order already.
    _sorted: bool = False

    @property
    def success_rate(self) -> float:
        """The share of the calls that ended as on a good day; callers that gave up are left out."""
        return _share(sum(self.endings[ending] for ending in GOOD), self._judged)

    @property
    def answer_rate(self) -> float:
        """The share of the calls that got any value, a stale one or a fallback included."""
        return _share(sum(self.endings[ending] for ending in _ANSWERED), self._judged)

    @property
    def amplification(self) -> float:
        """Requests that servers got for each call."""
        return _share(self.requests, self.calls)

    @property
    def amplification_in_faults(self) -> float:
        """The same for the time in which something was wrong; 0 if nothing was."""
        seconds = self._faulty_seconds()
        requests = sum(load[second] for load in self.load.values() for second in seconds)
        return _share(requests, sum(self.begun[second] for second in seconds))

    @property
    def peak_load(self) -> int:
        """The most requests that all servers together got in a second."""
        total: Counter[int] = sum(self.load.values(), Counter[int]())
        return max(total.values(), default=0)

    @property
    def time_to_recover(self) -> float | None:
        """Seconds from the end of the last fault until all was well, and stayed so.

        A second is well if 99 % of the calls that begin in it end as on a good day. `None`: not within the
        run.
        """
        faults_end = self.scenario.faults_end
        recovered = first = ceil(faults_end)
        for second in range(first, ceil(self.scenario.seconds)):
            if self.well[second] < _WELL * self.begun[second]:
                recovered = second + 1
        if recovered >= self.scenario.seconds:
            return None
        return max(0.0, recovered - faults_end) if recovered > first else 0.0

    def latency(self, quantile: float) -> float:
        """How long a call took: so large a share of them was no slower.

        Args:
            quantile: The share, 0 to 1.
        """
        if not self._sorted:
            self.durations.sort()
            self._sorted = True
        if not self.durations:
            return 0.0
        return self.durations[max(0, ceil(quantile * len(self.durations)) - 1)]

    def summary(self) -> dict[str, Any]:
        """What there is to say in figures, for JSON."""
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "calls": self.calls,
            "requests": self.requests,
            "success_rate": self.success_rate,
            "answer_rate": self.answer_rate,
            "amplification": self.amplification,
            "amplification_in_faults": self.amplification_in_faults,
            "peak_load": self.peak_load,
            "p50_seconds": self.latency(0.5),
            "p99_seconds": self.latency(0.99),
            "time_to_recover_seconds": self.time_to_recover,
            "endings": dict(sorted(self.endings.items())),
            "events": dict(sorted(self.events.items())),
            "violations": [str(violation) for violation in self.violations],
            "digest": self.digest,
        }

    def __str__(self) -> str:
        recovery = self.time_to_recover
        transitions = Counter(transition.state for transition in self.transitions)
        lines = {
            "scenario, seed": f"{self.scenario.name or 'of your own'}, {self.seed}",
            "calls": f"{self.calls}",
            "requests for each call": f"{self.amplification:.3f}",
            "  while something was wrong": f"{self.amplification_in_faults:.3f}",
            "most requests in a second": f"{self.peak_load}",
            "calls that ended well": f"{self.success_rate:.2%}",
            "calls that got any value": f"{self.answer_rate:.2%}",
            "latency, p50 and p99": f"{self.latency(0.5):.3f} s, {self.latency(0.99):.3f} s",
            "circuits opened, closed": f"{transitions['opened']}, {transitions['closed']}",
            "time to recover": "not within the run" if recovery is None else f"{recovery:.0f} s",
            "invariants": f"{len(self.violations)} violated" if self.violations else "all hold",
        }
        width = max(map(len, lines))
        table = [f"{name:{width}}  {value}" for name, value in lines.items()]
        return "\n".join(table + [str(violation) for violation in self.violations])

    def count_ending(self, ending: Ending, began: float, ended: float) -> None:
        """Take note of how a call ended."""
        self.endings[ending] += 1
        self.ended.setdefault(ending, Counter())[int(ended)] += 1
        if ending == "cancelled":
            return
        self.begun[int(began)] += 1
        self.well[int(began)] += ending in GOOD
        self.durations.append(ended - began)

    def count_request(self, server: str, at: float) -> None:
        """Take note of a request that arrives."""
        self.requests += 1
        self.load.setdefault(server, Counter())[int(at)] += 1

    def count_event(self, event: Event, client: int) -> None:
        """Take note of an event of a client's policy."""
        self.events[event.kind] += 1
        if event.kind in _TRANSITIONS:
            circuit = str(event.details.get("breaker") or event.layer)
            self.transitions.append(Transition(event.time, client, circuit, event.kind))

    @property
    def _judged(self) -> int:
        return sum(self.endings.values()) - self.endings["cancelled"]

    def _faulty_seconds(self) -> set[int]:
        return {
            second for fault in self.scenario.faults for second in range(int(fault.start), ceil(fault.end))
        }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
