"""What the toolkit offers to the tests of its users."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading

import anyio
import pytest

from llm_config_resilience import (
    CacheFallback,
    Fallback,
    MemoryStore,
    Pipeline,
    RateLimit,
    Retry,
    RetryPolicy,
    Timeout,
    testing,
)
from llm_config_resilience.testing import ManualClock, capture_events, resilience_test_mode

SCOPE = ["-o", "asyncio_default_fixture_loop_scope=function"]
SLOW = RetryPolicy(max_attempts=4, initial_backoff=1e5, max_backoff=1e6, jitter="none")


def test_nothing_is_waited_for_and_attempts_are_capped(colour, script):
    pipeline, fn = Pipeline(Retry(SLOW)), script(ConnectionError)
    for allowed, calls in ((None, 4), (2, 2), (1, 1), (9, 4)):
        fn.calls = 0
        with resilience_test_mode(allowed), pytest.raises(ConnectionError):
            colour.call(pipeline, fn)
        assert fn.calls == calls


def test_rate_limits_take_no_time(colour):
    pipeline = Pipeline(RateLimit(0.0001))
    with resilience_test_mode():
        assert [colour.call(pipeline, lambda: 1) for _ in range(3)] == [1, 1, 1]


def test_it_ends_with_the_body_also_when_that_fails(script, clock):
    pipeline = Pipeline(Retry(RetryPolicy(jitter="none")), clock=clock)
    with pytest.raises(KeyError), resilience_test_mode():
        raise KeyError
    with pytest.raises(ConnectionError):
        pipeline.call(fn := script(ConnectionError))
    assert (fn.calls, clock.sleeps) == (3, [0.1, 0.2])


def test_other_threads_are_not_touched(script):
    calls = []

    def work():
        fn = script(ConnectionError)
        pipeline = Pipeline(Retry(RetryPolicy(initial_backoff=0)))
        with pytest.raises(ConnectionError):
            pipeline.call(fn)
        calls.append(fn.calls)

    with resilience_test_mode():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work()
    assert calls == [3, 1]


def test_tasks_begun_before_are_not_touched_and_those_begun_within_are(loop, script):
    counts = {}

    async def work(name, ready):
        await ready.wait()
        fn = script(ConnectionError)
        with pytest.raises(ConnectionError):
            await Pipeline(Retry(RetryPolicy(initial_backoff=0))).call_async(fn)
        counts[name] = fn.calls

    async def main():
        ready = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work, "before", ready)
            await anyio.wait_all_tasks_blocked()
            with resilience_test_mode():
                tasks.start_soon(work, "within", ready)
                await anyio.wait_all_tasks_blocked()
            ready.set()

    loop.run(main)
    assert counts == {"before": 3, "within": 1}


def test_work_in_the_background_keeps_to_it(clock, script):
    fn = script(1, ConnectionError)
    cache = CacheFallback(MemoryStore(), key="k", ttl=1, stale_while_revalidate=60)
    pipeline = Pipeline(cache, Retry(SLOW), clock=clock)
    with resilience_test_mode(2):
        pipeline.call(fn)
        clock.advance(2)
        pipeline.call(fn)
        assert pipeline.drain(timeout=30)
    assert fn.calls == 3


def test_a_deadline_still_holds_in_nested_calls(colour, clock):
    inner, outer = Pipeline(Timeout(50), clock=clock), Pipeline(Timeout(7), clock=clock)
    seen = []

    def work():
        seen.append(testing.ManualClock is ManualClock)
        return 5

    with resilience_test_mode():
        if colour.is_async:

            async def nested():
                return await inner.call_async(work)

            assert colour.run(outer.call_async, nested) == 5
        else:
            assert outer.call(inner.call, work) == 5
    assert seen == [True]


def test_events_of_all_pipelines_are_captured(colour, script):
    first, second = Pipeline(Fallback(0), name="first"), Pipeline(Retry(), name="second")
    with capture_events() as events, resilience_test_mode(2):
        colour.call(first, script(OSError()))
        with pytest.raises(OSError):
            colour.call(second, script(OSError()))
    colour.call(first, script(OSError()))
    assert [(event.pipeline, event.kind) for event in events if event.layer] == [
        ("first", "fell_back"),
        ("second", "retry"),
        ("second", "gave_up"),
    ]


def test_captures_nest_and_leave_the_pipelines_own_listeners_alone(events, script):
    pipeline = Pipeline(Fallback(0), listeners=[events.append])
    with capture_events() as outer:
        with capture_events() as inner:
            pipeline.call(script(OSError()))
        pipeline.call(script(OSError()))
    assert [len([e for e in seen if e.layer]) for seen in (events, outer, inner)] == [2, 2, 1]


def test_at_least_one_attempt_is_made():
    with pytest.raises(ValueError, match="max_attempts must be 1 or more"), resilience_test_mode(0):
        pass


def test_pytest_is_not_imported_unless_used():
    program = "import sys, llm_config_resilience.testing; assert 'pytest' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_fixtures_work_in_tests_of_every_kind(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["llm_config_resilience.testing_plugin"]\n')
    (tmp_path / "test_users.py").write_text(
        textwrap.dedent(
            """
            import anyio
            import pytest
            from llm_config_resilience import Pipeline, Retry, RetryPolicy

            stack = Pipeline(Retry(RetryPolicy(max_attempts=4, initial_backoff=1e5, max_backoff=1e6)))
            calls = []

            def down():
                calls.append(1)
                raise ConnectionError

            @pytest.fixture(autouse=True)
            def none():
                calls.clear()

            def test_sync(resilience_test_mode, resilience_events):
                with pytest.raises(ConnectionError):
                    stack.call(down)
                assert len(calls) == 1
                assert resilience_events[0].kind == "gave_up"

            @pytest.mark.parametrize("resilience_test_mode", [3], indirect=True)
            def test_more(resilience_test_mode):
                with pytest.raises(ConnectionError):
                    stack.call(down)
                assert len(calls) == 3

            async def test_asyncio(resilience_test_mode, resilience_events):
                with pytest.raises(ConnectionError):
                    await stack.call_async(down)
                assert len(calls) == 1
                assert resilience_events[0].kind == "gave_up"

            def test_time(manual_clock):
                pipeline = Pipeline(Retry(RetryPolicy(jitter="none")), clock=manual_clock)
                with pytest.raises(ConnectionError):
                    pipeline.call(down)
                assert manual_clock.sleeps == [0.1, 0.2]
            """
        )
    )
    (tmp_path / "test_users_anyio.py").write_text(
        textwrap.dedent(
            """
            import pytest
            from test_users import calls, down, stack

            @pytest.mark.anyio
            @pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
            async def test_anyio(resilience_test_mode, resilience_events, anyio_backend):
                calls.clear()
                with pytest.raises(ConnectionError):
                    await stack.call_async(down)
                assert len(calls) == 1
                assert resilience_events[0].kind == "gave_up"
            """
        )
    )
    for name, options in {
        "test_users.py": ["-o", "asyncio_mode=auto", "-p", "pytest_asyncio.plugin", *SCOPE],
        "test_users_anyio.py": ["-p", "anyio.pytest_plugin"],
    }.items():
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-W",
            "error",
            "--disable-plugin-autoload",
            *options,
            name,
        ]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
