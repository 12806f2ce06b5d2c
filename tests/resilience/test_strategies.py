"""Timeout, fallback, failover and one strategy a target."""

from __future__ import annotations

import pickle

import anyio
import pytest

from llm_config_resilience import (
    AllTargetsFailedError,
    CircuitBreaker,
    CircuitOpenError,
    DeadlineExceededError,
    Failover,
    Fallback,
    Hedge,
    PerTarget,
    Pipeline,
    Retry,
    RetryPolicy,
    SingleFlight,
    Timeout,
    current,
)


def test_an_async_timeout_ends_what_is_inside(loop, clock, events):
    pipeline = Pipeline(Timeout(3), clock=clock, listeners=[events.append])
    with pytest.raises(DeadlineExceededError, match="within 3 s"):
        loop.run(pipeline.call_async, clock.sleep_async, 10)
    assert clock.monotonic() == 1003
    assert [event.kind for event in events] == ["timed_out"]


def test_a_real_async_timeout_ends_what_is_inside(loop):
    with pytest.raises(DeadlineExceededError):
        loop.run(Pipeline(Timeout(0.001)).call_async, anyio.sleep_forever)


def test_a_timeout_error_of_the_function_itself_stays_itself(loop):
    def fail():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own") as caught:
        loop.call(Pipeline(Timeout(60)), fail)
    assert type(caught.value) is TimeoutError


def test_a_late_sync_result_is_returned_with_an_event(clock, events):
    pipeline = Pipeline(Timeout(3), clock=clock, listeners=[events.append])
    assert pipeline.call(lambda: clock.advance(5) or "late") == "late"
    assert [event.kind for event in events] == ["late"]


def test_attempts_have_their_own_limit_inside_the_total(colour, clock):
    seen = []

    def work():
        seen.extend([current().remaining(), clock.monotonic() - 1000])
        clock.advance(3)
        raise ConnectionError

    pipeline = Pipeline(Timeout(8), Retry(RetryPolicy(9, jitter="none")), Timeout(5), clock=clock)
    with pytest.raises(ConnectionError):
        colour.call(pipeline, work)
    assert seen == pytest.approx([5, 0, 4.9, 3.1, 1.7, 6.3])


def test_the_limit_may_come_from_the_calls_arguments(colour, clock):
    pipeline = Pipeline(Timeout(lambda seconds: seconds), clock=clock)
    assert colour.call(pipeline, lambda _s: current().remaining(), 4) == 4
    assert colour.call(pipeline, lambda _s: current().remaining(), None) == float("inf")


def test_a_fallback_tries_its_sources_in_turn_and_says_which_answered(colour, events):
    def broken():
        raise LookupError("no snapshot")

    pipeline = Pipeline(
        Fallback(broken, lambda error: f"instead of {error}", "never"), listeners=[events.append]
    )

    def fail():
        raise OSError("down")

    answer = colour.answer(pipeline, fail)
    assert answer.value == "instead of down"
    assert (answer.source, answer.answered_by, answer.degraded) == ("fallback", "fallback", True)
    assert answer.index == 1
    assert str(answer.error) == "down"
    assert [(event.kind, event.details["source"]) for event in events] == [
        ("source_failed", 0),
        ("fell_back", 1),
    ]


def test_when_every_source_fails_the_original_error_goes_on_with_notes(colour):
    def broken():
        raise LookupError("no snapshot")

    def fail():
        raise OSError("down")

    with pytest.raises(OSError, match="down") as caught:
        colour.call(Pipeline(Fallback(broken)), fail)
    assert caught.value.__notes__ == ["fallback source 0 failed: LookupError: no snapshot"]


def test_a_fallback_answers_only_for_the_errors_it_is_for(colour):
    def fail():
        raise KeyError("k")

    with pytest.raises(KeyError):
        colour.call(Pipeline(Fallback(0, on=OSError)), fail)
    assert colour.call(Pipeline(Fallback(None, on=LookupError)), fail) is None


def test_an_async_source_is_awaited(loop):
    async def source(error):
        return type(error).__name__

    def fail():
        raise OSError

    assert loop.call(Pipeline(Fallback(source)), fail) == "OSError"


