"""Break the code in small ways, one at a time, and see whether the tests notice: `make mutants`.

    make mutants                             # a sample of the mutants of every module, drawn from a seed
    make mutants MUTANTS=50 SEED=7           # another one: 50 of each module
    make mutants MUTANTS=all MODULES=retry   # every mutant of a module; of all modules, that takes hours

The mutants are cosmic-ray's. Its own runner changes the files in place and knows one test command; this one
works in copies of the project, two mutants at a time, each against the tests that are there for its module.
Left out is what cannot change behaviour: annotations (none is evaluated) and `if TYPE_CHECKING:`.

A mutant is killed when a test fails, or when the tests take more than three times as long as they should.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE_ROOTS: Final = ("sdk", "resilience", "mock_server")
COPIED: Final = (*SOURCE_ROOTS, "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
MEMORY: Final = 4 << 30  # bytes of addresses a test run may have: a mutant may collect things without end

BREAKER_TESTS: Final = (
    "tests/resilience/test_circuit_breaker.py",
    "tests/resilience/test_shared_circuit.py",
    "tests/resilience/test_per_key.py",
)


@dataclass(frozen=True)
class Target:
    """A module, and the tests that are to notice when it is broken: the quickest to notice comes first."""

    path: str
    tests: tuple[str, ...]

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
    ),
    Target("resilience/llm_config_resilience/strategies/circuit.py", BREAKER_TESTS),
    Target("resilience/llm_config_resilience/strategies/circuit_breaker.py", BREAKER_TESTS),
    Target(
        "resilience/llm_config_resilience/strategies/retry.py",
        (
            "tests/resilience/test_retry.py",
            "tests/resilience/test_endings.py",
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

    def code(self, original: str) -> str:
        changed = mutate_code(original, get_operator(self.operator)(), self.occurrence)
        assert changed is not None, self
        return changed

    def diff(self, original: str) -> str:
        before, after = original.splitlines(), self.code(original).splitlines()
        lines = difflib.unified_diff(before, after, self.target.path, self.operator, n=2, lineterm="")
        return "\n".join(lines)


def mutants(target: Target, original: str) -> Iterator[Mutant]:
    """Tell all mutants of a module, always in the same order."""
    dead = list(without_effect(ast.parse(original)))
    tree = get_ast(original)
    for name in sorted(operator_names()):
        operator = get_operator(name)
        if operator.arguments():
            continue
        positions = (at for node in ast_nodes(tree) for at, _ in operator().mutation_positions(node))
        for occurrence, at in enumerate(positions):
            if not any(start <= at < end for start, end in dead):
                yield Mutant(target, name, occurrence)


def without_effect(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Tell from where to where, in lines and columns, the code says nothing to the interpreter."""
    for node in ast.walk(tree):
        quiet = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            quiet.append(node)
        for part in quiet:
            if isinstance(part, (ast.expr, ast.stmt)):
                assert part.end_lineno is not None
                assert part.end_col_offset is not None
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


class Copy:
    """A copy of the project, in which one mutant at a time lives."""

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
            "PYTHONPATH": os.pathsep.join(str(folder / root) for root in SOURCE_ROOTS),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        }

    def passes(self, target: Target, code: str, timeout: float) -> bool:
        """Tell whether the module's tests pass with this code in its place; `timeout` is in seconds."""
        shutil.rmtree(self.folder / ".hypothesis", ignore_errors=True)  # learnt from the mutant before
        module = self.folder / target.path
        original = module.read_text()
        module.write_text(code)
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        try:
            run = subprocess.Popen(
                [*command, *target.tests],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            try:
                return run.wait(timeout) == 0
            except subprocess.TimeoutExpired:
                return False
            finally:
                if run.poll() is None:
                    os.killpg(run.pid, signal.SIGKILL)
                    run.wait()
        finally:
            module.write_text(original)


def measure(copy: Copy, target: Target, original: str) -> float:
    """Tell how long the tests take, in seconds; they have to pass, and to fail when the module is broken."""
    began = time.monotonic()
    if not copy.passes(target, original, timeout=600):
        sys.exit(f"{target.name}: its tests fail without any mutant")
    took = time.monotonic() - began
    if copy.passes(target, "raise SystemError", timeout=600):
        sys.exit(f"{target.name}: its tests do not run the copy")
    return took


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

    targets = [target for target in TARGETS if not options.modules or target.name in options.modules]
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ThreadPoolExecutor(options.processes) as pool,
    ):
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(options.processes):
            copies.put(Copy(Path(folder, str(number))))

        def limit(target: Target) -> float:
            copy = copies.get()
            try:
                return 10 + 3 * measure(copy, target, (ROOT / target.path).read_text())
            finally:
                copies.put(copy)

        limits = dict(zip(targets, pool.map(limit, targets), strict=True))

        def survives(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                code = mutant.code((ROOT / mutant.target.path).read_text())
                return copy.passes(mutant.target, code, limits[mutant.target])
            finally:
                copies.put(copy)

        scores = []
        for target in targets:
            original = (ROOT / target.path).read_text()
            everything = list(mutants(target, original))
            order = random.Random(f"{options.seed} {target.path}").sample(everything, len(everything))
            sample = order if options.mutants == "all" else order[: int(options.mutants)]
            alive = pool.map(survives, sample)
            survivors = [mutant for mutant, lives in zip(sample, alive, strict=True) if lives]
            for mutant in survivors:
                tell(mutant.diff(original) + "\n")
            scores.append((target.name, len(sample) - len(survivors), len(sample), len(everything)))
            tell("{:<16} {:>4} of {} killed, of {} mutants".format(*scores[-1]))
    killed, tried = sum(score[1] for score in scores), sum(score[2] for score in scores)
    tell(f"{'together':<16} {killed:>4} of {tried} killed: {killed / tried:.1%} (seed {options.seed})")


if __name__ == "__main__":
    main()
