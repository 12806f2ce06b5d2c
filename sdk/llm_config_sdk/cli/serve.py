"""`serve`: the reference server in the foreground, by its own command line."""

from __future__ import annotations

import typer


def serve(context: typer.Context) -> None:
    """Run the reference server in the foreground, until Ctrl-C.

    Every option is the server's own; `serve --help` lists them.
    """
    from llm_config_mock_server.__main__ import main  # noqa: PLC0415  # only this command needs the server

    raise typer.Exit(main(context.args, program=context.command_path))
