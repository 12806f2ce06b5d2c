"""The table of differences between the two servers: it names tests that there are."""

from importlib import import_module

import pytest

from sdk.profiles import DIFFERENCES


@pytest.mark.parametrize("module", DIFFERENCES)
def test_every_difference_is_one_of_a_test_and_has_a_reason(module):
    there = vars(import_module(f"sdk.{module}"))
    for known, reason in DIFFERENCES[module].items():
        assert callable(there[known.partition("[")[0]])
        assert len(reason) > 20
