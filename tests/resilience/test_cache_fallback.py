"""The cache: fresh, stale while renewed, stale rather than none, and never in the way."""

from __future__ import annotations

import anyio
import pytest

from llm_config_resilience import (
    CacheFallback,
    DeadlineExceededError,
    Entry,
    Fallback,
    ManualClock,
    MemoryStore,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
)


def cached(clock, events=(), store=None, outer=(), inner=(), **times):
    times = {"ttl": 10, "stale_while_revalidate": 0, "stale_if_error": 0} | times
    cache = CacheFallback(MemoryStore() if store is None else store, key=lambda key: key, **times)
    return Pipeline(*outer, cache, *inner, clock=clock, listeners=events)


def test_a_fresh_entry_is_the_answer(colour, clock, script):
    pipeline, fn = cached(clock), script("one", "two")
    assert colour.answer(pipeline, fn, "k").source == "call"
    clock.advance(9)
    answer = colour.answer(pipeline, fn, "k")
    assert (answer.value, answer.source, answer.degraded, answer.calls) == ("one", "cache", False, 0)
    clock.advance(1)
    assert colour.call(pipeline, fn, "k") == "two"


def test_keys_of_different_types_differ(colour, clock):
    pipeline = cached(clock)
    assert [colour.call(pipeline, repr, key) for key in (1, True, 1.0, "1", (1, 2), (True, 2))] == [
        "1",
        "True",
        "1.0",
        "'1'",
        "(1, 2)",
        "(True, 2)",
    ]


def test_a_stale_entry_stands_in_for_a_failure(colour, clock, script, events):
    pipeline, fn = cached(clock, [events.append], stale_if_error=100), script("one", OSError("down"))
    colour.call(pipeline, fn, "k")
    clock.advance(109)
    answer = colour.answer(pipeline, fn, "k")
    assert (answer.value, answer.source, answer.degraded) == ("one", "stale", True)
    assert isinstance(answer.error, OSError)
    assert [event.kind for event in events] == ["served_stale"]
    clock.advance(1)
    with pytest.raises(OSError, match="down"):
        colour.call(pipeline, fn, "k")


@pytest.mark.parametrize(
    ("error", "hidden"),
    [(OSError(), True), (RejectedError("open"), True), (KeyError(), False), (ValueError(), False)],
)
def test_only_the_want_of_an_answer_is_hidden(colour, clock, script, error, hidden):
    pipeline, fn = cached(clock, stale_if_error=100), script("one", error)
    colour.call(pipeline, fn, "k")
    clock.advance(20)
    if hidden:
        assert colour.call(pipeline, fn, "k") == "one"
    else:
        with pytest.raises(type(error)):
            colour.call(pipeline, fn, "k")


def test_a_stale_entry_is_renewed_in_the_background_by_one_call(loop, clock):
    pipeline, calls = cached(clock, stale_while_revalidate=60), []

    async def main():
        async def work(key):
            calls.append(key)
            await clock.sleep_async(1)
            return len(calls)

        assert await pipeline.call_async(work, "k") == 1
        clock.advance(30)
        answers = [await pipeline.answer_async(work, "k") for _ in range(5)]
        assert [(a.value, a.source, a.degraded) for a in answers] == [(1, "stale", False)] * 5
        await pipeline.drain_async()
        assert await pipeline.call_async(work, "k") == 2

    loop.run(main)
    assert len(calls) == 2


def test_a_stale_entry_is_renewed_by_a_thread_in_sync(clock, script):
    pipeline, fn = cached(clock, stale_while_revalidate=60), script(1, 2)
    assert pipeline.call(fn, "k") == 1
    clock.advance(30)
    assert pipeline.call(fn, "k") == 1
    assert pipeline.drain(timeout=30)
    assert pipeline.call(fn, "k") == 2
    assert fn.calls == 2


def test_a_failed_renewal_lets_the_next_call_try(loop, clock, script):
    pipeline, fn = cached(clock, stale_while_revalidate=60), script(1, OSError(), 3)

    async def main():
        values = []
        for _ in range(4):
            values.append(await pipeline.call_async(fn, "k"))
            await pipeline.drain_async()
            clock.advance(15 if len(values) == 1 else 0)
        return values

    assert loop.run(main) == [1, 1, 1, 3]


