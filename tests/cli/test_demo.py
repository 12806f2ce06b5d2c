"""The demo: every claim holds, both ways, and one that does not is told and ends it in failure."""

import ast
import json
import logging
import textwrap
from dataclasses import replace

import pytest

from llm_config_mock_server import MockServer
from llm_config_sdk.cli import story
from llm_config_sdk.cli.checks import equal, is_a, worded
from llm_config_sdk.cli.stage import FACES, as_written_for, curtain

BOUND = 20.0  # seconds: what the demo may take at most
NARROW = 80  # columns of the smallest terminal that the lines of code have to fit
INDENT = 6  # columns that the screen puts before them

FEATURES = {
    "One client, two servers",
    "Write, then read",
    "Not found",
    "Denied",
    "Invalid",
    "Fails twice, then answers",
    "The primary is killed",
    "Both are killed: stale, and said to be",
    "Never read, and nobody answers",
    "An application starts while both are down",
    "Recovery",
    "A change, as it happens",
}


def test_as_a_program_it_prints_one_document_in_which_everything_holds(program):
    ended = program("demo", "--json")
    assert ended.stderr == ""
    document = json.loads(ended.stdout)
    failed = [
        (step["title"], face, claim)
        for step in document["steps"]
        for face, run in step["runs"].items()
        for claim in run["claims"]
        if not claim["holds"]
    ]
    assert failed == []
    assert (ended.returncode, document["ok"], document["claims"]["failed"]) == (0, True, 0)
    assert document["seconds"] < BOUND
    assert {step["title"] for step in document["steps"]} >= FEATURES
    for step in document["steps"]:
        assert set(step["runs"]) == set(FACES)
        assert all(run["claims"] for run in step["runs"].values())


