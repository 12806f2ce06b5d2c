"""The plots show what the toolkit does, and are the ones committed."""

import plots
import pytest


@pytest.mark.parametrize(("path", "make"), list(plots.plots()), ids=lambda it: getattr(it, "name", ""))
def test_a_plot_is_the_one_committed(path, make):
    assert path.read_text() == make(), f"{path.name} is out of date: run `make docs`"


def test_without_jitter_clients_come_back_together_and_with_it_they_do_not():
    assert max(plots.arrivals("none")) == plots.CLIENTS
    assert max(plots.arrivals("full")) < plots.CLIENTS / 3
    assert sum(plots.arrivals("full")) == sum(plots.arrivals("none")) == 3 * plots.CLIENTS


def test_a_budget_ends_a_storm_in_its_first_second():
    first, *later = plots.storm(plots.RetryBudget())[plots.OUTAGE.start : plots.OUTAGE.stop]
    assert first == 2 * plots.CALLS_PER_SECOND
    assert set(later) == {plots.CALLS_PER_SECOND}
    assert set(plots.storm(None)[plots.OUTAGE.start : plots.OUTAGE.stop]) == {3 * plots.CALLS_PER_SECOND}


def test_a_hedge_spares_the_slowest_calls_for_few_requests_more():
    alone, hedged = plots.tail(plots.waiting), plots.tail(plots.hedging)
    assert (round(1000 * alone.latency(0.99)), round(1000 * hedged.latency(0.99))) == (349, 153)
    assert round(1000 * alone.latency(0.5)) == round(1000 * hedged.latency(0.5)) == 12
    assert (alone.amplification, round(hedged.amplification, 2)) == (1.0, 1.06)
