"""Configs as this server keeps them: secrets that stay sealed once they were rolled back or restarted over.

A secret is opened for get and list only while the record is the one that this process sealed.
Afterwards its ciphertext comes back as if it were an object that somebody had put there.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from llm_config_mock_server.messages import Reply, json_reply
from llm_config_mock_server.store import Record
from llm_config_sdk.contract import WRITTEN_PLACEHOLDER, Environment

from .values import as_kept
from .words import RefusedError, flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_config_mock_server.core import Call, Platform
    from llm_config_mock_server.storage import Address

    from .set_body import SetBody

_ROLLBACK_USER = "system"


def parse_environment(name: str) -> Environment:
    """Read an environment's name.

    Raises:
        RefusedError: There is none of that name.
    """
    try:
        return Environment.parse(name)
    except ValueError as error:
        raise RefusedError(flat(400, f"Unknown environment: {name}")) from error


def entry_body(address: Address, record: Record, value: Any) -> dict[str, Any]:
    """Say a record as an entry of the wire: no tags, no description, whatever is stored."""
    return {
        "id": record.id,
        "namespace": address.namespace,
        "key": address.key,
        "value": as_kept(value),
        "environment": str(address.environment),
        "version": record.version,
        "metadata": {
            "created_at": record.created_at,
            "created_by": record.created_by,
            "updated_at": record.updated_at,
            "updated_by": record.updated_by,
            "tags": list[str](),
            "description": None,
        },
    }


def get(platform: Platform, address: Address) -> Reply:
    """Answer with an entry."""
    record = platform.store.get(address)
    if record is None:
        raise _not_found(address)
    return json_reply(200, entry_body(address, record, _opened(platform, record)))


def listing(platform: Platform, namespace: str, environment: Environment) -> Reply:
    """Answer with the entries of a namespace, and of those whose names begin with it and `::`."""
    namespaces = {
        address.namespace
        for address in platform.store.storage.addresses()
        if address.namespace.startswith(f"{namespace}::")
    }
    found = [
        pair
        for name in (namespace, *sorted(namespaces))
        for pair in platform.store.entries(name, environment)
    ]
    # In no order that a client could mistake for one, and still the same every time.
    found.sort(key=lambda pair: zlib.crc32(f"{pair[0]}".encode()))
    return json_reply(
        200, [entry_body(address, record, _opened(platform, record)) for address, record in found]
    )


def history(platform: Platform, address: Address) -> Reply:
    """Answer with every version, newest first; one that never was has none."""
    return json_reply(
        200,
        [
            {
                "change_description": record.change_description,
                "created_at": record.updated_at,
                "created_by": record.updated_by,
                "value": as_kept(record.value),
                "version": record.version,
            }
            for record in _versions(platform, address)
        ],
    )


def set_value(platform: Platform, call: Call, address: Address, body: SetBody) -> Reply:
    """Write a new version; a secret is shown as a placeholder, this once."""
    value = body.value
    if body.secret:
        if not isinstance(value, str):
            raise RefusedError(flat(400, "Secret value must be a string"))
        if not platform.vault.keys:
            raise RefusedError(flat(500, "Validation error: Encryption key not configured"))
        value = platform.vault.seal(value)
    before, now = platform.store.get(address), call.at.rfc3339()
    record = Record(
        id=before.id if before else platform.randomness.entry_id(),
        version=before.version + 1 if before else 1,
        value=value,
        secret=body.secret,
        created_at=before.created_at if before else now,
        created_by=before.created_by if before else body.user,
        updated_at=now,
        updated_by=body.user,
        change_description="Configuration updated",
    )
    platform.store.put(address, record)
    if body.secret:
        platform.sealed_here.add(record.etag)
    return json_reply(200, entry_body(address, record, WRITTEN_PLACEHOLDER if body.secret else value))


def rollback(platform: Platform, call: Call, address: Address, version: int) -> Reply:
    """Write an old version's value as a new entry, by `system`; a secret's value is its ciphertext."""
    versions = _versions(platform, address)
    # After a delete, versions begin anew: of several of one number, this takes the newest.
    wanted = next((record for record in versions if record.version == version), None)
    if wanted is None:
        raise RefusedError(flat(404, f"Version {version} not found"))
    now = call.at.rfc3339()
    record = Record(
        id=platform.randomness.entry_id(),
        version=versions[0].version + 1,
        value=wanted.value,
        secret=wanted.secret,
        created_at=now,
        created_by=_ROLLBACK_USER,
        updated_at=now,
        updated_by=_ROLLBACK_USER,
        change_description=f"Rollback to version {version}",
    )
    platform.store.put(address, record)
    return json_reply(200, entry_body(address, record, record.value))


def delete(platform: Platform, address: Address) -> Reply:
    """Remove an entry; its history stays."""
    if not platform.store.delete(address):
        raise _not_found(address)
    return Reply(204)


def _versions(platform: Platform, address: Address) -> Sequence[Record]:
    """Return every version, the highest number first, and of the same number the newest first."""
    return sorted(platform.store.history(address), key=lambda record: -record.version)


def _opened(platform: Platform, record: Record) -> Any:
    if record.secret and record.etag in platform.sealed_here:
        return platform.vault.open(record.value)
    return record.value


def _not_found(address: Address) -> RefusedError:
    return RefusedError(flat(404, f"Configuration not found: {address.namespace}:{address.key}"))
