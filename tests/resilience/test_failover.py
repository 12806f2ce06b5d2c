"""Failover: health of targets, ejection, probes and failback."""

from __future__ import annotations

import anyio
import pytest

from llm_config_resilience import (
    AllTargetsFailedError,
    CircuitOpenError,
    Failover,
    Pipeline,
    RejectedError,
    TargetStatus,
    Timeout,
)


class Targets:
    """A function that fails on targets that are down, and writes down whom it asked."""

    def __init__(self, *down, error=ConnectionError):
        self.down = set(down)
        self.error = error
        self.asked = []

    def __call__(self, target):
        self.asked.append(target)
        if target in self.down:
            raise self.error(target)
        return target


def stack(clock, *targets, events=(), **settings):
    failover = Failover(targets, **settings)
    pipeline = Pipeline(failover, clock=clock, listeners=events, random=lambda: 0.5)
    return failover, pipeline


def test_a_target_fails_as_often_as_it_may_before_it_is_ejected(colour, clock):
    failover, pipeline = stack(clock, "a", "b", failure_threshold=3)
    work = Targets("a")
    for _ in range(4):
        assert colour.call(pipeline, work) == "b"
    assert work.asked == ["a", "b"] * 3 + ["b"]
    assert failover.health == (TargetStatus("a", "ejected", 3, 1), TargetStatus("b", "well", 0, 0))


def test_a_success_starts_the_count_anew(colour, clock):
    failover, pipeline = stack(clock, "a", "b", failure_threshold=2)
    work = Targets()
    for down in ({"a"}, set(), {"a"}, set()):
        work.down = down
        colour.call(pipeline, work)
    assert failover.health[0].state == "well"


def test_a_rate_ejects_where_failures_never_come_in_a_row(colour, clock):
    failover, pipeline = stack(clock, "a", "b", failure_threshold=99, failure_rate=0.5, minimum_calls=6)
    work = Targets()
    for number in range(6):
        assert failover.health[0].state == "well"
        work.down = {"a"} if number % 2 else set()
        colour.call(pipeline, work)
    assert failover.health[0].state == "ejected"


def test_the_last_target_is_never_ejected(colour, clock, events):
    failover, pipeline = stack(clock, "a", "b", "c", events=[events.append])
    work = Targets("a", "b", "c")
    for _ in range(3):
        with pytest.raises(AllTargetsFailedError):
            colour.call(pipeline, work)
    assert [status.state for status in failover.health] == ["ejected", "ejected", "well"]
    assert [event.target for event in events if event.kind == "ejected"] == ["a", "b"]
    assert work.asked == [*"abc", *"cab", *"cab"]


def test_calls_stay_with_the_backup_until_enough_probes_have_succeeded(colour, clock, events):
    _, pipeline = stack(clock, "a", "b", events=[events.append], success_threshold=3)
    work = Targets("a")
    colour.call(pipeline, work)
    work.down.clear()
    clock.advance(29)
    assert colour.call(pipeline, work) == "b"
    clock.advance(1)
    assert [colour.call(pipeline, work) for _ in range(3)] == ["a", "a", "a"]
    assert [event.kind for event in events] == ["ejected", "failed_over", "readmitted"]


def test_one_call_at_a_time_probes_and_the_others_stay_with_the_backup(loop, clock):
    _, pipeline = stack(clock, "a", "b")
    loop.call(pipeline, Targets("a"))
    clock.advance(30)
    asked = []

    async def work(target):
        asked.append(target)
        await clock.sleep_async(1)
        return target

    async def main():
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(pipeline.call_async, work)

    loop.run(main)
    assert sorted(asked) == ["a", "b", "b", "b", "b"]


def test_a_failed_probe_ejects_for_longer_each_time(colour, clock, events):
    _, pipeline = stack(clock, "a", "b", events=[events.append], failback_after=10)
    work = Targets("a")
    for seconds in (10, 20, 40, 80, 100, 100):
        colour.call(pipeline, work)
        clock.advance(seconds - 1)
        assert colour.call(pipeline, work) == "b"
        clock.advance(1)
    assert [event.delay for event in events if event.kind == "ejected"] == [10, 20, 40, 80, 100, 100]
    assert work.asked.count("a") == 6


