"""The total deadline, on real sockets and in real time: the only tests of the client that take any.

What is measured is bounded from below by the deadline, and from above by far more than a busy machine needs;
without a deadline each of these servers would hold the call for ever.
"""

import time

import pytest

from llm_config_mock_server import drip, hang, latency, stall
from llm_config_resilience import RetryPolicy, SystemClock
from llm_config_sdk import ConfigClient, RequestTimeoutError, ResiliencePolicy, policy
from llm_config_sdk.transport.slots import running_loop

DEADLINE = 0.1  # seconds
AMPLE = 3.0  # seconds: a hundred times what is expected, and below every fault's own end


@pytest.fixture
def clock():
    return SystemClock()


def timed(call):
    started = time.monotonic()
    with pytest.raises(RequestTimeoutError) as caught:
        call()
    return caught.value, time.monotonic() - started


@pytest.mark.parametrize(
    "step", [hang(), stall(), drip(0.01, part="head"), drip(0.05, part="body")], ids=repr
)
def test_no_server_holds_a_call_beyond_its_deadline(connect, server, step):
    server.put("app", "n", "x" * 400, env="production")
    server.script("*", step, repeat="last")
    error, seconds = timed(lambda: connect(timeout=DEADLINE).get_config("app", "n"))
    assert DEADLINE <= seconds < AMPLE
    assert error.is_transient
    assert error.operation == "get_config"
    assert error.endpoint in {server.url, None}


@pytest.mark.parametrize("step", [hang(), stall(), drip(0.05, part="body")], ids=repr)
def test_an_injected_client_keeps_the_deadline_up_to_the_body(connect_any, server, step):
    server.put("app", "n", "x" * 400, env="production")
    server.script("*", step, repeat="last")
    _, seconds = timed(lambda: connect_any(timeout=DEADLINE).get_config("app", "n"))
    assert DEADLINE <= seconds < AMPLE


def test_a_write_that_hangs_is_sent_once(connect, server):
    server.script("POST /api/*", hang(), repeat="last")
    client = connect(timeout=30, resilience=ResiliencePolicy(attempt_timeout=0.5))
    error, _ = timed(lambda: client.set_config("app", "n", 1))
    assert not error.never_sent
    assert error.attempts == 1, "though there was time for more"
    server.journal.assert_count(1)


def test_the_deadline_of_a_call_stands_before_the_clients(connect, server):
    server.script("*", hang(), repeat="last")
    _, seconds = timed(lambda: connect(timeout=60).get_config("app", "n", timeout=DEADLINE))
    assert DEADLINE <= seconds < AMPLE


def test_an_attempt_that_hangs_leaves_time_for_the_next(connect_any, server):
    server.put("app", "n", 1, env="production")
    server.script("*", hang())
    retry = RetryPolicy(max_attempts=10, initial_backoff=0.001)  # a busy machine may need more than two
    patient = ResiliencePolicy(attempt_timeout=0.1, retry=retry, breaker=None)
    found = connect_any(timeout=30, resilience=patient).get_config("app", "n")
    assert found.value == 1
    assert found.attempts >= 2


def test_resolve_has_one_deadline_for_all_its_requests(face, connect, server):
    # One after the other in sync, all at once in async.
    server.script("*", latency(1.0 if face.is_async else 0.15), repeat="last")
    _, seconds = timed(lambda: connect(timeout=0.4).resolve("app", "n"))
    assert 0.4 <= seconds < AMPLE


def test_a_call_waits_in_line_no_longer_than_its_deadline_and_blames_no_endpoint(face, server, monkeypatch):
    monkeypatch.setattr(policy, "_GRACE", AMPLE)  # a stalled machine must not let the backstop be first
    server.put("app", "n", 1, env="production")
    client = face.client(
        server.url,
        token=server.token("admin"),
        environment="production",
        max_in_flight=1,
        resilience=ResiliencePolicy(retry=None),
        cache=None,
    )
    core, transport = client.client._core, client.client._transport
    pool = face.run(lambda: transport._pool_of(transport), lambda: _own_pool(transport))
    assert pool.take(object) is None, "somebody else has the only slot"
    for _ in range(6):
        error, _ = timed(lambda: client.get_config("app", "n", timeout=0.05))
        assert error.never_sent
    assert [breaker.state for breaker in core.stack.breakers.strategies.values()] == ["closed"]
    assert len(server.journal) == 0
    pool.give_back()
    assert client.get_value("app", "n") == 1


async def _own_pool(transport):
    return transport._pool_of(running_loop())


def test_a_client_that_is_unauthorized_fails_at_once(server):
    started = time.monotonic()
    with ConfigClient(server.url, token="wrong") as client, pytest.raises(Exception, match="UNAUTHORIZED"):
        client.get_config("app", "n")
    assert time.monotonic() - started < AMPLE
    server.journal.assert_count(1)


@pytest.mark.parametrize("timeout", [1e10, 1e300, float("inf")])
def test_a_deadline_beyond_what_a_socket_can_wait_is_none(connect_any, server, timeout):
    server.put("app", "n", 1, env="production")
    patient = ResiliencePolicy(attempt_timeout=None)
    assert connect_any(timeout=timeout, resilience=patient).get_config("app", "n").value == 1
