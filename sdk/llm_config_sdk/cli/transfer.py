"""`export` and `import`: a namespace as one JSON document, and back."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

import typer
from pydantic import SecretStr
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from llm_config_sdk.cli import options
from llm_config_sdk.cli.commands import connected, environment_name
from llm_config_sdk.cli.exits import Exit, exit_for
from llm_config_sdk.cli.output import (
    HIDDEN,
    console,
    error_document,
    inert,
    report,
    shown_value,
    table,
    write_json,
    write_line,
    write_note,
)
from llm_config_sdk.client import ConfigClient
from llm_config_sdk.entries import ConfigEntry
from llm_config_sdk.errors import InvalidRequestError, LLMConfigError
from llm_config_sdk.many import Outcome

FORMAT: Final = "llm-config-sdk export"
VERSION: Final = 1
_STDIN: Final = "-"

ChangeKind = Literal["created", "updated", "unchanged", "failed", "not tried"]


@contextmanager
def _progress(doing: str, count: int | None = None) -> Generator[Callable[[], None], None, None]:
    """Show a bar on stderr while it takes; nothing where stderr is no terminal."""
    paper = console(sys.stderr)
    columns = (
        TextColumn(doing),
        BarColumn(),
        *((MofNCompleteColumn(), TimeRemainingColumn()) if count is not None else ()),
    )
    with Progress(*columns, console=paper, transient=True, disable=not paper.is_terminal) as progress:
        task = progress.add_task(doing, total=count)
        yield lambda: progress.advance(task)


# --- export ---------------------------------------------------------------------------------------


def export(
    namespace: options.Namespace,
    *,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", help="Where to write it, readable by you alone; left out, stdout.", show_default=False
        ),
    ] = None,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
    reveal: options.Reveal = False,
) -> None:
    """Write a namespace's entries as one JSON document; secrets are left out without --reveal.

    A 0.5 server does not say which entries are secrets: what it exports has to be kept like one.
    """
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        with _progress("exporting"):  # one request, so nothing can be counted
            entries = client.list_configs(namespace)
        document = export_document(namespace, environment_name(env), entries, reveal=reveal)
        if file is not None:
            _write_file(file, document)
    left_out, where = document["left_out"], f"{namespace} [{document['environment']}]"
    if file is None:
        write_json(document)
    elif as_json:
        write_json({"file": str(file), "entries": len(document["entries"]), "left_out": left_out})
    else:
        write_line(f"{file}: {_counted(len(document['entries']), 'entry', 'entries')} of {where}")
    if left_out:
        why = "the server does not hand them out" if reveal else "--reveal takes them along"
        write_note(f"{_counted(len(left_out), 'secret', 'secrets')} left out ({', '.join(left_out)}): {why}.")
    if left_out and reveal:
        raise typer.Exit(Exit.FAILED)


def export_document(
    namespace: str, environment: str, entries: Sequence[ConfigEntry], *, reveal: bool
) -> dict[str, Any]:
    """Put a namespace into a document that `import` reads; no placeholder is ever exported as a value."""
    kept = [entry for entry in entries if not entry.secret or (reveal and not entry.is_redacted)]
    return {
        "format": FORMAT,
        "version": VERSION,
        "namespace": namespace,
        "environment": environment,
        "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "entries": [
            {"key": entry.key, "value": shown_value(entry.value, reveal=True)}
            | ({"secret": True} if entry.secret else {})
            for entry in kept
        ],
        "left_out": [entry.key for entry in entries if entry not in kept],
    }


def _write_file(file: Path, document: dict[str, Any]) -> None:
    """Replace a file in one step; `mkstemp` makes it readable by its owner alone."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        Path(temporary).replace(file)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InvalidRequestError(
            f"cannot write {file}: {error.strerror}", hint="Pass another --file."
        ) from None


# --- import ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Step:
    """What becomes of one entry of the document.

    Attributes:
        key: The entry's name.
        kind: What is done to it, or became of it.
        old: Its value on the server; `None` where there is none.
        new: Its value in the document.
        error: Why it failed.
    """

    key: str
    kind: ChangeKind
    old: ConfigEntry | None
    new: Any
    error: LLMConfigError | None = None


def import_(
    namespace: options.Namespace,
    file: Annotated[
        str,
        typer.Argument(
            help="What `export` wrote, or a JSON object of values by key; - reads standard input.",
            show_default=False,
        ),
    ],
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and write nothing.")
    ] = False,
    user: options.User = None,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
    reveal: options.Reveal = False,
) -> None:
    """Write a document's entries into a namespace: only what differs, and nothing is deleted.

    What fails is told one by one, and keeps nothing else from being written.
    """
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        values = _read_file(file)
        steps = compare(values, client.list_configs(namespace))
        interrupted = False if dry_run else _carry_out(client, namespace, steps, user)
    if as_json:
        changes = [_step_document(step, reveal=reveal) for step in steps]
        write_json({"namespace": namespace, "dry_run": dry_run, "changes": changes})
    else:
        _show(namespace, steps, dry_run=dry_run, reveal=reveal)
    if interrupted:
        raise typer.Exit(Exit.INTERRUPTED)
    codes = {exit_for(step.error) for step in steps if step.error is not None}
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else Exit.FAILED)


