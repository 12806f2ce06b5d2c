"""A circuit that processes share: real Redis, storages that hang or are gone, and what is taken over."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import pybreaker
import pytest
import redis
from redis.exceptions import RedisError

from llm_config_resilience import CircuitBreaker, CircuitOpenError, Pipeline

#: Seconds between two looks of a thread that is not to look while a test runs: the tests ask for it.
NEVER = 3600


def fail():
    raise ConnectionError("down")


def trip(colour, pipeline, times=5):
    for _ in range(times):
        with pytest.raises(ConnectionError):
            colour.call(pipeline, fail)


@pytest.fixture
def process(redis_url, clock, request):
    """Make what one more process would have: a breaker and a pipeline, on a storage in Redis."""
    # Every test has names of its own: a thread of an earlier one may still have something to write.
    with redis.Redis.from_url(redis_url) as client:

        def another(**settings):
            storage = pybreaker.CircuitRedisStorage("closed", client, namespace=request.node.name)
            breaker = CircuitBreaker(storage=storage, refresh_every=NEVER, **settings)
            return breaker, Pipeline(breaker, clock=clock)

        yield another


def test_a_circuit_that_one_process_opens_is_open_in_the_others(colour, process):
    (mine, my_calls), (other, other_calls) = process(), process()
    colour.call(other_calls, int)
    other.refresh()
    trip(colour, my_calls)
    mine.refresh()
    other.refresh()
    with pytest.raises(CircuitOpenError):
        colour.call(other_calls, int)
    assert other.state == "open"
    assert 59 <= _retry_after(other_calls, colour) <= 60  # Redis keeps whole seconds


def _retry_after(pipeline, colour):
    with pytest.raises(CircuitOpenError) as caught:
        colour.call(pipeline, int)
    return caught.value.retry_after


def test_a_circuit_that_one_process_closes_is_closed_in_the_others(colour, process, clock):
    (mine, my_calls), (other, other_calls) = process(), process()
    trip(colour, my_calls)
    mine.refresh()
    other.refresh()
    assert _retry_after(other_calls, colour)
    clock.advance(30)
    mine.reset()
    mine.refresh()
    other.refresh()
    assert colour.call(other_calls, lambda: 1) == 1
    assert other.state == "closed"


def test_a_circuit_that_was_open_before_the_process_began_is_open_in_it(colour, process):
    mine, my_calls = process()
    trip(colour, my_calls)
    mine.refresh()
    late, late_calls = process()
    late.refresh()
    assert _retry_after(late_calls, colour)


def test_every_process_sends_its_own_probes(colour, process, clock):
    (mine, my_calls), (other, other_calls) = process(), process()
    trip(colour, my_calls)
    mine.refresh()
    other.refresh()
    assert _retry_after(other_calls, colour)
    clock.advance(60)
    assert colour.call(my_calls, lambda: "mine") == "mine"
    assert colour.call(other_calls, lambda: "theirs") == "theirs"
    assert (mine.state, other.state) == ("half-open", "half-open")


def test_the_state_is_written_where_pybreaker_itself_reads_it(colour, process, redis_url, request):
    mine, my_calls = process()
    trip(colour, my_calls)
    mine.refresh()
    with redis.Redis.from_url(redis_url) as client:
        theirs = pybreaker.CircuitBreaker(
            state_storage=pybreaker.CircuitRedisStorage("closed", client, namespace=request.node.name)
        )
        assert theirs.current_state == "open"


def test_listeners_hear_what_was_learnt_from_others_but_it_is_not_written_back(colour, process, events):
    told = []

    class Telling(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            told.append(new_state.name)

    (mine, my_calls), (other, other_calls) = process(), process(listeners=[Telling()])
    trip(colour, my_calls)
    mine.refresh()
    other.refresh()
    heard = Pipeline(*other_calls.layers, clock=other_calls.clock, listeners=[events.append])
    assert _retry_after(heard, colour)
    assert told == ["open"]
    assert next((event.kind, event.details.get("heard")) for event in events) == ("opened", True)
    assert other._shared._unwritten is None


class Storage(pybreaker.CircuitBreakerStorage):
    """A storage whose every access waits for leave, or raises."""

    def __init__(self, *, error=None):
        super().__init__("test")
        self.leave = threading.Event()
        self.asked = threading.Event()
        self.error = error
        self.said = "closed"
        self.when = None

    def _io(self):
        self.asked.set()
        if self.error:
            raise self.error
        self.leave.wait()

    @property
    def state(self):
        self._io()
        return self.said

    @state.setter
    def state(self, state):
        self._io()
        self.said = state

    @property
    def opened_at(self):
        self._io()
        return self.when

    @opened_at.setter
    def opened_at(self, when):
        self._io()
        self.when = when

    counter = success_counter = 0


def test_a_storage_that_hangs_holds_no_call(colour, clock):
    storage = Storage()
    breaker = CircuitBreaker(storage=storage, refresh_every=NEVER)
    pipeline = Pipeline(breaker, clock=clock)
    assert colour.call(pipeline, lambda: 1) == 1
    assert storage.asked.wait(30), "the thread looks as soon as there are calls"
    trip(colour, pipeline)
    assert _retry_after(pipeline, colour) == 60
    storage.leave.set()
    breaker.refresh()
    assert storage.said == "open"
    assert storage.when == datetime.fromtimestamp(clock.time(), UTC)


def test_what_others_do_is_heard_of_again_and_again(colour, clock):
    storage = Storage()
    storage.leave.set()
    breaker = CircuitBreaker(storage=storage, refresh_every=NEVER)
    pipeline = Pipeline(breaker, clock=clock)
    for _ in range(2):
        storage.said, storage.when = "open", datetime.fromtimestamp(clock.time(), UTC)
        breaker.refresh()
        assert _retry_after(pipeline, colour) == 60
        storage.said, storage.when = "closed", None
        breaker.refresh()
        assert colour.call(pipeline, lambda: 1) == 1


def test_the_probes_of_others_do_not_end_an_open_circuits_own_time(colour, clock):
    storage = Storage()
    storage.leave.set()
    breaker = CircuitBreaker(storage=storage, refresh_every=NEVER)
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline)
    breaker.refresh()
    storage.said = "half-open"
    breaker.refresh()
    assert _retry_after(pipeline, colour) == 60
    assert breaker.state == "open"


def test_when_it_opened_is_written_with_open_and_with_nothing_else(colour, clock):
    storage = Storage()
    storage.leave.set()
    breaker = CircuitBreaker(storage=storage, refresh_every=NEVER)
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline)
    breaker.refresh()
    opened_at, storage.when = storage.when, None
    assert opened_at == datetime.fromtimestamp(clock.time(), UTC)
    clock.advance(60)
    colour.call(pipeline, int)
    breaker.refresh()
    assert (storage.said, storage.when) == ("half-open", None)
    breaker.reset()
    breaker.refresh()
    assert (storage.said, storage.when) == ("closed", None)


def test_a_storage_in_memory_is_told_at_once_and_without_a_thread(colour, clock, monkeypatch):
    monkeypatch.setattr("llm_config_resilience.strategies.shared_circuit.threading.Thread", refuse)
    storage = pybreaker.CircuitMemoryStorage("closed")
    trip(colour, Pipeline(CircuitBreaker(storage=storage), clock=clock))
    assert storage.state == "open"


def refuse(*_args, **_settings):
    raise AssertionError("a thread was begun")


def test_a_storage_that_is_gone_changes_nothing_and_is_reported_once(colour, clock, caplog):
    breaker = CircuitBreaker(storage=Storage(error=OSError("gone")), refresh_every=NEVER)
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline)
    for _ in range(3):
        breaker.refresh()
    assert _retry_after(pipeline, colour) == 60
    assert caplog.text.count("cannot be reached") == 1


def test_redis_gone_does_not_close_an_open_circuit(colour, clock):
    """pybreaker's storage hides errors and reports its fallback state, closed, in their place."""

    class Gone:
        def setnx(self, *_args):
            return True

        def __getattr__(self, name):
            def gone(*_args):
                raise RedisError("gone")

            return gone

    storage = pybreaker.CircuitRedisStorage("closed", Gone())
    breaker = CircuitBreaker(storage=storage, refresh_every=NEVER)
    pipeline = Pipeline(breaker, clock=clock)
    trip(colour, pipeline)
    breaker.refresh()
    assert _retry_after(pipeline, colour) == 60
    assert breaker.state == "open"


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_after_a_fork_the_child_shares_the_state_by_a_thread_of_its_own(process, clock):
    breaker, pipeline = process()
    pipeline.call(int)
    breaker.refresh()
    child = os.fork()
    if child == 0:  # nothing of pytest's may run in here
        code = 1
        try:
            pipeline.call(int)
            alive = [thread.name for thread in threading.enumerate()]
            code = 0 if "llm-config-circuit" in alive else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


