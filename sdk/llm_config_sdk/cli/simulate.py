"""`simulate`: what a policy makes of an outage, in virtual time."""

import importlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from rich.table import Table

from llm_config_resilience import (
    CacheFallback,
    CircuitBreaker,
    Failover,
    MemoryStore,
    PerTarget,
    Pipeline,
    Retry,
    Strategy,
    Timeout,
)
from llm_config_resilience.simulation import (
    SCENARIOS,
    InvariantError,
    Policy,
    Run,
    Scenario,
    explore,
    simulate as run_simulation,
)
from llm_config_sdk.cli import PROGRAM, options
from llm_config_sdk.cli.exits import Exit
from llm_config_sdk.cli.output import console, write_json, write_line, write_note
from llm_config_sdk.policy import BreakerPolicy, CachePolicy, ResiliencePolicy

#: Seconds a call may take in all: the client's default.
_TOTAL: Final = 10.0
_DRAWN: Final = "drawn"
_SCENARIO: Final = "outage"
_POLICY: Final = "default"


def _stack(
    servers: tuple[str, ...],
    *,
    cache: bool = True,
    retry: bool = True,
    budget: bool = True,
    breaker: bool = True,
) -> Pipeline:
    """Put the client's default stack together, with its figures, and without some of it."""
    policy, kept, circuit = ResiliencePolicy(), CachePolicy(), BreakerPolicy()
    layers: list[Strategy] = []
    if cache:
        layers.append(
            CacheFallback(MemoryStore(), key=_key, ttl=kept.ttl, stale_if_error=kept.stale_if_error)
        )
    layers.append(Timeout(_TOTAL))
    if retry:
        layers.append(Retry(policy.retry) if budget else Retry(policy.retry, budget=None))
    layers.append(Failover(servers, failback_after=policy.failback_after))
    if breaker:
        layers.append(
            PerTarget(
                lambda server: CircuitBreaker(
                    circuit.failure_threshold,
                    circuit.success_threshold,
                    circuit.timeout,
                    patience=circuit.patience,
                    name=server,
                )
            )
        )
    layers.append(Timeout(policy.attempt_timeout))
    return Pipeline(*layers)


POLICIES: Final[Mapping[str, Policy]] = {
    "default": cast("Policy", _stack),
    "no-cache": cast("Policy", partial(_stack, cache=False)),
    "no-breaker": cast("Policy", partial(_stack, cache=False, breaker=False)),
    "no-budget": cast("Policy", partial(_stack, cache=False, breaker=False, budget=False)),
    "one-attempt": cast("Policy", partial(_stack, cache=False, breaker=False, retry=False)),
}
"""The client's default stack, and what is left of it as one part after the other is taken away."""
_WITHOUT: Final = [name for name in POLICIES if name != _POLICY]


def _key(key: str) -> str:
    return key


def _scenario_names() -> list[str]:
    return [*SCENARIOS, _DRAWN]


def simulate(
    scenario: Annotated[
        str,
        typer.Argument(
            help=f"What happens: {', '.join(SCENARIOS)}; or {_DRAWN}, which the seed makes up.",
            autocompletion=_scenario_names,
        ),
    ] = _SCENARIO,
    *,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            "-p",
            help=f"{_POLICY}, or what is left of it as one part after the other is taken away:"
            f" {', '.join(_WITHOUT)}; or MODULE:FUNCTION that makes a Pipeline. Repeat it to compare."
            f" Left out: {_POLICY}.",
            show_default=False,
            autocompletion=lambda: list(POLICIES),
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="What everything random is drawn from.")] = 0,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds", help="Try so many seeds, and stop at the first whose invariants do not hold."
        ),
    ] = None,
    clients: Annotated[int | None, typer.Option("--clients", help="How many.", show_default=False)] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", help="Calls a second that each makes.", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", help="Draw the run of the first policy: a .svg, .png or .pdf.", show_default=False
        ),
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Draw for a dark page.")] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Print what happened, line by line.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Run a policy through an outage in virtual time, and say what callers and servers saw of it."""
    chosen = policy or [_POLICY]
    made = {name: _policy(name) for name in chosen}
    world = _world(scenario, clients, rate)
    if seeds is not None:
        _try_seeds(made, scenario, world, seed, seeds, as_json=as_json)
        return
    runs = {
        name: run_simulation(factory, world, seed=seed, keep_trace=trace) for name, factory in made.items()
    }
    if trace:
        for run in runs.values():
            write_line("\n".join(run.trace))
    elif as_json:
        write_json([{"policy": name, **run.summary()} for name, run in runs.items()])
    else:
        console().print(_table(runs))
    if plot is not None:
        _draw(runs[chosen[0]], plot, dark=dark)
    broken = [violation for run in runs.values() for violation in run.violations]
    if broken:
        if not as_json:
            write_note("\n".join(map(str, broken)))
        raise typer.Exit(Exit.FAILED)


