"""What commands write: values, tables and JSON on stdout, errors on stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_config_sdk.errors import LLMConfigError, one_line, without_credentials
from llm_config_sdk.settings import SETTINGS_ARE_WRONG

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import JustifyMethod

    from llm_config_sdk.cli.exits import Exit
    from llm_config_sdk.entries import ConfigEntry, HistoryEntry

HIDDEN: Final = "**********"
_RULE: Final = 3  # columns of a terminal that a table's column takes for its rule and its padding
_NARROWEST_COLUMN: Final = 8  # columns of a terminal: below that, words are cut into syllables
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console(stream: TextIO | None = None) -> Console:
    """Make a console for a stream, stdout unless given; it honours NO_COLOR, width and pipes."""
    return Console(file=stream or sys.stdout, highlight=False, soft_wrap=False)


def survive_any_stream() -> None:
    """Let no stream end a command: one that cannot show a character, one that was closed before it began."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # whatever the types say
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


def write_json(document: object) -> None:
    """Write one JSON document."""
    _write(json.dumps(document, indent=2, ensure_ascii=False, default=str), sys.stdout)


def write_line(text: str) -> None:
    """Write text as it is: no wrapping, no markup; on a terminal, nothing that would steer it."""
    _write(inert(text) if sys.stdout.isatty() else text, sys.stdout)


def write_now(text: str) -> None:
    """Write a line as `write_line` does, and hand it over at once: somebody waits for it."""
    write_line(text)
    sys.stdout.flush()


def write_note(text: str) -> None:
    """Write a remark beside the output, to stderr."""
    _write(inert(text), sys.stderr)


def _write(text: str, stream: TextIO) -> None:
    print(text, file=stream)


def inert(text: str) -> str:
    """Write control characters out, so that a stored value cannot steer the terminal that shows it."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def shown_value(value: object, *, reveal: bool) -> Any:
    """Make a value fit for JSON, with secrets hidden unless they are asked for."""
    if isinstance(value, SecretStr):
        return value.get_secret_value() if reveal else HIDDEN
    return value


def as_text(value: object, *, reveal: bool) -> str:
    """Write a value in one piece: a string as it is, anything else as JSON."""
    shown = shown_value(value, reveal=reveal)
    return shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)


def entry_document(entry: ConfigEntry, *, reveal: bool) -> dict[str, Any]:
    """Describe an entry for machines: the wire's fields, and where this copy came from."""
    return {
        "id": entry.id,
        "namespace": entry.namespace,
        "key": entry.key,
        "environment": entry.environment.value,
        "value": shown_value(entry.value, reveal=reveal),
        "version": entry.version,
        "secret": entry.secret,
        "metadata": entry.metadata.model_dump(mode="json"),
        "source": entry.source,
        "endpoint": entry.endpoint,
        "attempts": entry.attempts,
    }


def history_document(item: HistoryEntry) -> dict[str, Any]:
    """Describe a version for machines; what was a secret is never in it."""
    return {
        "version": item.version,
        "value": shown_value(item.value, reveal=False),
        "created_at": item.created_at.isoformat(),
        "created_by": item.created_by,
        "change_description": item.change_description,
    }


def entries_table(entries: Iterable[ConfigEntry], *, reveal: bool, title: str) -> Rows:
    """Lay entries out, one a row."""
    rows = [
        (
            entry.key,
            as_text(entry.value, reveal=reveal),
            str(entry.version),
            f"{entry.metadata.updated_at:%Y-%m-%d %H:%M}",
            entry.metadata.updated_by,
        )
        for entry in entries
    ]
    return table(("key", "value", "version", "updated", "by"), rows, title=title)


def history_table(items: Iterable[HistoryEntry], *, title: str) -> Rows:
    """Lay versions out, one a row."""
    rows = [
        (
            str(item.version),
            as_text(item.value, reveal=False),
            f"{item.created_at:%Y-%m-%d %H:%M:%S}",
            item.created_by,
            item.change_description or "",
        )
        for item in items
    ]
    return table(("version", "value", "written", "by", "change"), rows, title=title)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> Rows:
    """Lay rows of plain text out: nothing in a cell is markup, or can steer a terminal."""
    cells = [[inert(cell) for cell in row] for row in rows]
    return Rows(columns, cells, inert(title) if title else None)


