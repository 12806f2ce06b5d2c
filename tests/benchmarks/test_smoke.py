"""Each benchmark runs, and says something of every case; how quick anything was is for no test to judge."""

import importlib.util
import json
import os
import subprocess
import sys
from math import isfinite
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent
TIMEOUT = 380.0  # seconds: 2 to 8 on a quiet machine, and a benchmark takes what a busy one leaves

#: By benchmark, what it measures beside this project, and the tables that it makes.
PEERS = {
    "engine": ("hyx", "nopanic", "pybreaker", "pyresilience", "stamina", "tenacity"),
    "client": ("httpcore", "httpx", "httpx2", "pybreaker", "requests", "tenacity"),
    "cached": ("UnleashClient", "cachetools", "ldclient"),
    "throughput": ("httpx", "httpx2"),
    "growth": (),
    "faults": ("httpx", "pybreaker", "tenacity"),
    "outage": ("tenacity",),
    "deadlines": (),
    "footprint": ("cachetools", "httpx2", "memray", "tenacity"),
    "server": ("pytest_httpserver",),
}
TABLES = {
    "engine": {
        f"{situation} {colour}"
        for situation in ("success", "retry", "rejection", "cache")
        for colour in ("sync", "async")
    },
    "client": {"sync", "async", "sync cpu", "async cpu"},
    "cached": {"sync", "async"},
    "throughput": {
        "collector",
        *(f"{name}{cpu}" for name in ("async", "threads", "slow") for cpu in ("", " cpu")),
    },
    "growth": {"entries", "endpoints"},
    "faults": {"errors", "slow answers", "slow endpoint", "failover", "timeline"},
    "outage": {"one client", "fleet", "busy"},
    "deadlines": {"lateness", "starts", "429"},
    "footprint": {"import", "memory", "allocations"},
    "server": {"life", "start", "answers"},
}
WITHOUT_GOALS = {"growth", "server"}


def missing(name: str) -> list[str]:
    return [peer for peer in PEERS[name] if importlib.util.find_spec(peer) is None]


@pytest.mark.timeout(TIMEOUT + 20)
@pytest.mark.parametrize("name", PEERS)
def test_a_benchmark_runs_and_has_a_row_for_every_case(name, tmp_path):
    if absent := missing(name):
        why = f"not installed: {', '.join(absent)} (`make bench` installs what benchmarks need)"
        assert "CI" not in os.environ, why
        pytest.skip(why)
    found = tmp_path / "performance.json"
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS), name, "--quick", "--json", str(found)],
        check=False,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
    )
    assert ended.returncode == 0, ended.stderr
    measured = json.loads(found.read_text())
    assert measured["is_quick"]
    (report,) = measured["benchmarks"].values()
    assert {table["name"] for table in report["tables"]} == TABLES[name]
    for table in report["tables"]:
        cases = {row["case"] for row in table["rows"]}
        assert cases
        assert not table["baseline"] or table["axis"] or table["baseline"] in cases
        # Every case was measured at every place of the axis, or at none.
        places = {row["at"] for row in table["rows"]}
        assert len(table["rows"]) == len(cases) * len(places)
        assert all(isfinite(row["figure"]["median"]) for row in table["rows"])
        assert all(row["beside"].get("success %", 100) for row in table["rows"])
    assert bool(report["verdicts"]) != (name in WITHOUT_GOALS)


def test_an_unknown_benchmark_is_refused_by_name():
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS), "nothing"], check=False, capture_output=True, encoding="utf-8"
    )
    assert ended.returncode == 2
    assert "no such benchmark: nothing" in ended.stderr
