#!/usr/bin/env python3
"""A command that copies an entry from one environment to another, and never overwrites what it has not seen.

LLM_CONFIG_BASE_URL=… LLM_CONFIG_TOKEN=… python promote.py app/llm model --from staging --to production
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from llm_config_sdk import ConfigClient, ConfigEntry, ConflictError, LLMConfigError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

REFUSED, FAILED = 3, 1  # exit statuses


def promote(client: ConfigClient, namespace: str, key: str, source: str, target: str) -> ConfigEntry:
    """Copy an entry; raise `ConflictError` if the target changes meanwhile."""
    wanted = client.get_config(namespace, key, env=source, fresh=True)
    try:
        there: ConfigEntry | None = client.get_config(namespace, key, env=target, fresh=True)
    except NotFoundError:
        there = None
    if there is not None and there.value == wanted.value:
        return there
    return client.set_config(namespace, key, wanted.value, env=target, expected_version=there)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description="Copy an entry from one environment to another.")
    parser.add_argument("namespace")
    parser.add_argument("key")
    parser.add_argument("--from", dest="source", default="staging")
    parser.add_argument("--to", dest="target", default="production")
    options = parser.parse_args(arguments)
    try:
        with ConfigClient(cache=None) as client:
            entry = promote(client, options.namespace, options.key, options.source, options.target)
    except ConflictError as error:
        sys.stderr.write(f"somebody else was faster: {error.hint}\n")
        return REFUSED
    except LLMConfigError as error:
        sys.stderr.write(f"{error}\n")
        return FAILED
    sys.stdout.write(
        f"{entry.namespace} {entry.key} [{entry.environment.value}] is at version {entry.version}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
