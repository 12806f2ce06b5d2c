"""Break the code in small ways, one at a time, and see whether the tests notice: `make mutants`.

    make mutants                             # a sample of the mutants of every module, drawn from a seed
    make mutants MUTANTS=50 SEED=7           # another one: 50 of each module
    make mutants MUTANTS=all MODULES=retry   # every mutant of a module

The mutants are cosmic-ray's. Its own runner changes the files in place and knows one test command; this one
works in copies of the project, two mutants at a time, each against the tests that are there for its module.
Left out is what cannot change behaviour: annotations (none is evaluated) and `if TYPE_CHECKING:`; and what
would be killed for nothing, since it does not compile: the stars of signatures and calls are no operators.

A mutant is killed when a test fails, or when the tests take more than three times as long as they should:
these are told apart, since on a busy machine time is no witness. First it meets the tests that run the
function it is in, those of its line before the others, the quick ones before the slow ones, in a fork of a
process that has collected them (`nursery.py`). What survives that meets all of the module's tests in a new
process.

Survivors that no test can tell from the original stand in `equivalent.toml`, with the reason. They do not
count.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from nursery import PIPES, STUCK, exchanges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
SOURCE_ROOTS: Final = ("sdk", "resilience", "mock_server")
COPIED: Final = (*SOURCE_ROOTS, "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
MEMORY: Final = 4 << 30  # bytes of addresses a test run may have: a mutant may collect things without end
PATIENCE: Final = 20.0  # seconds that tests may take beside three times what they took
Span = tuple[tuple[int, int], tuple[int, int]]  # from a line and column to another
LONGEST: Final = 600.0  # seconds that the tests of a module may take without any mutant

BREAKER_TESTS: Final = (
    "tests/resilience/test_circuit_breaker.py",
    "tests/resilience/test_shared_circuit.py",
    "tests/resilience/test_per_key.py",
)


@dataclass(frozen=True)
class Target:
    """A module, and the tests that are to notice when it is broken."""

    path: str
    tests: tuple[str, ...]
    aside: tuple[str, ...] = ()  # tests that notice that the code is another, whatever it does

    @property
    def arguments(self) -> list[str]:
        return [*self.tests, *(f"--deselect={test}" for test in self.aside)]

    @property
    def name(self) -> str:
        return Path(self.path).stem


TARGETS: Final = (
    Target(
        "resilience/llm_config_resilience/engine.py",
        (
            "tests/resilience/test_engine.py",
            "tests/resilience/test_endings.py",
            "tests/resilience/test_interrupts.py",
            "tests/resilience/test_strategies.py",
        ),
        aside=("tests/resilience/test_engine.py::test_the_two_loops_are_the_same_program",),
    ),
    Target("resilience/llm_config_resilience/strategies/circuit.py", BREAKER_TESTS),
    Target("resilience/llm_config_resilience/strategies/circuit_breaker.py", BREAKER_TESTS),
    Target(
        "resilience/llm_config_resilience/strategies/failure_runs.py",
        ("tests/resilience/test_failure_runs.py", *BREAKER_TESTS),
    ),
    Target(
        "resilience/llm_config_resilience/strategies/retry.py",
        (
            "tests/resilience/test_retry.py",
            "tests/resilience/test_endings.py",
            "tests/resilience/test_testing.py",
            "tests/resilience/test_tenacity_differential.py",
        ),
    ),
    Target("sdk/llm_config_sdk/decoding.py", ("tests/sdk/test_decoding.py", "tests/fuzz/test_replies.py")),
)


@dataclass(frozen=True)
class Mutant:
    """One change of one module."""

    target: Target
    operator: str
    occurrence: int
    lines: tuple[int, int]  # the first and the last one it changes

    def code(self, original: str) -> str:
        changed = mutate_code(original, get_operator(self.operator)(), self.occurrence)
        assert changed is not None, self
        return changed

    def change(self, original: str, context: int = 0) -> list[str]:
        """Tell the difference, without the lines that say where it is."""
        before, after = original.splitlines(), self.code(original).splitlines()
        lines = difflib.unified_diff(before, after, self.target.path, self.operator, n=context, lineterm="")
        return list(lines)

    def equals(self, known: Sequence[dict[str, str]], original: str) -> bool:
        """Tell whether this change of this module is known to make no difference."""
        change = [line[0] + line[1:].strip() for line in self.change(original)[3:] if line[0] in "-+"]
        own = (each for each in known if each["module"] == self.target.name)
        return any(each["change"].strip().splitlines() == change for each in own)


def mutants(target: Target, original: str) -> Iterator[Mutant]:
    """Tell all mutants of a module, always in the same order."""
    parsed, tree = ast.parse(original), get_ast(original)
    dead, calculations = list(without_effect(parsed)), list(signs(parsed))
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue
        positions = (at for node in ast_nodes(tree) for at in operator().mutation_positions(node))
        for occurrence, (start, end) in enumerate(positions):
            is_sign = any(first <= start < last for first, last in calculations)
            if "ReplaceBinaryOperator" in name and not is_sign:
                continue
            if not any(first <= start < last for first, last in dead):
                yield Mutant(target, name, occurrence, (start[0], end[0]))


def signs(tree: ast.AST) -> Iterator[Span]:
    """Tell from where to where, in lines and columns, the sign of a calculation is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp):
            yield place(node.left)[1], place(node.right)[0]
        elif isinstance(node, ast.AugAssign):
            yield place(node.target)[1], place(node.value)[0]


