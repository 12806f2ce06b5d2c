"""How quick the reference server is, beside pytest-httpserver: run by hand, on a quiet machine.

    python tests/benchmarks/bench_server.py

The two are measured in turns, so that a busy moment strikes both; what counts are the ratios.
"""

from __future__ import annotations

import logging
import statistics
import time
from typing import TYPE_CHECKING

import httpx
from pytest_httpserver import HTTPServer

from llm_config_mock_server import MockServer

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 20
REQUESTS = 2_000
WARM_UP = 50
PATH = "/api/v1/configs/app%2Fllm/model"


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def report(what: str, ours: list[float], theirs: list[float]) -> None:
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(  # noqa: T201 - a program's output
        f"{what:<34}{mine * 1e6:>10.0f} µs{other * 1e6:>10.0f} µs   ratio {mine / other:.2f}"
    )


def one_life_of_ours() -> None:
    with MockServer():
        pass


def one_life_of_theirs() -> None:
    with HTTPServer():
        pass


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request is no part of the comparison
    print(f"{'median':<34}{'MockServer':>13}{'httpserver':>13}")  # noqa: T201 - a program's output
    lives = [(seconds_of(one_life_of_ours), seconds_of(one_life_of_theirs)) for _ in range(ROUNDS)]
    report("start and stop", [ours for ours, _ in lives], [theirs for _, theirs in lives])

    with MockServer(auth=False) as ours, HTTPServer() as theirs:
        ours.put("app/llm", "model", "gpt-4")
        theirs.expect_request("/api/v1/configs/app/llm/model").respond_with_json(
            ours.entry("app/llm", "model")
        )
        # As a client of a test would: kept alive where the server lets it.
        transports = httpx.HTTPTransport(), httpx.HTTPTransport()
        with (
            httpx.Client(base_url=ours.url, transport=transports[0]) as to_ours,
            httpx.Client(base_url=theirs.url_for(""), transport=transports[1]) as to_theirs,
            httpx.Client(base_url="http://config.test", transport=ours.transport()) as in_process,
        ):
            clients = to_ours, to_theirs, in_process
            for client in clients:
                for _ in range(WARM_UP):
                    client.get(PATH).raise_for_status()
            times: list[list[float]] = [[], [], []]
            for _ in range(REQUESTS):
                for client, taken in zip(clients, times, strict=True):
                    taken.append(seconds_of(lambda c=client: c.get(PATH)))
            report("GET, kept alive", times[0], times[1])
            report("GET, in-process transport", times[2], times[1])


if __name__ == "__main__":
    main()
