"""The options that commands share, each said once."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from llm_config_sdk.contract import Environment

_CONNECTION: Final = "Connection"
_OUTPUT: Final = "Output"


def _environments() -> list[str]:
    return [environment.value for environment in Environment]


Namespace = Annotated[str, typer.Argument(help="Where the entry lives, as app/llm.", show_default=False)]
Key = Annotated[str, typer.Argument(help="The entry's name there.", show_default=False)]
BaseUrl = Annotated[
    str | None,
    typer.Option(
        "--base-url",
        metavar="URL",
        help="The server; left out, LLM_CONFIG_BASE_URL.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Backup = Annotated[
    list[str] | None,
    typer.Option(
        "--backup",
        metavar="URL",
        help="A server that reads fail over to; left out, LLM_CONFIG_BACKUPS; may be repeated.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="The bearer token; left out, LLM_CONFIG_TOKEN, which other users of the machine cannot see.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Env = Annotated[
    str | None,
    typer.Option(
        "--env",
        "-e",
        metavar="NAME",
        help="The environment; left out, LLM_CONFIG_ENVIRONMENT, else development.",
        show_default=False,
        autocompletion=_environments,
        rich_help_panel=_CONNECTION,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="Seconds for the whole call, retries and all; left out, LLM_CONFIG_TIMEOUT, else 10.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
Header = Annotated[
    list[str] | None,
    typer.Option(
        "--header",
        metavar="NAME:VALUE",
        help="Sent with every request, as X-Forwarded-Proto:https where no proxy adds it; may be repeated.",
        show_default=False,
        rich_help_panel=_CONNECTION,
    ),
]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="NAME", help="The author; left out, LLM_CONFIG_USER.", show_default=False),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="One JSON document on stdout, for machines.", rich_help_panel=_OUTPUT),
]
AsJsonLines = Annotated[
    bool,
    typer.Option("--json", help="One JSON object a line on stdout, for machines.", rich_help_panel=_OUTPUT),
]
Reveal = Annotated[bool, typer.Option("--reveal", help="Show secrets.", rich_help_panel=_OUTPUT)]