def test_no_room_in_the_background_is_no_reason_never_to_renew(clock, script):
    pipeline, fn = cached(clock, stale_while_revalidate=60), script(1)
    pipeline.call(fn, "k")
    clock.advance(15)
    pipeline.background.close()
    assert pipeline.call(fn, "k") == 1
    assert not pipeline.layers[0]._refreshing


def test_a_stale_entry_stands_in_for_a_slow_answer_which_still_renews_it(loop, clock):
    pipeline, calls = cached(clock, stale_if_error=100, stale_if_slow=2), []

    async def main():
        async def work(key):
            calls.append(key)
            await clock.sleep_async(5 if len(calls) == 2 else 0)
            return len(calls)

        await pipeline.call_async(work, "k")
        clock.advance(20)
        began = clock.monotonic()
        slow = await pipeline.answer_async(work, "k")
        assert clock.monotonic() - began == 2
        await pipeline.drain_async()
        return slow, await pipeline.answer_async(work, "k")

    slow, fresh = loop.run(main)
    assert (slow.value, slow.source, slow.degraded) == (1, "stale", True)
    assert (fresh.value, fresh.source) == (2, "cache")


class Remote(MemoryStore):
    """A store that is somewhere else."""

    local = False


class Frail(MemoryStore):
    """A store that answers once, and then no more."""

    def __init__(self):
        super().__init__()
        self.answers = 2

    def get(self, key):
        self.answers -= 1
        if self.answers < 0:
            raise ConnectionError("gone")
        return super().get(key)


@pytest.mark.parametrize("store", [MemoryStore, Remote])
def test_what_is_known_to_be_gone_when_a_call_fails_does_not_stand_in(colour, clock, script, store):
    pipeline = cached(clock, store=store(), stale_if_error=100)
    colour.call(pipeline, script("one"), "k")
    clock.advance(20)

    def fail(key):
        pipeline.layers[0].forget(key)  # as another call does, which learns that it is gone
        raise OSError("down")

    with pytest.raises(OSError, match="down"):
        colour.call(pipeline, fail, "k")


@pytest.mark.parametrize("store", [MemoryStore, Remote])
def test_what_another_call_has_brought_meanwhile_stands_in(colour, clock, script, store):
    kept = store()
    pipeline = cached(clock, store=kept, stale_if_error=100)
    colour.call(pipeline, script("one"), "k")
    clock.advance(20)

    def fail(key):
        kept.set(key, Entry("two", clock.monotonic() if kept.local else clock.time()), 110)
        raise OSError("down")

    answer = colour.answer(pipeline, fail, "k")
    assert (answer.value, answer.source, answer.degraded, answer.age) == ("two", "stale", True, 0)


@pytest.mark.parametrize("is_local", [True, False])
def test_what_was_seen_stands_in_where_the_store_no_longer_answers(colour, clock, script, events, is_local):
    store = Frail()
    store.local = is_local
    pipeline = cached(clock, [events.append], store=store, stale_if_error=100)
    colour.call(pipeline, script("one"), "k")
    clock.advance(20)
    assert colour.call(pipeline, script(OSError("down")), "k") == "one"
    assert [event.kind for event in events] == ["cache_failed", "served_stale"]


@pytest.mark.parametrize("ending", [2, OSError("down")], ids=repr)
def test_who_is_slow_is_waited_for_where_the_entry_is_gone_meanwhile(loop, clock, ending):
    pipeline, calls = cached(clock, stale_if_error=100, stale_if_slow=2), []

    async def main():
        async def work(key):
            calls.append(key)
            if len(calls) == 1:
                return 1
            await clock.sleep_async(1)
            pipeline.layers[0].forget(key)
            await clock.sleep_async(4)
            if isinstance(ending, OSError):
                raise ending
            return ending

        await pipeline.call_async(work, "k")
        clock.advance(20)
        return await pipeline.answer_async(work, "k")

    if isinstance(ending, OSError):
        with pytest.raises(OSError, match="down"):
            loop.run(main)
    else:
        began = clock.monotonic()
        assert (loop.run(main).value, clock.monotonic() - began) == (2, 25)


