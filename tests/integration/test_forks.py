"""A process that forks while its threads are in the middle of calls: the child has everything of its own."""

import os
import subprocess
import sys
from contextlib import nullcontext

import pytest

from llm_config_mock_server import MockServer, latency
from redis_server import RedisServer

SEED = 3
FORKS = 12
NAMESPACE = "app/llm"

# In a process of its own: this one has the server's thread, and a child would inherit its sockets.
_PROGRAM = """
import asyncio, faulthandler, os, sys, threading, time, warnings
from llm_config_resilience import RetryPolicy
from llm_config_sdk import AsyncConfigClient, CachePolicy, ConfigClient, LLMConfigError, ResiliencePolicy
from llm_config_sdk.observability import ErrorAggregator, AlertMonitor

warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: which is what this is about
url, token, family, redis, snapshot, forks = sys.argv[1:]
options = dict(
    token=token, environment="production", transport=family, timeout=10, max_in_flight=4,
    resilience=ResiliencePolicy(retry=RetryPolicy(initial_backoff=0.001)),
    listeners=[ErrorAggregator(), AlertMonitor()],
)
cache = CachePolicy(ttl=0.02, stale_while_revalidate=0.02, redis=redis or None)
client = ConfigClient(url, cache=cache, snapshot=snapshot, **options)
many = AsyncConfigClient(url, cache=None, **options)
ended, broken = threading.Event(), []

def visit(number):
    count = 0
    while not ended.is_set():
        count += 1
        try:
            client.get_config("app/llm", f"key-{count % 3}")
            if number == 0:
                client.set_config("app/llm", "parents", count)
        except Exception as error:
            broken.append(error)
            return

def idle():
    pools = list(client._transport._pools.values())
    return {link for pool in pools for links in list(pool._idle.values()) for link in list(links)}

def in_child(number):
    for key in range(3):  # the very ones that the parent's threads are waiting for
        assert client.get_config("app/llm", f"key-{key}").value == key
    written = client.set_config("app/llm", f"child-{number}", number)
    assert client.get_config("app/llm", f"child-{number}", fresh=True).value == number

    async def main():
        async with many:
            return await many.get_config("app/llm", "key-0", fresh=True)

    assert asyncio.run(main()).value == 0
    assert idle() and not inherited & idle()
    client.close()

threads = [threading.Thread(target=visit, args=[number]) for number in range(8)]
for thread in threads:
    thread.start()
codes = []
for number in range(int(forks)):
    time.sleep(0.01 * (number % 5))
    inherited = idle()
    child = os.fork()
    if child == 0:
        code = 1
        faulthandler.dump_traceback_later(20, exit=True)  # says where it hangs
        try:
            in_child(number)
            code = 0
        except BaseException as error:
            print(f"child {number}: {error!r}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    end = time.monotonic() + 30
    while (waited := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
        time.sleep(0.005)
    if waited[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
        print(f"child {number} hangs", file=sys.stderr, flush=True)
        codes.append("hangs")
    else:
        codes.append(os.waitstatus_to_exitcode(waited[1]))
ended.set()
for thread in threads:
    thread.join(30)
client.close()
assert broken == [], broken
assert codes == [0] * int(forks), codes
"""

_FIRST_CALL = """
import sys
from llm_config_sdk import ConfigClient
url, token = sys.argv[1:]
with ConfigClient(url, token=token, environment="production") as client:
    before = set(sys.modules)
    assert client.get_config("app/llm", "key").value == 1
    print(sorted(set(sys.modules) - before))
"""


def test_a_call_imports_nothing_that_a_child_forked_meanwhile_would_find_half_imported():
    with MockServer(seed=SEED) as server:
        server.put(NAMESPACE, "key", 1, env="production")
        url = server.url.replace("127.0.0.1", "localhost")
        command = [sys.executable, "-c", _FIRST_CALL, url, server.token("viewer")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="a fork may find coverage's own lock taken for ever")
@pytest.mark.parametrize(("family", "shares"), [("httpx", False), ("httpx2", False), ("httpx", True)])
def test_a_child_forked_under_traffic_has_connections_locks_and_threads_of_its_own(family, shares, tmp_path):
    with MockServer(seed=SEED) as server, RedisServer(tmp_path) if shares else nullcontext() as redis:
        for key in range(3):
            server.put(NAMESPACE, f"key-{key}", key, env="production")
        server.script("GET *", latency((0.0, 0.02)), repeat="last")
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                _PROGRAM,
                server.url,
                server.token("admin"),
                family,
                redis.url if redis is not None else "",
                str(tmp_path / "snapshot.json"),
                str(FORKS),
            ],
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for number in range(FORKS):
            assert server.entry(NAMESPACE, f"child-{number}", env="production")["version"] == 1