@pytest.mark.parametrize("columns", ["40", "80", "160"])
def test_on_a_screen_it_keeps_to_the_width_and_shows_no_log(invoke, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    ended = invoke("demo")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert max(map(len, ended.stdout.splitlines())) <= int(columns)
    assert "\x1b" not in ended.stdout
    assert "claims hold, sync and async" in ended.stdout


def test_it_shows_the_lines_it_runs_and_what_the_servers_saw(invoke):
    shown = invoke("demo").stdout
    for step in story.STEPS:
        assert step.title in shown
        for line in step.code.splitlines():
            assert line in shown
    assert "the primary saw: GET 503, GET 503, GET 200" in shown


def test_it_can_do_without_unicode(program):
    ended = program("demo", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "ok the primary saw: GET 503, GET 503, GET 200" in ended.stdout
    assert ended.stdout.isascii()


def test_it_colours_a_terminal_unless_told_not_to(program):
    assert "\x1b[" in program("demo", FORCE_COLOR="1").stdout
    assert "\x1b[3" not in program("demo", FORCE_COLOR="1", NO_COLOR="1").stdout


def test_whoever_runs_it_may_have_settings_of_their_own(program):
    ended = program(
        "demo",
        "--json",
        LLM_CONFIG_BASE_URL="http://127.0.0.1:1",
        LLM_CONFIG_BACKUPS="http://127.0.0.1:1",
        LLM_CONFIG_TOKEN="another",
        LLM_CONFIG_TIMEOUT="0.000001",
        LLM_CONFIG_ENVIRONMENT="edge",
    )
    assert ended.returncode == 0


# --- A claim that does not hold -------------------------------------------------------------------


def _wrong(run, stage):
    yield equal("the moon is made of", "cheese", "rock")


WRONG = story.Step(title="A wrong claim", says="It is wrong.", code="x = 1", check=_wrong)


def test_a_claim_that_does_not_hold_is_told_and_ends_it_in_failure(invoke, monkeypatch):
    monkeypatch.setattr(story, "STEPS", (WRONG,))
    ended = invoke("demo")
    assert ended.exit_code == 1
    assert "the moon is made of (sync): expected cheese; found rock" in ended.stdout
    assert "the moon is made of (async): expected cheese; found rock" in ended.stdout
    assert "2 of 2 claims do NOT hold" in ended.stdout


def test_a_claim_that_does_not_hold_is_in_the_document(invoke, monkeypatch):
    monkeypatch.setattr(story, "STEPS", (*story.STEPS[:1], WRONG))
    ended = invoke("demo", "--json")
    assert ended.exit_code == 1
    document = json.loads(ended.stdout)
    assert (document["ok"], document["claims"]["failed"]) == (False, 2)
    assert document["steps"][1]["runs"]["async"]["claims"] == [
        {"claim": "the moon is made of", "expected": "cheese", "found": "rock", "holds": False}
    ]


@pytest.mark.parametrize(
    ("step", "found"),
    [
        (replace(WRONG, code='raise RuntimeError("broken")'), "RuntimeError: broken"),
        (replace(WRONG, check=lambda run, stage: [run["no such variable"]]), "KeyError"),
    ],
    ids=["lines that fail", "a claim that cannot be checked"],
)
def test_what_cannot_be_run_or_checked_does_not_hold(invoke, monkeypatch, step, found):
    monkeypatch.setattr(story, "STEPS", (step,))
    ended = invoke("demo")
    assert ended.exit_code == 1
    assert found in ended.stdout


def _titles_that_fail(ended):
    return {step["title"] for step in json.loads(ended.stdout)["steps"] if not step["ok"]}


def test_it_notices_a_primary_that_was_not_really_killed(invoke, monkeypatch):
    monkeypatch.setattr(MockServer, "stop", lambda self: None)
    ended = invoke("demo", "--json")
    assert ended.exit_code == 1
    assert _titles_that_fail(ended) >= {
        "The primary is killed",
        "Both are killed: stale, and said to be",
        "Never read, and nobody answers",
    }


def test_it_notices_a_server_that_does_not_fail(invoke, monkeypatch):
    monkeypatch.setattr(MockServer, "script", lambda self, *args, **how: None)
    ended = invoke("demo", "--json")
    assert ended.exit_code == 1
    assert _titles_that_fail(ended) == {"Fails twice, then answers"}


def test_a_watcher_that_looks_before_anybody_writes_has_seen_nothing_wrong(invoke, monkeypatch):
    """On a machine that is busy it looks again before the other one comes to write."""
    put = MockServer.put

    def put_late(self, namespace, key, value, **where):
        if value == "gpt-5":
            self.journal.wait_for(1, status=304)
        return put(self, namespace, key, value, **where)

    monkeypatch.setattr(MockServer, "put", put_late)
    assert _titles_that_fail(invoke("demo", "--json")) == set()


# --- The stage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", story.STEPS, ids=lambda step: step.title)
def test_every_line_fits_a_narrow_terminal(step):
    assert max(map(len, step.code.splitlines())) <= NARROW - INDENT


@pytest.mark.parametrize("step", story.STEPS, ids=lambda step: step.title)
def test_the_async_lines_are_the_sync_ones_with_their_awaits(step):
    lines = as_written_for("async", step.code)
    ast.parse("async def main():\n" + textwrap.indent(lines, "    "))
    plain = lines.replace("await ", "").replace("async ", "").replace("AsyncConfigClient", "ConfigClient")
    assert plain == step.code


def test_the_stage_leaves_the_surroundings_as_they_were(monkeypatch):
    monkeypatch.setenv("LLM_CONFIG_BASE_URL", "http://somewhere.example")
    logger = logging.getLogger("llm_config_sdk")
    before = (list(logger.handlers), logger.propagate)
    with curtain() as stage:
        assert stage.play("client = ConfigClient()", "sync").raised is not None
        assert stage.play("print('one', 1)", "async").printed == ("one 1",)
    assert (list(logger.handlers), logger.propagate) == before


def test_claims_word_what_was_found():
    assert worded(None) == worded(()) == "nothing"
    assert worded(("GET 200", "GET 503")) == "GET 200, GET 503"
    assert worded(ValueError("no")) == "ValueError: no"
    assert is_a("it is a number", int, "7").expected == "int"
    assert not is_a("it is a number", int, "7").holds
