"""`watch`: changes as they happen, one line each."""

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from queue import SimpleQueue
from threading import Thread
from typing import Annotated, Any, Final

import typer

from llm_config_sdk.cli import options
from llm_config_sdk.cli.commands import connected, environment_name
from llm_config_sdk.cli.exits import Exit
from llm_config_sdk.cli.output import HIDDEN, shown_value, write_note, write_now
from llm_config_sdk.entries import ConfigEntry
from llm_config_sdk.errors import one_line
from llm_config_sdk.watching import INTERVAL, Change, Watch

_LAST_POLL: Final = 1.0  # seconds that a poll under way has to end in
_OF_THE_SERVER: Final = frozenset({"unavailable", "recovered"})


def watch(
    namespace: options.Namespace,
    key: Annotated[
        str | None, typer.Argument(help="The entry; left out, the whole namespace.", show_default=False)
    ] = None,
    *,
    interval: Annotated[float, typer.Option("--interval", help="Seconds between two looks.")] = INTERVAL,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", min=1, help="End after this many changes; an outage is none.", show_default=False
        ),
    ] = None,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJsonLines = False,
    reveal: options.Reveal = False,
) -> None:
    """Print changes as they happen, one line each, until Ctrl-C; an outage and its end are told too."""
    told = 0
    try:
        with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
            changes = client.watch(namespace, key, interval=interval)
            if not as_json:
                where = f"{namespace}{f' {key}' if key else ''} [{environment_name(env)}]"
                write_note(f"Watching {where}; Ctrl-C ends it.")
            for change in _followed(changes):
                document = change_document(change, reveal=reveal)
                write_now(json.dumps(document, ensure_ascii=False) if as_json else _line(document))
                told += change.kind not in _OF_THE_SERVER
                if told == count:
                    return
    except KeyboardInterrupt:
        raise typer.Exit(Exit.INTERRUPTED) from None


def _followed(changes: Watch) -> Iterator[Change]:
    """Poll in a thread of its own, so that Ctrl-C never meets a request half done."""
    told: SimpleQueue[Change | Exception | None] = SimpleQueue()

    def follow() -> None:
        try:
            for change in changes:
                told.put(change)
        except Exception as error:  # noqa: BLE001  # raised again where it is waited for
            told.put(error)
        told.put(None)

    poller = Thread(target=follow, name="llm-config-watch", daemon=True)
    poller.start()
    try:
        while (item := told.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        changes.close()
        poller.join(_LAST_POLL)


def change_document(change: Change, *, reveal: bool) -> dict[str, Any]:
    """Describe a change for machines, with secrets hidden unless they are asked for."""
    error = change.error
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": change.kind,
        "namespace": change.namespace,
        "key": change.key,
        "old": _version_document(change.old, reveal=reveal),
        "new": _version_document(change.new, reveal=reveal),
        "error": None
        if error is None
        else {"type": type(error).__name__, "code": error.code, "message": one_line(error.message)},
    }


def _version_document(entry: ConfigEntry | None, *, reveal: bool) -> dict[str, Any] | None:
    if entry is None:
        return None
    return {
        "value": shown_value(entry.value, reveal=reveal),
        "version": entry.version,
        "secret": entry.secret,
        "updated_by": entry.metadata.updated_by,
    }


def _line(document: dict[str, Any]) -> str:
    where = f"{document['namespace']} {document['key']}" if document["key"] else document["namespace"]
    told = f"{document['time'][11:19]} {where} {document['kind']}"
    if document["error"] is not None:
        return f"{told}: {document['error']['message']}"
    if document["kind"] in _OF_THE_SERVER:
        return told
    return f"{told}: {_worded(document['old'])} {arrow()} {_worded(document['new'])}"


def _worded(version: dict[str, Any] | None) -> str:
    if version is None:
        return "nothing"
    value = version["value"]
    shown = HIDDEN if value == HIDDEN else json.dumps(value, ensure_ascii=False)
    return f"{shown} (version {version['version']} by {one_line(version['updated_by'])})"


def arrow() -> str:
    """Return an arrow that stdout can show."""
    return "→" if (sys.stdout.encoding or "").lower().startswith("utf") else "->"
