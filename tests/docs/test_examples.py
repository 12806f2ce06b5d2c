"""The applications in docs/examples, started and stopped as the processes that they are."""

import contextlib
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest
from pages import DOCS, PROGRAM_TIMEOUT, free_port, program_environment

from llm_config_mock_server import error

EXAMPLES = DOCS / "examples"
PATIENCE = 30.0  # seconds: far beyond what a start, a round or a stop needs


class Running:
    """A process, and the lines that it prints."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.seen: list[str] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Wait for a line that matches."""
        while True:
            line = self._lines.get(timeout=PATIENCE)
            assert line is not None, f"it ended before {pattern!r}: {self.seen}"
            self.seen.append(line)
            if found := re.search(pattern, line):
                return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def end_as_uvicorn_does(self) -> None:
        """It shuts down, and then hands the signal on to itself."""
        assert self.end() in {0, -signal.SIGTERM}
        self.wait_for("Application shutdown complete")


@contextlib.contextmanager
def started(name: str, environment: dict[str, str], *words: str) -> Iterator[Running]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=program_environment(environment),
    ) as process:
        try:
            yield Running(process)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture
def run(world):
    """Runs an example to its end."""

    def run_it(name, *words):
        return subprocess.run(
            [sys.executable, "-W", "error", str(EXAMPLES / name), *words],
            check=False,
            capture_output=True,
            encoding="utf-8",
            timeout=PROGRAM_TIMEOUT,
            env=program_environment(world.environment),
        )

    return run_it


def test_the_service_answers_during_an_outage_and_after_it(world):
    with started("service.py", {**world.environment, "PORT": "0"}) as service:
        url = service.wait_for(r"running on (http://\S+)")[1]
        with httpx.Client(base_url=url, trust_env=False) as http:
            assert http.get("/settings").json() == {"model": "gpt-4", "source": "server", "stale": False}
            assert http.get("/settings").json()["source"] == "cache"
            assert http.get("/limits").json() == {"max_tokens": 512}
            world.primary.stop()
            assert http.get("/settings").json()["model"] == "gpt-4"
            assert http.get("/ready").json() == {"ready": True}
        service.end_as_uvicorn_does()


def test_the_service_starts_during_an_outage_and_says_what_it_lacks(world):
    world.primary.stop()
    with started("service.py", {**world.environment, "PORT": "0"}) as service:
        url = service.wait_for(r"running on (http://\S+)")[1]
        with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE) as http:
            assert http.get("/settings").json() == {
                "model": "gpt-4o-mini",
                "source": "default",
                "stale": False,
            }
            lacking = http.get("/limits")
            assert lacking.status_code == 503
            assert lacking.json()["error"] in {"ConnectFailedError", "ServiceCircuitOpenError"}
        service.end_as_uvicorn_does()


@pytest.fixture
def django_site(world):
    """Starts the project under Django's own server, which does not say which port it took."""

    @contextlib.contextmanager
    def start():
        address = f"127.0.0.1:{free_port()}"
        words = ("runserver", "--noreload", address)
        with started("django_site.py", world.environment, *words) as site:
            site.wait_for("Quit the server")
            with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=PATIENCE) as http:
                yield http
            site.end()

    return start


def test_the_django_project_answers_during_an_outage(world, django_site):
    with django_site() as http:
        assert http.get("/model").json() == {"model": "gpt-4", "source": "server", "stale": False}
        assert http.get("/limits").json() == {"max_tokens": 512}
        world.primary.stop()
        assert http.get("/model").json()["model"] == "gpt-4"


def test_the_django_project_starts_during_an_outage_and_says_what_it_lacks(world, django_site):
    world.primary.stop()
    with django_site() as http:
        assert http.get("/model").json() == {"model": "gpt-4o-mini", "source": "default", "stale": False}
        lacking = http.get("/limits")
        assert lacking.status_code == 503
        assert lacking.json()["hint"]


def test_the_worker_goes_on_through_an_outage_until_it_is_told_to_end(world):
    with started("worker.py", {**world.environment, "WORKER_INTERVAL": "0.1"}) as worker:
        worker.wait_for("working with gpt-4, from server")
        world.primary.stop()
        worker.wait_for("working with gpt-4, from stale")
        world.primary.put("app/llm", "model", "gpt-5", env="production")
        world.primary.start()
        worker.wait_for("working with gpt-5, from server")
        assert worker.end() == 0
        worker.wait_for("ended as asked")


def test_the_worker_ends_where_waiting_would_not_help(world):
    with started("worker.py", {**world.environment, "LLM_CONFIG_TOKEN": "wrong"}) as worker:
        worker.wait_for("UNAUTHORIZED.*Pass a valid token")
        assert worker.process.wait(PATIENCE) == 1


def test_the_command_promotes_once_and_refuses_to_overwrite_what_it_has_not_seen(world, run):
    world.primary.put("app/llm", "model", "gpt-5", env="staging")
    ended = run("promote.py", "app/llm", "model")
    assert (ended.returncode, ended.stdout) == (0, "app/llm model [production] is at version 2\n")
    again = run("promote.py", "app/llm", "model")
    assert again.stdout == ended.stdout
    world.primary.put("app/llm", "model", "gpt-6", env="staging")
    world.primary.script("POST *", error("CONFLICT"))
    refused = run("promote.py", "app/llm", "model")
    assert refused.returncode == 3
    assert "somebody else was faster" in refused.stderr
    missing = run("promote.py", "app/llm", "modle")
    assert missing.returncode == 1
    assert "NOT_FOUND" in missing.stderr
