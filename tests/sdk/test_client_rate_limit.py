"""A limit of the client's own: kept to by all of its calls, and below what the 0.5 server bans for."""

import random
import threading
from contextlib import suppress

import anyio
import pytest

from llm_config_mock_server import MockServer, error
from llm_config_mock_server.messages import At
from llm_config_mock_server.profiles.upstream_0_5.gate import DOCUMENTED, Bucket
from llm_config_sdk import (
    BreakerPolicy,
    CachePolicy,
    RateLimitExceededError,
    RateLimitPolicy,
    ResiliencePolicy,
    RetryPolicy,
)

NAMESPACE = "app/llm"
NAME = (NAMESPACE, "model")
LIMITED = ResiliencePolicy(rate_limit=RateLimitPolicy.server_0_5())
ONE_A_SECOND = ResiliencePolicy(rate_limit=RateLimitPolicy(rate=1, burst=1))


@pytest.fixture
def banning(clock):
    """The published server with its limits, on the client's time."""

    def at():
        return At(round(clock.time() * 1e9), clock.monotonic())

    with MockServer("upstream-0.5", seed=1, clock=at) as running:
        running.put(*NAME, "gpt-4", env="production")
        yield running


@pytest.fixture
def connect_to_banning(face, banning, clock):
    def connecting(**options):
        given = {
            "environment": "production",
            "headers": {"X-Forwarded-Proto": "https"},
            "cache": None,
            "resilience": LIMITED,
            "clock": clock,
            "timeout": 60,
        }
        return face.client(banning.url, **{**given, **options})

    return connecting


def statuses(server):
    return {entry.status for entry in server.journal}


# --- Never banned -----------------------------------------------------------------------------------


def test_hundreds_of_calls_break_no_limit_of_the_server(connect_to_banning, banning, clock):
    client = connect_to_banning()
    began = clock.monotonic()
    for number in range(200):
        client.get_config(*NAME)
        if number % 10 == 0:
            client.set_config(NAMESPACE, "written", number)
            client.list_configs(NAMESPACE)
    banning.journal.assert_count(240)
    assert statuses(banning) == {200}
    assert clock.monotonic() - began == pytest.approx((240 - 5) / 8, rel=0.01), "and none waited too long"


def test_without_a_limit_the_same_calls_are_banned(connect_to_banning, banning):
    client = connect_to_banning(resilience=ResiliencePolicy(breaker=None, retry=None))
    for _ in range(30):
        with suppress(RateLimitExceededError):
            client.get_config(*NAME)
    assert statuses(banning) == {200, 429}, "the test would see a limit that is broken"


def test_pauses_and_bursts_break_no_limit_either(connect_to_banning, banning, clock):
    client, drawn = connect_to_banning(), random.Random(7)
    for _ in range(40):
        for _ in range(drawn.randrange(12)):
            client.get_config(*NAME)
        clock.advance(drawn.choice([0.01, 0.1, 0.4, 1.0, 3.0]))
    assert statuses(banning) == {200}


def test_retries_count_too(connect_to_banning, banning, clock):
    client = connect_to_banning(
        resilience=ResiliencePolicy(
            rate_limit=RateLimitPolicy.server_0_5(),
            retry=RetryPolicy(max_attempts=5, initial_backoff=0.001, max_backoff=0.001),
            breaker=None,
        )
    )
    banning.script("GET *", error("SERVICE_UNAVAILABLE"), repeat="last", probability=0.5)
    for _ in range(40):
        client.get_config(*NAME, fallback=None)
    assert len(banning.journal) > 60
    assert statuses(banning) == {200, 503}