def test_a_cancelled_probe_gives_its_place_back(loop, clock):
    _, pipeline = stack(clock, "a", "b")
    loop.call(pipeline, Targets("a"))
    clock.advance(30)

    async def hang(_target):
        await anyio.sleep_forever()

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.call_async, hang)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    loop.run(main)
    assert loop.call(pipeline, Targets()) == "a"


def test_a_hung_probe_loses_its_place_after_a_while(clock):
    _, pipeline = stack(clock, "a", "b")
    pipeline.call(Targets("a"))
    clock.advance(30)
    seen = []

    def hang(_target):
        seen.append(pipeline.call(Targets()))
        clock.advance(30)
        seen.append(pipeline.call(Targets()))

    pipeline.call(hang)
    assert seen == ["b", "a"]


def test_a_target_that_hangs_past_our_own_deadline_has_failed(loop, clock):
    failover = Failover(["a", "b"])
    pipeline = Pipeline(Timeout(2), failover, clock=clock)

    async def hang(_target):
        await clock.sleep_async(60)

    with pytest.raises(TimeoutError):
        loop.run(pipeline.call_async, hang)
    assert [status.state for status in failover.health] == ["ejected", "well"]


def test_no_further_target_is_asked_when_time_is_up(clock):
    def slow(target):
        clock.advance(3)
        raise ConnectionError(target)

    with pytest.raises(ConnectionError, match="a"):
        Pipeline(Timeout(2), Failover(["a", "b"]), clock=clock).call(slow)


@pytest.mark.parametrize("error", [KeyError, ValueError])
def test_an_answer_that_is_an_error_is_a_sign_of_health(colour, clock, error):
    failover, pipeline = stack(clock, "a", "b", failure_threshold=2)
    work = Targets("a")
    colour.call(pipeline, work)
    work.error = error
    with pytest.raises(error):
        colour.call(pipeline, work)
    assert failover.health[0].failures == 0


def test_a_call_turned_away_on_this_side_says_nothing_about_the_target(colour, clock):
    failover, pipeline = stack(clock, "a", "b")
    work = Targets("a", error=lambda target: CircuitOpenError("open", name=target))
    assert colour.call(pipeline, work) == "b"
    assert failover.health[0] == TargetStatus("a", "well", 0, 0)
    assert isinstance(CircuitOpenError("open"), RejectedError)


def test_a_backup_that_answers_as_the_last_resort_is_readmitted(colour, clock):
    failover, pipeline = stack(clock, "a", "b")
    work = Targets("a", "b")
    with pytest.raises(AllTargetsFailedError):
        colour.call(pipeline, work)
    work.down = {"b"}
    clock.advance(30)
    colour.call(pipeline, work)
    colour.call(pipeline, work)
    assert [status.state for status in failover.health] == ["well", "well"]
    work.down = {"a"}
    assert [colour.call(pipeline, work) for _ in range(2)] == ["b", "b"]
    assert [status.state for status in failover.health] == ["ejected", "well"]


def test_figures_are_reloaded_and_what_is_known_stays(colour, clock):
    failover, pipeline = stack(clock, "a", "b")
    work = Targets("a")
    colour.call(pipeline, work)
    failover.reconfigure(failback_after=5, failure_rate=0.5)
    assert failover.health[0].state == "ejected"
    clock.advance(30)
    colour.call(pipeline, work)
    clock.advance(10)
    work.down.clear()
    assert colour.call(pipeline, work) == "a"


def test_one_target_alone_is_never_ejected_and_raises_its_own_error(colour, clock):
    failover, pipeline = stack(clock, "a")
    with pytest.raises(ConnectionError):
        colour.call(pipeline, Targets("a"))
    assert failover.health[0].state == "well"


@pytest.mark.parametrize(
    "settings",
    [{"failure_threshold": 0}, {"failure_rate": 2}, {"window": 0}, {"failback_after": -1}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError):
        Failover(["a"], **settings)