def test_who_is_slow_is_waited_for_no_longer_than_the_deadline(loop, clock):
    pipeline = cached(clock, outer=[Timeout(3)], stale_if_error=100, stale_if_slow=2)

    async def main():
        async def quick(_key):
            return 1

        async def slow(key):
            await clock.sleep_async(1)
            pipeline.layers[1].forget(key)
            await clock.sleep_async(4)
            raise OSError("down")

        await pipeline.call_async(quick, "k")
        clock.advance(20)
        with pytest.raises(DeadlineExceededError):
            await pipeline.call_async(slow, "k")
        await pipeline.drain_async()

    loop.run(main)


def test_a_quick_answer_is_waited_for(loop, clock, script):
    pipeline, fn = cached(clock, stale_if_error=100, stale_if_slow=2), script(1, 2)

    async def main():
        await pipeline.call_async(fn, "k")
        clock.advance(20)
        return await pipeline.answer_async(fn, "k")

    answer = loop.run(main)
    assert (answer.value, answer.source, answer.calls) == (2, "call", 1)


def test_a_fallbacks_value_is_never_stored(colour, clock, script):
    with pytest.warns(match="cache is outside fallback"):
        pipeline = cached(clock, inner=[Fallback("spare")])
    assert colour.call(pipeline, script(OSError()), "k") == "spare"
    assert colour.answer(pipeline, script("real"), "k").source == "call"


class Broken:
    """A store that fails whatever it is asked."""

    def __init__(self, *, local):
        self.local = local

    def get(self, key):
        raise ConnectionError("store")

    def set(self, key, entry, keep):
        raise ConnectionError("store")


@pytest.mark.parametrize("local", [True, False])
def test_a_store_that_fails_is_bypassed_and_reported(colour, clock, events, local):
    pipeline = cached(clock, [events.append], store=Broken(local=local))
    assert colour.call(pipeline, lambda key: key * 2, "k") == "kk"
    assert [event.kind for event in events] == ["cache_failed", "cache_failed"]


class Remote(MemoryStore):
    """A store that is asked by the engine, in async awaited."""

    local = False

    def __init__(self, *, native):
        super().__init__()
        self.native = native

    def get(self, key):
        return self._soon(super().get(key))

    def set(self, key, entry, keep):
        super().set(key, entry, keep)
        return self._soon(None)

    def _soon(self, value):
        async def later():
            await anyio.lowlevel.checkpoint()
            return value

        return later() if self.native else value


def test_a_store_with_io_keeps_wall_time_and_is_asked_by_the_engine(colour, clock, script):
    store = Remote(native=colour.is_async)
    pipeline, fn = cached(clock, store=store), script(1, 2)
    assert colour.call(pipeline, fn, "k") == 1
    assert colour.call(pipeline, fn, "k") == 1
    assert store._entries["k"].stored_at == clock.time()
    clock.step_wall(11)
    assert colour.call(pipeline, fn, "k") == 2


def test_the_memory_store_forgets_what_was_unused_longest():
    clock = ManualClock()
    pipeline = cached(clock, store=(store := MemoryStore(2)))
    for key in ("a", "b", "a", "c"):
        pipeline.call(str, key)
    assert list(store._entries) == ["a", "c"]


def test_a_hit_asks_nothing_inside(colour, clock, script):
    pipeline, fn = cached(clock, inner=[Retry()]), script(OSError(), 1, OSError())
    assert colour.call(pipeline, fn, "k") == 1
    assert colour.call(pipeline, fn, "k") == 1
    assert fn.calls == 2


# --- Age and times ---


def test_an_answer_says_how_old_it_is(colour, clock, script):
    pipeline, fn = cached(clock, stale_if_error=100), script("one", OSError())
    assert colour.answer(pipeline, fn, "k").age is None
    clock.advance(4)
    assert colour.answer(pipeline, fn, "k").age == 4
    clock.advance(20)
    assert colour.answer(pipeline, fn, "k").age == 24


@pytest.mark.parametrize("step", [3600, -3600])
def test_stepping_the_wall_clock_makes_a_shared_entry_suspicious_never_eternal(colour, clock, script, step):
    pipeline, fn = cached(clock, store=Remote(native=colour.is_async)), script(1, 2)
    colour.call(pipeline, fn, "k")
    clock.step_wall(step)
    assert colour.call(pipeline, fn, "k") == 2