def without_effect(tree: ast.AST) -> Iterator[Span]:
    """Tell from where to where, in lines and columns, the code says nothing to the interpreter."""
    for node in ast.walk(tree):
        quiet = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            quiet.append(node)
        for part in quiet:
            if isinstance(part, (ast.expr, ast.stmt)):
                yield place(part)


def place(node: ast.expr | ast.stmt) -> Span:
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


@dataclass(frozen=True)
class Run:
    """What is known of a test: the seconds it took, and the module's lines it ran."""

    test: str
    seconds: float
    lines: frozenset[int]


@dataclass
class Record:
    """How the tests of a module went without any mutant."""

    runs: list[Run]
    seconds: float
    functions: list[range] = field(default_factory=list)  # the outermost ones, by lines

    def to_meet(self, mutant: Mutant) -> list[Run]:
        """Choose the tests that can notice it: those that run its function, or no line: they may read it."""
        first, last = mutant.lines
        around = next((lines for lines in self.functions if first in lines), range(first, last + 1))
        line = range(first, last + 1)
        touching = [run for run in self.runs if not run.lines.isdisjoint(around)]
        touching.sort(key=lambda run: (run.lines.isdisjoint(line), run.seconds))
        return touching + [run for run in self.runs if not run.lines]


def outermost_functions(tree: ast.AST) -> Iterator[range]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            yield range(node.lineno, node.end_lineno + 1)
        elif isinstance(node, ast.ClassDef):
            yield from outermost_functions(node)


