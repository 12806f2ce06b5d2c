"""What is reported follows from what was measured: ratios within a round, medians, goals."""

import os
import socket
import time
from collections import Counter

import pytest
from goals import GOALS, Goal
from harness import (
    Effort,
    Report,
    Row,
    Spread,
    Table,
    Times,
    in_child,
    in_order,
    in_turns,
    judge,
    show,
)
from quick_server import quick_server


def test_a_ratio_is_taken_within_each_round_so_that_a_busy_moment_is_in_neither():
    times = Times(["ours", "theirs"])
    times.by_case = {"ours": [1.0, 9.0, 1.0], "theirs": [2.0, 18.0, 2.0]}
    ours, theirs = times.rows("theirs", scale=1.0)
    assert (ours.ratio.median, ours.ratio.low, ours.ratio.high) == (0.5, 0.5, 0.5)
    assert (ours.figure.median, ours.figure.least) == (1.0, 1.0)
    assert theirs.ratio.median == 1.0


def test_what_a_bare_call_costs_is_no_part_of_a_layer():
    times = Times(["bare", "ours", "theirs"])
    times.by_case = {"bare": [1.0, 1.0], "ours": [2.0, 2.0], "theirs": [5.0, 5.0]}
    ours, theirs = times.rows("theirs", scale=1.0, over="bare")
    assert (ours.figure.median, theirs.figure.median) == (1.0, 4.0)
    assert ours.ratio.median == 0.25


def test_every_case_has_one_turn_a_round_and_none_is_always_first():
    orders = [tuple(in_order(["a", "b", "c"], number)) for number in range(6)]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(Counter(order[0] for order in orders).values())) == 1


def test_cases_are_called_in_turns():
    called = []
    times = in_turns(
        {"a": lambda: called.append("a"), "b": lambda: called.append("b")}, Effort.smoke(), warm_up=1
    )
    assert called[:2] == ["a", "b"]  # warmed up
    assert sorted(called[2:]) == ["a", "a", "b", "b"]
    assert [len(values) for values in times.by_case.values()] == [2, 2]


@pytest.mark.parametrize(
    ("sense", "figure", "met"),
    [("at most", 1.0, True), ("at most", 1.1, False), ("at least", 1.0, True), ("at least", 0.9, False)],
)
def test_a_goal_has_a_side(sense, figure, met):
    verdict = judge(Goal("To fly", sense, 1.0, " m", cause="No wings."), figure)
    assert verdict.met is met
    assert verdict.cause == ("" if met else "No wings.")
    assert verdict.bound == f"{sense} 1 m"


def test_goals_have_names_of_their_own():
    texts = [goal.text for goal in GOALS.values()]
    assert len(set(texts)) == len(texts)


# Threads of other tests may run; the child does nothing that they could have locked.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_process_answers_or_is_ended():
    assert in_child(lambda: {"pid": os.getpid()}, 30.0)["pid"] != os.getpid()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.1 s"):
        in_child(lambda: time.sleep(60.0), 0.1)
    assert time.monotonic() - began < 30.0


def test_a_report_is_shown_with_its_ratios_and_what_is_not_met():
    figure = Spread.of([1.0, 2.0, 3.0])
    table = Table("t", "A table", "µs", "b", [Row("a", figure, Spread.of([0.5])), Row("b", figure)])
    text = show(Report("Things", [table], [judge(Goal("To fly", "at least", 1.0), 0.5)]))
    assert "A table (µs)" in text
    assert "0.5" in text
    assert "NOT MET To fly" in text


def test_the_quick_server_answers_with_the_entry_that_is_asked_for_and_comes_back_on_its_port():
    def ask(address):
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /api/v1/configs/app%2Fllm/model?env=development HTTP/1.1\r\n\r\n")
            return connection.recv(65_536)

    with quick_server() as server:
        reply = ask(server.address)
        assert reply.startswith(b"HTTP/1.1 200 OK")
        assert b'"namespace":"app/llm","key":"model"' in reply
        address = server.address
        server.stop()
        with pytest.raises(OSError, match="refused"):
            ask(address)
        server.start()
        assert server.address == address
        assert ask(address) == reply
