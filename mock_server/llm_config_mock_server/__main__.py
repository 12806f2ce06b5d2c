"""`python -m llm_config_mock_server`: the reference server in the foreground, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib.util import find_spec
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from llm_config_sdk.contract import Environment

from .profiles import PROFILES
from .rbac import BUILT_IN_ROLES
from .server import LOOPBACK, MockServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

DEFAULT_PORT: Final = 8080  # the platform's own
PROGRAM: Final = "python -m llm_config_mock_server"
_DESCRIPTION: Final = "Run the reference server in the foreground, until Ctrl-C or SIGTERM."
_DEMO_DATA: Final[Sequence[tuple[str, str, Environment, Any]]] = (
    ("app/llm", "model", Environment.PRODUCTION, "gpt-4"),
    ("app/llm", "model", Environment.STAGING, "gpt-4-turbo"),
    ("app/llm", "temperature", Environment.BASE, 0.7),
    ("app/llm", "limits", Environment.BASE, {"max_tokens": 4096, "timeout_seconds": 30}),
    ("team-a/prompts", "greeting", Environment.BASE, "Hello! How can I help you today?"),
    ("team-a/prompts", "languages", Environment.PRODUCTION, ["en", "de", "fr"]),
)
_DEMO_SECRET: Final = ("app/llm", "api-key", Environment.PRODUCTION, "sk-demo-0123456789")


def main(arguments: Sequence[str] | None = None, *, program: str = PROGRAM) -> int:
    """Serve until interrupted (SIGINT or SIGTERM).

    Args:
        arguments: The command line without the program's name; the process's own if left out.
        program: What the program is called in its help.

    Returns:
        The exit status: 0 after an interruption, 1 where the server cannot serve.
    """
    options = _parser(program).parse_args(arguments)
    ended = Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    try:
        server = MockServer(
            options.profile,
            port=options.port,
            host=options.host,
            storage=options.storage,
            seed=options.seed,
            tls=options.tls,
            limits=not options.no_limits,
            auth=not options.no_auth,
            disk_bytes=options.disk_bytes,
            admin=options.admin,
        )
    except (OSError, ValueError) as error:
        return _failed(f"cannot begin: {error}")
    try:
        server.start()
    except OSError as error:
        server.close()
        return _failed(f"cannot serve on {options.host}:{options.port}: {error.strerror}")
    with server:
        if options.demo_data:
            _fill(server)
        print("\n".join(_greeting(server, options)), flush=True)  # noqa: T201 - a command's output
        ended.wait()
    return 0


def _failed(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - a command's output
    return 1


def _fill(server: MockServer) -> None:
    """Write the demo's entries, where there are none from an earlier run."""
    for namespace, key, environment, value in _DEMO_DATA:
        if server.entry(namespace, key, env=environment) is None:
            server.put(namespace, key, value, env=environment)
    namespace, key, environment, secret = _DEMO_SECRET
    has_cryptography = find_spec("cryptography") is not None  # of the extra `server`
    if has_cryptography and server.entry(namespace, key, env=environment) is None:
        server.put(namespace, key, secret, env=environment, secret=True)


def _greeting(server: MockServer, options: argparse.Namespace) -> list[str]:
    lines = [f"serving {options.profile} on {server.url} (seed {server.seed})"]
    if not options.no_auth:
        lines += [f"token {role}: {server.token(role)}" for role in BUILT_IN_ROLES]
    if options.storage is not None:
        lines += [f"storage: {options.storage}"]
    if options.admin:
        lines += [f"console: {server.console_url}"]
    if not options.tls:  # whose authority a shell has to be given first
        lines += [f"in your shell: export {' '.join(_variables(server, options))}"]
    if options.tls:
        lines += [server.ca.cert_pem.bytes().decode().strip()]
    return lines


def _variables(server: MockServer, options: argparse.Namespace) -> list[str]:
    """Name the variables that lead a client to the server, where something can be seen."""
    told = {"LLM_CONFIG_BASE_URL": server.url}
    if not options.no_auth:
        told["LLM_CONFIG_TOKEN"] = server.token("editor")
    if options.demo_data:
        told["LLM_CONFIG_ENVIRONMENT"] = Environment.PRODUCTION.value
    return [f"{name}={value}" for name, value in told.items()]


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=_DESCRIPTION)
    parser.add_argument("--profile", choices=PROFILES, default=PROFILES[0], help="how the server speaks")
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen on")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="the port; 0 takes a free one")
    parser.add_argument(
        "--storage", metavar="PATH", help="keep everything in this sqlite database; in memory if left out"
    )
    parser.add_argument("--disk-bytes", type=int, metavar="N", help="the most that the entries may take")
    parser.add_argument(
        "--admin", action="store_true", help="serve the admin interface and the console, for this machine"
    )
    parser.add_argument("--seed", type=int, help="makes ids, tokens and chaos repeatable")
    parser.add_argument(
        "--tls", action="store_true", help="speak HTTPS; the authority's certificate is printed"
    )
    parser.add_argument("--no-auth", action="store_true", help="ask for no token")
    parser.add_argument("--no-limits", action="store_true", help="no rate limit")
    parser.add_argument("--demo-data", action="store_true", help="begin with a few entries to look at")
    return parser


if __name__ == "__main__":
    sys.exit(main())