class Nursery:
    """A process that has collected a module's tests, and forks for each mutant."""

    def __init__(self, copy: Copy, target: Target) -> None:
        self.copy, self.target = copy, target
        self.module = str(copy.folder / target.path)
        there, orders = os.pipe()
        answers, back = os.pipe()
        self.process = subprocess.Popen(
            [*copy.pytest, "-p", "mutation.nursery", *target.arguments],
            cwd=copy.folder,
            env=copy.environment | {PIPES: f"{there} {back}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(there, back),
        )
        os.close(there)
        os.close(back)
        self.orders, self.answers = os.fdopen(orders, "w"), os.fdopen(answers)

    def ask(self, **order: Any) -> int:
        self.orders.write(json.dumps({"module": self.module, **order}) + "\n")
        self.orders.flush()
        return int(self.answers.readline())

    def record(self) -> Record:
        """Run the tests without any mutant."""
        target = self.copy.folder / "record.json"
        if self.ask(record=str(target), timeout=LONGEST) != 0:
            sys.exit(f"{self.target.name}: its tests fail without any mutant")
        told = json.loads(target.read_text())
        runs = [Run(test, seconds, frozenset(lines)) for test, seconds, lines in told]
        functions = list(outermost_functions(ast.parse(Path(self.module).read_text())))
        return Record(runs, sum(run.seconds for run in runs), functions)

    def run(self, runs: Sequence[Run], original: str, changed: str) -> int:
        """Run these tests while the module's functions run the changed code; 0 if they pass."""
        timeout = PATIENCE + 3 * sum(run.seconds for run in runs)
        tests = [run.test for run in runs]
        with self.copy.holding(self.target, changed):
            return self.ask(tests=tests, original=original, changed=changed, timeout=timeout)

    def close(self) -> None:
        self.orders.close()
        self.process.wait()
        self.answers.close()


class Copy:
    """A copy of the project, in which one mutant at a time lives."""

    pytest: Final = (sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "--hypothesis-seed=0")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, folder / name)
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(str(folder / root) for root in (*SOURCE_ROOTS, "tests")),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        }
        self.nurseries: dict[Target, Nursery] = {}

    def nursery(self, target: Target) -> Nursery:
        if target not in self.nurseries:
            self.close()
            self.nurseries = {target: Nursery(self, target)}
        return self.nurseries[target]

    def close(self) -> None:
        for nursery in self.nurseries.values():
            nursery.close()

    @contextmanager
    def holding(self, target: Target, code: str) -> Iterator[None]:
        """Put the code into the module's place."""
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)  # learnt from the mutant before
        module = self.folder / target.path
        original = module.read_text()
        module.write_text(code)
        try:
            yield
        finally:
            module.write_text(original)

    def run(self, target: Target, code: str, timeout: float) -> int:
        """Run the module's tests with this code in its place, for so many seconds; 0 if they pass."""
        with self.holding(target, code):
            run = subprocess.Popen(
                [*self.pytest, *target.arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            try:
                return run.wait(timeout)
            except subprocess.TimeoutExpired:
                return STUCK
            finally:
                if run.poll() is None:
                    os.killpg(run.pid, signal.SIGKILL)
                    run.wait()


def fate(mutant: Mutant, record: Record, copy: Copy, original: str) -> int:
    """Tell how a mutant ends: 0 if no test notices it, `STUCK` if the tests do not end."""
    target, changed = mutant.target, mutant.code(original)
    module = str(copy.folder / target.path)
    with suppress(SyntaxError):  # then the last run sees it fail
        if exchanges(module, original, changed) is not None:
            chosen = record.to_meet(mutant)
            came = copy.nursery(target).run(chosen, original, changed) if chosen else 0
            if came != 0:
                return came
    return copy.run(target, changed, PATIENCE + 3 * record.seconds)


def score(counts: Counter[str]) -> str:
    """Say how many of those that can be told from the original were killed."""
    killed = counts["killed"] + counts["stuck"]
    tried = killed + counts["alive"]
    return (
        f"{killed:>4} of {tried} killed: {killed / max(tried, 1):.1%} "
        f"({counts['stuck']} of them by time; beside {counts['equivalent']} that are equivalent)"
    )


def tell(line: str) -> None:
    """Print at once: a run takes a while."""
    print(line, flush=True)  # noqa: T201


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--mutants", default="20", help="how many of each module, or `all`")
    parser.add_argument("--seed", type=int, default=0, help="what the sample is drawn from")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("modules", nargs="*", choices=[[], *(target.name for target in TARGETS)])
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    known = tomllib.loads(EQUIVALENT.read_text())["mutant"]

    targets = [target for target in TARGETS if not options.modules or target.name in options.modules]
    total: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ThreadPoolExecutor(options.processes) as pool,
    ):
        every = [Copy(Path(folder, str(number))) for number in range(options.processes)]
        copies: SimpleQueue[Copy] = SimpleQueue()
        for copy in every:
            copies.put(copy)
        for target in targets:
            original = (every[0].folder / target.path).read_text()
            if every[0].run(target, "raise SystemError", LONGEST) == 0:
                sys.exit(f"{target.name}: its tests do not run the copy")
            record = every[0].nursery(target).record()

            def meet(mutant: Mutant, record: Record = record, original: str = original) -> int:
                copy = copies.get()
                try:
                    return fate(mutant, record, copy, original)
                finally:
                    copies.put(copy)

            everything = list(mutants(target, original))
            order = random.Random(f"{options.seed} {target.path}").sample(everything, len(everything))
            sample = order if options.mutants == "all" else order[: int(options.mutants)]
            counts: Counter[str] = Counter()
            for mutant, came in zip(sample, pool.map(meet, sample), strict=True):
                if came != 0:
                    counts["stuck" if came == STUCK else "killed"] += 1
                elif mutant.equals(known, original):
                    counts["equivalent"] += 1
                else:
                    counts["alive"] += 1
                    tell("\n".join(mutant.change(original, context=2)) + "\n")
            total += counts
            tell(f"{target.name:<16} {score(counts)}, of {len(everything)} mutants")
        for copy in every:
            copy.close()
    tell(f"{'together':<16} {score(total)} (seed {options.seed})")


if __name__ == "__main__":
    main()