def test_times_are_reloaded_and_the_entries_stay(colour, clock, script):
    pipeline, fn = cached(clock), script(1, 2)
    colour.call(pipeline, fn, "k")
    clock.advance(50)
    pipeline.layers[0].reconfigure(ttl=60)
    assert colour.call(pipeline, fn, "k") == 1
    pipeline.layers[0].reconfigure(ttl=40)
    assert colour.call(pipeline, fn, "k") == 2


# --- A write during a read ---


@pytest.mark.parametrize("how", ["delete", "set", "clear", "forget"])
def test_an_answer_that_a_write_overtook_is_not_stored(colour, clock, how):
    store = MemoryStore()
    pipeline = cached(clock, store=store)

    def read_while_somebody_writes(key):
        match how:
            case "delete":
                store.delete(key)
            case "set":
                store.set(key, Entry("written", clock.monotonic()), 10)
            case "clear":
                store.clear()
            case "forget":
                pipeline.layers[0].forget(key)
        return "read before"

    assert colour.call(pipeline, read_while_somebody_writes, "k") == "read before"
    assert colour.call(pipeline, lambda _key: "read after", "k") == (
        "written" if how == "set" else "read after"
    )


def test_a_store_without_generations_takes_every_answer(colour, clock):
    class Plain:
        local = True

        def __init__(self):
            self.entries = {}

        def get(self, key):
            return self.entries.get(key)

        def set(self, key, entry, keep):
            self.entries[key] = entry

        def delete(self, key):
            self.entries.pop(key, None)

    pipeline = cached(clock, store=(store := Plain()))
    colour.call(pipeline, lambda key: store.delete(key) or "read", "k")
    assert store.entries["k"].value == "read"


# --- Negative entries ---


class MissingError(Exception):
    def __init__(self, key, *, asked):
        super().__init__(key)
        self.asked = asked


def remembering(clock, **more):
    return cached(clock, negative_on=MissingError, negative_ttl=5, **more)


def test_an_error_is_not_kept_unless_asked_for(colour, clock, script):
    pipeline, fn = cached(clock), script(MissingError("k", asked=1), "there")
    with pytest.raises(MissingError):
        colour.call(pipeline, fn, "k")
    assert colour.call(pipeline, fn, "k") == "there"


def test_an_error_that_is_an_answer_is_raised_again_for_its_time(colour, clock, script):
    pipeline = remembering(clock)
    fn = script(MissingError("k", asked=1), "there")
    caught = []
    for _ in range(3):
        with pytest.raises(MissingError) as error:
            colour.call(pipeline, fn, "k")
        caught.append(error.value)
        clock.advance(2)
    assert fn.calls == 1
    assert [(error.args, error.asked) for error in caught] == [(("k",), 1)] * 3
    assert len({id(error) for error in caught}) == 3, "an error of its own for every caller"
    assert colour.call(pipeline, fn, "k") == "there"


def test_only_the_errors_asked_for_are_kept(colour, clock, script):
    pipeline, fn = remembering(clock), script(OSError(), "there")
    with pytest.raises(OSError):
        colour.call(pipeline, fn, "k")
    assert colour.call(pipeline, fn, "k") == "there"


def test_a_kept_error_is_forgotten_on_request_also_while_it_is_on_its_way(colour, clock, script):
    pipeline = remembering(clock)
    with pytest.raises(MissingError):
        colour.call(pipeline, script(MissingError("k", asked=1)), "k")
    pipeline.layers[0].forget("k")

    def missing_while_somebody_creates_it(key):
        pipeline.layers[0].forget(key)
        raise MissingError(key, asked=2)

    with pytest.raises(MissingError):
        colour.call(pipeline, missing_while_somebody_creates_it, "k")
    assert colour.call(pipeline, script("there"), "k") == "there"


def test_negative_settings_go_together(clock):
    with pytest.raises(ValueError, match="go together"):
        cached(clock, negative_on=KeyError)
    with pytest.raises(ValueError, match="go together"):
        cached(clock, negative_ttl=5)
