"""`serve` hands over to the server's own command line."""

import os
import signal
import subprocess
import sys

import httpx
import pytest

PATIENCE = 30.0  # seconds: far beyond what a start and a stop need


def test_serve_runs_the_server_until_it_is_told_to_end(program):
    words = [sys.executable, "-m", "llm_config_sdk", "serve", "--port", "0", "--no-auth", "--demo-data"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as running:
        try:
            line = running.stdout.readline()
            assert line.startswith("serving guide on http://127.0.0.1:")
            url = line.split()[3]
            assert httpx.get(f"{url}/health", trust_env=False).json()["status"] == "healthy"
            got = program("get", "app/llm", "model", "--env", "production", "--base-url", url)
            assert (got.returncode, got.stdout) == (0, "gpt-4\n")
        finally:
            running.send_signal(signal.SIGINT)
            assert running.wait(PATIENCE) == 0


def test_its_help_is_the_servers(invoke):
    ended = invoke("serve", "--help")
    assert ended.exit_code == 0
    assert ended.stdout.startswith("usage: llm-config-sdk serve [-h]")
    assert "python -m" not in ended.stdout
    assert "--profile" in ended.stdout
    assert "--no-limits" in ended.stdout


@pytest.mark.parametrize("words", [("--no-such-option",), ("--profile", "none-such")])
def test_what_the_server_refuses_is_a_wrong_command_line(invoke, words):
    assert invoke("serve", *words).exit_code == 2
