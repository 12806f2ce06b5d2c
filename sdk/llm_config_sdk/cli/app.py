"""The commands, put together."""

import errno
import os
import sys
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from llm_config_sdk import __version__
from llm_config_sdk.cli import PROGRAM, commands, explain
from llm_config_sdk.cli.demo import demo
from llm_config_sdk.cli.doctor import doctor
from llm_config_sdk.cli.exits import Exit, exits_help
from llm_config_sdk.cli.output import survive_any_stream, write_line, write_note
from llm_config_sdk.cli.serve import serve
from llm_config_sdk.cli.simulate import simulate
from llm_config_sdk.cli.transfer import export, import_
from llm_config_sdk.cli.watch import watch


def _plain_flags(parameters: list[Any]) -> list[Any]:
    """Name no type after a flag in the help: it would look as if a value had to follow."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_flags(super().get_params(ctx))


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _plain_flags(super().get_params(ctx))


app: Final = typer.Typer(
    name=PROGRAM,
    cls=_Group,
    no_args_is_help=True,
    epilog=exits_help(),
    # Its tracebacks would show local variables, and with them tokens and secrets.
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001  # how typer calls it
    if wanted:
        write_line(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def configure(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Read and write the configs of an LLM Config Manager platform, and try its failures out."""
    del version  # its callback has answered


app.command("get", cls=_Command)(commands.get)
app.command("set", cls=_Command)(commands.set_)
app.command("list", cls=_Command)(commands.list_)
app.command("history", cls=_Command)(commands.history)
app.command("rollback", cls=_Command)(commands.rollback)
app.command("delete", cls=_Command)(commands.delete)
app.command("watch", cls=_Command)(watch)
app.command("export", cls=_Command)(export)
app.command("import", cls=_Command)(import_)
app.command("health", cls=_Command)(commands.health)
app.command("doctor", cls=_Command)(doctor)
app.command("explain", cls=_Command)(explain.explain)
app.command("demo", cls=_Command)(demo)
app.command("simulate", cls=_Command)(simulate)
app.command(
    "serve",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve)


def run() -> None:
    """Run the command line on the process's own arguments, and exit."""
    survive_any_stream()
    try:
        try:
            app(prog_name=PROGRAM)
        finally:
            sys.stdout.flush()  # here, where it can be told, rather than while Python shuts down
    except OSError as error:  # of ours alone: what a server causes has another class by now
        if error.errno != errno.EPIPE:
            write_note(f"{PROGRAM}: cannot write: {error.strerror}")
        # What is still to be flushed goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(Exit.FAILED) from None
