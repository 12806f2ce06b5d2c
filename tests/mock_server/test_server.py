"""`MockServer`: how it is started, stopped, filled and left behind."""

import contextlib
import gc
import multiprocessing
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import llm_config_mock_server as package
from llm_config_mock_server import At, MockServer, hang, latency, reset
from llm_config_mock_server.rbac import RbacError
from llm_config_mock_server.storage import MemoryStorage

ITEM = "/api/v1/configs/app%2Fllm/model"


def server_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("mock-server")]


def open_sockets() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def test_a_stopped_server_refuses_and_comes_back_on_its_port_with_its_state(server, client_as):
    server.put("app/llm", "model", "gpt-4")
    url = server.url
    assert client_as().get(ITEM).status_code == 200
    server.stop()
    assert not server.is_running
    with pytest.raises(httpx.ConnectError):
        client_as().get(ITEM)
    server.start()
    assert server.url == url
    assert client_as().get(ITEM).json()["value"] == "gpt-4"


def test_stopping_drops_open_connections(server, wire):
    connection = wire()
    connection.get()
    connection.receive()
    server.stop()
    assert connection.receive_all() == b""


def test_nobody_is_given_the_port_of_a_stopped_server(server):
    server.stop()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", server.port))
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", server.port)) != 0


def test_starting_and_stopping_twice_changes_nothing(server):
    server.start()
    assert len(server_threads()) == 1
    server.stop()
    server.stop()
    server.start()
    assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200


def test_nothing_is_left_behind():
    gc.collect()
    threads, sockets = threading.active_count(), open_sockets()
    with MockServer() as server:
        server.script("*", [hang(), latency(60), reset()])
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for connection in connections[:3]:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        server.journal.wait_for(3)
        server.stop()
        server.start()
    for connection in connections:
        connection.close()
    assert threading.active_count() == threads
    assert open_sockets() == sockets
    assert server_threads() == []


def test_a_server_that_is_forgotten_leaves_no_warning():
    server = MockServer().start()
    server.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del server
        gc.collect()


def test_before_its_first_start_a_server_has_no_address():
    server = MockServer()
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = server.url
    assert repr(server).startswith("<MockServer guide stopped seed=")


def test_starting_and_stopping_are_quick():
    with MockServer() as server:
        best = 1.0
        for _ in range(20):
            began = time.perf_counter()
            server.stop()
            server.start()
            best = min(best, time.perf_counter() - began)
    assert best < 0.05  # a hundredth of it is usual; the bound only catches a wait


def test_a_wanted_port_is_taken_and_a_taken_one_is_an_error():
    with MockServer() as first:
        with pytest.raises(OSError, match="in use"), MockServer(port=first.port):
            pass
        port = first.port
    with MockServer(port=port) as second:
        assert second.port == port


def test_servers_of_one_process_are_apart(client_as):
    with MockServer() as one, MockServer() as two:
        one.put("app/llm", "model", 1)
        assert client_as(of=one).get(ITEM).status_code == 200
        assert client_as(of=two).get(ITEM).status_code == 404
        assert (
            client_as(None, of=two).get(ITEM, headers={"authorization": f"Bearer {one.token()}"}).status_code
            == 401
        )
        assert (len(one.journal), len(two.journal)) == (1, 2)


async def test_it_works_as_an_async_context_manager():
    async with MockServer() as server:
        server.put("app/llm", "model", 1)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            reply = await client.get(ITEM, headers={"authorization": f"Bearer {server.token()}"})
            assert reply.json()["value"] == 1


def test_reset_forgets_everything_but_the_tokens(server, client):
    server.put("app/llm", "model", 1)
    server.conditions["store"] = "unavailable"
    server.script("*", reset(), repeat="last")
    server.reset()
    assert len(server.faults) == len(server.conditions) == len(server.journal) == 0
    assert client.get(ITEM).status_code == 404
    assert client.get(f"{ITEM}/history").json() == []


def test_a_thousand_writes_from_many_threads_lose_none(server, client):
    def write(number: int) -> int:
        return client.post(ITEM, json={"value": number, "env": "dev"}).json()["version"]

    with ThreadPoolExecutor(16) as pool:
        versions = list(pool.map(write, range(300)))
    assert sorted(versions) == list(range(1, 301))


def test_tls_is_trusted_through_its_own_authority_alone():
    with MockServer(tls=True) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with httpx.Client(verify=server.ssl_context, trust_env=False) as client:
            for _ in range(2):
                assert client.get(f"{server.url}/health").status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(f"{server.url}/health", trust_env=False, verify=ssl.create_default_context())
        server.script("*", hang())
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{server.url}/health", verify=server.ssl_context, trust_env=False, timeout=0.2)


def test_a_plain_server_has_no_authority(server):
    for attribute in ("ca", "ssl_context"):
        with pytest.raises(RuntimeError, match="tls=True"):
            getattr(server, attribute)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"profile": "klingon"}, "unknown profile"),
        ({"encryption_key": b"short"}, "32 bytes"),
        ({"port": 99_999}, "between 0 and 65535"),
        ({"port": -1}, "between 0 and 65535"),
        ({"disk_bytes": -1}, "0 bytes or more"),
        ({"disk_bytes": 1, "storage": MemoryStorage()}, "either it or a storage"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, complaint):
    with pytest.raises(ValueError, match=complaint):
        MockServer(**arguments)


def test_put_writes_past_faults_and_says_what_it_wrote(server):
    server.script("*", reset(), repeat="last")
    entry = server.put("app/llm", "model", {"a": 1}, env="prod", tags=["x"], description="d", user="ann")
    assert (entry["version"], entry["environment"], entry["metadata"]["tags"]) == (1, "production", ["x"])
    assert server.put("app/llm", "model", 2, env="prod")["version"] == 2
    assert server.entry("app/llm", "model", env="production")["value"] == 2
    assert server.entry("app/llm", "model") is None
    assert len(server.journal) == 0


