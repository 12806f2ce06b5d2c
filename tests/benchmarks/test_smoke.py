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
TIMEOUT = 100.0  # seconds, on a machine that does other things

#: By benchmark, what it measures beside this project, and the tables that it makes.
PEERS = {
    "engine": ("hyx", "nopanic", "pybreaker", "pyresilience", "stamina", "tenacity"),
    "client": ("httpcore", "httpx", "httpx2", "pybreaker", "requests", "tenacity"),
    "throughput": ("httpx", "httpx2"),
}
TABLES = {
    "engine": {
        f"{situation} {colour}"
        for situation in ("success", "retry", "rejection", "cache")
        for colour in ("sync", "async")
    },
    "client": {"sync", "async", "sync cpu", "async cpu"},
    "throughput": {"async", "threads", "slow"},
}


def missing(name: str) -> list[str]:
    return [peer for peer in PEERS[name] if importlib.util.find_spec(peer) is None]


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
        assert len(cases) > 1
        assert not table["baseline"] or table["baseline"] in cases
        # Every case was measured at every place of the axis, or at none.
        places = {row["at"] for row in table["rows"]}
        assert len(table["rows"]) == len(cases) * len(places)
        assert all(isfinite(row["figure"]["median"]) for row in table["rows"])
    assert report["verdicts"]


def test_an_unknown_benchmark_is_refused_by_name():
    ended = subprocess.run(
        [sys.executable, str(BENCHMARKS), "nothing"], check=False, capture_output=True, encoding="utf-8"
    )
    assert ended.returncode == 2
    assert "no such benchmark: nothing" in ended.stderr
