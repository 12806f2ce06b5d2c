"""What `make soak` fails for; it is minutes long itself, and for no test to run."""

import pytest

from integration.soak import LIMITS, Sample, growth

TIMES = range(300)  # seconds: half of the time that a soak takes


def of(name, figures):
    """Samples of a soak, one a second, of which one figure is given."""
    rest = {"memory": 80.0, "blocks": 400_000, "descriptors": 9, "threads": 5, "slots": 0}
    return [Sample(at=float(at), **{**rest, name: figure}) for at, figure in zip(TIMES, figures, strict=True)]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("limits", [0.0, 2.0, -1.0])
def test_what_grows_is_told_from_what_goes_up_and_down(name, limits):
    limit = LIMITS[name]
    grown = limits * limit
    figures = [100 + limit * (at % 7) / 7 + grown * at / 60 for at in TIMES]
    assert growth(of(name, figures), name) == pytest.approx(grown, abs=limit / 10)


@pytest.mark.parametrize("name", LIMITS)
def test_more_calls_in_flight_are_no_growth(name):
    limit = LIMITS[name]
    figures = [
        100 + (limit * at / 60 if at % 9 else 0) for at in TIMES
    ]  # the server is away every nine seconds
    assert growth(of(name, figures), name) == pytest.approx(0.0, abs=limit / 10)
