"""Measure this project beside what people would use instead.

    make bench                  everything
    make bench BENCH=client     one benchmark

Prints tables of medians with their quartiles and of ratios taken in the same round, compares them with the
goals, and writes it all as JSON. `make performance` does the same and makes docs/performance.md of it.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Final

from harness import Company, as_data, machine, show

ROOT: Final = Path(__file__).resolve().parents[2]
JSON: Final = ROOT / ".cache" / "performance.json"
BENCHMARKS: Final = (
    "engine",
    "client",
    "cached",
    "throughput",
    "growth",
    "faults",
    "outage",
    "deadlines",
    "footprint",
    "server",
)


def main() -> int:
    """Run the benchmarks asked for; return the exit status."""
    there = [name for name in BENCHMARKS if importlib.util.find_spec(f"bench_{name}") is not None]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("benchmark", nargs="*", help=f"which: {', '.join(there)}; all, if left out")
    parser.add_argument("--quick", action="store_true", help="only see that everything runs")
    parser.add_argument("--json", type=Path, default=JSON, help="where the figures go")
    told = parser.parse_args()
    if unknown := set(told.benchmark) - set(there):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(there)}")

    found: dict[str, object] = {}
    failed, company = [], Company()
    for name in told.benchmark or there:
        began = time.monotonic()
        try:
            benchmark = importlib.import_module(f"bench_{name}")
            gc.collect()
            gc.freeze()  # what is imported for the sake of measuring is no part of what is measured
            report = benchmark.measure(quick=told.quick)
        except Exception:  # noqa: BLE001  # what the others measured is kept
            traceback.print_exc()
            failed.append(name)
            continue
        found[name] = {**as_data(report), "seconds": round(time.monotonic() - began)}
        sys.stdout.write(f"{show(report)}\n")
        sys.stdout.flush()
    told.json.parent.mkdir(parents=True, exist_ok=True)
    there = {**machine(), "cores_of_others": company.cores()}
    data = {"machine": there, "is_quick": told.quick, "failed": failed, "benchmarks": found}
    told.json.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    sys.stdout.write(f"\nThe figures are in {told.json}\n")
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