# --- Taking over from pybreaker ---


def test_a_breaker_comes_from_pybreaker_with_all_it_has(colour, clock):
    told = []

    class Telling(pybreaker.CircuitBreakerListener):
        def state_change(self, cb, old_state, new_state):
            told.append((old_state.name, new_state.name))

    theirs = pybreaker.CircuitBreaker(
        fail_max=2,
        reset_timeout=7,
        success_threshold=1,
        exclude=[KeyError],
        listeners=[Telling()],
        name="theirs",
    )
    breaker = CircuitBreaker.from_pybreaker(theirs, max_probes=3)
    assert breaker.settings.max_probes == 3
    pipeline = Pipeline(breaker, clock=clock)
    for _ in range(5):
        with pytest.raises(KeyError):
            colour.call(pipeline, lambda: {}["excluded"])
    trip(colour, pipeline, 2)
    assert _retry_after(pipeline, colour) == 7
    clock.advance(7)
    colour.call(pipeline, int)
    assert (breaker.name, breaker.state) == ("theirs", "closed")
    assert told == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]
    assert theirs.current_state == "closed"


def test_a_pybreaker_that_is_open_is_taken_over_open_for_the_time_it_has_left(colour, clock):
    storage = pybreaker.CircuitMemoryStorage("open")
    storage.opened_at = datetime.fromtimestamp(clock.time() - 20, UTC)
    theirs = pybreaker.CircuitBreaker(reset_timeout=60, state_storage=storage)
    pipeline = Pipeline(CircuitBreaker.from_pybreaker(theirs), clock=clock)
    assert _retry_after(pipeline, colour) == 40
    clock.advance(40)
    assert colour.call(pipeline, lambda: 1) == 1


def test_a_pybreaker_whose_time_is_over_is_probed_at_once(colour, clock, events):
    storage = pybreaker.CircuitMemoryStorage("open")
    storage.opened_at = datetime.fromtimestamp(clock.time() - 90, UTC)
    breaker = CircuitBreaker(storage=storage)
    colour.call(Pipeline(breaker, clock=clock, listeners=[events.append]), int)
    assert breaker.state == "half-open"
    assert [(event.kind, event.delay) for event in events] == [("opened", 0), ("half_opened", None)]


def test_a_pybreaker_that_is_half_open_is_taken_over_so(colour, clock):
    storage = pybreaker.CircuitMemoryStorage("half-open")
    breaker = CircuitBreaker(storage=storage)
    colour.call(Pipeline(breaker, clock=clock), int)
    assert breaker.state == "half-open"
