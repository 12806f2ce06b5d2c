"""What `make soak` fails for; it is minutes long itself, and for no test to run."""

import pytest

from integration.soak import LIMIT, Sample, growth


def minutes(grown_a_minute):
    """Three minutes of samples, whose memory goes up and down by itself, too."""
    return [
        Sample(float(at), 80 + (at % 7) / 10 + grown_a_minute * at / 60, descriptors=9, threads=5, slots=0)
        for at in range(180)
    ]


@pytest.mark.parametrize("grown", [0.0, 5.0, -1.0])
def test_memory_that_grows_is_told_from_memory_that_goes_up_and_down(grown):
    assert growth(minutes(grown)) == pytest.approx(grown, abs=LIMIT / 10)
