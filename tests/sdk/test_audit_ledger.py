"""What one thread writes while another compares with the audit log: kept, and compared the next time."""

from __future__ import annotations

import threading
from collections import deque

import pytest

from llm_config_sdk import auditing
from llm_config_sdk.auditing import Ledger
from llm_config_sdk.operations import SET_CONFIG, Call


class Meeting:
    """Where one thread stops in the midst of its work, until the other has gone as far as it can."""

    def __init__(self):
        self.is_on = False
        self.stopped = threading.Event()  # the first is in the midst of it
        self.came = threading.Event()  # the second is done, or waits for the first

    def stop(self):
        if self.is_on:
            self.is_on = False
            self.stopped.set()
            assert self.came.wait(30)


class TellingLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, meeting):
        self._lock, self._meeting = threading.Lock(), meeting

    def __enter__(self):
        if not self._lock.acquire(blocking=False):
            self._meeting.came.set()
            self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()


@pytest.fixture
def meeting(monkeypatch):
    meeting = Meeting()

    class Stopping(deque):
        """Stops whoever reads it in the midst of it."""

        def __iter__(self):
            for number, item in enumerate(super().__iter__()):
                if number == 1:
                    meeting.stop()
                yield item

    monkeypatch.setattr(auditing, "deque", Stopping)
    monkeypatch.setattr(auditing, "new_lock", lambda: TellingLock(meeting))
    return meeting


def write(ledger):
    call = Call(SET_CONFIG, "/x", "app", "k")
    ledger.note(call)
    return call.request_id


def meanwhile(meeting, ledger, work):
    """Do the work while another thread writes in the midst of it; returns the work's result and the write."""
    written = []

    def other():
        assert meeting.stopped.wait(30)
        written.append(write(ledger))
        meeting.came.set()

    thread = threading.Thread(target=other)
    thread.start()
    meeting.is_on = True
    try:
        result = work()
    finally:
        meeting.stopped.set()
        thread.join()
    return result, written[0]


def ids(comparison):
    return [each.call.request_id for each in comparison.writes]


def test_a_write_while_a_comparison_begins_is_left_for_the_next_one(meeting):
    ledger = Ledger()
    before = [write(ledger) for _ in range(3)]
    comparison, during = meanwhile(meeting, ledger, ledger.compare)
    assert ids(comparison) == before
    ledger.settle(comparison)
    assert ids(ledger.compare()) == [during]


def test_a_write_while_a_comparison_is_settled_is_left_for_the_next_one(meeting):
    ledger = Ledger()
    before = [write(ledger) for _ in range(3)]
    comparison = ledger.compare()
    gaps, during = meanwhile(meeting, ledger, lambda: ledger.settle(comparison))
    assert [gap.call.request_id for gap in gaps] == before
    assert ids(ledger.compare()) == [during]
