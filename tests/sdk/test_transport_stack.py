"""The SDK's own connections: kept, bounded, thrown away when broken, and never lost."""

import asyncio
import os
import ssl
import subprocess
import sys
import threading
import traceback
from contextlib import suppress

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute

from llm_config_mock_server import MockServer, close, hang, latency, ok, reset, respond
from llm_config_resilience import ResilienceError
from llm_config_sdk import (
    AsyncConfigClient,
    AsyncStackTransport,
    ConfigClient,
    ConnectFailedError,
    InvalidRequestError,
    LLMConfigError,
    RequestTimeoutError,
    ResponseDecodeError,
    StackTransport,
    TransportError,
)
from llm_config_sdk.transport import Endpoint, WireRequest, stack as stack_module
from llm_config_sdk.transport.exchange import ReplyReader
from llm_config_sdk.transport.mounted import from_httpx
from llm_config_sdk.transport.pool import Pool

AMPLE = 5.0  # seconds


def health(server):
    return WireRequest("GET", Endpoint.parse(server.url), "/health", {})


class Wire:
    """One transport of the face's colour."""

    def __init__(self, face, **options):
        self.face = face
        make = AsyncStackTransport if face.is_async else StackTransport
        self.transport = make(**options)
        face.stack.callback(self.close)

    def send(self, request, timeout=AMPLE):
        return self.face.run(self.transport.send, self.transport.send, request, timeout)

    def close(self):
        self.face.run(getattr(self.transport, "close", None), getattr(self.transport, "aclose", None))

    @property
    def idle(self):
        (pool,) = self.transport._pools.values()
        return sum(len(links) for links in pool._idle.values())

    @property
    def free(self):
        (pool,) = self.transport._pools.values()
        return pool._free


@pytest.fixture(params=["httpx", "httpx2"])
def wire(request, face):
    return Wire(face, family=request.param, max_in_flight=2)


@pytest.fixture
def connections(server, monkeypatch):
    """Counts the connections that are opened."""
    opened = []
    for name in ("StackTransport", "AsyncStackTransport"):
        original = getattr(stack_module, name)._connect

        def connect(self, endpoint, deadline, original=original):
            opened.append(endpoint)
            return original(self, endpoint, deadline)

        monkeypatch.setattr(getattr(stack_module, name), "_connect", connect)
    return opened


def test_a_connection_is_used_again(wire, server, connections):
    for _ in range(3):
        assert wire.send(health(server)).status == 200
    assert len(connections) == 1
    assert (wire.idle, wire.free) == (1, 2)


def test_who_is_late_before_the_first_byte_has_sent_nothing(wire, server, connections):
    wire.send(health(server))
    with pytest.raises(RequestTimeoutError) as caught:
        wire.send(health(server), timeout=1e-9)
    assert caught.value.never_sent, "so that even a write may be made again"
    server.journal.assert_count(1)
    assert len(connections) == 1
    assert wire.free == 2


def test_a_connection_that_the_server_closed_is_noticed_and_replaced(wire, server, connections):
    server.script("*", [respond(200, headers={"connection": "close"}), ok()])
    wire.send(health(server))
    assert wire.idle == 0
    wire.send(health(server))
    assert len(connections) == 2


def test_a_server_that_was_restarted_costs_a_new_connection_and_no_error(wire, server, connections):
    wire.send(health(server))
    server.stop()
    server.start()
    assert wire.send(health(server)).status == 200
    assert len(connections) == 2


@pytest.mark.parametrize(
    "step", [reset(), close(), respond(200, b"x", headers={"content-encoding": "br"})], ids=repr
)
def test_a_connection_that_failed_is_thrown_away_and_its_slot_is_free(wire, server, connections, step):
    for _ in range(5):
        server.script("*", step)
        with pytest.raises((TransportError, ResponseDecodeError)):
            wire.send(health(server))
    assert (wire.idle, wire.free) == (0, 2)
    assert wire.send(health(server)).status == 200


def test_a_timeout_throws_the_connection_away_and_frees_the_slot(wire, server):
    server.script("*", hang(), times=2)
    for _ in range(2):
        with pytest.raises(RequestTimeoutError):
            wire.send(health(server), 0.05)
    assert (wire.idle, wire.free) == (0, 2)


