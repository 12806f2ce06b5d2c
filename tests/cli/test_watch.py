"""`watch`: what it says of changes and outages, and how it ends."""

import json
import os
import signal
import subprocess
import sys

import pytest

from cli.conftest import LISTENING_TO_CTRL_C
from llm_config_mock_server import MockServer, error, respond

QUICK = ("--interval", "0.01")
PATIENCE = 60.0  # seconds: far beyond what a start and a stop need


def _entry(key, value, version=1, **more):
    at = "2026-01-01T00:00:00.000000000+00:00"
    metadata = {"created_at": at, "created_by": "ann", "updated_at": at, "updated_by": "bob"}
    return {
        "id": "00000000-0000-4000-8000-000000000001",
        "namespace": "app/llm",
        "key": key,
        "value": value,
        "environment": "production",
        "version": version,
        "metadata": {**metadata, "tags": [], "description": None},
        **more,
    }


def _listed(*entries):
    return respond(200, list(entries))


@pytest.fixture
def changing(at_server: MockServer):
    """A namespace in which an entry is changed, another made, and the first deleted."""
    at_server.script(
        "GET /api/*",
        [
            _listed(_entry("model", "gpt-4o")),
            _listed(_entry("model", "gpt-5\n", 2)),
            _listed(_entry("limits", {"tokens": 1}), _entry("model", "gpt-5\n", 2)),
            _listed(_entry("limits", {"tokens": 1})),
        ],
        repeat="last",
    )
    return at_server


def test_each_change_is_one_line(invoke, changing):
    ended = invoke("watch", "app/llm", *QUICK, "--count", "3")
    assert ended.exit_code == 0
    lines = [line.partition(" ")[2] for line in ended.stdout.splitlines()]
    assert lines == [
        'app/llm model updated: "gpt-4o" (version 1 by bob) → "gpt-5\\n" (version 2 by bob)',
        'app/llm limits created: nothing → {"tokens": 1} (version 1 by bob)',
        'app/llm model deleted: "gpt-5\\n" (version 2 by bob) → nothing',
    ]
    assert ended.stderr == "Watching app/llm [production]; Ctrl-C ends it.\n"
    changing.journal.assert_count(4)


def test_as_json_each_is_one_object_on_one_line(invoke, changing):
    ended = invoke("watch", "app/llm", *QUICK, "--count", "2", "--json")
    assert (ended.exit_code, ended.stderr) == (0, "")
    changes = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(change["kind"], change["key"]) for change in changes] == [
        ("updated", "model"),
        ("created", "limits"),
    ]
    assert changes[0]["old"]["value"] == "gpt-4o"
    assert changes[0]["new"] == {"value": "gpt-5\n", "version": 2, "secret": False, "updated_by": "bob"}
    assert (changes[1]["old"], changes[1]["error"]) == (None, None)


def test_one_key_alone(invoke, at_server):
    at_server.script(
        "GET /api/*",
        [respond(200, _entry("model", "a")), respond(200, _entry("model", "b", 2))],
        repeat="last",
    )
    ended = invoke("watch", "app/llm", "model", *QUICK, "--count", "1")
    assert ended.exit_code == 0
    assert '"a" (version 1 by bob) → "b" (version 2 by bob)' in ended.stdout
    at_server.journal.assert_count(2, key="model")


def test_an_outage_is_told_once_and_so_is_its_end(invoke, at_server):
    # More than any cap, so that nothing waits for it.
    down = error("SERVICE_UNAVAILABLE", retry_after=3600)
    at_server.script(
        "GET /api/*",
        [_listed(_entry("a", 1)), down, down, _listed(_entry("a", 1)), _listed(_entry("a", 2, 2))],
        repeat="last",
    )
    ended = invoke("watch", "app/llm", *QUICK, "--count", "1", "--json")
    assert ended.exit_code == 0
    changes = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [change["kind"] for change in changes] == ["unavailable", "recovered", "updated"]
    assert changes[0]["error"]["code"] == "SERVICE_UNAVAILABLE"


SECRETS = ("first-s3cret", "second-s3cret")


@pytest.fixture
def rotating(at_server):
    at_server.script(
        "GET /api/*",
        [_listed(_entry("api-key", each, n, secret=True)) for n, each in enumerate(SECRETS, start=1)],
        repeat="last",
    )
    return at_server


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("reveal", [(), ("--reveal",)])
def test_secrets_are_shown_only_when_asked_for(invoke, rotating, form, reveal):
    ended = invoke("watch", "app/llm", *QUICK, "--count", "1", *form, *reveal)
    assert ended.exit_code == 0
    assert [secret in ended.output for secret in SECRETS] == [bool(reveal)] * 2
    assert ("**********" in ended.stdout) is not bool(reveal)


def test_what_will_not_pass_ends_it(invoke, at_server):
    ended = invoke("watch", "app/llm", "--token", "wrong", "--json")
    assert (ended.exit_code, ended.stdout) == (5, "")
    assert json.loads(ended.stderr)["error"]["type"] == "UnauthorizedError"
    assert invoke("watch", "app llm").exit_code == 6
    assert invoke("watch", "app/llm", "--interval", "0").exit_code == 6
    assert invoke("watch", "app/llm", "--count", "0").exit_code == 2


def test_ctrl_c_ends_it_cleanly(at_server):
    words = [sys.executable, "-W", "error", "-c", LISTENING_TO_CTRL_C, "watch", "app/llm", *QUICK]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as running:
        try:
            at_server.journal.wait_for(2, timeout=PATIENCE)
            at_server.put("app/llm", "model", "gpt-5", env="production")
            assert '"gpt-4o"' in running.stdout.readline()
            running.send_signal(signal.SIGINT)
            stdout, stderr = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
    assert (running.returncode, stdout) == (130, "")
    assert stderr == "Watching app/llm [production]; Ctrl-C ends it.\n"


def test_without_unicode_the_arrow_is_plain(program, at_server):
    at_server.script("GET /api/*", [_listed(_entry("a", 1)), _listed(_entry("a", 2, 2))], repeat="last")
    ended = program("watch", "app/llm", *QUICK, "--count", "1", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert "1 (version 1 by bob) -> 2 (version 2 by bob)" in ended.stdout
