"""The page on performance says what was measured, all of it, and nothing else."""

import copy

import performance
import pytest

FIGURES = performance.read()


@pytest.mark.parametrize(
    ("path", "make"), list(performance.files(FIGURES)), ids=lambda it: getattr(it, "name", "")
)
def test_what_is_committed_follows_from_the_figures(path, make):
    assert path.read_text() == make(), f"{path.name} is out of date: run `make docs`"


def test_the_figures_are_of_a_full_run():
    assert not FIGURES["is_quick"]
    assert set(FIGURES["benchmarks"]) <= set(performance.SECTIONS)


def test_what_failed_is_named_and_not_passed_over():
    figures = {**FIGURES, "failed": ["server"]}
    assert "did not end well in this run: server." in performance.page(figures)
    assert all(name in performance.PAGE.read_text() for name in FIGURES["failed"])


def test_a_goal_that_is_missed_is_listed_with_its_figure_and_its_cause():
    figures = copy.deepcopy(FIGURES)
    verdicts = [verdict for report in figures["benchmarks"].values() for verdict in report["verdicts"]]
    for verdict in verdicts:
        verdict["met"] = True
    assert "Not met" not in performance.page(figures)
    verdicts[0].update(met=False, goal="To fly", figure="0 m", bound="at least 1 m", cause="It has no wings.")
    text = performance.page(figures)
    assert f"{len(verdicts) - 1} of {len(verdicts)} are met" in text
    assert "- To fly: 0 m, at least 1 m. It has no wings." in text


def test_every_case_that_was_measured_is_on_the_page():
    text = performance.PAGE.read_text()
    for report in FIGURES["benchmarks"].values():
        for table in report["tables"]:
            if not table["is_for_plot"]:
                assert [row["case"] for row in table["rows"] if f"| {row['case']} |" not in text] == []
