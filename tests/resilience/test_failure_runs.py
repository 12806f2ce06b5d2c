"""How long a run of failures has to be, where failures are usual, to be taken for an outage."""

import math

import pytest

from llm_config_resilience.strategies.failure_runs import FailureRuns

MEMORY = 100.0  # seconds


def remembering(number, length, now=0.0):
    runs = FailureRuns()
    for _ in range(number):
        runs.ended(length, now, MEMORY)
    return runs


@pytest.mark.parametrize(("number", "enough"), [(0, False), (4, False), (5, True)])
def test_failures_are_usual_after_five_runs_of_them(number, enough):
    assert remembering(number, 1000).explain(2, 0.0, MEMORY) is enough


@pytest.mark.parametrize(("length", "usual"), [(1, True), (20, True), (21, False)])
def test_a_run_is_an_outage_where_chance_brings_it_about_once_in_a_million(length, usual):
    # Of ten failures five were followed by another: (5 + 1) / (10 + 2), and a half to the 20th is too little.
    assert remembering(5, 2).explain(length, 0.0, MEMORY) is usual


@pytest.mark.parametrize(("seconds", "usual"), [(MEMORY * 0.68, True), (MEMORY * 0.7, False)])
def test_runs_are_forgotten_little_by_little(seconds, usual):
    # Ten weigh as much as five after ln 2 of the memory, 0.69.
    assert math.log(2) == pytest.approx(0.69, abs=0.01)
    assert remembering(10, 1000, now=50.0).explain(2, 50.0 + seconds, MEMORY) is usual


def test_a_clock_that_was_read_before_another_forgets_nothing():
    assert remembering(5, 1000, now=50.0).explain(2, 49.0, MEMORY)


def test_once_forgotten_all_begins_anew():
    runs = remembering(100, 1000)
    runs.forget()
    for _ in range(4):
        runs.ended(1, 0.0, MEMORY)
    assert not runs.explain(1, 0.0, MEMORY)
    runs.ended(1, 0.0, MEMORY)
    assert runs.explain(8, 0.0, MEMORY)  # (0 + 1) / (5 + 2) to the 7th
    assert not runs.explain(9, 0.0, MEMORY)
