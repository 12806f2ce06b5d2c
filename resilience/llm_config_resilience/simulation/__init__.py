"""Try a policy out before an outage does: clients, servers, network and time, simulated from one seed.

    from llm_config_resilience import CircuitBreaker, Pipeline, Retry, Timeout
    from llm_config_resilience.simulation import SCENARIOS, explore, simulate

    def policy() -> Pipeline:
        return Pipeline(Timeout(5), Retry(), CircuitBreaker(), Timeout(1))

    print(simulate(policy, SCENARIOS["outage"], seed=7))
    explore(policy, seeds=1000)

The engine is the real one, and so are the strategies; time is virtual, so an hour takes no time, and the same
seed gives the same trace, in every process. `INVARIANTS` is what every run is checked for.
"""

from llm_config_resilience.simulation.clients import Caller, Policy, explore, simulate
from llm_config_resilience.simulation.figures import Ending, Run, Transition
from llm_config_resilience.simulation.invariants import INVARIANTS, InvariantError, Promises, Violation
from llm_config_resilience.simulation.scenario import (
    SCENARIOS,
    ClockStep,
    Errors,
    Fault,
    Latency,
    Missing,
    Outage,
    Partition,
    Restart,
    Scenario,
    Slow,
    Throttle,
    Way,
)
from llm_config_resilience.simulation.servers import Reply, ReplyError
from llm_config_resilience.simulation.virtual_time import (
    StandstillError,
    VirtualClock,
    VirtualLoop,
    run_virtually,
)

__all__ = [
    "INVARIANTS",
    "SCENARIOS",
    "Caller",
    "ClockStep",
    "Ending",
    "Errors",
    "Fault",
    "InvariantError",
    "Latency",
    "Missing",
    "Outage",
    "Partition",
    "Policy",
    "Promises",
    "Reply",
    "ReplyError",
    "Restart",
    "Run",
    "Scenario",
    "Slow",
    "StandstillError",
    "Throttle",
    "Transition",
    "Violation",
    "VirtualClock",
    "VirtualLoop",
    "Way",
    "explore",
    "run_virtually",
    "simulate",
]

# Errors and reprs name the place users import from.
for _member in [globals()[_name] for _name in __all__]:
    if hasattr(_member, "__qualname__") and _member.__module__.startswith(f"{__name__}."):
        _member.__module__ = __name__
