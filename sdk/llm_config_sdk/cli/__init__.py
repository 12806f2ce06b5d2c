"""The command line `llm-config-sdk`. Nothing of it is imported by the SDK."""

from __future__ import annotations

import sys
from typing import Final

__all__ = ["main"]

PROGRAM: Final = "llm-config-sdk"
_NEEDED: Final = frozenset({"rich", "typer"})  # what the extra brings
_USAGE: Final = 2  # the exit code of everything that keeps a command from being run at all
_INTERRUPTED: Final = 130  # the exit code of Ctrl-C: 128 and the signal's number


def main() -> None:
    """Run the command line on the process's own arguments, and exit."""
    try:
        from llm_config_sdk.cli.app import run  # noqa: PLC0415  # typer and rich may not be there
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        print(  # noqa: T201  # a command's output
            f'{PROGRAM}: {missing} is not installed: pip install "llm-config-sdk[cli]"', file=sys.stderr
        )
        raise SystemExit(_USAGE) from None
    except KeyboardInterrupt:  # typer hears of those that come later
        raise SystemExit(_INTERRUPTED) from None
    try:
        run()
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