@pytest.mark.parametrize("forever", [None, 1e7, 1e300, float("inf")])
def test_a_timeout_may_be_longer_than_the_system_counts(wire, server, forever):
    assert [wire.send(health(server), forever).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("step", [hang(), reset(), close(), respond(200, b"x" * 9)], ids=repr)
def test_no_frame_behind_an_error_leads_to_what_was_sent(face, server, step):
    """Debuggers climb from a frame to its callers, and those live as long as the error does."""
    wire = Wire(face, max_response_bytes=8)
    request = WireRequest("PUT", Endpoint.parse(server.url), "/health", {}, b"t0k3n")
    server.script("*", step)
    with pytest.raises((TransportError, ResponseDecodeError)) as caught:
        wire.send(request, 0.1)
    held = [repr(value) for frame in frames_behind(caught.value) for value in frame.f_locals.values()]
    assert held
    assert not [each for each in held if "t0k3n" in each]


def frames_behind(error):
    """Find all frames that lead from an error, and from those behind it, to the one that handles it."""
    found = []
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            climbing = frame
            while climbing is not None and climbing.f_code.co_filename != __file__:
                found.append(climbing)
                climbing = climbing.f_back
        error = error.__cause__ or error.__context__
    return found


def test_what_is_too_large_is_not_read_to_its_end(face, server):
    wire = Wire(face, max_response_bytes=1000)
    server.script("*", respond(200, b"x" * 100_000))
    with pytest.raises(ResponseDecodeError, match="larger than 1000 bytes"):
        wire.send(health(server))
    assert wire.idle == 0


def test_nobody_there_is_a_connection_that_failed(wire, server):
    server.stop()
    with pytest.raises(ConnectFailedError) as caught:
        wire.send(health(server))
    assert caught.value.never_sent
    assert caught.value.endpoint == server.url


def test_a_host_that_is_no_name_is_a_connection_that_failed(wire):
    with pytest.raises(ConnectFailedError) as caught:
        wire.send(WireRequest("GET", Endpoint.parse("http://a..b"), "/", {}))
    assert caught.value.never_sent


def test_a_closed_transport_sends_nothing(wire, server):
    wire.send(health(server))
    wire.close()
    assert wire.idle == 0
    with pytest.raises(InvalidRequestError, match="closed"):
        wire.send(health(server))


def test_https_is_checked_against_the_authority_that_was_given(face):
    with MockServer(tls=True) as server:
        assert Wire(face, verify=server.ssl_context).send(health(server)).status == 200
        with pytest.raises(ConnectFailedError, match="certificate is not accepted"):
            Wire(face).send(health(server))
        assert Wire(face, verify=False).send(health(server)).status == 200


def test_a_file_of_authorities_is_read_at_once(face, tmp_path):
    with MockServer(tls=True) as server:
        path = tmp_path / "ca.pem"
        server.ca.cert_pem.write_to_path(path)
        assert Wire(face, verify=str(path)).send(health(server)).status == 200
    path.write_text("no certificate")
    with pytest.raises(InvalidRequestError, match="CA certificates"):
        Wire(face, verify=str(path))


# --- Slots --------------------------------------------------------------------------------------


def test_whoever_comes_first_is_served_first():
    pool = Pool(1)
    assert pool.take(threading.Event) is None
    first, second = pool.take(threading.Event), pool.take(threading.Event)
    pool.give_back()
    assert (first.is_set(), second.is_set()) == (True, False)
    pool.give_back()
    assert second.is_set()


def test_a_slot_that_was_handed_to_somebody_who_left_is_passed_on():
    pool = Pool(1)
    pool.take(threading.Event)
    first, second = pool.take(threading.Event), pool.take(threading.Event)
    pool.give_back()
    pool.leave(first)
    assert second.is_set()
    pool.leave(second)
    assert pool.take(threading.Event) is None


def test_what_lies_idle_for_too_long_is_closed_though_nobody_takes_it(server):
    transport = StackTransport(max_in_flight=3)
    server.script("*", latency(0.05), repeat="last")
    threads = [threading.Thread(target=transport.send, args=(health(server), AMPLE)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (pool,) = transport._pools.values()
    (idle,) = pool._idle.values()
    assert len(idle) == 3
    for connection in list(idle)[:2]:
        connection.keep(-1.0)
    for left in (2, 1):
        transport.send(health(server), AMPLE)
        assert len(idle) == left
    transport.close()


@pytest.mark.parametrize("megabytes", [1, 6])
def test_a_server_that_answers_before_the_whole_request_is_read(wire, server, megabytes):
    endpoint = Endpoint.parse(server.url)
    target = "/api/v1/configs/app/n"
    headers = {"Content-Type": "text/plain", "Authorization": f"Bearer {server.token('admin')}"}
    request = WireRequest("POST", endpoint, target, headers, b"x" * (megabytes * 2**20))
    with suppress(TransportError):  # a reset may overtake the answer
        assert wire.send(request).status in {413, 415}
    assert wire.free == 2
    assert wire.send(health(server)).status == 200


def test_an_interrupt_frees_the_slot_and_throws_the_connection_away(server, monkeypatch):
    transport = StackTransport(max_in_flight=1)
    transport.send(health(server), AMPLE)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ReplyReader, "feed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.send(health(server), AMPLE)
    (pool,) = transport._pools.values()
    assert (pool._free, sum(map(len, pool._idle.values()))) == (1, 0)
    assert transport.send(health(server), AMPLE).status == 200
    transport.close()


def test_threads_share_a_few_connections(server, connections):
    with ConfigClient(server.url, token=server.token("admin"), max_in_flight=3, cache=None) as client:
        answers = []
        threads = [
            threading.Thread(target=lambda: [answers.append(client.health_check()) for _ in range(10)])
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answers) == 120
    assert len(connections) <= 3


@pytest.mark.parametrize("family", ["httpx", "httpx2"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_storm_of_cancellations_leaves_every_slot_free(server, backend, family):
    server.script("*", hang(), repeat="last")

    async def main():
        transport = AsyncStackTransport(max_in_flight=5, family=family)
        for round_ in range(4):
            async with anyio.create_task_group() as group:
                for _ in range(25):
                    group.start_soon(transport.send, health(server), AMPLE)
                for _ in range(round_ * 10):  # cancelled in line, while connecting, while waiting for bytes
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        (pool,) = transport._pools.values()
        assert (pool._free, len(pool._queue), sum(map(len, pool._idle.values()))) == (5, 0, 0)
        server.faults.clear()
        assert (await transport.send(health(server), AMPLE)).status == 200
        await transport.aclose()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("of", ["a request", "closing"])
async def test_a_cancellation_leaves_none_of_many_connections_open(server, of):
    transport = AsyncStackTransport()
    server.script("*", latency(0.05), repeat="last")
    await asyncio.gather(*(transport.send(health(server), AMPLE) for _ in range(3)))
    (pool,) = transport._pools.values()
    (idle,) = pool._idle.values()
    sockets = [connection._stream._stream.extra(SocketAttribute.raw_socket) for connection in idle]
    for connection in idle:
        connection.keep(-1.0)
    ending = transport.send(health(server), AMPLE) if of == "a request" else transport.aclose()
    task = asyncio.ensure_future(ending)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)  # asyncio closes a socket one step later
    assert [each.fileno() for each in sockets] == [-1] * 3
    await transport.aclose()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_call_ends_as_cancelled_and_trips_no_breaker(server, backend):
    server.script("*", hang(), repeat="last")

    async def main():
        async with AsyncConfigClient(server.url, token=server.token("admin")) as client:
            for number in range(1, 8):
                async with anyio.create_task_group() as group:
                    group.start_soon(client.get_config, "app", "n")
                    await anyio.to_thread.run_sync(server.journal.wait_for, number)
                    group.cancel_scope.cancel()
            (breaker,) = client._core.stack.breakers.strategies.values()
            assert breaker.state == "closed"

    anyio.run(main, backend=backend)


def test_an_async_client_may_be_used_from_one_loop_after_another(server):
    server.put("app", "n", 1)
    client = AsyncConfigClient(server.url, token=server.token("admin"), cache=None)

    async def twice():
        first = await client.get_value("app", "n")
        second = await client.get_value("app", "n")
        for connection in client._transport._pool_of(asyncio.get_running_loop()).drain():
            await connection.aclose()
        return first + second

    assert [asyncio.run(twice()) for _ in range(3)] == [2, 2, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform cannot fork")
def test_a_child_process_has_connections_and_slots_of_its_own():
    # In a program of its own: this one has threads, and forking those is what no program should do.
    program = """
import os, sys
from llm_config_sdk import StackTransport
transport = StackTransport(max_in_flight=1)
parents = transport._pool_of(transport)
assert parents.take(object) is None
child = os.fork()
if child == 0:
    own = transport._pool_of(transport)
    os._exit(0 if own is not parents and own.take(object) is None else 1)
_, status = os.waitpid(child, 0)
assert transport._pool_of(transport) is parents
sys.exit(os.waitstatus_to_exitcode(status))
"""

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


# --- Connecting, and what a caller is handling meanwhile ------------------------------------------


def test_what_a_caller_is_handling_says_nothing_of_an_exchange(wire, server):
    server.script("*", reset())
    mine = ssl.SSLCertVerificationError(1, "of another server: bytearray(my own text)")
    mine.verify_message = "certificate has expired"
    with pytest.raises(TransportError) as caught:  # noqa: PT012
        try:
            raise mine
        except ssl.SSLError:
            wire.send(health(server))
    assert not isinstance(caught.value, ConnectFailedError)
    assert not caught.value.never_sent
    assert mine.args == (1, "of another server: bytearray(my own text)")
    assert mine.__traceback__ is not None


def test_connections_to_other_servers_do_not_lie_idle_for_ever(server, backup):
    transport = StackTransport()
    transport.send(health(server), AMPLE)
    transport.send(health(backup), AMPLE)
    (pool,) = transport._pools.values()
    for idle in pool._idle.values():
        for connection in idle:
            connection.keep(-1.0)
    transport.send(health(server), AMPLE)
    assert sum(map(len, pool._idle.values())) == 1
    transport.close()


def test_a_connection_that_comes_back_to_a_closed_transport_is_closed(server):
    transport = StackTransport()
    transport.send(health(server), AMPLE)
    (pool,) = transport._pools.values()
    (idle,) = pool._idle.values()
    connection = idle[0]
    transport.close()
    assert not transport._keep(pool, Endpoint.parse(server.url), connection)
    assert not idle


# --- Mounted in a client of httpx ---------------------------------------------------------------


def test_it_serves_a_client_of_httpx_in_the_terms_of_httpx(server):
    with httpx.Client(transport=StackTransport(), base_url=server.url) as client:
        response = client.get("/health", params={"a": "b"})
        assert response.json()["status"] == "healthy"
        assert server.journal[-1].request.target == "/health?a=b"
        server.script("*", [close(), hang()])
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/health")
        with pytest.raises(httpx.ReadTimeout):
            client.get("/health", timeout=0.05)
        server.stop()
        with pytest.raises(httpx.ConnectError) as caught:
            client.get("/health")
        assert isinstance(caught.value.__cause__, ConnectFailedError)


def test_cookies_hosts_and_lengths_pass_as_with_httpxs_own_transport(server):
    with httpx.Client(transport=StackTransport(), base_url=server.url) as client:
        cookies = {"set-cookie": "a=1", "Set-Cookie": "b=2"}
        server.script("*", respond(200, b"", headers=cookies))
        assert dict(client.get("/health").cookies) == {"a": "1", "b": "2"}
        client.get("/health", headers={"Host": "virtual.example", "X-Snow": "\N{SNOWMAN}".encode()})
        assert server.journal[-1].request.header("host") == "virtual.example"
        assert int(client.head("/health").headers["content-length"]) > 0


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [(2.0, 2.0), (httpx.Timeout(1.0, read=3.0), 3.0), (httpx.Timeout(None, connect=0.3), None), (None, None)],
)
def test_the_longest_of_httpxs_timeouts_counts(timeout, expected):
    request = httpx.Client(timeout=timeout).build_request("GET", "http://a/")
    assert from_httpx(request, b"")[1] == expected


async def test_its_async_twin_does_too(server):
    async with httpx.AsyncClient(transport=AsyncStackTransport(), base_url=server.url) as client:
        assert (await client.get("/health")).json()["status"] == "healthy"
        server.script("*", hang())
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/health", timeout=0.05)


def test_a_client_of_the_sdk_may_be_given_such_a_client(server):
    server.put("app", "n", 1)
    with httpx.Client(transport=StackTransport()) as http_client:
        client = ConfigClient(server.url, token=server.token("admin"), http_client=http_client)
        assert client.get_value("app", "n") == 1
        client.close()
        assert not http_client.is_closed


def test_no_error_of_the_toolkits_or_a_librarys_reaches_a_caller(connect_any, server):
    server.script("*", [reset(), close()], repeat="all")
    client = connect_any()
    for _ in range(4):
        with pytest.raises(LLMConfigError) as caught:
            client.get_config("app", "n")
        assert not isinstance(caught.value, ResilienceError)
        assert caught.value.__cause__ is not None
