"""What the tests of leaks rely on: that a leak is seen, and that nothing else is taken for one."""

import os
import threading
from contextlib import contextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing

from integration.footprint import nothing_left_behind


@pytest.fixture
def released():
    """What the threads of a test wait for."""
    event = threading.Event()
    yield event
    event.set()


def begin(until, name="worker"):
    thread = threading.Thread(target=until.wait, name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def a_leak_is_seen(of):
    with pytest.raises(AssertionError, match=of), nothing_left_behind(patience=0):
        yield


def test_a_thread_left_behind_is_seen_though_one_of_its_name_ended_meanwhile(released):
    over = threading.Event()
    earlier = begin(over)
    with a_leak_is_seen(of="worker"):
        begin(released)
        over.set()
        earlier.join()


def test_a_descriptor_left_behind_is_seen_though_one_of_its_kind_was_closed_meanwhile():
    earlier = os.pipe()
    with a_leak_is_seen(of="pipe:"):
        later = os.pipe()
        for end in earlier:
            os.close(end)
    for end in later:
        os.close(end)


def test_a_second_descriptor_of_the_same_thing_is_seen():
    with open(os.devnull) as file, a_leak_is_seen(of="null"):  # noqa: PTH123
        copy = os.dup(file.fileno())
    os.close(copy)


def test_a_job_that_does_not_end_is_seen_in_a_thread_that_trio_keeps(released):
    trio.run(trio.to_thread.run_sync, int)  # so that there is one
    begun = threading.Event()

    def hang():
        begun.set()
        released.wait()

    async def leave():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, hang, abandon_on_cancel=True))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    with a_leak_is_seen(of="hang"):
        trio.run(leave)
        begun.wait()


def test_a_thread_that_trio_keeps_is_no_leak():
    with nothing_left_behind(patience=0):
        trio.run(trio.to_thread.run_sync, int)


def test_what_ends_by_itself_is_given_time():
    going = threading.Event()

    def end():
        going.wait()

    with nothing_left_behind():
        thread = threading.Thread(target=end)
        thread.start()
        going.set()
    thread.join()


def test_what_was_there_before_may_end():
    over = threading.Event()
    earlier, ends = begin(over), os.pipe()
    with nothing_left_behind():
        over.set()
        earlier.join()
        for end in ends:
            os.close(end)


def test_an_error_inside_is_not_hidden_by_what_it_left(released):
    with suppress(KeyError), nothing_left_behind(patience=0):
        begin(released)
        raise KeyError
