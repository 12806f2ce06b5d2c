#!/usr/bin/env python3
"""A worker that reads its settings before every round, until it is told to end (SIGTERM or Ctrl-C).

LLM_CONFIG_BASE_URL=… LLM_CONFIG_TOKEN=… python worker.py
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from threading import Event

from llm_config_sdk import (
    BreakerPolicy,
    CachePolicy,
    ConfigClient,
    ConfigEntry,
    LLMConfigError,
    ResiliencePolicy,
)

INTERVAL = float(os.environ.get("WORKER_INTERVAL", "5"))  # seconds between two rounds

log = logging.getLogger("worker")


def work(model: ConfigEntry) -> None:
    """Do one round's work."""
    log.info("working with %s, from %s", model.value, model.source)


def run(client: ConfigClient, ended: Event) -> None:
    """Work until told to end; a platform that is away is no reason to stop."""
    while not ended.is_set():
        try:
            work(client.get_config("app/llm", "model", fallback="gpt-4o-mini"))
        except LLMConfigError as error:
            if not error.is_retriable:
                error.add_context("while reading the worker's model")
                raise
            log.warning("skipping a round: %s", error)
        ended.wait(INTERVAL)


def main() -> int:
    """Run; return the exit status."""
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    ended = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    # An entry is fresh for one round, and an endpoint that failed is given a rest of one round.
    cache = CachePolicy(ttl=INTERVAL / 2)
    resilience = ResiliencePolicy(breaker=BreakerPolicy(timeout=INTERVAL))
    try:
        with ConfigClient(cache=cache, resilience=resilience, timeout=3.0) as client:
            run(client, ended)
    except LLMConfigError as error:
        log.critical("%s", error)
        return 1
    log.info("ended as asked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
