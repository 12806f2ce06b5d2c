"""Measure this project beside what people would use instead.

    make bench                  everything
    make bench BENCH=client     one benchmark

Prints tables of medians with their quartiles and of ratios taken in the same round, compares them with the
goals, and writes it all as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Final

from harness import as_data, machine, show

ROOT: Final = Path(__file__).resolve().parents[2]
JSON: Final = ROOT / ".cache" / "performance.json"
BENCHMARKS: Final = ("engine", "client", "throughput")


def main() -> int:
    """Run the benchmarks asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("benchmark", nargs="*", help=f"which: {', '.join(BENCHMARKS)}; all, if left out")
    parser.add_argument("--quick", action="store_true", help="only see that everything runs")
    parser.add_argument("--json", type=Path, default=JSON, help="where the figures go")
    told = parser.parse_args()
    if unknown := set(told.benchmark) - set(BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")

    found: dict[str, object] = {}
    for name in told.benchmark or BENCHMARKS:
        began = time.monotonic()
        report = importlib.import_module(f"bench_{name}").measure(quick=told.quick)
        found[name] = {**as_data(report), "seconds": round(time.monotonic() - began)}
        sys.stdout.write(f"{show(report)}\n")
        sys.stdout.flush()
    told.json.parent.mkdir(parents=True, exist_ok=True)
    data = {"machine": machine(), "is_quick": told.quick, "benchmarks": found}
    told.json.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(f"\nThe figures are in {told.json}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
