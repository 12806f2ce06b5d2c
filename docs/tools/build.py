#!/usr/bin/env python3
"""Build the site: write what follows from the code, build strictly, check what was built."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import check_site
import generate
import performance
import plots

ROOT: Final = Path(__file__).resolve().parents[2]
DOCSTRING_WARNING: Final = re.compile(r"^(griffe|mkdocstrings|autorefs): .*", re.MULTILINE)
"""What the reader of docstrings complains of, which `--strict` lets pass."""


def main() -> int:
    """Build; return the exit status."""
    generate.main()
    plots.main()
    performance.main()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(  # noqa: S603  # a fixed command
        command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    warnings = DOCSTRING_WARNING.findall(built.stdout)
    if built.returncode != 0 or warnings:
        sys.stderr.write(built.stdout)
        sys.stderr.write("The site is not built: warnings are errors.\n")
        return 1
    if status := check_site.main():
        return status
    sys.stdout.write("The site is in site/index.html\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
