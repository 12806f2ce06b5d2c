"""Fixtures of the command line's tests: a server, and commands in process and as a program."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llm_config_mock_server import MockServer
from llm_config_sdk.cli.app import app

PROGRAM_TIMEOUT = 120.0  # seconds: far beyond what any command needs, so that a hang ends as a failure

# A job in the background of a shell is born deaf to SIGINT, and so is what it starts: this test, say.
LISTENING_TO_CTRL_C = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from llm_config_sdk.cli import main
main()
"""

Invoke = Callable[..., Result]
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LLM_CONFIG_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=11) as running:
        running.put("app/llm", "model", "gpt-4o", env="production")
        running.put("app/llm", "limits", {"tokens": 512}, env="production")
        running.put("app/llm", "temperature", 0.7, env="base")
        yield running


@pytest.fixture
def at_server(server: MockServer, monkeypatch: pytest.MonkeyPatch) -> MockServer:
    """The server, with the settings that lead every command to it."""
    monkeypatch.setenv("LLM_CONFIG_BASE_URL", server.url)
    monkeypatch.setenv("LLM_CONFIG_TOKEN", server.token("admin"))
    monkeypatch.setenv("LLM_CONFIG_ENVIRONMENT", "production")
    return server


@pytest.fixture
def invoke() -> Invoke:
    """Runs a command in this process."""
    runner = CliRunner()

    def run(*words: str, **how: object) -> Result:
        return runner.invoke(app, list(words), **how)

    return run


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Runs a command as a program of its own."""

    def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "llm_config_sdk", *words],
            check=False,
            capture_output=True,
            encoding="utf-8",
            timeout=PROGRAM_TIMEOUT,
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        )

    return run
