"""A client's wrong argument is refused where it is given, by its name; what may be a secret is not shown."""

from math import nan

import pytest
from pydantic import BaseModel

from llm_config_sdk import (
    AsyncConfigClient,
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    InvalidRequestError,
    InvalidValueError,
    RateLimitPolicy,
    ResiliencePolicy,
    SnapshotPolicy,
)

NOBODY = "http://127.0.0.1:9"


class Tuning(BaseModel):
    temperature: float = 0.7


async def later(change):
    raise NotImplementedError


OF_THE_CONSTRUCTOR = [
    ({"backups": 5}, "backups must be base URLs, not int"),
    ({"bootstrap": 5}, "bootstrap must be a path or None, not int"),
    ({"cache": True}, "cache must be a CachePolicy, the URL of a Redis or None, not bool"),
    ({"cache": CachePolicy}, "not the class CachePolicy itself"),
    ({"cert": 5}, "cert must be a path, or a certificate, its key and its password, or None, not int"),
    ({"clock": 5}, r"clock must be a Clock, such as ManualClock\(\), not int"),
    ({"fallback": 5}, r"fallback must be a mapping of \(namespace, key\) to values or None, not int"),
    ({"fallback": {"model": 1}}, "fallback must have pairs of namespace and key as its keys, not 'model'"),
    ({"fallback": {("a", "b", "c"): 1}}, "pairs of namespace and key as its keys, not"),
    ({"headers": [("X-Team", "a")]}, "headers must be a mapping of names to values or None, not list"),
    ({"listeners": print}, "listeners must be several callables, not builtin_function_or_method"),
    ({"listeners": [5]}, "listeners must be callable, not int"),
    ({"max_in_flight": "3"}, "max_in_flight must be a whole number from 1, not '3'"),
    ({"max_in_flight": 1.5}, "max_in_flight must be a whole number from 1, not 1.5"),
    ({"resilience": "none"}, "resilience must be a ResiliencePolicy or None, not str"),
    ({"snapshot": 5}, "snapshot must be a SnapshotPolicy, a path, True, False or None, not int"),
]

OF_A_COPY = [
    ({"cache": 5}, "cache must be a CachePolicy"),
    ({"cache": "redis://127.0.0.1"}, "shared through Redis is for the constructor to say"),
    ({"headers": "X-Team"}, "headers must be a mapping"),
    ({"resilience": 5}, "resilience must be a ResiliencePolicy or None, not int"),
    ({"timeout": "5"}, "timeout must be more than 0 seconds, not '5'"),
]

OF_A_CALL = [
    (("get_config", "a", "k"), {"timeout": "5"}, "timeout must be more than 0 seconds, not '5'"),
    (("get_config", "a", "k"), {"timeout": True}, "timeout must be more than 0 seconds, not True"),
    (("set_many", [("a", "k")]), {}, r"values must be a mapping of \(namespace, key\) to values, not list"),
    (("bind", dict, "a"), {}, "model must be a subclass of pydantic.BaseModel, not the class dict itself"),
    (("bind", Tuning(), "a"), {}, "model must be a subclass of pydantic.BaseModel, not Tuning"),
    (("on_change", 5, "a"), {}, "callback must be a plain function, not int"),
    (("on_change", later, "a"), {}, "callback must be a plain function, not an async one"),
    (("watch", "a"), {"interval": "1"}, "interval must be more than 0 seconds, not '1'"),
    (("request", "GET", 5), {}, "path must begin with one '/', be percent-encoded and have no fragment: 5"),
]

OF_A_POLICY = [
    (
        BreakerPolicy,
        {"failure_threshold": "5"},
        TypeError,
        "failure_threshold must be a whole number, not '5'",
    ),
    (BreakerPolicy, {"timeout": 0}, ValueError, "timeout must be more than 0, not 0"),
    (CachePolicy, {"ttl": "30"}, TypeError, "ttl must be a number, not '30'"),
    (CachePolicy, {"stale_if_slow": -1}, ValueError, "stale_if_slow must be 0 or more, not -1"),
    (CachePolicy, {"max_entries": 0}, ValueError, "max_entries must be 1 or more, not 0"),
    (RateLimitPolicy, {"rate": nan}, ValueError, "rate must be more than 0, not nan"),
    (ResiliencePolicy, {"retry": 3}, TypeError, "retry must be a RetryPolicy, not 3"),
    (ResiliencePolicy, {"breaker": BreakerPolicy}, TypeError, "not the class BreakerPolicy itself"),
    (ResiliencePolicy, {"rate_limit": 8}, TypeError, "rate_limit must be a RateLimitPolicy, not 8"),
    (ResiliencePolicy, {"attempt_timeout": 0}, ValueError, "attempt_timeout must be more than 0, not 0"),
    (SnapshotPolicy, {"max_age": -1}, ValueError, "max_age must be 0 or more, not -1"),
]

FACES = pytest.mark.parametrize("face", [ConfigClient, AsyncConfigClient])


@FACES
@pytest.mark.parametrize(("wrong", "said"), OF_THE_CONSTRUCTOR)
def test_the_constructor_says_which_argument_is_wrong(face, wrong, said):
    with pytest.raises(InvalidRequestError, match=said):
        face(NOBODY, **wrong)


@FACES
@pytest.mark.parametrize(("wrong", "said"), OF_A_COPY)
def test_so_does_a_copy_with_other_options(face, wrong, said):
    with pytest.raises(InvalidRequestError, match=said):
        face(NOBODY).with_options(**wrong)


@pytest.mark.parametrize(("call", "options", "wrong"), OF_A_CALL)
async def test_so_does_a_call_before_anything_is_asked(call, options, wrong):
    name, *arguments = call
    async with AsyncConfigClient(NOBODY) as client:
        with pytest.raises(InvalidRequestError, match=wrong):
            await getattr(client, name)(*arguments, **options)
    with ConfigClient(NOBODY) as client, pytest.raises(InvalidRequestError, match=wrong):
        getattr(client, name)(*arguments, **options)


@pytest.mark.parametrize(("policy", "wrong", "error", "said"), OF_A_POLICY)
def test_so_does_a_policy(policy, wrong, error, said):
    with pytest.raises(error, match=said):
        policy(**wrong)


def test_what_may_be_a_secret_is_not_shown():
    for wrong in ({"headers": "s3cret"}, {"cert": ["s3cret"]}, {"resilience": "s3cret"}):
        with pytest.raises(InvalidRequestError) as caught:
            ConfigClient(NOBODY, **wrong)
        assert "s3cret" not in f"{caught.value!r} {caught.value}"


def test_no_snapshot_can_be_said_in_two_ways():
    for snapshot in (None, False):
        with ConfigClient(NOBODY, snapshot=snapshot) as client:
            assert client._core.snapshot is None


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def circular():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (nan, r"not finite \(NaN, Infinity\)"),
        (circular(), "refers to itself"),
        (nested(100_000), "it is nested too deeply"),
        ("\ud800", "a string of it is no valid Unicode"),
        ({1, 2}, "set is not JSON serializable"),
    ],
)
def test_a_value_that_cannot_be_written_says_why(value, why):
    with ConfigClient(NOBODY) as client, pytest.raises(InvalidValueError, match=why):
        client.set_config("app/llm", "model", value)