def test_callers_at_once_and_copies_share_one_limit(connect_to_banning, banning, face):
    policy = ResiliencePolicy(rate_limit=RateLimitPolicy(rate=0.001, burst=5))
    client = connect_to_banning(resilience=policy)
    clients = [client, client.with_options(timeout=5), client.with_options(resilience=policy)]
    callers, refused = 12, []
    options = {"fresh": True}  # each asks for itself

    def from_threads():
        def ask(number):
            try:
                clients[number % 3].get_config(*NAME, **options)
            except RateLimitExceededError as error:
                refused.append(error)

        threads = [threading.Thread(target=ask, args=[number]) for number in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    async def from_tasks():
        async def ask(number):
            try:
                await clients[number % 3].client.get_config(*NAME, **options)
            except RateLimitExceededError as error:
                refused.append(error)

        async with anyio.create_task_group() as group:
            for number in range(callers):
                group.start_soon(ask, number)

    face.run(from_threads, from_tasks)
    banning.journal.assert_count(5)
    assert len(refused) == callers - 5
    assert statuses(banning) == {200}


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_that_share_an_address_share_its_limit(connect_to_banning, banning, clock, processes):
    part = ResiliencePolicy(rate_limit=RateLimitPolicy.server_0_5(processes=processes))
    clients = [connect_to_banning(resilience=part) for _ in range(processes)]
    began = clock.monotonic()
    for _ in range(100 // processes):
        for client in clients:
            client.get_config(*NAME)
    assert statuses(banning) == {200}
    assert clock.monotonic() > began


def test_the_preset_bears_requests_that_the_network_bunches():
    # Requests leave as early as the preset lets them, are 0.5 s on the way or none, and arrive in a bunch.
    preset = RateLimitPolicy.server_0_5()
    sent = [0.0] * preset.burst + [number / preset.rate for number in range(1, 400)]
    for seed in range(50):
        drawn, server = random.Random(seed), Bucket(DOCUMENTED)
        arrivals = sorted(moment + drawn.choice([0.0, 0.5]) for moment in sent)
        assert all(server.take(round(moment * 1e9)) for moment in arrivals)


# --- A call that cannot wait ------------------------------------------------------------------------


def test_a_call_that_cannot_wait_so_long_is_told_at_once(connect_any, server, clock):
    server.put(*NAME, "gpt-4", env="production")
    client = connect_any(cache=None, resilience=ONE_A_SECOND)
    client.get_config(*NAME)
    with pytest.raises(RateLimitExceededError, match="to keep to the client's own limit") as caught:
        client.get_config(*NAME, timeout=0.5)
    assert (caught.value.retry_after, caught.value.code, caught.value.status) == (
        pytest.approx(1.0),
        None,
        None,
    )
    assert "rate_limit=" in caught.value.hint
    assert caught.value.endpoint == server.url
    assert clock.sleeps == []
    server.journal.assert_count(1)
    assert client.get_config(*NAME, timeout=1.5).value == "gpt-4", "who has the time waits"
    assert clock.sleeps == [pytest.approx(1.0)]


def test_a_local_rejection_opens_no_circuit(connect, server):
    server.put(*NAME, "gpt-4", env="production")
    policy = ResiliencePolicy(
        rate_limit=RateLimitPolicy(rate=1), breaker=BreakerPolicy(failure_threshold=1), retry=None
    )
    client = connect(cache=None, resilience=policy)
    client.get_config(*NAME)
    for _ in range(5):
        with pytest.raises(RateLimitExceededError):
            client.get_config(*NAME, timeout=0.1)
    assert [(each.circuit, each.is_healthy) for each in client.endpoints] == [("closed", True)]


def test_a_stale_value_stands_in_for_a_call_that_cannot_wait(connect, server):
    server.put(*NAME, "gpt-4", env="production")
    client = connect(cache=CachePolicy(ttl=0), resilience=ONE_A_SECOND)
    client.get_config(*NAME)
    found = client.get_config(*NAME, timeout=0.5)
    assert (found.value, found.source, found.error.is_rate_limited) == ("gpt-4", "stale", True)


def test_each_endpoint_has_a_limit_of_its_own(connect, server, backup):
    for each in (server, backup):
        each.put(*NAME, each.url, env="production")
    client = connect(cache=None, resilience=ONE_A_SECOND, backups=[backup.url])
    assert client.get_config(*NAME).endpoint == server.url
    assert client.get_config(*NAME, timeout=0.5).endpoint == backup.url, "which it does not wait for"
    assert all(each.is_healthy for each in client.endpoints)


def test_a_health_check_waits_for_nothing(connect, server, clock):
    client = connect(resilience=ONE_A_SECOND)
    for _ in range(3):
        assert client.health_check().is_healthy
    assert clock.sleeps == []


def test_a_copy_with_another_policy_has_its_limit_or_none(connect, server, clock):
    server.put(*NAME, "gpt-4", env="production")
    client = connect(cache=None, resilience=ONE_A_SECOND)
    client.get_config(*NAME)
    for policy in (None, ResiliencePolicy(), ResiliencePolicy(rate_limit=RateLimitPolicy(rate=2))):
        client.with_options(resilience=policy).get_config(*NAME)
    assert clock.sleeps == []


def test_there_is_no_limit_unless_asked_for(connect, server, clock):
    server.put(*NAME, "gpt-4", env="production")
    client = connect(cache=None)
    for _ in range(30):
        client.get_config(*NAME)
    assert clock.sleeps == []
    assert ResiliencePolicy().rate_limit is None


@pytest.mark.parametrize(
    "figures", [{"rate": 0}, {"rate": -1}, {"rate": float("nan")}, {"rate": 1, "burst": 0}], ids=str
)
def test_a_limit_that_makes_no_sense_is_refused(figures):
    with pytest.raises(ValueError, match="must be"):
        RateLimitPolicy(**figures)


@pytest.mark.parametrize("processes", [0, 6])
def test_a_number_of_processes_that_cannot_be_kept_below_the_limit_is_refused(processes):
    with pytest.raises(ValueError, match="processes must be"):
        RateLimitPolicy.server_0_5(processes=processes)