def test_what_was_put_cannot_be_changed_from_outside(server):
    value = {"a": [1]}
    server.put("app", "k", value)
    value["a"].append(2)
    server.entry("app", "k")["value"]["a"].append(3)
    assert server.entry("app", "k")["value"] == {"a": [1]}


@pytest.mark.parametrize(
    "arguments",
    [("bad.namespace", "k", 1), ("app", "bad key", 1), ("app", "k", float("nan")), ("app", "k", object())],
)
def test_put_refuses_what_the_platform_would(server, arguments):
    with pytest.raises((ValueError, TypeError)):
        server.put(*arguments)
    with pytest.raises(ValueError, match="secret must be a string"):
        server.put("app", "k", 5, secret=True)
    with pytest.raises(ValueError, match="unknown environment"):
        server.put("app", "k", 5, env="mars")


def test_a_token_needs_a_role_that_there_is(server):
    with pytest.raises(RbacError, match="Role not found"):
        server.token("emperor")
    with pytest.raises(RbacError, match="Invalid scope"):
        server.token("editor", scope="../**")


def test_time_is_what_the_clock_says(client_as):
    with MockServer(clock=lambda: At(1_705_314_600_123_456_789, 0.0)) as server:
        entry = server.put("app/llm", "model", 1)
        assert entry["metadata"]["created_at"] == "2024-01-15T10:30:00.123456789+00:00"
        reply = client_as(of=server).get("/nope")
        assert reply.headers["date"] == "Mon, 15 Jan 2024 10:30:00 GMT"
        assert reply.json()["error"]["timestamp"] == "2024-01-15T10:30:00.123456789Z"


def test_a_seed_repeats_ids_and_chaos(client_as):
    def run(seed: int) -> list[tuple[int, str]]:
        with MockServer(seed=seed) as server, server.chaos(0.5):
            client = client_as(of=server)
            return [
                (reply.status_code, reply.headers["x-request-id"])
                for reply in (client.get(ITEM) for _ in range(20))
            ]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert {status for status, _ in run(1)} == {404, 500}


def test_chaos_is_the_guides_simulated_failure_and_ends(server, client):
    with server.chaos(1.0):
        error = client.get(ITEM).json()["error"]
        assert (error["code"], error["message"]) == ("STORAGE_ERROR", "Simulated failure")
        assert client.get("/health").status_code == 200
    assert client.get(ITEM).status_code == 404


def test_a_defect_of_the_server_is_answered_and_reaches_the_test():
    class Broken(MemoryStorage):
        def read(self, address):
            raise ZeroDivisionError("defect")

    server = MockServer(storage=Broken()).start()
    headers = {"authorization": f"Bearer {server.token()}"}
    reply = httpx.get(server.url + ITEM, headers=headers, trust_env=False)
    assert (reply.status_code, reply.json()["error"]["details"]["variant"]) == (500, "InternalError")
    with pytest.raises(RuntimeError, match="mock server itself failed") as raised:
        server.__exit__(None, None, None)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def _child(url: str, server: MockServer) -> None:
    server.close()  # what a forked test process does at its end: it must not end the parent's server
    os._exit(0 if httpx.get(f"{url}/health", trust_env=False).status_code == 200 else 1)


def test_a_forked_child_neither_ends_nor_prolongs_the_server(server):
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # 3.12 on: forking beside threads, which is the point
        child = context.Process(target=_child, args=(server.url, server))
        child.start()
        holder = context.Process(target=time.sleep, args=(60,))
        holder.start()
    child.join(10)
    try:
        assert child.exitcode == 0
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
        server.stop()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health", trust_env=False)
    finally:
        holder.kill()
        holder.join()


def test_the_command_serves_until_it_is_interrupted():
    command = [sys.executable, "-m", "llm_config_mock_server", "--port", "0", "--seed", "3", "--demo-data"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline() for _ in range(5)]
        url = re.search(r"http://\S+", lines[0]).group()
        tokens = dict(line.removeprefix("token ").strip().split(": ") for line in lines[1:])
        assert set(tokens) == {"admin", "editor", "viewer", "auditor"}
        headers = {"authorization": f"Bearer {tokens['viewer']}"}
        reply = httpx.get(url + ITEM, params={"env": "prod"}, headers=headers, trust_env=False)
        assert reply.json()["value"] == "gpt-4"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_the_command_says_that_a_port_is_taken(server):
    command = [sys.executable, "-m", "llm_config_mock_server", "--port", str(server.port)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert f"cannot serve on 127.0.0.1:{server.port}" in ended.stderr


def test_importing_needs_no_extra():
    program = (
        "import sys; "
        "[sys.modules.__setitem__(name, None) for name in ('cryptography', 'trustme', 'uvicorn')]; "
        "from llm_config_mock_server import MockServer; server = MockServer().start(); "
        "server.put('a', 'b', 1); server.close()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)


def test_the_public_names_are_sorted_and_there():
    assert package.__all__ == sorted(package.__all__)
    for name in package.__all__:
        assert hasattr(package, name)


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        ({"port": "80"}, ValueError, "a port is between 0 and 65535, not '80'"),
        ({"storage": 5}, TypeError, "storage must be a path, a Storage or None, not 5"),
        ({"limits": 5}, TypeError, r"limits must be True, False or Limits\(…\), not 5"),
    ],
)
def test_a_wrong_argument_is_named(wrong, error, said):
    with pytest.raises(error, match=said):
        MockServer(**wrong)
