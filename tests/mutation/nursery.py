"""A pytest plugin in whose process mutants are born: the tests are collected once, and each mutant is a fork.

A fork exchanges the code of the functions that differ, and runs the tests it is told; so a mutant costs what
its tests cost, and no start. What a mutant changes outside of functions happened when the module was
imported, and takes a process of its own.
"""

from __future__ import annotations

import gc
import inspect
import json
import os
import signal
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PIPES: Final = "MUTATION_PIPES"  # the variable that says where orders come from, and where answers go
STUCK: Final = -1  # the answer for tests that did not end in time
_LOOK_AGAIN: Final = 0.005  # seconds


def pairs(original: CodeType, changed: CodeType) -> Iterator[tuple[CodeType, CodeType]]:
    """Tell which code becomes which, inner ones too.

    Raises:
        ValueError: They are not of one shape.
    """
    yield original, changed
    inner, others = (
        [const for const in code.co_consts if isinstance(const, CodeType)] for code in (original, changed)
    )
    for one, other in zip(inner, others, strict=True):
        yield from pairs(one, other)


def name(code: CodeType) -> tuple[str, int]:
    return code.co_qualname, code.co_firstlineno


def exchanges(path: str, original: str, changed: str) -> dict[tuple[str, int], CodeType] | None:
    """Tell what the functions that differ are to run; `None` if more than functions differs."""
    try:
        both = list(pairs(compile(original, path, "exec"), compile(changed, path, "exec")))
    except ValueError:
        return None
    found = {}
    for one, other in both:
        if one.co_flags & inspect.CO_OPTIMIZED:
            if one != other:
                found[name(one)] = other
        elif shallow(one) != shallow(other):
            return None
    names = [name(one) for one, _ in both]
    return found if all(names.count(each) == 1 for each in found) else None


def shallow(code: CodeType) -> tuple[object, ...]:
    """Tell what a module or a class does itself, without what its functions do."""
    consts = ["code" if isinstance(const, CodeType) else (type(const), const) for const in code.co_consts]
    return code.co_code, consts, code.co_names


def exchange(path: str, codes: dict[tuple[str, int], CodeType]) -> None:
    """Have every function there is run its new code."""
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename == path:
            function.__code__ = codes.get(name(function.__code__), function.__code__)


class Recorder:
    """Writes down which lines of a module each test runs, and how long it takes."""

    def __init__(self, module: str, target: str) -> None:
        from coverage import Coverage  # noqa: PLC0415 - where it is not needed it costs a start

        self.module, self.target = module, target
        self.seconds: dict[str, float] = {}
        self.coverage = Coverage(data_file=None, include=[module], config_file=False)
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        self.coverage.switch_context(item.nodeid)
        began = time.monotonic()
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] = time.monotonic() - began
            self.coverage.switch_context("")

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        lines: dict[str, list[int]] = defaultdict(list)
        for line, contexts in self.coverage.get_data().contexts_by_lineno(self.module).items():
            for context in contexts:
                lines[context].append(line)
        told = [(test, seconds, lines[test]) for test, seconds in self.seconds.items()]
        Path(self.target).write_text(json.dumps(told))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Be a nursery in the first process; in a fork, go on as a test run does."""
    there, back = (int(number) for number in os.environ[PIPES].split())
    with os.fdopen(there) as orders, os.fdopen(back, "w") as answers:
        for line in orders:
            order = json.loads(line)
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                prepare(session, order)
                return None
            answers.write(f"{wait(child, order['timeout'])}\n")
            answers.flush()
    return True


def prepare(session: pytest.Session, order: dict[str, Any]) -> None:
    """Make of a fork what was ordered: the home of a mutant, or of a recorder."""
    if "record" in order:
        session.config.pluginmanager.register(Recorder(order["module"], order["record"]))
        return
    collected = {item.nodeid: item for item in session.items}
    session.items[:] = [collected[test] for test in order["tests"]]
    codes = exchanges(order["module"], order["original"], order["changed"])
    assert codes is not None
    exchange(order["module"], codes)


def wait(child: int, timeout: float) -> int:
    """Wait for a fork, for so many seconds, and say how it ended."""
    end = time.monotonic() + timeout
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return abs(os.waitstatus_to_exitcode(status))
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return STUCK
        time.sleep(_LOOK_AGAIN)
