"""The client against the 0.5 server: no switch but the header that its TLS check asks for."""

from functools import partial

import pytest

from llm_config_mock_server import MockServer, respond
from llm_config_sdk import CachePolicy, RateLimitExceededError, ResiliencePolicy, RetryPolicy

NAMESPACE = "app/llm"
BEHIND_TLS = {"X-Forwarded-Proto": "https"}
LIMITED = {"error": "Too Many Requests", "message": "Rate limit exceeded. Please try again later"}


@pytest.fixture
def server():
    with MockServer("upstream-0.5", limits=False, seed=1) as running:
        yield running


@pytest.fixture
def connect(face, server, clock):
    options = {"environment": "production", "clock": clock, "headers": BEHIND_TLS}
    return lambda **given: face.client(server.url, **{**options, **given})


@pytest.fixture
def put(server):
    return partial(server.put, NAMESPACE, env="production")


# --- Too many requests, and not a word of when there may be more ------------------------------------


def test_a_limit_without_retry_after_is_waited_out_for_a_second(connect, server, put, clock):
    put("model", "gpt-4")
    server.script("GET /api/*", respond(429, LIMITED))
    began = clock.monotonic()
    found = connect().get_config(NAMESPACE, "model")
    assert (found.value, found.attempts) == ("gpt-4", 2)
    assert 1.0 <= clock.monotonic() - began < 1.5


@pytest.mark.parametrize("retry", [RetryPolicy(), RetryPolicy.aggressive()], ids=["default", "aggressive"])
def test_it_is_tried_twice_in_all(connect, server, clock, retry):
    server.script("GET /api/*", respond(429, LIMITED), repeat="last")
    began = clock.monotonic()
    with pytest.raises(RateLimitExceededError) as caught:
        connect(resilience=ResiliencePolicy(retry=retry)).get_config(NAMESPACE, "model")
    server.journal.assert_count(2)
    assert (caught.value.attempts, caught.value.retry_after) == (2, None)
    assert "may ban" in caught.value.hint
    assert 1.0 <= clock.monotonic() - began < 1.5


def test_a_second_that_the_call_does_not_have_is_not_waited(connect, server, clock):
    server.script("GET /api/*", respond(429, LIMITED), repeat="last")
    began = clock.monotonic()
    with pytest.raises(RateLimitExceededError):
        connect(timeout=0.9).get_config(NAMESPACE, "model")
    server.journal.assert_count(1)
    assert clock.monotonic() == began


def test_a_limit_that_a_write_meets_is_raised_at_once_and_kept_to_by_reads(connect, server, put, clock):
    put("model", "gpt-4")
    server.script("POST /api/*", respond(429, LIMITED))
    client = connect(cache=CachePolicy(ttl=0))
    began = clock.monotonic()
    with pytest.raises(RateLimitExceededError):
        client.set_config(NAMESPACE, "model", "gpt-5")
    assert clock.monotonic() == began
    assert client.get_str(NAMESPACE, "model") == "gpt-4"
    assert 1.0 <= clock.monotonic() - began < 1.5


def test_a_stale_value_stands_in_for_a_limit(connect, server, put):
    put("model", "gpt-4")
    client = connect(cache=CachePolicy(ttl=0))
    client.get_config(NAMESPACE, "model")
    server.script("GET /api/*", respond(429, LIMITED), repeat="last")
    found = client.get_config(NAMESPACE, "model")
    assert (found.value, found.source) == ("gpt-4", "stale")
