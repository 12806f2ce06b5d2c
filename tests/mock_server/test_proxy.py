"""`FaultProxy`: what it does to the wire, as raw sockets and as the SDK's clients meet it."""

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from llm_config_mock_server import FaultProxy, MockServer, oversized, reset
from llm_config_sdk import (
    AsyncConfigClient,
    ConfigClient,
    ConnectFailedError,
    RequestTimeoutError,
    TransportError,
)

ITEM = "/api/v1/configs/app%2Fllm/model"
BODY = {"value": 2, "env": "dev"}
SHORT = 0.2  # seconds: how long a client waits for what will never come
PATIENCE = 5.0  # seconds: far beyond what a loopback needs


@pytest.fixture
def server() -> Iterator[MockServer]:
    with MockServer(seed=7, auth=False) as running:
        running.put("app/llm", "model", "gpt-4")
        yield running


@pytest.fixture
def proxy(server) -> Iterator[FaultProxy]:
    with FaultProxy(server.url, seed=7) as running:
        yield running


@pytest.fixture
def http(proxy) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=proxy.url, timeout=PATIENCE, trust_env=False) as client:
        yield client


def sdk_client(proxy: FaultProxy, timeout: float = PATIENCE) -> ConfigClient:
    return ConfigClient(proxy.url, token="t", timeout=timeout, resilience=None, cache=None)


def read(proxy: FaultProxy, timeout: float = PATIENCE) -> str:
    with sdk_client(proxy, timeout) as client:
        return client.get_str("app/llm", "model")


# --- Passing on -----------------------------------------------------------------------------------


def test_it_passes_everything_on_and_counts(server, proxy, http):
    for _ in range(3):
        assert http.get(ITEM).json()["value"] == "gpt-4"
    assert http.post(ITEM, json=BODY).json()["version"] == 2
    assert (proxy.connections, proxy.open_connections) == (1, 1)
    assert proxy.request_bytes > 4 * len(ITEM)
    assert proxy.response_bytes > 4 * 200
    assert len(server.journal) == 4


def test_large_bodies_pass_whole(server, http):
    server.script("*", oversized(3_000_000))
    assert len(http.get(ITEM).content) == 3_000_000


def test_it_keeps_the_targets_path():
    with FaultProxy("http://config.test/platform/") as proxy:
        assert proxy.url == f"http://127.0.0.1:{proxy.port}/platform"
        assert repr(proxy) == f"<FaultProxy {proxy.url} before http://config.test/platform/>"


def test_what_the_target_breaks_stays_broken(server, http):
    server.script("*", reset())
    with pytest.raises(httpx.ReadError):
        http.get(ITEM)


def test_a_target_that_is_away_resets_the_connection(server, proxy, http):
    server.stop()
    with pytest.raises(httpx.ReadError):
        http.get(ITEM)
    server.start()
    assert http.get(ITEM).status_code == 200


def test_each_end_is_passed_on(proxy):
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200 ")


async def test_it_is_started_and_steered_from_async_code_too(server):
    async with FaultProxy(server.url) as proxy, httpx.AsyncClient(trust_env=False) as client:
        async with proxy.reset() as trouble:
            with pytest.raises(httpx.ReadError):
                await client.get(proxy.url + ITEM)
        assert trouble.hits == 1
        assert (await client.get(proxy.url + ITEM)).status_code == 200


# --- As the SDK's client meets it -------------------------------------------------------------------

