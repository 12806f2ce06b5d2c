"""SECURITY.md names a test for each promise, and the tests that it names are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())


def test_every_test_that_is_named_is_there():
    missing = [
        f"{file}::{name}" for file, name in NAMED if f"def {name}(" not in (ROOT / file).read_text("utf-8")
    ]
    assert not missing
    assert len(NAMED) > 20


def test_every_promise_names_a_test():
    promised = (ROOT / "SECURITY.md").read_text().partition("## What is promised")[2].partition("\n## ")[0]
    for promise in re.split(r"\n\n", promised)[2:]:
        for part in promise.split("\n- "):
            assert "`tests/" in part, part
