"""Fixtures of the documentation's tests: two reference servers, and nothing of the machine's own settings."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parents[1] / "docs" / "tools"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from pages import World, a_world  # noqa: E402  # found by the lines above


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for name in list(os.environ):
        if name.startswith("LLM_CONFIG_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    with a_world(tmp_path) as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made
