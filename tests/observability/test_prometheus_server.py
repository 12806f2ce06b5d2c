"""A real Prometheus server scrapes a real client, and alerts."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from llm_config_mock_server import error
from llm_config_sdk import DecryptionError, StorageError
from llm_config_sdk.observability import PrometheusMetrics
from llm_config_sdk.observability.prometheus import RULES

PATIENCE = 60.0  # seconds: the server needs one or two
PAUSE = 0.05  # seconds between two looks at the server
INTERVAL = "200ms"  # of scrapes and of evaluations
STARTS = 5  # a port that was free may be taken by the time the server binds it


@pytest.fixture(scope="module")
def program():
    found = shutil.which("prometheus")
    if found is None:
        reason = "prometheus is not installed (Debian: the package prometheus)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Prometheus:
    """A Prometheus server of the test's own."""

    def __init__(self, program, directory, scraped):
        config = {
            "global": {
                "scrape_interval": INTERVAL,
                "scrape_timeout": INTERVAL,
                "evaluation_interval": INTERVAL,
            },
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
            ],
        }
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.log = directory / "log"
        self.url = f"http://127.0.0.1:{free_port()}"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    program,
                    f"--config.file={file}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address={self.url.removeprefix('http://')}",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def is_listening(self):
        """Wait until it does; say if it cannot, because somebody else has taken its port."""
        try:
            return self.wait_for("server", lambda: self.ask("/api/v1/status/runtimeinfo"))
        except AssertionError:
            if "address already in use" in self.log.read_text():
                return False
            raise

    def ask(self, path):
        with urllib.request.urlopen(f"{self.url}{path}", timeout=PATIENCE) as reply:
            return json.load(reply)["data"]

    def wait_for(self, what, look):
        """Look again and again, until there is what is waited for or patience ends."""
        end = time.monotonic() + PATIENCE
        paused = threading.Event()
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                found = look()
            except (OSError, urllib.error.URLError):
                found = None
            if found:
                return found
            paused.wait(PAUSE)
        raise AssertionError(f"no {what} within {PATIENCE} s\n{self.log.read_text()}")

    def value(self, query):
        result = self.ask(f"/api/v1/query?query={query}")["result"]
        return float(result[0]["value"][1]) if result else None

    def firing(self):
        alerts = self.ask("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert for alert in alerts if alert["state"] == "firing"}

    def close(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


@pytest.fixture
def exported():
    """A registry that is served on a port of its own."""
    registry = CollectorRegistry()
    httpd, thread = start_http_server(0, "127.0.0.1", registry)
    yield registry, httpd.server_port
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def prometheus(program, exported, tmp_path):
    for number in range(STARTS):
        directory = tmp_path / str(number)
        directory.mkdir()
        server = Prometheus(program, directory, exported[1])
        try:
            if server.is_listening():
                yield server
                return
        finally:
            server.close()
    pytest.fail(f"no port in {STARTS} starts\n{server.log.read_text()}")


def test_a_real_server_scrapes_the_guides_metrics_and_sees_the_alerts_fire(
    prometheus, exported, make_client, server
):
    registry, _ = exported
    client = make_client(PrometheusMetrics(registry), cache=None, resilience=None)
    for _ in range(20):
        client.get_str("app/llm", "model")
    answered = 'llm_config_requests_total{operation="get_config",outcome="ok"}'
    prometheus.wait_for("scrape", lambda: prometheus.value(urllib.request.quote(answered)) == 20)
    assert prometheus.value("errors_total") == 0
    assert prometheus.firing() == {}

    server.script(
        "GET app/llm/*", [error("STORAGE_ERROR", kind="StorageFull")] * 10 + [error("DECRYPTION_ERROR")]
    )
    for _ in range(10):
        with pytest.raises(StorageError):
            client.get_str("app/llm", "model")
    with pytest.raises(DecryptionError):
        client.get_str("app/llm", "model")

    prometheus.wait_for("errors", lambda: prometheus.value("errors_total") == 11)
    by_type = urllib.request.quote('errors_by_type{error_type="storage"}')
    assert prometheus.value(by_type) == 10
    expected = {
        "LLMConfigHighErrorRate",
        "LLMConfigRepeatedFailures",
        "LLMConfigCriticalError",
        "LLMConfigResourceError",
    }
    firing = prometheus.wait_for("alerts", lambda: (f := prometheus.firing()).keys() >= expected and f)
    assert firing.keys() == expected
    assert firing["LLMConfigRepeatedFailures"]["labels"]["code"] == "STORAGE_ERROR"
    assert "explain STORAGE_ERROR" in firing["LLMConfigRepeatedFailures"]["annotations"]["description"]
    assert firing["LLMConfigResourceError"]["labels"]["kind"] == "StorageFull"
