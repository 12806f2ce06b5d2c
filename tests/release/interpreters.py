"""Which Pythons the project claims, and where this machine has them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSIFIER: Final = re.compile(r"Programming Language :: Python :: (3\.\d+)")
ASK: Final = "import sys; print(sys.executable, '.'.join(map(str, sys.version_info[:3])))"
PATIENCE: Final = 20.0  # seconds: far beyond the start of an interpreter


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that works.

    Attributes:
        minor: As in a classifier, `3.12`.
        release: In full, `3.12.1`.
        path: Its executable.
    """

    minor: str
    release: str
    path: Path


def claimed(pyproject: Path) -> list[str]:
    """Read the versions that the classifiers of a `pyproject.toml` name, oldest first."""
    classifiers: list[str] = tomllib.loads(pyproject.read_text())["project"]["classifiers"]
    found = [match[1] for line in classifiers if (match := CLASSIFIER.fullmatch(line))]
    return sorted(found, key=lambda minor: int(minor.partition(".")[2]))


def find(minor: str) -> Interpreter | None:
    """Find a Python of a version: this one, one on the PATH, or one that pyenv has.

    Args:
        minor: As in a classifier, `3.12`.
    """
    for candidate in _candidates(minor):
        found = _ask(candidate)
        if found is not None and found.minor == minor:
            return found
    return None


def _candidates(minor: str) -> Iterator[Path]:
    yield Path(sys.executable)
    if on_path := shutil.which(f"python{minor}"):
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{minor}.*/bin/python"), reverse=True)


def _ask(executable: Path) -> Interpreter | None:
    """Run it: a shim of pyenv's is on the PATH whether or not there is anything behind it."""
    try:
        told = subprocess.run(
            [executable, "-I", "-c", ASK], check=True, capture_output=True, encoding="utf-8", timeout=PATIENCE
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    path, _, release = told.strip().rpartition(" ")
    return Interpreter(release.rpartition(".")[0], release, Path(path))
