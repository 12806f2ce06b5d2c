"""`python -m llm_config_mock_server`: what it prints, what it serves, and how it ends."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import httpx
import pytest

from llm_config_sdk import ConfigClient

COMMAND = [sys.executable, "-m", "llm_config_mock_server"]
ITEM = "/api/v1/configs/app%2Fllm/model"
END_SECONDS = 20.0  # how long a program may take to end; a hang ends as a failure


class Running:
    """A server of the command, with what it said of itself."""

    def __init__(self, process: subprocess.Popen[str], lines: int) -> None:
        self.process = process
        said = [process.stdout.readline().strip() for _ in range(lines)]
        self.url = next(word for word in said[0].split() if word.startswith("http"))
        self.told = dict(line.split(": ", 1) for line in said[1:])

    def get(self, path: str, role: str = "viewer", **parameters: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.told[f'token {role}']}"}
        return httpx.get(self.url + path, params=parameters, headers=headers, trust_env=False)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=END_SECONDS)
        return self.process.returncode, errors


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    """Runs the command; whatever still runs at the end is killed."""
    with ExitStack() as stack:

        def start(*arguments: str, lines: int) -> Running:
            process = subprocess.Popen(
                [*COMMAND, "--port", "0", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONWARNINGS": "error"},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return Running(process, lines)

        yield start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_good_order_on_a_signal(run, number):
    running = run(lines=5)
    assert running.get("/health").status_code == 200
    assert running.end(number) == (0, "")


def test_a_connection_that_waits_does_not_keep_it_from_ending(run):
    running = run("--admin", lines=6)
    address = ("127.0.0.1", int(running.url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=END_SECONDS) as waiting:
        waiting.sendall(b"GET /api/v1/admin/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert waiting.recv(1) == b"H"
        assert running.get("/health").status_code == 200
        assert running.end() == (0, "")


def test_demo_data_is_there_and_not_written_twice(run, tmp_path):
    database = str(tmp_path / "configs.db")
    for _ in range(2):
        running = run("--storage", database, "--demo-data", lines=6)
        assert running.told["storage"] == database
        reply = running.get(ITEM, env="production")
        assert (reply.json()["value"], reply.json()["version"]) == ("gpt-4", 1)
        assert running.get("/api/v1/configs/app%2Fllm/api-key", env="prod").json()["secret"] is True
        assert running.end() == (0, "")


def test_what_was_written_is_there_after_a_restart_and_so_are_the_tokens(run, tmp_path):
    arguments = ("--storage", str(tmp_path / "configs.db"))
    first = run(*arguments, lines=6)
    headers = {"authorization": f"Bearer {first.told['token editor']}"}
    body = {"value": "kept", "env": "prod"}
    assert httpx.post(first.url + ITEM, json=body, headers=headers, trust_env=False).status_code == 200
    assert first.end()[0] == 0
    second = run(*arguments, lines=6)
    assert second.told == first.told
    assert second.get(ITEM, env="prod").json()["value"] == "kept"


def test_the_console_is_told_and_served_only_where_it_is_asked_for(run):
    with_console = run("--admin", "--no-auth", lines=2)
    assert with_console.told["console"] == f"{with_console.url}/console"
    assert httpx.get(with_console.told["console"], trust_env=False).status_code == 200
    without = run("--no-auth", lines=1)
    assert httpx.get(f"{without.url}/console", trust_env=False).status_code == 404


def test_a_shell_is_told_what_leads_its_commands_to_the_server(run):
    running = run("--demo-data", lines=6)
    words = running.told["in your shell"].removeprefix("export ").split()
    variables = dict(word.split("=", 1) for word in words)
    assert variables["LLM_CONFIG_BASE_URL"] == running.url
    with ConfigClient(
        running.url,
        token=variables["LLM_CONFIG_TOKEN"],
        environment=variables["LLM_CONFIG_ENVIRONMENT"],
        trust_env=False,
    ) as client:
        assert client.set_config("app/llm", "model", "gpt-5").version == 2


def test_a_disk_can_be_small(run):
    running = run("--disk-bytes", "2000", lines=5)
    headers = {"authorization": f"Bearer {running.told['token admin']}"}
    body = {"value": "x" * 3000, "env": "dev"}
    reply = httpx.post(running.url + ITEM, json=body, headers=headers, trust_env=False)
    assert reply.json()["error"]["details"]["kind"] == "StorageFull"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("missing/configs.db", "No such file or directory"), ("other.db", "the database of another program")],
)
def test_a_storage_that_cannot_be_had_is_said_in_one_line(tmp_path, name, complaint):
    with closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    command = [*COMMAND, "--port", "0", "--storage", str(tmp_path / name)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=END_SECONDS, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("cannot begin: ")
    assert complaint in ended.stderr
    assert ended.stderr.count("\n") == 1
