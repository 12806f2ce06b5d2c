"""How many seeds the campaigns here take, from which one on, and how a failing one is replayed.

pytest tests/simulation --seeds 100000
pytest tests/simulation -k policies --first-seed 1234 --seeds 1
"""

import pytest


def pytest_addoption(parser):
    group = parser.getgroup("simulation")
    group.addoption("--seeds", type=int, default=None, help="Seeds a campaign takes (default: its own).")
    group.addoption("--first-seed", type=int, default=0, help="The first of them.")


class Campaign:
    """The seeds to try, and the command that tries one of them again."""

    def __init__(self, config, node):
        self._config = config
        self._node = node

    def seeds(self, usually):
        # Without `tests/simulation` on the command line, pytest has not heard of the options.
        first = self._config.getoption("--first-seed", 0)
        return range(first, first + (self._config.getoption("--seeds", None) or usually))

    def replay(self, seed):
        where = self._node.nodeid
        return f"python -m pytest '{where}' --first-seed {seed} --seeds 1"


@pytest.fixture
def campaign(request):
    return Campaign(request.config, request.node)
