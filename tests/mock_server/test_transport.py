"""The in-process transports: time is spent in an injected sleep, and there is no socket and no thread."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import httpx
import httpx2
import pytest
import trio

from llm_config_mock_server import (
    At,
    Match,
    MockServer,
    drip,
    error,
    hang,
    latency,
    ok,
    reset,
    respond,
    stale,
    truncate,
)
from llm_config_sdk import (
    AsyncConfigClient,
    ConfigClient,
    ConnectFailedError,
    RequestTimeoutError,
    ServiceUnavailableError,
    TransportError,
)

LIBRARIES = {"httpx": httpx, "httpx2": httpx2}
ITEM = "/api/v1/configs/app%2Fllm/model"
BODY = {"value": 1, "env": "dev"}
URL = "http://config.test"


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def at(self) -> At:
        return At(int(self.now * 1e9), self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)

    async def async_sleep(self, seconds: float) -> None:
        self.sleep(seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock) -> MockServer:
    return MockServer(auth=False, clock=clock.at)


@pytest.fixture(params=LIBRARIES)
def client(request, server, clock):
    transport = server.transport(request.param, sleep=clock.sleep)
    with LIBRARIES[request.param].Client(transport=transport, base_url=URL, timeout=5) as made:
        made.family = LIBRARIES[request.param]
        yield made


def test_requests_are_answered_without_a_socket_or_a_thread(server, client):
    threads = threading.active_count()
    assert client.post(ITEM, json=BODY).json()["version"] == 1
    assert client.get(ITEM, headers={"x-tenant": "blue"}).json()["value"] == 1
    assert client.delete(ITEM).content == b""
    assert client.head("/health").headers["content-length"] == "69"
    assert threading.active_count() == threads
    assert not server.is_running
    server.journal.assert_count(1, method="GET", namespace="app/llm", headers={"x-tenant": "blue"})


def test_the_transport_is_of_the_familys_own_class(server):
    assert isinstance(server.transport(), httpx.BaseTransport)
    assert isinstance(server.transport("httpx2"), httpx2.BaseTransport)
    assert isinstance(server.async_transport(), httpx.AsyncBaseTransport)
    assert isinstance(server.async_transport("httpx2"), httpx2.AsyncBaseTransport)
    with pytest.raises(ValueError, match="unknown family 'aiohttp'"):
        server.transport("aiohttp")


def test_an_error_knows_its_request(server, client):
    server.script("*", reset())
    with pytest.raises(client.family.ReadError) as failure:
        client.get(ITEM)
    assert failure.value.request.url.path.endswith("/model")
    assert type(failure.value.__cause__).__module__.startswith("httpcore")


@pytest.mark.parametrize(
    ("step", "slept"),
    [
        (latency(2, after=2.5), [2, 2.5]),
        (latency(5), [5]),
        (drip(2, size=40), [2]),
        (drip(1, size=100, part="both"), [1, 1]),
    ],
    ids=["latency", "just in time", "drip of the body", "drip of both"],
)
def test_what_comes_within_the_timeout_of_each_read_is_waited_for(server, client, clock, step, slept):
    server.script("*", step)
    assert client.get("/health").status_code == 200
    assert clock.slept == pytest.approx(slept)


@pytest.mark.parametrize(
    ("step", "slept"), [(latency(6), [5]), (hang(), [5]), (drip(9), [5]), (latency(2, after=4), [2, 3])]
)
def test_what_comes_later_is_a_timeout_that_takes_as_long_as_was_allowed(server, client, clock, step, slept):
    server.script("*", step)
    with pytest.raises(client.family.ReadTimeout):
        client.get("/health")
    assert clock.slept == pytest.approx(slept)


def test_a_sleep_that_moves_no_clock_ends_the_wait_all_the_same(server):
    slept = []
    server.script("*", latency(3, after=1))
    with httpx.Client(transport=server.transport(sleep=slept.append), base_url=URL) as client:
        assert client.get("/health").status_code == 200
    assert slept == [3, 1]


def test_a_write_that_nobody_waited_for_takes_effect_when_its_time_has_come(server, client, clock):
    server.script("POST", latency(30))
    with pytest.raises(client.family.ReadTimeout):
        client.post(ITEM, json=BODY)
    assert client.get(ITEM).status_code == 404
    clock.now += 30
    assert client.get(ITEM).json()["version"] == 1
    assert server.journal[0].status == 200


def test_without_a_read_timeout_silence_is_an_error_of_the_test(server, client):
    server.script("*", hang())
    with pytest.raises(RuntimeError, match="it would wait for ever"):
        client.get("/health", timeout=None)


async def test_without_a_read_timeout_an_async_client_waits_until_it_is_cancelled(server):
    server.script("*", hang())
    async with httpx.AsyncClient(transport=server.async_transport(), base_url=URL, timeout=None) as client:
        with anyio.move_on_after(0.01) as scope:
            await client.get("/health")
    assert scope.cancelled_caught


def test_a_stopped_server_refuses_and_drops_and_comes_back(server, client):
    assert client.get("/health").status_code == 200
    server.stop()
    for _ in range(2):
        with pytest.raises(client.family.ConnectError):
            client.get("/health")
    with httpx.Client(transport=server.transport(), base_url=URL) as another:
        with pytest.raises(httpx.ConnectError):
            another.get("/health")
        server.start()
        try:
            assert another.get("/health").status_code == 200
        finally:
            server.close()


def test_connections_are_kept_and_counted_as_on_the_wire(server, client):
    rule = server.script(Match(connection=True), [ok(), reset(), ok()])
    for _ in range(3):
        assert client.get("/health").status_code == 200
    assert rule.fired == 1
    server.script("*", truncate())
    with pytest.raises(client.family.RemoteProtocolError):
        client.get("/health")
    with pytest.raises(client.family.ReadError):
        client.get("/health")
    assert client.get("/health").status_code == 200


def test_a_connection_can_be_slow_to_answer(server, client, clock):
    server.script(Match(connection=True), latency(1.5))
    assert client.get("/health").status_code == 200
    assert clock.slept == pytest.approx([1.5])


def test_a_stale_connection_is_seen_in_time_or_loses_the_race(server, client):
    server.script("*", [stale(), stale(on_reuse=True)])
    assert [client.get("/health").status_code for _ in range(2)] == [200, 200]
    with pytest.raises(client.family.RemoteProtocolError):
        client.get("/health")
    assert len(server.journal) == 2


def test_any_scheme_and_host_will_do(server):
    with httpx.Client(transport=server.transport()) as client:
        assert client.get("https://secure.example/health").status_code == 200


def test_many_threads_share_a_transport(server):
    with httpx.Client(transport=server.transport(), base_url=URL) as client, ThreadPoolExecutor(8) as pool:
        versions = list(
            pool.map(lambda n: client.post(ITEM, json={**BODY, "value": n}).json()["version"], range(200))
        )
    assert sorted(versions) == list(range(1, 201))


async def test_many_tasks_share_a_transport(server):
    async with (
        httpx.AsyncClient(transport=server.async_transport(), base_url=URL) as client,
        anyio.create_task_group() as group,
    ):
        for number in range(100):
            group.start_soon(lambda n=number: client.post(ITEM, json={**BODY, "value": n}))
    assert server.entry("app/llm", "model")["version"] == 100


def test_it_runs_on_trio():
    server = MockServer()
    server.script("*", [latency(0.001), hang()])

    async def ask() -> None:
        transport = server.async_transport()
        async with httpx.AsyncClient(transport=transport, base_url=URL, timeout=0.05) as client:
            assert (await client.get("/health")).status_code == 200
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/health")

    trio.run(ask)


async def test_an_async_client_spends_its_time_in_the_injected_sleep(server, clock):
    transport = server.async_transport("httpx2", sleep=clock.async_sleep)
    server.script("*", [latency(2), hang()])
    async with httpx2.AsyncClient(transport=transport, base_url=URL, timeout=3) as client:
        assert (await client.get("/health")).status_code == 200
        with pytest.raises(httpx2.ReadTimeout):
            await client.get("/health")
    assert clock.slept == pytest.approx([2, 3])


def test_connections_that_are_closed_leave_nothing_behind(server):
    for _ in range(3):
        with httpx.Client(transport=server.transport(), base_url=URL) as client:
            client.get("/health")
    gc.collect()
    assert server._in_process._open == set()
    assert server._in_process._left_alone == []


# --- Under the SDK's clients ----------------------------------------------------------------------


@pytest.mark.parametrize("family", LIBRARIES)
def test_the_sdks_client_meets_the_faults_as_its_own_errors(server, family):
    server.put("app/llm", "model", "gpt-4")
    with LIBRARIES[family].Client(transport=server.transport(family, sleep=lambda _: None)) as http:
        client = ConfigClient(URL, token="t", http_client=http, resilience=None, cache=None)
        assert client.get_str("app/llm", "model") == "gpt-4"
        for step, failure in [
            (error("SERVICE_UNAVAILABLE"), ServiceUnavailableError),
            (respond(503, "<html>"), ServiceUnavailableError),
            (reset(), TransportError),
            (hang(), RequestTimeoutError),
        ]:
            with server.script("GET app/llm/model", step), pytest.raises(failure):
                client.get_str("app/llm", "model")
        server.stop()
        with pytest.raises(ConnectFailedError):
            client.get_str("app/llm", "model")


@pytest.mark.parametrize("family", LIBRARIES)
async def test_the_sdks_async_client_retries_what_the_transport_breaks(server, family):
    server.put("app/llm", "model", "gpt-4")
    server.script("GET app/llm/model", [reset(), error("INTERNAL_ERROR")])
    async with LIBRARIES[family].AsyncClient(transport=server.async_transport(family)) as http:
        client = AsyncConfigClient(URL, token="t", http_client=http)
        entry = await client.get_config("app/llm", "model")
        await client.aclose()
    assert (entry.value, entry.attempts) == ("gpt-4", 3)
