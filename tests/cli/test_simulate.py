"""`simulate`: a policy through an outage, as a table, as JSON, as a picture; and what is wrong is told."""

import json

import pytest

#: Fewer clients than usual: what a command prints does not depend on how many there are.
FEW = ("--clients", "3")


def test_policies_are_compared_side_by_side(invoke):
    ended = invoke("simulate", "outage", *FEW, "-p", "default", "-p", "no-cache")
    assert ended.exit_code == 0, ended.output
    heading = next(line for line in ended.stdout.splitlines() if "no-cache" in line)
    assert "default" in heading
    for figure in ("requests a call", "p99", "circuits opened/closed", "time to recover", "invariants"):
        assert figure in ended.stdout


def test_a_cache_bridges_an_outage_that_callers_see_without_it(invoke):
    ended = invoke("simulate", "outage", *FEW, "-p", "default", "-p", "no-cache", "--json")
    cached, uncached = json.loads(ended.stdout)
    assert (cached["policy"], uncached["policy"]) == ("default", "no-cache")
    assert cached["answer_rate"] == 1.0
    assert uncached["answer_rate"] < 0.7
    assert cached["violations"] == uncached["violations"] == []


def test_the_seed_decides(invoke):
    def digest(*words):
        return json.loads(invoke("simulate", "partition", *FEW, "--json", *words).stdout)[0]["digest"]

    assert digest("--seed", "1") == digest("--seed", "1") != digest("--seed", "2")


def test_what_happened_can_be_read_line_by_line(invoke):
    ended = invoke("simulate", "drawn", "--seed", "3", "--trace")
    assert ended.exit_code == 0
    assert "server-0 gets key-" in ended.stdout
    assert "ends: " in ended.stdout


@pytest.mark.parametrize("kind", ["svg", "png"])
@pytest.mark.parametrize("page", [[], ["--dark"]], ids=["light", "dark"])
def test_a_run_is_drawn(invoke, tmp_path, kind, page):
    picture = tmp_path / f"run.{kind}"
    ended = invoke("simulate", "outage", *FEW, "--plot", str(picture), *page)
    assert ended.exit_code == 0, ended.output
    assert picture.read_bytes()[:5] in {b"<?xml", b"\x89PNG\r"}


def test_a_picture_of_an_unknown_kind_is_refused(invoke, tmp_path):
    ended = invoke("simulate", "calm", *FEW, "--plot", str(tmp_path / "run.nothing"))
    assert ended.exit_code == 2
    assert "run.nothing" in ended.stderr


def test_a_policy_of_ones_own_is_found_by_its_name(program, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from llm_config_resilience import Pipeline, Retry\n\ndef policy():\n    return Pipeline(Retry())\n"
    )
    ended = program("simulate", "errors", *FEW, "--policy", "mine:policy", "--json")
    assert ended.returncode == 0, ended.stderr
    (run,) = json.loads(ended.stdout)
    assert run["events"]["retry"] > 0


def test_many_seeds_are_tried(invoke):
    ended = invoke("simulate", "drawn", "--seeds", "5")
    assert ended.exit_code == 0, ended.output
    assert ended.stdout.startswith("default: 5 seeds, ")


def test_a_seed_that_fails_is_told_with_the_command_that_replays_it(program, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from llm_config_resilience import CircuitBreaker, Pipeline\n\n"
        "class Sticky(CircuitBreaker):\n"
        "    def released(self, ctx, at):\n        ctx.slots[at] = None\n\n"
        "    failed = lambda self, ctx, at, error: self.force_open()\n\n"
        "def policy():\n    return Pipeline(Sticky())\n"
    )
    found = program("simulate", "drawn", "--policy", "mine:policy", "--seeds", "50")
    assert found.returncode == 1
    replay = found.stderr.strip().splitlines()[-1].partition("replay it: llm-config-sdk ")[2].split()
    again = program(*replay)
    assert again.returncode == 1
    assert found.stderr.splitlines()[0] in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nowhere"],
        ["outage", "--policy", "nothing"],
        ["outage", "--policy", "no_such_module:policy"],
        ["outage", "--policy", "json:no_such_function"],
        ["outage", "--clients", "0"],
    ],
)
def test_what_cannot_be_run_is_a_wrong_command_line(invoke, words):
    assert invoke("simulate", *words).exit_code == 2
