"""The commands that ask a server something: one call of the client each."""

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from llm_config_sdk.cli import options
from llm_config_sdk.cli.exits import Exit, exit_for
from llm_config_sdk.cli.output import (
    as_text,
    entries_table,
    entry_document,
    history_document,
    history_table,
    inert,
    report,
    write_json,
    write_line,
    write_note,
)
from llm_config_sdk.client import ConfigClient
from llm_config_sdk.errors import InvalidRequestError, LLMConfigError
from llm_config_sdk.settings import misspelt_variables, read_settings

_STDIN = "-"
_LIKE_JSON = ("{", "[", '"')


@contextmanager
def connected(
    base_url: str | None,
    token: str | None,
    env: str | None,
    timeout: float | None,
    *,
    header: Sequence[str] | None = None,
    as_json: bool,
) -> Generator[ConfigClient, None, None]:
    """Make a client, and end the command with a message and an exit code if anything goes wrong."""
    if not as_json:
        warn_of_misspelt_variables()
    try:
        if base_url is None and read_settings({}).base_url is None:
            raise InvalidRequestError(
                "no server to talk to", hint="Pass --base-url, or set LLM_CONFIG_BASE_URL."
            )
        # One command is one call: there is nothing to cache.
        with ConfigClient(
            base_url,
            token=token,
            environment=env,
            timeout=timeout,
            headers=read_headers(header),
            cache=None,
        ) as client:
            yield client
    except LLMConfigError as error:
        code = exit_for(error)
        report(error, code, as_json=as_json)
        raise typer.Exit(code) from None


def environment_name(env: str | None) -> str:
    """Name the environment that a command works in."""
    return read_settings({"environment": env}).environment.value


def warn_of_misspelt_variables() -> None:
    """Name variables that look meant for a setting and are read by nobody."""
    for name, meant in misspelt_variables(os.environ):
        write_note(f"note: {inert(name)} is not read; did you mean {meant}?")


def read_headers(given: Sequence[str] | None) -> dict[str, str]:
    """Read `NAME:VALUE` pairs.

    Raises:
        InvalidRequestError: One of them is no pair. It is not shown: it may be a credential.
    """
    headers: dict[str, str] = {}
    for pair in given or ():
        name, colon, value = pair.partition(":")
        if not colon:
            raise InvalidRequestError("a header must be NAME:VALUE", hint="Pass --header NAME:VALUE.")
        headers[name.strip()] = value.strip()
    return headers


def get(
    namespace: options.Namespace,
    key: options.Key,
    *,
    resolve: Annotated[
        bool, typer.Option("--resolve", help="Look in the environments below too; the most specific wins.")
    ] = False,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
    reveal: options.Reveal = False,
) -> None:
    """Print an entry's value: a string as it is, anything else as JSON."""
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        entry = client.resolve(namespace, key) if resolve else client.get_config(namespace, key)
    if as_json:
        write_json(entry_document(entry, reveal=reveal))
        return
    write_line(as_text(entry.value, reveal=reveal))
    if entry.secret and not reveal:
        write_note("It is a secret: --reveal prints it.")


def set_(
    namespace: options.Namespace,
    key: options.Key,
    value: Annotated[
        str,
        typer.Argument(
            help="JSON if it reads as JSON, else a string; - reads it from standard input. One that begins"
            " with a minus goes last, after --.",
            show_default=False,
        ),
    ],
    *,
    string: Annotated[bool, typer.Option("--string", help="Take the value as a string as it is.")] = False,
    secret: Annotated[bool, typer.Option("--secret", help="Store it encrypted; implies --string.")] = False,
    expected_version: Annotated[
        int | None,
        typer.Option(
            "--expected-version",
            metavar="VERSION",
            help="Write only if this is the newest version.",
            show_default=False,
        ),
    ] = None,
    user: options.User = None,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
    reveal: options.Reveal = False,
) -> None:
    """Create an entry, or give it a new version."""
    text = sys.stdin.read().removesuffix("\n") if value == _STDIN else value
    parsed = text if string or secret else _parse(text)
    if parsed is text and not (string or secret) and text.startswith(_LIKE_JSON) and not as_json:
        write_note(
            "note: the value does not read as JSON, and is stored as a string; --string says that it is one."
        )
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        entry = client.set_config(
            namespace, key, parsed, secret=secret, expected_version=expected_version, user=user
        )
    if as_json:
        write_json(entry_document(entry, reveal=reveal))
    else:
        write_line(f"{namespace} {key} [{entry.environment.value}] is at version {entry.version}")


def list_(
    namespace: options.Namespace,
    *,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
    reveal: options.Reveal = False,
) -> None:
    """List a namespace's entries."""
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        entries = client.list_configs(namespace)
    if as_json:
        write_json([entry_document(entry, reveal=reveal) for entry in entries])
    elif entries:
        entries_table(entries, reveal=reveal, title=f"{namespace} [{environment_name(env)}]").print()
    else:
        where = f"{inert(namespace)} [{environment_name(env)}]"
        write_note(f"No entries in {where}; --env names another environment.")


def history(
    namespace: options.Namespace,
    key: options.Key,
    *,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
) -> None:
    """List an entry's versions, newest first; what was a secret stays hidden."""
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        items = client.get_history(namespace, key)
    if as_json:
        write_json([history_document(item) for item in items])
    elif items:
        history_table(items, title=f"{namespace} {key} [{environment_name(env)}]").print()
    else:
        where = f"{inert(namespace)} {inert(key)} [{environment_name(env)}]"
        write_note(f"No versions of {where}; --env names another environment.")


def rollback(
    namespace: options.Namespace,
    key: options.Key,
    version: Annotated[
        int, typer.Argument(help="Whose value to write as a new version.", show_default=False)
    ],
    *,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
    reveal: options.Reveal = False,
) -> None:
    """Write an earlier version's value as a new version."""
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        entry = client.rollback(namespace, key, version)
    if as_json:
        write_json(entry_document(entry, reveal=reveal))
    else:
        where = f"{namespace} {key} [{entry.environment.value}]"
        write_line(f"{where} is at version {entry.version}, with the value of version {version}")


def delete(
    namespace: options.Namespace,
    key: options.Key,
    *,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    env: options.Env = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete an entry; its history stays, and rollback brings it back."""
    with connected(base_url, token, env, timeout, header=header, as_json=as_json) as client:
        client.delete_config(namespace, key)
    if as_json:
        write_json({"deleted": True, "namespace": namespace, "key": key})
    else:
        where = f"{namespace} {key} [{environment_name(env)}]"
        write_line(f"{where} is deleted; its history stays, and rollback brings it back")


def health(
    *,
    base_url: options.BaseUrl = None,
    token: options.Token = None,
    timeout: options.Timeout = None,
    header: options.Header = None,
    as_json: options.AsJson = False,
) -> None:
    """Ask the server how it is."""
    with connected(base_url, token, None, timeout, header=header, as_json=as_json) as client:
        found = client.health_check()
    if as_json:
        write_json(found.model_dump(mode="json"))
    else:
        write_line(" ".join(part for part in (found.service, found.version, found.status) if part))
    if not found.is_healthy:
        raise typer.Exit(Exit.UNAVAILABLE)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
