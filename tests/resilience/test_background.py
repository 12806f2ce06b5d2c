"""The threads that work in the background."""

from __future__ import annotations

import threading

from llm_config_resilience.background import Background


def test_a_thread_that_cannot_be_started_leaves_no_job_counted(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    background, ran = Background(), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not background.run(ran.set)
    assert background.drain(0)
    assert not ran.is_set()
    assert background.run(ran.set)
    assert background.drain(30)
    assert ran.is_set()


def test_without_a_further_thread_a_job_waits_for_one_there_is(monkeypatch):
    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    background, ran, leave = Background(), threading.Event(), threading.Event()
    assert background.run(leave.wait)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert background.run(ran.set)
    leave.set()
    assert background.drain(30)
    assert ran.is_set()


def test_threads_end_with_what_they_worked_for():
    background, ran = Background(), threading.Event()
    threads = []

    def job():
        threads.append(threading.current_thread())
        ran.set()

    assert background.run(job)
    assert ran.wait(10)
    assert background.drain(10)
    background.close()
    threads[0].join(2)  # seconds; one that waits for more work stays for five
    assert not threads[0].is_alive()