FAULTS = {
    "refuse": (lambda proxy: proxy.refuse(), ConnectFailedError),
    "hang": (lambda proxy: proxy.hang(), RequestTimeoutError),
    "blackhole": (lambda proxy: proxy.blackhole(), RequestTimeoutError),
    "reset": (lambda proxy: proxy.reset(), TransportError),
    "reset in the head": (lambda proxy: proxy.reset(after=20), TransportError),
    "reset in the body": (lambda proxy: proxy.reset(after=400), TransportError),
    "reset in the request": (lambda proxy: proxy.reset(after=5, of="request"), TransportError),
    "cut": (lambda proxy: proxy.cut(), TransportError),
    "cut in the head": (lambda proxy: proxy.cut(after=20), TransportError),
    "cut in the body": (lambda proxy: proxy.cut(after=400), TransportError),
    "cut in the request": (lambda proxy: proxy.cut(after=5, of="request"), TransportError),
    "half-close": (lambda proxy: proxy.half_close(), TransportError),
    "half-close in the body": (lambda proxy: proxy.half_close(after=400), TransportError),
    "latency": (lambda proxy: proxy.latency(60), RequestTimeoutError),
    "bandwidth": (lambda proxy: proxy.bandwidth(50), RequestTimeoutError),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_sdks_client_sees_the_fault_as_its_own_error_and_then_none(proxy, fault):
    arm, failure = FAULTS[fault]
    with sdk_client(proxy) as client:
        assert client.get_str("app/llm", "model") == "gpt-4"
        with arm(proxy), pytest.raises(failure) as raised:
            client.get_config("app/llm", "model", timeout=SHORT)
        assert type(raised.value) is failure
        assert client.get_str("app/llm", "model") == "gpt-4"


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_sdks_async_client_sees_it_too(proxy, fault):
    arm, failure = FAULTS[fault]
    async with AsyncConfigClient(
        proxy.url, token="t", resilience=None, cache=None, timeout=PATIENCE
    ) as client:
        assert await client.get_str("app/llm", "model") == "gpt-4"
        async with arm(proxy):
            with pytest.raises(failure) as raised:
                await client.get_config("app/llm", "model", timeout=SHORT)
        assert type(raised.value) is failure
        assert await client.get_str("app/llm", "model") == "gpt-4"


@pytest.mark.parametrize("transport", ["httpx", "httpx2"])
def test_a_retrying_client_gets_over_what_strikes_a_few_times(server, proxy, transport):
    trouble = proxy.reset(times=2)
    with ConfigClient(proxy.url, token="t", transport=transport, timeout=PATIENCE) as client:
        entry = client.get_config("app/llm", "model")
    assert (entry.value, entry.attempts, trouble.hits) == ("gpt-4", 3, 2)
    assert proxy.connections == 3


# --- Each fault -------------------------------------------------------------------------------------


def test_a_reset_of_the_response_comes_after_the_effect_and_of_the_request_before(server, proxy, http):
    for side, version in (("response", 2), ("request", 2)):
        with proxy.reset(of=side), pytest.raises(httpx.ReadError):
            http.post(ITEM, json=BODY)
        assert server.entry("app/llm", "model")["version"] == version


def test_a_cut_is_an_end_and_passes_the_bytes_before_it(proxy):
    with proxy.cut(after=12), socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while chunk := connection.recv(65_536):
            received += chunk
    assert received == b"HTTP/1.1 200"


def test_a_reset_is_an_rst_and_the_bytes_before_it_arrive(proxy):
    with proxy.reset(after=12), socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536) == b"HTTP/1.1 200"
        with pytest.raises(ConnectionResetError):
            connection.recv(1)


def test_after_half_a_close_the_client_is_still_read(proxy):
    with proxy.half_close(), socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65_536) == b""
        for _ in range(3):
            connection.sendall(b"still here")


def test_a_hang_hides_the_request_from_the_target(server, proxy, http):
    with proxy.hang(), pytest.raises(httpx.ReadTimeout):
        http.get(ITEM, timeout=SHORT)
    assert len(server.journal) == 0


def test_what_a_blackhole_held_back_flows_on_once_it_is_healed(server, proxy, http):
    http.get(ITEM)
    proxy.blackhole()
    threading.Timer(0.05, proxy.heal).start()
    assert http.get(ITEM).status_code == 200
    assert proxy.connections == 1


def test_latency_delays_the_first_byte_of_each_response(proxy, http):
    http.get(ITEM)
    with proxy.latency(0.05, jitter=0.01) as trouble:
        began = time.monotonic()
        for _ in range(2):
            assert http.get(ITEM).status_code == 200
        assert time.monotonic() - began >= 0.1
    assert trouble.hits == 2


def test_a_bandwidth_stretches_a_body_and_its_end_is_felt_at_once(server, proxy, http):
    server.script("*", oversized(60_000), repeat="last")
    with proxy.bandwidth(400_000):
        began = time.monotonic()
        assert len(http.get(ITEM).content) == 60_000
        assert time.monotonic() - began >= 0.1
    slow = proxy.bandwidth(1_000)
    threading.Timer(0.05, slow.heal).start()
    assert len(http.get(ITEM).content) == 60_000


def test_a_refusal_drops_open_connections_and_lasts_until_it_is_healed(proxy, http):
    http.get(ITEM)
    first, second = proxy.refuse(), proxy.refuse()
    assert proxy.open_connections == 0
    for trouble in (first, second):
        with pytest.raises(httpx.ConnectError):
            http.get(ITEM)
        trouble.heal()
    assert http.get(ITEM).status_code == 200
    first.heal()
    assert proxy.troubles == []


def test_troubles_add_up_and_of_one_kind_the_latest_counts(proxy):
    proxy.latency(60)
    proxy.latency(0.0)
    with proxy.reset(times=1):
        with pytest.raises(TransportError):
            read(proxy)
        assert read(proxy) == "gpt-4"
    assert len(proxy.troubles) == 2
    proxy.heal()
    assert proxy.troubles == []


def test_a_probability_strikes_its_share_and_repeats_with_the_seed(server):
    def run(seed: int) -> list[bool]:
        with (
            FaultProxy(server.url, seed=seed) as proxy,
            proxy.cut(probability=0.5),
            httpx.Client(base_url=proxy.url, trust_env=False) as client,
        ):
            struck = []
            for _ in range(40):
                try:
                    client.get(ITEM)
                except httpx.RemoteProtocolError:
                    struck.append(True)
                else:
                    struck.append(False)
            return struck

    first = run(1)
    assert 8 < sum(first) < 32
    assert run(1) == first
    assert run(2) != first


