"""The Pythons that a release is checked with."""

import sys
from pathlib import Path

import interpreters
import pytest

ROOT = Path(__file__).resolve().parents[2]
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_what_is_claimed_is_read_from_the_classifiers_oldest_first():
    assert interpreters.claimed(ROOT / "pyproject.toml")[:3] == ["3.11", "3.12", "3.13"]


def test_this_python_is_found_with_its_full_version():
    found = interpreters.find(THIS)
    assert found.release == ".".join(map(str, sys.version_info[:3]))
    assert found.path.exists()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose PATH and pyenv have what a test puts there."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))

    def put(place, answer):
        executable = tmp_path / place
        executable.parent.mkdir(parents=True, exist_ok=True)
        executable.write_text(f"#!/bin/sh\n{answer}\n")
        executable.chmod(0o755)
        return executable

    return put


def test_a_shim_with_nothing_behind_it_is_no_python(machine):
    machine("path/python3.99", "exit 127")
    assert interpreters.find("3.99") is None


def test_a_python_under_a_wrong_name_is_not_taken(machine):
    machine("path/python3.99", "echo /usr/bin/python 3.98.1")
    assert interpreters.find("3.99") is None


def test_where_the_shim_has_nothing_the_version_that_pyenv_has_is_found(machine):
    machine("path/python3.99", "exit 127")
    there = machine("pyenv/versions/3.99.4/bin/python", f"echo {'/there'} 3.99.4")
    assert there.exists()
    assert interpreters.find("3.99") == interpreters.Interpreter("3.99", "3.99.4", Path("/there"))
