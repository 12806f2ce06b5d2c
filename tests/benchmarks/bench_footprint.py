"""What the SDK takes besides time on a call: memory a cached entry, allocations a call, seconds to import.

Imports are timed inside a new interpreter, from before the first import to after the last, so that its own
start is no part of them; what they are compared with imports what the SDK is built on, and defines one model
and one settings class, as any program that uses these libraries does.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cachetools
import httpx
import httpx2
import memray
import tenacity
from goals import GOALS
from harness import MILLISECONDS, Report, Row, Spread, Table, Times, in_child, in_order, judge
from quick_server import entry, quick_server

from llm_config_resilience import CircuitBreaker, Fallback, Pipeline, Retry
from llm_config_sdk import CachePolicy, ConfigClient

if TYPE_CHECKING:
    from collections.abc import Callable

NAMESPACE: Final = "app/llm"
PATH: Final = "/api/v1/configs/app%2Fllm/{}?env=development"
LIMIT: Final = 300.0  # seconds for one child; a few on a quiet machine

# --- Imports ----------------------------------------------------------------------------------------

OURS: Final = "import llm_config_sdk"
BASELINE: Final = "the four libraries, a model and a settings class"
PROGRAMS: Final = {
    OURS: "import llm_config_sdk",
    "import llm_config_resilience": "import llm_config_resilience",
    BASELINE: (
        "import httpx, pydantic, tenacity, pybreaker\n"
        "from pydantic_settings import BaseSettings\n"
        "class Model(pydantic.BaseModel):\n    name: str\n    value: int = 0\n"
        "class Settings(BaseSettings):\n    url: str = ''\n    token: str = ''\n"
    ),
    "httpx, pydantic, tenacity and pybreaker": "import httpx, pydantic, tenacity, pybreaker",
    "httpx": "import httpx",
}
TIMED: Final = "import time\nbegan = time.perf_counter()\n{}\nprint(time.perf_counter() - began)"


def imports(rounds: int) -> Table:
    """Time each program in a new interpreter, in turns."""
    times = Times(PROGRAMS)
    for number in range(rounds):
        for case in in_order(list(PROGRAMS), number):
            source = TIMED.format(PROGRAMS[case])
            ended = subprocess.run([sys.executable, "-I", "-c", source], check=True, capture_output=True)
            if number or rounds == 1:  # the first round fills the caches of the disk and of byte code
                times.by_case[case].append(float(ended.stdout))
    return Table("import", "Importing", "ms", BASELINE, times.rows(BASELINE, scale=MILLISECONDS))


# --- Memory -----------------------------------------------------------------------------------------

MEMORY_OURS: Final = "ConfigClient's cache"
MEMORY_DICT: Final = "cachetools.TTLCache of decoded JSON"
MEMORY_TEXT: Final = "a dict of undecoded bodies"


def memory(entries: int) -> Table:
    """Fetch so many entries, without a socket, and see what they hold."""
    filling: dict[str, Callable[[httpx.Client, int], object]] = {
        MEMORY_OURS: _fill_client,
        MEMORY_DICT: _fill_cache,
        MEMORY_TEXT: _fill_dict,
    }
    held = {case: in_child(partial(_held, fill, entries), LIMIT) for case, fill in filling.items()}
    rows = [
        Row(case, Spread.of([size]), Spread.of([size / held[MEMORY_DICT]])) for case, size in held.items()
    ]
    return Table("memory", "Memory of a cached entry", "bytes", MEMORY_DICT, rows)


def _answer(request: httpx.Request) -> httpx.Response:
    body = entry(request.url.raw_path).partition(b"\r\n\r\n")[2]
    return httpx.Response(200, headers={"Content-Type": "application/json"}, content=body)


def _held(fill: Callable[[httpx.Client, int], object], entries: int) -> float:
    """What remains in memory for each entry. Filling before leaves out what is allocated only once."""
    with httpx.Client(base_url="http://config.test", transport=httpx.MockTransport(_answer)) as http:
        fill(http, 10)
        gc.collect()
        tracemalloc.start()
        kept = fill(http, entries)
        gc.collect()
        size, _ = tracemalloc.get_traced_memory()
        del kept
    return size / entries


def _fill_client(http: httpx.Client, entries: int) -> object:
    cache = CachePolicy(ttl=3600.0, max_entries=entries)
    client = ConfigClient(str(http.base_url), http_client=http, cache=cache)
    for number in range(entries):
        client.get_config(NAMESPACE, f"key{number}")
    return client


def _fill_cache(http: httpx.Client, entries: int) -> object:
    cache: cachetools.TTLCache[tuple[str, str], Any] = cachetools.TTLCache(entries, 3600.0)
    for number in range(entries):
        cache[NAMESPACE, f"key{number}"] = http.get(PATH.format(f"key{number}")).json()
    return cache


def _fill_dict(http: httpx.Client, entries: int) -> object:
    return {
        (NAMESPACE, f"key{number}"): http.get(PATH.format(f"key{number}")).content
        for number in range(entries)
    }


# --- Allocations ------------------------------------------------------------------------------------

ALLOCATIONS_BASELINE: Final = "httpx"


def allocations(url: str, calls: int) -> Table:
    """Count what the interpreter allocates for a call, freed again or not."""
    bare, bare2, client = httpx.Client(base_url=url), httpx2.Client(base_url=url), ConfigClient(url)
    path = PATH.format("model")
    stack = Pipeline(Fallback(0), Retry(), CircuitBreaker())
    retrying = tenacity.Retrying(stop=tenacity.stop_after_attempt(3))
    client.get_config(NAMESPACE, "cached")
    cases: dict[str, Callable[[], Any]] = {
        "get_config, cached": lambda: client.get_config(NAMESPACE, "cached"),
        "get_config, fresh=True": lambda: client.get_config(NAMESPACE, "model", fresh=True),
        ALLOCATIONS_BASELINE: lambda: bare.get(path).json(),
        "httpx2": lambda: bare2.get(path).json(),
        "fallback, retry and breaker": lambda: stack.call(int),
        "tenacity.Retrying": lambda: retrying(int),
    }
    counts = {case: in_child(partial(_allocations, call, calls), LIMIT) for case, call in cases.items()}
    rows = [
        Row(case, Spread.of([count]), Spread.of([count / counts[ALLOCATIONS_BASELINE]]))
        for case, count in counts.items()
    ]
    return Table("allocations", "Allocations of a call", "allocations", ALLOCATIONS_BASELINE, rows)


def _allocations(call: Callable[[], Any], calls: int) -> float:
    nothing = _traced(lambda: None, calls)
    return max(0.0, (_traced(call, calls) - nothing) / calls)


def _traced(call: Callable[[], Any], calls: int) -> int:
    for _ in range(10):
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        with memray.Tracker(path, trace_python_allocators=True):
            for _ in range(calls):
                call()
        with memray.FileReader(path) as reader:
            return int(reader.metadata.total_allocations)


# --- Together ---------------------------------------------------------------------------------------


def measure(*, quick: bool) -> Report:
    """Measure; `quick` only shows that it runs."""
    rounds, entries, calls = (1, 30, 5) if quick else (30, 2_000, 200)
    importing = imports(rounds)
    with quick_server() as server:
        found = [importing, memory(entries), allocations(server.url, calls)]
    return Report("Footprint", found, [judge(GOALS["import"], importing.find(OURS).ratio.median)])
