"""The vault: its keys, their rotation, and encryption as a service."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from llm_config_mock_server.messages import Reply, json_reply
from llm_config_sdk.contract import CIPHERTEXT_FIELDS, ErrorCode

from .bodies import optional
from .names import version_number
from .refusals import RefusedError, config_error
from .routing import API, POST, Route
from .secrets import plain_value, sealed_value

if TYPE_CHECKING:
    from .visit import Visit


def _keys(visit: Visit) -> Reply:
    visit.need("vault:manage", "vault/keys")
    return json_reply(
        200,
        [
            {"version": key.version, "algorithm": key.algorithm, "active": key.active}
            for key in visit.platform.vault.keys
        ],
    )


def _add_key(visit: Visit) -> Reply:
    visit.need("vault:manage", "vault/keys")
    body = visit.body()
    material, algorithm = (
        optional(body, "material", str, None),
        optional(body, "algorithm", str, "aes-256-gcm"),
    )
    with visit.platform.audit.recording(visit.subject("vault.key", "vault/keys"), visit.call.at):
        key = visit.platform.vault.add_key(material=material, algorithm=algorithm)
    return json_reply(200, {"version": key.version, "algorithm": key.algorithm, "active": key.active})


def _remove_key(visit: Visit) -> Reply:
    name = visit.arguments[0]
    visit.need("vault:manage", f"vault/keys/{name}")
    version = None if name == "active" else version_number(name)
    with visit.platform.audit.recording(visit.subject("vault.key", f"vault/keys/{name}"), visit.call.at):
        found = visit.platform.vault.remove_key(version)
    if not found:
        raise RefusedError(
            ErrorCode.NOT_FOUND, f"Vault key not found: {name}", details={"resource": f"vault/keys/{name}"}
        )
    return Reply(204)


def _rotate(visit: Visit) -> Reply:
    visit.need("vault:manage", "vault/rotate")
    reencrypt = optional(visit.body(), "reencrypt", bool, default=True)
    platform = visit.platform
    with platform.audit.recording(visit.subject("vault.rotate", "vault"), visit.call.at):
        key = platform.vault.add_key()
        changed = 0
        for address in platform.store.storage.addresses() if reencrypt else ():
            record = platform.store.get(address)
            if record is not None and record.secret:
                sealed = sealed_value(visit, address, plain_value(platform, address, record))
                platform.store.replace(address, replace(record, value=sealed))
                changed += 1
    return json_reply(200, {"version": key.version, "algorithm": key.algorithm, "reencrypted": changed})


def _encrypt(visit: Visit) -> Reply:
    visit.need("vault:use", "vault/encrypt")
    plaintext = visit.body().get("plaintext")
    if not isinstance(plaintext, str):
        raise config_error("ValidationError", "plaintext must be a string", field="plaintext")
    return json_reply(200, visit.platform.vault.seal(plaintext))


def _decrypt(visit: Visit) -> Reply:
    visit.need("vault:use", "vault/decrypt")
    body = visit.body()
    missing = sorted(CIPHERTEXT_FIELDS - body.keys())
    if missing:
        raise config_error("ValidationError", f"missing field `{missing[0]}`", field=missing[0])
    return json_reply(200, {"plaintext": visit.platform.vault.open(body)})


_VAULT: Final = (*API, "vault")
ROUTES: Final = (
    Route("vault keys", (*_VAULT, "keys"), {"GET": _keys, "POST": _add_key}, POST),
    Route("vault key", (*_VAULT, "keys", None), {"DELETE": _remove_key}),
    Route("vault rotation", (*_VAULT, "rotate"), {"POST": _rotate}, POST),
    Route("encryption", (*_VAULT, "encrypt"), {"POST": _encrypt}, POST, honours_idempotency_keys=False),
    Route("decryption", (*_VAULT, "decrypt"), {"POST": _decrypt}, POST, honours_idempotency_keys=False),
)
