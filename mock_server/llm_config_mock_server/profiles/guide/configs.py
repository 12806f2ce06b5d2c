"""Configs: get, list, history, set, rollback and delete."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from llm_config_mock_server.messages import Reply, json_bytes, json_reply
from llm_config_mock_server.store import Record
from llm_config_sdk.contract import REDACTED_PLACEHOLDER, WRITTEN_PLACEHOLDER

from .bodies import json_type, optional
from .names import address_of, environment_of, flag, namespace_of, parse_environment, version_number
from .pages import page_headers, page_of
from .preconditions import check_preconditions, is_current
from .refusals import RefusedError, config_error
from .routing import API, POST, Route
from .secrets import plain_value, sealed_value

if TYPE_CHECKING:
    from llm_config_mock_server.storage import Address

    from .visit import Visit


def entry_body(address: Address, record: Record, value: Any) -> dict[str, Any]:
    """Say a record as an entry of the wire."""
    return {
        "id": record.id,
        "namespace": address.namespace,
        "key": address.key,
        "value": value,
        "environment": str(address.environment),
        "version": record.version,
        "secret": record.secret,
        "metadata": {
            "created_at": record.created_at,
            "created_by": record.created_by,
            "updated_at": record.updated_at,
            "updated_by": record.updated_by,
            "tags": list(record.tags),
            "description": record.description,
        },
    }


def _not_found(address: Address) -> RefusedError:
    return config_error(
        "NotFound",
        f"Configuration not found: {address.namespace}:{address.key}",
        namespace=address.namespace,
        key=address.key,
        env=str(address.environment),
    )


def _get(visit: Visit) -> Reply:
    asked = address_of(visit, environment_of(visit))
    visit.need_in("config:read", asked.namespace, asked.environment)
    with_overrides = flag(visit, "with_overrides")
    for environment in reversed(asked.environment.overrides) if with_overrides else (asked.environment,):
        address = replace(asked, environment=environment)
        record = visit.platform.reader.get(address)
        if record is not None:
            if is_current(visit.request, record.etag):
                return Reply(304, (("etag", record.etag),))
            body = entry_body(address, record, plain_value(visit.platform, address, record))
            return json_reply(200, body, ("etag", record.etag))
    raise _not_found(asked)


def _list(visit: Visit) -> Reply:
    environment, namespace = environment_of(visit), namespace_of(visit)
    visit.need_in("config:read", namespace, environment)
    page = page_of(visit, _no_page)
    found = visit.platform.store.entries(namespace, environment)
    versions = "\n".join(f"{address.key} {record.etag}" for address, record in found)
    etag = f'"{hashlib.sha256(f"{page} {versions}".encode()).hexdigest()[:32]}"'
    if is_current(visit.request, etag):
        return Reply(304, (("etag", etag),))
    entries = [
        entry_body(address, record, plain_value(visit.platform, address, record))
        for address, record in (found if page is None else page.cut(found))
    ]
    return json_reply(200, entries, ("etag", etag), *page_headers(visit, page, len(found)))


def _history(visit: Visit) -> Reply:
    address = address_of(visit, environment_of(visit))
    visit.need_in("config:read", address.namespace, address.environment)
    page = page_of(visit, _no_page)
    versions = visit.platform.store.history(address)
    shown = [
        {
            "id": record.id,
            "version": record.version,
            "value": REDACTED_PLACEHOLDER if record.secret else record.value,
            "secret": record.secret,
            "created_at": record.updated_at,
            "created_by": record.updated_by,
            "change_description": record.change_description,
        }
        for record in (versions if page is None else page.cut(versions))
    ]
    return json_reply(200, shown, *page_headers(visit, page, len(versions)))


def _no_page(message: str, name: str) -> RefusedError:
    return config_error("ValidationError", message, field=name)


def _set(visit: Visit) -> Reply:
    body = visit.body()
    for name in ("value", "env"):
        if name not in body:
            raise config_error("ValidationError", f"missing field `{name}`", field=name)
    address = address_of(visit, parse_environment(body["env"], source="body"))
    visit.need_in("config:write", address.namespace, address.environment)
    named, secret = optional(body, "user", str, None), optional(body, "secret", bool, default=False)
    tags, description = optional(body, "tags", list, []), optional(body, "description", str, None)
    if not all(isinstance(tag, str) for tag in tags):
        raise config_error("ValidationError", "tags must be strings", field="tags")
    value = body["value"]
    _check_value(visit, value, secret=secret)
    author = _author(visit, named, address.namespace)
    before = visit.platform.store.get(address)
    check_preconditions(visit.request, before)
    now = visit.call.at.rfc3339()
    stored = sealed_value(visit, address, value) if secret else value
    record = Record(
        id=before.id if before else visit.platform.randomness.entry_id(),
        version=before.version + 1 if before else 1,
        value=stored,
        secret=secret,
        created_at=before.created_at if before else now,
        created_by=before.created_by if before else author,
        updated_at=now,
        updated_by=author,
        tags=tuple(tags) if "tags" in body else before.tags if before else (),
        description=description if "description" in body else before.description if before else None,
        change_description="Configuration updated",
    )
    return _written(visit, address, record, "config.set", WRITTEN_PLACEHOLDER if secret else value)


def _rollback(visit: Visit) -> Reply:
    address, version = address_of(visit, environment_of(visit)), version_number(visit.arguments[2])
    visit.need_in("config:write", address.namespace, address.environment)
    history = visit.platform.store.history(address)
    if not history:
        raise _not_found(address)
    wanted = next((record for record in history if record.version == version), None)
    if wanted is None:
        raise config_error(
            "VersionNotFound",
            f"Version {version} not found",
            version=version,
            namespace=address.namespace,
            key=address.key,
        )
    before = visit.platform.store.get(address)
    check_preconditions(visit.request, before)
    now, author = visit.call.at.rfc3339(), visit.principal.user
    record = replace(
        wanted,
        id=before.id if before else visit.platform.randomness.entry_id(),
        # Above every version there ever was: a rollback never makes a version go back.
        version=max(record.version for record in history) + 1,
        created_at=before.created_at if before else now,
        created_by=before.created_by if before else author,
        updated_at=now,
        updated_by=author,
        change_description=f"Rollback to version {version}",
    )
    return _written(
        visit, address, record, "config.rollback", WRITTEN_PLACEHOLDER if record.secret else record.value
    )


def _delete(visit: Visit) -> Reply:
    address = address_of(visit, environment_of(visit))
    visit.need_in("config:delete", address.namespace, address.environment)
    before = visit.platform.store.get(address)
    if before is None:
        raise _not_found(address)
    check_preconditions(visit.request, before)
    subject = visit.subject("config.delete", f"{address.namespace}/{address.key}", address.environment)
    with visit.platform.audit.recording(subject, visit.call.at):
        visit.platform.store.delete(address)
    return Reply(204)


def _written(visit: Visit, address: Address, record: Record, kind: str, shown: Any) -> Reply:
    subject = visit.subject(kind, f"{address.namespace}/{address.key}", address.environment)
    with visit.platform.audit.recording(subject, visit.call.at):
        visit.platform.store.put(address, record)
    return json_reply(200, entry_body(address, record, shown), ("etag", record.etag))


def _check_value(visit: Visit, value: Any, *, secret: bool) -> None:
    if secret and not isinstance(value, str):
        raise config_error(
            "InvalidValue",
            "Secret value must be a string",
            field="value",
            reason=f"it is {json_type(value)}",
        )
    size, longest = len(json_bytes(value)), visit.platform.options.value_max_bytes
    if size > longest:
        reason = f"{size} bytes of JSON, where {longest} are allowed"
        raise config_error("InvalidValue", f"Value too large: {reason}", field="value", reason=reason)


def _author(visit: Visit, named: str | None, namespace: str) -> str:
    if named is not None and visit.platform.rbac.allows_in(visit.principal, "user:impersonate", namespace):
        return named
    return visit.principal.user


_CONFIGS: Final = (*API, "configs")
ROUTES: Final = (
    Route("list", (*_CONFIGS, None), {"GET": _list}),
    Route("item", (*_CONFIGS, None, None), {"GET": _get, "POST": _set, "DELETE": _delete}, POST),
    Route("history", (*_CONFIGS, None, None, "history"), {"GET": _history}),
    Route("rollback", (*_CONFIGS, None, None, "rollback", None), {"POST": _rollback}),
)
