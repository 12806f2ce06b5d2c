"""How quick the reference server is, beside pytest-httpserver: its life, its program's start, its answers."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
from harness import MILLISECONDS, Effort, Report, Table, Times, in_order, in_turns
from pytest_httpserver import HTTPServer

from llm_config_mock_server import MockServer

if TYPE_CHECKING:
    from collections.abc import Callable

PATH: Final = "/api/v1/configs/app%2Fllm/model"
OTHER: Final = "pytest-httpserver"
LIFE_EFFORT: Final = Effort(rounds=40, turn=0.0)
GET_EFFORT: Final = Effort(rounds=60, turn=0.03)


def a_life_of_ours() -> None:
    with MockServer():
        pass


def a_life_of_theirs() -> None:
    with HTTPServer():
        pass


def lives(effort: Effort) -> Table:
    """Start and stop each."""
    times = in_turns({"MockServer": a_life_of_ours, OTHER: a_life_of_theirs}, effort, warm_up=1)
    rows = times.rows(OTHER, scale=MILLISECONDS)
    return Table("life", "Start and stop, within a program", "ms", OTHER, rows)


def until_it_serves(*command: str) -> float:
    """Seconds until a program has printed the address that it serves at."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        assert process.stdout is not None
        while b"http://" not in (line := process.stdout.readline()):
            assert line, "it ended before it served"
        return time.perf_counter() - began
    finally:
        process.kill()
        process.communicate()


def starts(rounds: int) -> Table:
    """Start the program, from nothing."""
    cases: dict[str, Callable[[], float]] = {
        "python -m llm_config_mock_server": lambda: until_it_serves(
            "-m", "llm_config_mock_server", "--port", "0"
        ),
        "a program with pytest-httpserver": lambda: until_it_serves(
            "-c",
            "from pytest_httpserver import HTTPServer\n"
            "with HTTPServer() as server:\n    print(server.url_for('/'), flush=True)\n    input()",
        ),
    }
    times = Times(cases)
    for number in range(rounds):
        for case in in_order(list(cases), number):
            times.by_case[case].append(cases[case]())
    baseline = "a program with pytest-httpserver"
    return Table("start", "From nothing to serving", "ms", baseline, times.rows(baseline, scale=MILLISECONDS))


def answers(effort: Effort) -> Table:
    """Ask each for an entry, over a connection that is kept where the server keeps it."""
    with MockServer(auth=False) as ours, HTTPServer() as theirs:
        ours.put("app/llm", "model", "gpt-4")
        entry: Any = ours.entry("app/llm", "model")
        theirs.expect_request("/api/v1/configs/app/llm/model").respond_with_json(entry)
        with (
            httpx.Client(base_url=ours.url) as to_ours,
            httpx.Client(base_url=theirs.url_for("")) as to_theirs,
            httpx.Client(base_url="http://config.test", transport=ours.transport()) as in_process,
        ):
            cases = {
                "MockServer": lambda: to_ours.get(PATH).raise_for_status(),
                "MockServer, in-process transport": lambda: in_process.get(PATH).raise_for_status(),
                OTHER: lambda: to_theirs.get(PATH).raise_for_status(),
            }
            times = in_turns(cases, effort)
    return Table("answers", "A GET of an entry, with httpx", "µs", OTHER, times.rows(OTHER))


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request is no part of the comparison
    life, get = (Effort.smoke(), Effort.smoke()) if quick else (LIFE_EFFORT, GET_EFFORT)
    return Report("The reference server", [lives(life), starts(1 if quick else 8), answers(get)])