def compare(values: Mapping[str, Any], entries: Sequence[ConfigEntry]) -> list[Step]:
    """Say what has to be done, in the document's order."""
    there = {entry.key: entry for entry in entries}
    steps: list[Step] = []
    for key, value in values.items():
        old = there.get(key)
        kind: ChangeKind = "created" if old is None else "updated"
        if old is not None and _same(old, value):
            kind = "unchanged"
        steps.append(Step(key, kind, old, value))
    return steps


def _same(old: ConfigEntry, value: Any) -> bool:
    if isinstance(value, SecretStr) or old.secret:
        return not old.is_redacted and bool(old.value == value)
    # As JSON: for Python, 1, 1.0 and True are equal.
    return json.dumps(old.value, sort_keys=True) == json.dumps(value, sort_keys=True)


def _carry_out(client: ConfigClient, namespace: str, steps: Sequence[Step], user: str | None) -> bool:
    """Write what differs, and note what became of it; returns whether it was interrupted."""
    todo = {(namespace, step.key): step for step in steps if step.kind != "unchanged"}
    waiting = set(todo)
    with _progress("importing", len(todo)) as advance:

        def note(outcome: Outcome[Any], done: int, count: int) -> None:
            del done, count
            name = (outcome.namespace, outcome.key)
            waiting.discard(name)
            if outcome.error is not None:
                todo[name].kind, todo[name].error = "failed", outcome.error
            advance()

        try:
            client.set_many({name: step.new for name, step in todo.items()}, user=user, on_progress=note)
        except KeyboardInterrupt:
            for name in waiting:
                todo[name].kind = "not tried"
            return True
    return False


def _show(namespace: str, steps: Sequence[Step], *, dry_run: bool, reveal: bool) -> None:
    changed = [step for step in steps if step.kind in {"created", "updated"}]
    if dry_run and changed:
        rows = [
            (
                step.key,
                step.kind,
                _text(step.old.value, reveal=reveal) if step.old is not None else "",
                _text(_as_stored(step), reveal=reveal),
            )
            for step in changed
        ]
        table(("key", "change", "old", "new"), rows, title=namespace).print()
    for step in steps:
        if step.error is not None:
            write_note(f"{namespace} {step.key}:")
            report(step.error, exit_for(step.error), as_json=False)
    kinds = [step.kind for step in steps]
    parts = [f"{kinds.count(kind)} {kind}" for kind in ("created", "updated", "unchanged")]
    parts += [f"{kinds.count(kind)} {kind}" for kind in ("failed", "not tried") if kind in kinds]
    write_line(f"{inert(namespace)}: {', '.join(parts)}{' (dry run: nothing is written)' if dry_run else ''}")


def _step_document(step: Step, *, reveal: bool) -> dict[str, Any]:
    error = error_document(step.error, exit_for(step.error)) if step.error is not None else {"error": None}
    return {
        "key": step.key,
        "change": step.kind,
        "old": shown_value(step.old.value, reveal=reveal) if step.old is not None else None,
        "new": shown_value(_as_stored(step), reveal=reveal),
        **error,
    }


def _as_stored(step: Step) -> Any:
    """Return the new value; as a secret where it takes the place of one, since it may well be one."""
    if step.old is not None and step.old.secret and not isinstance(step.new, SecretStr):
        return SecretStr(json.dumps(step.new))
    return step.new


def _text(value: object, *, reveal: bool) -> str:
    shown = shown_value(value, reveal=reveal)
    return HIDDEN if shown == HIDDEN else json.dumps(shown, ensure_ascii=False)


def _read_file(file: str) -> dict[str, Any]:
    """Read a document: values by key, secrets wrapped.

    Raises:
        InvalidRequestError: It cannot be read, or is neither form. Its content is never shown.
    """
    name = "standard input" if file == _STDIN else file
    hint = "Pass what `export` wrote, or a JSON object of values by key."
    try:
        text = sys.stdin.read() if file == _STDIN else Path(file).read_text("utf-8")
        document: Any = json.loads(text)
    except OSError as error:
        raise InvalidRequestError(f"cannot read {name}: {error.strerror}", hint=hint) from None
    except (ValueError, RecursionError):
        raise InvalidRequestError(f"{name} is not JSON", hint=hint) from None
    if not isinstance(document, dict):
        raise InvalidRequestError(f"{name} is not a JSON object", hint=hint)
    found = cast("dict[str, Any]", document)
    if found.get("format") != FORMAT:
        return found
    if found.get("version") != VERSION or not isinstance(found.get("entries"), list):
        raise InvalidRequestError(f"{name} is an export of another version", hint=hint)
    values: dict[str, Any] = {}
    for number, entry in enumerate(found["entries"], start=1):
        key, value = _read_entry(entry, f"entry {number} of {name}", hint)
        if key in values:
            raise InvalidRequestError(f"entry {number} of {name} has the key of an earlier one", hint=hint)
        values[key] = value
    return values


def _read_entry(entry: Any, where: str, hint: str) -> tuple[str, Any]:
    if not isinstance(entry, dict):
        raise InvalidRequestError(f"{where} is no object", hint=hint)
    fields = cast("dict[str, Any]", entry)
    key, secret = fields.get("key"), fields.get("secret", False)
    if not isinstance(key, str) or "value" not in fields or not isinstance(secret, bool):
        raise InvalidRequestError(f"{where} needs a key and a value", hint=hint)
    value = fields["value"]
    if not secret:
        return key, value
    if not isinstance(value, str):
        raise InvalidRequestError(f"{where} is a secret, and must be a string", hint=hint)
    return key, SecretStr(value)


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
