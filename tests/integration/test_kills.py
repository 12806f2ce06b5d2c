"""What is killed in the middle of its work: servers, clients, Redis, and disks that are full."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import anyio
import pytest

from integration.footprint import wait_until
from llm_config_mock_server import MockServer, error
from llm_config_resilience import RetryPolicy
from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    LLMConfigError,
    ResiliencePolicy,
    ServiceCircuitOpenError,
    ServiceUnavailableError,
    TransportError,
)
from llm_config_sdk.snapshot import SnapshotPolicy, SnapshotStore, read_document
from redis_server import RedisServer

SEED = 7
PATIENCE = 60  # seconds for what is over in one
NAMESPACE = "app/llm"
WRITERS, KILLS = 4, 2


# --- The server, during writes ----------------------------------------------------------------------


class ServerProcess:
    """The reference server as a process of its own, on a database, which keeps its port."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.url = self.token = ""

    def start(self) -> None:
        options = ["--storage", str(self._storage), "--port", str(self._port), "--seed", str(SEED)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "llm_config_mock_server", *options], stdout=subprocess.PIPE, text=True
        )
        for line in self._process.stdout:
            if line.startswith("serving"):
                self.url = line.split()[3]
                self._port = int(self.url.rpartition(":")[2])
            if line.startswith("token admin"):
                self.token = line.split()[-1]
            if line.startswith("storage"):
                return
        pytest.fail("the server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            assert self._process.returncode == -signal.SIGKILL
            self._process = None


@pytest.fixture
def server_process(tmp_path):
    process = ServerProcess(tmp_path / "configs.sqlite")
    process.start()
    yield process
    process.kill()


class Ledger:
    """What a writer was told of each of its values; each value is written once."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.never_sent: set[str] = set()
        self.unknown: set[str] = set()

    def note(self, value: str, error: LLMConfigError) -> None:
        assert isinstance(error, TransportError), error
        assert error.attempts
        if error.never_sent:
            self.never_sent.add(value)
        else:
            assert "may have taken effect" in error.hint
            self.unknown.add(value)


def test_a_server_killed_during_writes_has_what_it_acknowledged_once(server_process):
    draw, ledgers = random.Random(SEED), [Ledger() for _ in range(WRITERS)]
    policy = ResiliencePolicy(retry=RetryPolicy(initial_backoff=0.001, max_backoff=0.01), breaker=None)
    options = {"environment": "production", "resilience": policy, "timeout": 10.0}

    def write(number, client, begin):
        ledger = ledgers[number]
        for count in range(begin, begin + 1_000):
            value = f"{number}-{count}"
            try:
                entry = client.set_config(NAMESPACE, f"key-{number}", value)
            except LLMConfigError as caught:
                ledger.note(value, caught)
                return
            ledger.acknowledged[value] = entry.version

    def acknowledged():
        return sum(len(ledger.acknowledged) for ledger in ledgers)

    for life in range(KILLS):
        target = acknowledged() + draw.randrange(30, 90)
        with ConfigClient(server_process.url, token=server_process.token, **options) as client:
            threads = [
                threading.Thread(target=write, args=[number, client, life * 1_000])
                for number in range(WRITERS)
            ]
            for thread in threads:
                thread.start()
            assert wait_until(lambda target=target: acknowledged() >= target, PATIENCE)
            server_process.kill()
            for thread in threads:
                thread.join(PATIENCE)
            server_process.start()
            for number, ledger in enumerate(ledgers):
                found = {item.version: item.value for item in client.get_history(NAMESPACE, f"key-{number}")}
                check(found, ledger)


def check(history, ledger):
    """Every acknowledged value at its version, none twice, none that never left."""
    values = list(history.values())
    assert len(values) == len(set(values)), "a write was applied twice"
    assert sorted(history) == list(range(1, len(history) + 1))
    for value, version in ledger.acknowledged.items():
        assert history[version] == value
    assert set(values) <= set(ledger.acknowledged) | ledger.unknown
    assert not set(values) & ledger.never_sent


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_writer_hears_that_its_write_may_have_taken_effect(server_process, backend):
    async def main():
        async with AsyncConfigClient(server_process.url, token=server_process.token, timeout=20) as client:
            await client.set_config(NAMESPACE, "model", 0)
            told = []

            async def write():
                try:
                    for number in range(1, 10_000):
                        await client.set_config(NAMESPACE, "model", number)
                        written.append(number)
                except TransportError as caught:
                    told.append(caught)

            written = []
            async with anyio.create_task_group() as group:
                group.start_soon(write)
                while len(written) < 20:  # noqa: ASYNC110  # a count, seen from outside
                    await anyio.sleep(0.001)
                await anyio.to_thread.run_sync(server_process.kill)
            (error,) = told
            assert error.never_sent or "may have taken effect" in error.hint

    anyio.run(main, backend=backend)


# --- A client, while it writes its snapshot ---------------------------------------------------------

# A process that is quick to begin: it imports once, and forks those who are killed.
_SNAPSHOTS = """
import os, random, signal, sys, time
from llm_config_sdk import ConfigEntry
from llm_config_sdk.entries import Provenance
from llm_config_sdk.snapshot import SnapshotPolicy, SnapshotStore

path, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
draw = random.Random(seed)

def entries(generation):
    metadata = dict.fromkeys(["created_at", "updated_at"], "2024-01-15T10:30:00Z")
    metadata |= dict.fromkeys(["created_by", "updated_by"], "ann")
    for number in range(40):
        entry = ConfigEntry.model_validate({
            "id": "e", "namespace": "app", "key": f"k{number}", "value": f"{generation} " + "x" * 500,
            "environment": "production", "version": 1, "metadata": metadata,
        })
        yield entry.with_provenance(Provenance(fetched_at=float(generation)))

def store():
    return SnapshotStore(SnapshotPolicy(path=path), origin="http://config.test")

def write_on(begin, told):
    mine = store()
    for generation in range(begin, begin + 10_000):
        for entry in entries(generation):
            mine.note(("app", entry.key, "production"), entry)
        mine.write()
        os.write(told, b"%d\\n" % generation)

done = 0
for kill in range(kills):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            write_on(done + 1, writing)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as told:
        told.readline()
        time.sleep(draw.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = told.read().split()
    print(kill, rest[-1] if rest else done + 1, flush=True)
    done = int(rest[-1]) if rest else done + 1
    sys.stdin.readline()
"""
SNAPSHOT_KILLS = 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_client_killed_while_it_writes_its_snapshot_leaves_the_old_one_or_the_new_one(tmp_path, caplog):
    path = tmp_path / "cache" / "snapshot.json"
    process = subprocess.Popen(
        [sys.executable, "-c", _SNAPSHOTS, str(path), str(SNAPSHOT_KILLS), str(SEED)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            _, written = line.split()
            lines = read_document(path.read_bytes(), origin="http://config.test")  # it would raise
            generations = {int(entry["entry"]["value"].split()[0]) for entry in lines}
            assert len(lines) == 40
            # Its writer may have been at the next one for itself and through its thread.
            assert generations <= {int(written), int(written) + 1}, "neither the old one nor the new one"
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0
    store = SnapshotStore(SnapshotPolicy(path=path), origin="http://config.test")
    store.write()
    assert not caplog.records
    assert {each.name for each in path.parent.iterdir()} == {"snapshot.json", "snapshot.json.lock"}, (
        "what the killed ones left half written is gone"
    )


# --- A disk that is full ----------------------------------------------------------------------------

_FULL = """
import logging, resource, sys
from llm_config_sdk import ConfigClient

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
url, token, path, limit = sys.argv[1:]
with ConfigClient(url, token=token, environment="production", snapshot=path) as client:
    client.set_config("app/llm", "model", "gpt-4")
    client._core.snapshot.write()
    print("written", flush=True)
    sys.stdin.readline()
    if int(limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    client.set_config("app/llm", "prompt", "x" * 100_000)
    client._core.snapshot.write()
    print(len(client.get_str("app/llm", "prompt")))
"""


def fill_up(server, path, limit, when_written=lambda: None):
    """Write a snapshot that fits, and one that does not; return what the program said."""
    process = subprocess.Popen(
        [sys.executable, "-c", _FULL, server.url, server.token(), str(path), str(limit)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout.readline() == "written\n"
        when_written()
        said, _ = process.communicate("\n", timeout=PATIENCE)
    assert process.returncode == 0
    return said.splitlines()


def check_full(said, path, reason):
    assert "100000" in said, "the client goes on"
    reports = [line for line in said if "llm_config_sdk.snapshot" in line]
    assert reports
    assert all(f"WARNING llm_config_sdk.snapshot the snapshot {path} could" in each for each in reports)
    assert os.strerror(reason) in reports[0]
    (line,) = read_document(path.read_bytes(), origin=None)
    assert line["key"] == "model", "the old snapshot is whole"
    assert {each.name for each in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}


def test_a_snapshot_that_may_not_grow_is_reported_and_the_old_one_stays(tmp_path):
    with MockServer(seed=SEED) as server:
        path = tmp_path / "cache" / "snapshot.json"
        check_full(fill_up(server, path, 50_000), path, errno.EFBIG)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root's privileges")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_snapshot_on_a_full_disk_is_reported_and_the_old_one_stays(small_disk):
    with MockServer(seed=SEED) as server:
        path = small_disk / "snapshot.json"
        check_full(fill_up(server, path, 0), path, errno.ENOSPC)


# --- Redis, under a cache and circuits that are shared ----------------------------------------------


@pytest.fixture
def redis(tmp_path):
    """A Redis that the test may end."""
    with RedisServer(tmp_path) as server:
        yield server


def test_redis_may_die_and_come_back_under_traffic(redis, caplog):
    policy = ResiliencePolicy(retry=None, breaker=BreakerPolicy(failure_threshold=3))
    options = {
        "environment": "production",
        "cache": CachePolicy(ttl=0.01, redis=redis.url),
        "resilience": policy,
    }
    answers, failures, ended = [], [], threading.Event()

    def visit(client, number):
        draw = random.Random(f"{SEED} {number}")
        while not ended.is_set():
            key = f"key-{draw.randrange(10)}"
            try:
                if draw.random() < 0.1:
                    client.set_config(NAMESPACE, key, 1)
                answers.append(client.get_config(NAMESPACE, key).value)
            except LLMConfigError as caught:
                failures.append(caught)

    with MockServer(seed=SEED) as server:
        for number in range(10):
            server.put(NAMESPACE, f"key-{number}", 1, env="production")
        connect = partial(ConfigClient, server.url, token=server.token(), **options)
        with connect() as one, connect() as other, ThreadPoolExecutor(4) as pool:
            visits = [pool.submit(visit, client, number) for number, client in enumerate([one, other] * 2)]
            try:
                for _ in range(2):
                    more(answers)
                    redis.stop()
                    more(answers)
                    assert redis.start()
                    more(answers)
            finally:
                ended.set()
            for each in visits:
                each.result(PATIENCE)
            assert failures == [], "Redis is no reason for a call to fail"
            assert set(answers) == {1}
            for client in (one, other):  # heard again of each other's writes
                assert client._core.cache.shared.listening.wait(PATIENCE)
            with server.script("*", error("SERVICE_UNAVAILABLE"), repeat="last"):
                for _ in range(3):
                    with pytest.raises(ServiceUnavailableError):
                        one.get_config(NAMESPACE, "key-0", fresh=True)
                (mine,), (theirs,) = (
                    client._core.stack.breakers.strategies.values() for client in (one, other)
                )
                mine.refresh()
                theirs.refresh()
                with pytest.raises(ServiceCircuitOpenError):
                    other.get_config(NAMESPACE, "key-0", fresh=True)
    assert caplog.records, "that it was gone was told"


def more(answers, count=100):
    before = len(answers)
    assert wait_until(lambda: len(answers) >= before + count, PATIENCE)
