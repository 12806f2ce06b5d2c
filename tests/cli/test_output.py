"""What reaches a terminal: nothing that steers it, and nothing that its encoding cannot carry."""

import io
import sys

from llm_config_sdk.cli.output import inert, table, write_line

STEERING = "ok\x1b]0;owned\x07\x1b[2J\r\x9b31m"


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_control_characters_are_written_out():
    assert inert(STEERING) == "ok\\x1b]0;owned\\x07\\x1b[2J\\x0d\\x9b31m"
    assert inert("two\nlines\tand a tab") == "two\nlines\tand a tab"


def test_a_value_cannot_steer_the_terminal_and_is_exact_in_a_pipe(monkeypatch):
    terminal, pipe = _Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    write_line(STEERING)
    monkeypatch.setattr(sys, "stdout", pipe)
    write_line(STEERING)
    assert "\x1b" not in terminal.getvalue()
    assert pipe.getvalue() == f"{STEERING}\n"


def test_a_cell_is_no_markup_and_cannot_steer_the_terminal(monkeypatch, capsys):
    for columns in (100, 10):
        monkeypatch.setenv("COLUMNS", str(columns))
        table(("value", "by"), [("[bold]kept[/bold]", "me"), (STEERING, "me")], title="[x]").print()
        shown = capsys.readouterr().out
        assert "[bold]kept[/bold]" in shown
        assert "[x]" in shown
        assert "\x1b" not in shown


def test_an_encoding_without_dashes_does_not_end_a_command(program):
    ended = program("explain", "NOT_FOUND", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert "default=?" in ended.stdout