@dataclass(frozen=True, slots=True)
class Rows:
    """A table, or where the terminal is too narrow for its columns, a few lines a row."""

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    title: str | None

    def print(self) -> None:
        """Write it to stdout."""
        paper = console()
        longest = [max(map(len, column)) for column in zip(self.columns, *self.cells, strict=True)]
        least = [min(length, _NARROWEST_COLUMN) for length in longest]
        if sum(least) + _RULE * len(least) + 1 <= paper.width:
            paper.print(self._table(least))
            return
        for line in self._lines():
            paper.print(line, soft_wrap=True)  # the terminal breaks it; whoever copies it gets it whole

    def _table(self, widths: Sequence[int]) -> Table:
        made = Table(title=Text(self.title) if self.title else None, title_justify="left")
        for column, width in zip(self.columns, widths, strict=True):
            justify: JustifyMethod = "right" if column in {"version", "#"} else "left"
            made.add_column(column, justify=justify, overflow="fold", min_width=width)
        for row in self.cells:
            made.add_row(*map(Text, row))
        return made

    def _lines(self) -> Iterator[Text]:
        if self.title:
            yield Text(self.title, style="italic")
        for row in self.cells:
            for number, (column, cell) in enumerate(zip(self.columns, row, strict=True)):
                yield Text(f"{'  ' if number else '- '}{column}: {cell}".rstrip())


def error_document(error: LLMConfigError, code: Exit) -> dict[str, Any]:
    """Describe an error for machines."""
    endpoint = without_credentials(error.endpoint) if error.endpoint else None
    return {
        "error": {
            "type": type(error).__name__,
            "code": error.code,
            "message": shell_message(error),
            "hint": shell_hint(error),
            "status": error.status,
            "category": error.category.value,
            "module": error.module.value if error.module else None,
            "details": error.details,
            "retriable": error.is_retriable,
            "retry_after": error.retry_after,
            "request_id": error.request_id,
            "operation": error.operation,
            "namespace": error.namespace,
            "key": error.key,
            "environment": error.environment,
            "endpoint": endpoint,
            "attempts": error.attempts,
            "exit_code": int(code),
        }
    }


def shell_message(error: LLMConfigError) -> str:
    """Say what happened, with the command line's options in place of the client's arguments."""
    message = error.message
    if message.startswith(SETTINGS_ARE_WRONG):
        for argument, option in _OPTION_OF.items():
            message = message.replace(f" {argument}=…:", f" {option}:")
    return message


_OPTION_OF: Final = {
    "base_url": "--base-url",
    "backups": "--backup",
    "token": "--token",
    "environment": "--env",
    "timeout": "--timeout",
}


def shell_hint(error: LLMConfigError) -> str:
    """Say what to do next in the words of a shell: hints name what a program would pass."""
    hint = error.hint
    for in_python, in_the_shell in _IN_THE_SHELL.items():
        hint = hint.replace(in_python, in_the_shell)
    wait = f"{error.retry_after:g} s" if error.retry_after is not None else "a few seconds"
    return hint.replace("`retry_after` seconds", wait)


_IN_THE_SHELL: Final = {
    "token=…": "--token",
    "timeout=…": "--timeout",
    "headers=…": "--header",
    "get_history(…)": "`history`",
    ", or pass default=… to do without the entry": "; `list` shows what there is",
    "; backups=… and fallback=… bridge an outage": "",
    " and `details` say": " says",
    "Look at `.errors` for each endpoint's failure": "Let `doctor` examine each endpoint",
    "; fallback=… bridges an outage": "",
    "Pass verify='ca.pem' (or LLM_CONFIG_CA_BUNDLE)": "Set LLM_CONFIG_CA_BUNDLE (or SSL_CERT_FILE)",
}


def report(error: LLMConfigError, code: Exit, *, as_json: bool) -> None:
    """Write an error to stderr: what happened, then what to do."""
    if as_json:
        _write(json.dumps(error_document(error, code), ensure_ascii=False, default=str), sys.stderr)
        return
    facts = [
        f"environment {one_line(str(error.environment))}" if error.environment else "",
        f"at {without_credentials(error.endpoint)}" if error.endpoint else "",
        one_line(str(error.code)) if error.code else "",
        f"HTTP {error.status}" if error.status is not None else "",
        f"request {one_line(error.request_id)}" if error.request_id else "",
    ]
    told = ", ".join(fact for fact in facts if fact)
    paper = console(sys.stderr)
    message = one_line(shell_message(error)) + (f" ({told})" if told else "")
    paper.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    paper.print(Text.assemble((" hint: ", "bold"), one_line(shell_hint(error))), soft_wrap=True)
