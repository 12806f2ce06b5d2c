"""All extras together: each one's proof holds beside the others."""

import runpy
from pathlib import Path

HERE = Path(__file__).resolve().parent

for proof in sorted(HERE.glob("*.py")):
    if proof.stem not in {"all", "cli"}:  # the command line's ends its process
        runpy.run_path(str(proof))
