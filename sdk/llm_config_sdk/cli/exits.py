"""Exit codes: what a script can tell apart without reading a word."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from llm_config_sdk.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_config_sdk.errors import LLMConfigError


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 4
    DENIED = 5
    INVALID = 6
    UNAVAILABLE = 7
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Row:
    """One exit code: what it means, and which errors end in it."""

    code: Exit
    meaning: str
    covers: Callable[[LLMConfigError], bool]


def _never(error: LLMConfigError) -> bool:
    del error
    return False


EXITS: Final = (
    _Row(Exit.OK, "done", _never),
    _Row(Exit.NOT_FOUND, "no such entry, or no such version", lambda error: error.is_not_found),
    _Row(
        Exit.DENIED,
        "no valid token, or it does not allow this",
        lambda error: error.is_unauthorized or error.is_permission_denied,
    ),
    _Row(
        Exit.INVALID,
        "a name, a value or the request is wrong",
        lambda error: error.is_validation or isinstance(error, InvalidRequestError),
    ),
    _Row(
        Exit.UNAVAILABLE,
        "no server answers, or it says to come back later",
        lambda error: error.is_transient or error.is_rate_limited,
    ),
    _Row(Exit.USAGE, "the command line is wrong, or an extra is not installed", _never),
    _Row(Exit.FAILED, "anything else, as a conflict or a claim of the demo that does not hold", _never),
    _Row(Exit.INTERRUPTED, "ended by Ctrl-C", _never),
)
"""The table that decides, first match first, and that `--help` shows."""


def exit_for(error: LLMConfigError) -> Exit:
    """Choose the exit code of an error."""
    return next((row.code for row in EXITS if row.covers(error)), Exit.FAILED)


def exits_help() -> str:
    """Write the table down for `--help`, a line each."""
    rows = sorted(EXITS, key=lambda row: row.code)
    # The semicolons are for versions of typer that make one paragraph of it.
    return "Exit codes:\n" + ";\n".join(f"{row.code.value:>3} {row.meaning}" for row in rows) + "."
