"""`python -m llm_config_mock_server`: the reference server in the foreground, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING, Final

from llm_config_sdk.contract import Environment

from .profiles import PROFILES
from .rbac import BUILT_IN_ROLES
from .server import LOOPBACK, MockServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

DEFAULT_PORT: Final = 8080  # the platform's own


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted (SIGINT or SIGTERM).

    Args:
        arguments: The command line without the program's name; the process's own if left out.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    server = MockServer(
        options.profile,
        port=options.port,
        host=options.host,
        seed=options.seed,
        tls=options.tls,
        limits=not options.no_limits,
        auth=not options.no_auth,
    )
    ended = Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        server.start()
    except OSError as error:
        print(f"cannot serve on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)  # noqa: T201 - a command's output
        return 1
    with server:
        if options.demo_data:
            server.put("app/llm", "model", "gpt-4", env=Environment.PRODUCTION)
            server.put("app/llm", "temperature", 0.7, env=Environment.BASE)
        lines = [f"serving {options.profile} on {server.url} (seed {server.seed})"]
        if not options.no_auth:
            lines += [f"token {role}: {server.token(role)}" for role in BUILT_IN_ROLES]
        if options.tls:
            lines += [server.ca.cert_pem.bytes().decode().strip()]
        print("\n".join(lines), flush=True)  # noqa: T201 - a command's output
        ended.wait()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm_config_mock_server", description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default=PROFILES[0], help="how the server speaks")
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen on")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the port; 0 takes a free one")
    parser.add_argument("--seed", type=int, help="makes ids, tokens and chaos repeatable")
    parser.add_argument(
        "--tls", action="store_true", help="speak HTTPS; the authority's certificate is printed"
    )
    parser.add_argument("--no-auth", action="store_true", help="ask for no token")
    parser.add_argument("--no-limits", action="store_true", help="no rate limit")
    parser.add_argument("--demo-data", action="store_true", help="begin with two entries of app/llm")
    return parser


if __name__ == "__main__":
    sys.exit(main())