def _try_seeds(
    made: Mapping[str, Policy],
    scenario: str,
    world: Scenario | None,
    first: int,
    seeds: int,
    *,
    as_json: bool,
) -> None:
    for name, factory in made.items():
        replay = f"{PROGRAM} simulate {scenario} --policy {name} --seed {{seed}}"
        try:
            runs = explore(factory, seeds, first=first, scenario=world, replay=replay)
        except InvariantError as error:
            write_note(str(error))
            raise typer.Exit(Exit.FAILED) from None
        calls, requests = sum(run.calls for run in runs), sum(run.requests for run in runs)
        if as_json:
            write_json({"policy": name, "seeds": seeds, "calls": calls, "requests": requests})
        else:
            write_line(f"{name}: {seeds} seeds, {calls} calls, {requests} requests; all invariants hold")


def _world(name: str, clients: int | None, rate: float | None) -> Scenario | None:
    if name == _DRAWN:
        return None
    if name not in SCENARIOS:
        raise typer.BadParameter(f"no scenario {name!r}: {', '.join(_scenario_names())}")
    given: dict[str, Any] = {"clients": clients, "rate": rate}
    changes = {key: value for key, value in given.items() if value is not None}
    try:
        return SCENARIOS[name].with_options(**changes)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _policy(name: str) -> Policy:
    if name in POLICIES:
        return POLICIES[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise typer.BadParameter(f"no policy {name!r}: {', '.join(POLICIES)}, or MODULE:FUNCTION")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise typer.BadParameter(f"{name}: {error}") from None
    return found


def _draw(run: Run, path: Path, *, dark: bool) -> None:
    from llm_config_resilience.simulation import drawing  # noqa: PLC0415 - matplotlib is an extra

    try:
        drawing.save(run, path, scheme="dark" if dark else "light")
    except ModuleNotFoundError as error:
        write_note(f'{PROGRAM}: {error.name} is not installed: pip install "llm-config-sdk[plots]"')
        raise typer.Exit(Exit.USAGE) from None
    except (OSError, ValueError) as error:
        write_note(f"{path}: {error}")
        raise typer.Exit(Exit.USAGE) from None
    write_note(f"Drew {path}")


def _table(runs: Mapping[str, Run]) -> Table:
    first = next(iter(runs.values()))
    name, seed = first.scenario.name, first.seed
    shown = Table(title=f"{name}, {first.scenario.clients} clients, seed {seed}", title_justify="left")
    shown.add_column("")
    for policy in runs:
        shown.add_column(policy, justify="right")
    for figure, cells in _figures(list(runs.values())):
        shown.add_row(figure, *cells)
    return shown


def _figures(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    def row(name: str, cell: Callable[[Run], str]) -> tuple[str, list[str]]:
        return name, [cell(run) for run in runs]

    return [
        row("calls", lambda run: f"{run.calls}"),
        row("requests a call", lambda run: f"{run.amplification:.2f}"),
        row("… in the fault", lambda run: f"{run.amplification_in_faults:.2f}"),
        row("peak requests a second", lambda run: f"{run.peak_load}"),
        row("as on a good day", lambda run: f"{run.success_rate:.1%}"),
        row("any answer", lambda run: f"{run.answer_rate:.1%}"),
        row("p50", lambda run: f"{run.latency(0.5) * 1000:.0f} ms"),
        row("p99", lambda run: f"{run.latency(0.99) * 1000:.0f} ms"),
        row("circuits opened/closed", _transitions),
        row("time to recover", _recovery),
        row("invariants", lambda run: "hold" if not run.violations else f"{len(run.violations)} do not hold"),
    ]


def _transitions(run: Run) -> str:
    counted = Counter(transition.state for transition in run.transitions)
    return f"{counted['opened']}/{counted['closed']}"


def _recovery(run: Run) -> str:
    seconds = run.time_to_recover
    return "never" if seconds is None else f"{seconds:.0f} s"