def test_failover_hands_targets_over_in_turn(colour, clock, events):
    def work(target, suffix):
        if target != "c":
            raise ConnectionError(target)
        return target + suffix

    pipeline = Pipeline(Failover(["a", "b", "c"]), clock=clock, listeners=[events.append])
    answer = colour.answer(pipeline, work, "!")
    assert (answer.value, answer.target, answer.calls) == ("c!", "c", 3)
    kinds = [(event.kind, event.target) for event in events]
    assert kinds == [("ejected", "a"), ("failed_over", "b"), ("ejected", "b"), ("failed_over", "c")]


def test_a_failed_target_is_asked_last_until_it_is_time_to_fail_back(colour, clock):
    down, asked = {"a"}, []

    def work(target):
        asked.append(target)
        if target in down:
            raise ConnectionError(target)
        return target

    pipeline = Pipeline(Failover(["a", "b"], failback_after=30), clock=clock)
    assert [colour.call(pipeline, work) for _ in range(2)] == ["b", "b"]
    assert asked == ["a", "b", "b"]
    down.clear()
    clock.advance(30)
    assert colour.call(pipeline, work) == "a"


def test_all_failures_are_kept_when_every_target_fails(colour, clock):
    def work(target):
        raise ConnectionError(target)

    with pytest.raises(AllTargetsFailedError) as caught:
        colour.call(Pipeline(Failover(["a", "b"]), clock=clock), work)
    assert caught.value.targets == ("a", "b")
    assert [str(error) for error in caught.value.exceptions] == ["a", "b"]
    assert caught.value.is_retriable
    with pytest.raises(ConnectionError, match="a"):
        colour.call(Pipeline(Failover(["a"]), clock=clock), work)


def test_an_answer_that_is_an_error_ends_the_search(colour, clock):
    asked = []

    def work(target):
        asked.append(target)
        raise KeyError(target)

    with pytest.raises(KeyError):
        colour.call(Pipeline(Failover(["a", "b"]), clock=clock), work)
    assert asked == ["a"]


def test_every_target_has_a_circuit_of_its_own_and_an_open_one_is_passed_over(colour, clock):
    asked = []

    def work(target):
        asked.append(target)
        if target == "a":
            raise ConnectionError
        return target

    circuits = PerTarget(lambda target: CircuitBreaker(2, name=target, timeout=1000))
    pipeline = Pipeline(Failover(["a", "b"], failback_after=0), circuits, clock=clock)
    assert [colour.call(pipeline, work) for _ in range(4)] == ["b"] * 4
    assert asked == ["a", "b", "a", "b", "b", "b"]
    assert {name: breaker.state for name, breaker in circuits.strategies.items()} == {
        "a": "open",
        "b": "closed",
    }


def test_the_whole_stack_in_its_default_order(colour, clock):
    down = {"a"}

    def work(target, key):
        if target in down:
            raise ConnectionError(target)
        return f"{target}:{key}"

    pipeline = Pipeline(
        Fallback("spare"),
        Timeout(10),
        Retry(RetryPolicy(jitter="none")),
        Failover(["a", "b"]),
        PerTarget(lambda target: CircuitBreaker(name=target)),
        Timeout(5),
        clock=clock,
    )
    assert pipeline.describe().warnings == ()
    assert colour.call(pipeline, work, "k") == "b:k"
    down.add("b")
    answer = colour.answer(pipeline, work, "k")
    assert (answer.value, answer.source, answer.attempts) == ("spare", "fallback", 3)
    assert isinstance(answer.error, AllTargetsFailedError)


@pytest.mark.parametrize(
    ("layers", "warning"),
    [
        ((CircuitBreaker(), Retry()), "breaker is outside retry"),
        ((Retry(), Fallback(0)), "retry is outside fallback"),
        ((Retry(), Retry()), "two retries"),
        ((Hedge(1), SingleFlight("key")), "hedge is outside single_flight"),
    ],
)
def test_a_known_mistake_in_the_order_is_warned_of(layers, warning):
    with pytest.warns(match=warning):
        Pipeline(*layers)


def test_a_pipeline_describes_itself():
    pipeline = Pipeline(Fallback(0), Retry(), CircuitBreaker(name="db"), Timeout(2), name="reads")
    description = pipeline.describe()
    assert [layer.label for layer in description.layers] == ["fallback", "retry", "db", "timeout"]
    assert str(description).splitlines()[0] == "reads"
    assert "timeout(seconds=2)" in str(description)


@pytest.mark.parametrize(
    "error", [CircuitOpenError("open", name="db", retry_after=3), DeadlineExceededError("slow")]
)
def test_errors_survive_pickling(error):
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.__dict__ == error.__dict__
