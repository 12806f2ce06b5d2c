"""Chaos: what it changes, how often, and that a seed repeats it."""

from __future__ import annotations

import threading

import pytest

from llm_config_resilience import (
    Chaos,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Fallback,
    Pipeline,
    Retry,
    Timeout,
)


def outcomes(colour, chaos, calls=200):
    pipeline, found = Pipeline(chaos), []
    for _ in range(calls):
        try:
            found.append(colour.call(pipeline, lambda: "real"))
        except ConnectionError:
            found.append("fault")
    return found


def test_the_same_seed_changes_the_same_calls_in_every_colour():
    from resilience.conftest import Colour  # noqa: PLC0415 - to have three of them in one test

    runs = [outcomes(Colour(name), Chaos(0.3, seed=7)) for name in ("sync", "asyncio", "trio")]
    assert runs[0] == runs[1] == runs[2]
    assert 40 <= runs[0].count("fault") <= 80
    assert outcomes(Colour("sync"), Chaos(0.3, seed=8)) != runs[0]
    drawn = Chaos(0.3)
    assert outcomes(Colour("sync"), drawn) == outcomes(Colour("sync"), Chaos(0.3, seed=drawn.seed))


def test_threads_do_not_change_how_many_calls_are_changed(colour):
    expected = outcomes(colour, Chaos(0.3, seed=7), 400).count("fault")
    chaos, barrier, faults = Chaos(0.3, seed=7), threading.Barrier(8), []
    pipeline = Pipeline(chaos)

    def work():
        barrier.wait()
        for _ in range(50):
            try:
                pipeline.call(int)
            except ConnectionError:
                faults.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(faults) == expected


@pytest.mark.parametrize(("rate", "faults"), [(0, 0), (1, 50)])
def test_a_rate_of_none_and_of_all(colour, rate, faults):
    assert outcomes(colour, Chaos(rate), 50).count("fault") == faults


def test_nothing_happens_unless_it_is_enabled_and_it_may_be_switched(colour):
    chaos = Chaos(1, result="wrong", result_rate=1, enabled=False)
    assert outcomes(colour, chaos, 3) == ["real"] * 3
    chaos.enabled = True
    assert outcomes(colour, chaos, 3) == ["fault"] * 3


@pytest.mark.parametrize(
    "error", [KeyError, KeyError("k"), lambda: KeyError("k")], ids=["class", "instance", "factory"]
)
def test_the_error_may_be_a_class_an_instance_or_made(colour, error):
    pipeline, raised = Pipeline(Chaos(1, error)), []
    for _ in range(2):
        with pytest.raises(KeyError) as caught:
            colour.call(pipeline, int)
        raised.append(caught.value)
    assert raised[0] is not raised[1]


def test_a_fault_does_not_reach_the_function(colour, events):
    ran = []
    pipeline = Pipeline(Chaos(1), listeners=[events.append])
    with pytest.raises(ConnectionError, match="injected by chaos"):
        colour.call(pipeline, ran.append, 1)
    assert ran == []
    assert [(event.kind, event.details) for event in events if event.layer] == [
        ("injected", {"what": "fault"})
    ]


def test_calls_for_which_the_predicate_is_false_are_left_alone(colour):
    pipeline = Pipeline(Chaos(1, when=lambda key: key.startswith("a")))
    assert colour.call(pipeline, str.upper, "b") == "B"
    with pytest.raises(ConnectionError):
        colour.call(pipeline, str.upper, "a")
    assert pipeline.layers[0]._count == 1


def test_latency_delays_calls_and_may_end_in_a_fault(colour, clock):
    pipeline = Pipeline(Chaos(0, latency=3, latency_rate=1), clock=clock)
    assert colour.call(pipeline, clock.monotonic) == 1003
    slow_fault = Pipeline(Chaos(1, latency=3, latency_rate=1), clock=clock)
    with pytest.raises(ConnectionError):
        colour.call(slow_fault, int)
    assert clock.monotonic() == 1006


def test_latency_may_be_a_range(colour, clock):
    pipeline = Pipeline(Chaos(0, latency=(1, 3), latency_rate=1, seed=1), clock=clock)
    for _ in range(20):
        colour.call(pipeline, int)
    assert len(set(clock.sleeps)) == 20
    assert all(1 <= seconds <= 3 for seconds in clock.sleeps)


def test_latency_beyond_the_deadline_ends_when_the_deadline_has_come_and_counts(colour, clock):
    breaker, ran = CircuitBreaker(1), []
    pipeline = Pipeline(Timeout(2), breaker, Chaos(0, latency=60, latency_rate=1), clock=clock)
    with pytest.raises(DeadlineExceededError, match="injected by chaos"):
        colour.call(pipeline, ran.append, 1)
    assert clock.monotonic() == pytest.approx(1002, abs=0.01)
    assert ran == []
    with pytest.raises(CircuitOpenError):
        colour.call(pipeline, int)


def test_results_are_changed_as_if_the_function_had_returned_them(colour, events):
    pipeline = Pipeline(Chaos(0, result={}, result_rate=1), listeners=[events.append])
    answer = colour.answer(pipeline, lambda: {"a": 1})
    assert (answer.value, answer.source, answer.answered_by, answer.degraded) == ({}, "call", "", False)
    assert [event.details for event in events if event.layer] == [{"what": "result"}]
    made = Pipeline(Chaos(0, result=lambda value: value[:1], result_rate=1))
    assert colour.call(made, lambda: [1, 2, 3]) == [1]
    none = Pipeline(Chaos(0, result=None, result_rate=1))
    assert colour.call(none, lambda: 1) is None


def test_a_share_of_the_results_is_changed(colour):
    found = outcomes(colour, Chaos(0, result="wrong", result_rate=0.5, seed=3))
    assert 70 <= found.count("wrong") <= 130


def test_what_is_outside_deals_with_it(colour, clock):
    pipeline = Pipeline(Fallback("spare"), Retry(), Chaos(1), clock=clock)
    answer = colour.answer(pipeline, lambda: "real")
    assert (answer.value, answer.attempts, answer.calls) == ("spare", 3, 0)


def test_the_settings_are_checked_and_shown():
    for bad in ({"fault_rate": 1.1}, {"latency_rate": -1}, {"result_rate": 2}):
        with pytest.raises(ValueError, match="must be a share"):
            Chaos(**bad)
    for bad in (-1, (3, 1)):
        with pytest.raises(ValueError, match="latency must be"):
            Chaos(latency=bad)
    assert Chaos(seed="x", latency=2).describe() == {
        "enabled": True,
        "fault_rate": 0.1,
        "latency": (2, 2),
        "latency_rate": 0.1,
        "result_rate": 0.0,
        "seed": "x",
    }


def test_it_warns_when_it_is_not_innermost():
    with pytest.warns(match="chaos is not innermost"):
        Pipeline(Chaos(), Timeout(1))