def test_what_is_armed_before_the_start_counts_from_the_start(server):
    proxy = FaultProxy(server.url)
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = proxy.url
    trouble = proxy.refuse()
    with proxy:
        with pytest.raises(ConnectFailedError):
            read(proxy)
        trouble.heal()
        assert read(proxy) == "gpt-4"


# --- TLS --------------------------------------------------------------------------------------------


@pytest.fixture
def secure(server) -> Iterator[FaultProxy]:
    with FaultProxy(server.url, tls=True) as running:
        yield running


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("expired", "certificate has expired"),
        ("wrong-host", "IP address mismatch"),
        ("untrusted", "unable to get local issuer certificate|self-signed"),
    ],
)
def test_a_bad_certificate_is_a_failed_connection_that_says_why(secure, kind, complaint):
    with ConfigClient(
        secure.url, token="t", verify=secure.ssl_context, resilience=None, cache=None
    ) as client:
        assert client.get_str("app/llm", "model") == "gpt-4"
        with secure.certificate(kind) as trouble, pytest.raises(ConnectFailedError, match=complaint):
            client.get_str("app/llm", "model")
        assert trouble.hits == 1
        assert client.get_str("app/llm", "model") == "gpt-4"


@pytest.mark.parametrize("fault", ["reset", "cut", "half_close", "hang"])
def test_the_other_faults_hold_under_tls(secure, fault):
    with (
        ConfigClient(
            secure.url, token="t", verify=secure.ssl_context, resilience=None, cache=None, timeout=PATIENCE
        ) as client,
        getattr(secure, fault)(),
        pytest.raises(TransportError),
    ):
        client.get_config("app/llm", "model", timeout=SHORT)


def test_the_targets_own_tls_is_passed_through_or_taken_off():
    with MockServer(tls=True, auth=False) as server:
        server.put("app/llm", "model", "gpt-4")
        with FaultProxy(server.url) as proxy, httpx.Client(verify=server.ssl_context) as client:
            assert proxy.url.startswith("https://127.0.0.1:")
            assert client.get(proxy.url + ITEM).status_code == 200
        with (
            FaultProxy(server.url, tls=True, target_ssl=server.ssl_context) as proxy,
            httpx.Client(verify=proxy.ssl_context) as client,
        ):
            assert client.get(proxy.url + ITEM).status_code == 200


def test_a_plain_client_at_a_tls_proxy_is_dropped(secure):
    with (
        contextlib.suppress(ConnectionError),
        socket.create_connection(("127.0.0.1", secure.port), timeout=5) as held,
    ):
        held.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while held.recv(65_536):
            pass


def test_a_plain_proxy_has_no_certificate(proxy):
    with pytest.raises(RuntimeError, match="tls=True"):
        _ = proxy.ssl_context
    with pytest.raises(RuntimeError, match="tls=True"):
        proxy.certificate("expired")


# --- Its own quality --------------------------------------------------------------------------------


def open_sockets() -> int:
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(descriptor.readlink()).startswith("socket:")
    return found


def test_nothing_is_left_behind(server):
    gc.collect()
    threads, sockets = threading.active_count(), open_sockets()
    with FaultProxy(server.url) as proxy:
        proxy.hang()
        held = [socket.create_connection(("127.0.0.1", proxy.port)) for _ in range(5)]
        for connection in held[:3]:
            connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
    for connection in held:
        connection.close()
    proxy.close()
    assert (threading.active_count(), open_sockets()) == (threads, sockets)


def test_starting_twice_changes_nothing_and_a_closed_proxy_can_start_again(server):
    proxy = FaultProxy(server.url)
    with proxy:
        assert proxy.start() is proxy
        assert read(proxy) == "gpt-4"
    with proxy:
        assert read(proxy) == "gpt-4"


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        (lambda proxy: proxy.reset(after=-1), "after must not be negative"),
        (lambda proxy: proxy.reset(of="answer"), "of must be"),
        (lambda proxy: proxy.cut(times=0), "times must be"),
        (lambda proxy: proxy.hang(probability=2), "probability must be"),
        (lambda proxy: proxy.latency(-1), "seconds must not be negative"),
        (lambda proxy: proxy.bandwidth(0), "must be positive"),
        (lambda _: FaultProxy("ftp://config.test"), "must be an http"),
    ],
)
def test_figures_that_make_no_sense_are_refused(proxy, break_it, complaint):
    with pytest.raises(ValueError, match=complaint):
        break_it(proxy)
    assert proxy.troubles == []


def test_a_certificate_that_there_is_not_is_refused(secure):
    with pytest.raises(ValueError, match="expired, wrong-host or untrusted"):
        secure.certificate("odd")
