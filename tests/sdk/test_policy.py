"""The default stack: its order, its figures, and what each of its layers takes for a failure."""

import warnings

import pytest

from llm_config_resilience import ManualClock, PipelineOrderWarning, RejectedError
from llm_config_sdk import errors
from llm_config_sdk.cache import EntryCache
from llm_config_sdk.policy import (
    BreakerPolicy,
    CachePolicy,
    ResiliencePolicy,
    Stack,
    is_endpoints_fault,
    is_outage,
    is_worth_repeating,
    is_worth_resending,
    was_never_sent,
)
from llm_config_sdk.transport import Endpoint
from llm_config_sdk.transport.mapping import IN_LINE

ENDPOINTS = [Endpoint.parse("http://a"), Endpoint.parse("http://b")]


def layers(pipeline):
    return [layer.kind for layer in pipeline.describe().layers]


def stack(policy=None, **options):
    clock = ManualClock()
    cache = EntryCache(CachePolicy(), clock)
    return Stack(policy, ENDPOINTS, cache=cache, clock=clock, **options)


def test_the_layers_stand_in_the_order_that_was_thought_through():
    made = stack(ResiliencePolicy())
    assert layers(made.cached_reads) == [
        "CacheFallback",
        "TotalTimeout",
        "SingleFlight",
        "CacheFallback",
        "PatientRetry",
        "Failover",
        "PerTarget",
    ]
    for pipeline in (made.reads, made.writes, made.repeatable_writes):
        assert layers(pipeline) == ["TotalTimeout", "PatientRetry", "Failover", "PerTarget"]
    assert layers(made.plain) == ["TotalTimeout", "Failover"]


def test_the_order_is_no_known_mistake():
    with warnings.catch_warnings():
        warnings.simplefilter("error", PipelineOrderWarning)
        stack(ResiliencePolicy())


def test_without_a_policy_there_is_a_deadline_and_the_primary():
    made = stack(None)
    assert layers(made.reads) == layers(made.writes) == ["TotalTimeout", "Failover"]
    assert made.breakers is None


def test_writes_know_the_primary_alone():
    made = stack(ResiliencePolicy())
    targets = [pipeline.layers[2].targets for pipeline in (made.reads, made.writes, made.repeatable_writes)]
    assert [len(each) for each in targets] == [2, 1, 1]


def test_reads_and_writes_share_breakers_and_one_retry_budget():
    made = stack(ResiliencePolicy())
    pipelines = (made.reads, made.writes, made.repeatable_writes)
    assert len({id(pipeline.layers[-1]) for pipeline in pipelines}) == 1
    assert len({id(pipeline.layers[1].budget) for pipeline in pipelines}) == 1


def test_the_figures_are_the_platforms():
    policy = ResiliencePolicy()
    assert (policy.retry.max_attempts, policy.retry.initial_backoff, policy.retry.max_backoff) == (
        3,
        0.1,
        10.0,
    )
    assert (policy.breaker.failure_threshold, policy.breaker.success_threshold, policy.breaker.timeout) == (
        5,
        2,
        60.0,
    )
    assert policy.attempt_timeout == 5.0


def made(cls, **facts):
    return cls("told", **facts)


@pytest.mark.parametrize(
    ("error", "outage", "repeat", "endpoint"),
    [
        (made(errors.ServiceUnavailableError, status=503), True, True, True),
        (made(errors.InternalError, status=500, retriable=False), True, False, False),
        (made(errors.RateLimitExceededError, status=429), True, True, False),
        (made(errors.InvalidRequestError, status=400, retriable=True), False, True, False),
        (made(errors.NotFoundError, status=404), False, False, False),
        (made(errors.UnauthorizedError, status=401), False, False, False),
        (made(errors.PermissionDeniedError, status=403), False, False, False),
        (made(errors.ValidationError, status=422), False, False, False),
        (made(errors.ConflictError, status=409, retriable=True), False, False, False),
        (made(errors.DecryptionError, status=500), False, False, False),
        (made(errors.StorageError, status=500, details={"kind": "StorageFull"}), True, False, False),
        (made(errors.ResponseDecodeError), True, False, False),
        (made(errors.ConnectFailedError), True, True, True),
        (made(errors.RequestTimeoutError), True, True, True),
        (made(errors.RequestTimeoutError, never_sent=True, details=IN_LINE), True, True, False),
        (RejectedError("full"), True, False, True),
        (KeyError("a defect"), False, False, False),
    ],
    ids=lambda part: type(part).__name__ if isinstance(part, Exception) else str(part),
)
def test_each_layer_acts_on_its_own_kind_of_error(error, outage, repeat, endpoint):
    assert (is_outage(error), is_worth_repeating(error), is_endpoints_fault(error)) == (
        outage,
        repeat,
        endpoint,
    )


def test_only_what_never_left_is_sent_again():
    assert was_never_sent(errors.ConnectFailedError("refused"))
    assert not was_never_sent(errors.RequestTimeoutError("slow"))
    assert not was_never_sent(errors.ServiceUnavailableError("busy", status=503))


def test_what_never_left_is_sent_again_unless_it_would_fail_again():
    assert is_worth_resending(errors.ConnectFailedError("refused"))
    assert not is_worth_resending(errors.ConnectFailedError("expired", details={"tls": "expired"}))
    assert not is_worth_resending(errors.ServiceUnavailableError("busy", status=503))


@pytest.mark.parametrize(
    ("policy", "figures"),
    [
        (CachePolicy, {"ttl": -1}),
        (CachePolicy, {"ttl": float("nan")}),
        (CachePolicy, {"stale_if_slow": -1}),
        (CachePolicy, {"max_entries": 0}),
        (BreakerPolicy, {"failure_threshold": 0}),
        (BreakerPolicy, {"patience": 0.5}),
        (BreakerPolicy, {"timeout": 0}),
        (ResiliencePolicy, {"attempt_timeout": 0}),
        (ResiliencePolicy, {"failback_after": -1}),
    ],
    ids=str,
)
def test_a_figure_that_makes_no_sense_is_refused(policy, figures):
    with pytest.raises(ValueError, match="must be"):
        policy(**figures)
