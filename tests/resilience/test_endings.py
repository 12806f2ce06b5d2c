"""How every call ended is told, and successes to those only who ask."""

from __future__ import annotations

import anyio
import pytest

from llm_config_resilience import CacheFallback, Fallback, MemoryStore, Pipeline, Retry, RetryPolicy, Timeout

STEADY = RetryPolicy(jitter="none")


class Ends:
    """Hears of ends alone."""

    wants = frozenset({"succeeded", "failed", "cancelled"})

    def __init__(self):
        self.heard = []

    def __call__(self, event):
        self.heard.append(event)


@pytest.fixture
def ends():
    return Ends()


def test_a_success_is_told_with_what_it_took(colour, clock, script, ends):
    pipeline = Pipeline(Retry(STEADY), clock=clock, listeners=[ends], name="reads")
    colour.call(pipeline, script(OSError(), 1))
    (event,) = ends.heard
    assert (event.kind, event.pipeline, event.layer, event.attempt) == ("succeeded", "reads", "", 2)
    assert event.details == {
        "seconds": pytest.approx(0.1),
        "calls": 2,
        "source": "call",
        "degraded": False,
    }


def test_a_failure_is_told_with_the_error_the_caller_gets(colour, clock, script, ends):
    error = OSError("last")
    pipeline = Pipeline(Fallback(0, on=KeyError), Retry(STEADY), clock=clock, listeners=[ends])
    with pytest.raises(OSError, match="last"):
        colour.call(pipeline, script(OSError(), OSError(), error))
    (event,) = ends.heard
    assert (event.kind, event.error is error, event.details["calls"]) == ("failed", True, 3)
    assert event.details["seconds"] == pytest.approx(0.3)


def test_an_answer_that_stood_in_is_a_success_and_says_so(colour, clock, script, ends):
    colour.call(Pipeline(Fallback("spare"), clock=clock, listeners=[ends]), script(OSError()))
    (event,) = ends.heard
    assert (event.kind, event.details["source"], event.details["degraded"]) == ("succeeded", "fallback", True)


def test_what_never_reached_the_function_has_no_calls(colour, clock, ends):
    cache = CacheFallback(MemoryStore(), key="k", ttl=9)
    pipeline = Pipeline(cache, clock=clock, listeners=[ends])
    for _ in range(2):
        colour.call(pipeline, int)
    assert [event.details["calls"] for event in ends.heard] == [1, 0]


def test_a_cancelled_call_is_neither(loop, clock, ends):
    pipeline = Pipeline(Retry(STEADY), clock=clock, listeners=[ends])

    async def main():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pipeline.call_async, anyio.sleep_forever)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()

    loop.run(main)
    assert [event.kind for event in ends.heard] == ["cancelled"]


def test_an_interrupted_call_is_neither(clock, ends):
    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Pipeline(Retry(STEADY), clock=clock, listeners=[ends]).call(interrupt)
    assert [event.kind for event in ends.heard] == ["cancelled"]


def test_ends_are_told_once_also_when_the_outermost_layer_is_a_scope(loop, clock, script, ends):
    pipeline = Pipeline(Timeout(50), Retry(STEADY), Timeout(20), clock=clock, listeners=[ends])
    loop.call(pipeline, script(OSError(), 1))
    with pytest.raises(KeyError):
        loop.call(pipeline, script(KeyError()))
    assert [event.kind for event in ends.heard] == ["succeeded", "failed"]


def test_work_in_the_background_ends_no_call(loop, clock, script, ends):
    cache = CacheFallback(MemoryStore(), key="k", ttl=1, stale_while_revalidate=9)
    pipeline = Pipeline(cache, clock=clock, listeners=[ends])

    async def main():
        for _ in range(2):
            await pipeline.call_async(script(1))
            clock.advance(5)
        await pipeline.drain_async()

    loop.run(main)
    assert [event.details["source"] for event in ends.heard] == ["call", "stale"]


def test_who_has_no_wants_hears_of_all_but_successes(colour, clock, script):
    heard = []

    def listener(event):
        heard.append(event.kind)

    pipeline = Pipeline(Retry(STEADY), clock=clock, listeners=[listener, Ends()])
    colour.call(pipeline, script(OSError(), 1))
    with pytest.raises(KeyError):
        colour.call(pipeline, script(KeyError()))
    assert heard == ["retry", "recovered", "failed"]


def test_nothing_is_built_for_what_nobody_wants(clock, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("an event was built")

    monkeypatch.setattr("llm_config_resilience.context.Event", refuse)
    pipeline = Pipeline(Retry(STEADY), clock=clock, listeners=[lambda _event: None])
    assert pipeline.call(lambda: 1) == 1


def test_a_layer_outermost_may_retry_and_the_call_began_once(colour, clock, script, ends):
    pipeline = Pipeline(Retry(RetryPolicy(9, jitter="none")), clock=clock, listeners=[ends])
    colour.call(pipeline, script(OSError(), OSError(), OSError(), 1))
    assert ends.heard[0].details["seconds"] == pytest.approx(0.7)
