"""The OpenAPI document of the profile `guide`: its routes as they are, and what is said about each.

Paths, methods and media types come from the profile's own routes; names, patterns, codes and
environments from the wire contract. Only what neither knows is written here, once for each route.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from llm_config_sdk.contract import (
    CIPHERTEXT_FIELDS,
    CODES,
    IDEMPOTENCY_KEY_HEADER,
    KEY_MAX_LENGTH,
    KEY_PATTERN,
    NAMESPACE_MAX_LENGTH,
    NAMESPACE_PATTERN,
    REQUEST_ID_HEADER,
    Environment,
    ErrorCode,
)

from .audit import EVENT_TYPES
from .core import VALUE_MAX_BYTES
from .profiles.guide import ROUTES
from .rbac import BUILT_IN_ROLES, PERMISSIONS
from .vault import ALGORITHM, PLAINTEXT_MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .profiles.guide.routing import Route

PATH: Final = "/openapi.json"
PROFILE: Final = "guide"

Schema = dict[str, Any]
_NOT_MODIFIED: Final = 304  # the one status here that is no error, and has no body

# --- Schemas ------------------------------------------------------------------------------------


def _object(properties: Mapping[str, Schema], *optional: str, closed: bool = True) -> Schema:
    """Describe an object whose properties are all required but the optional ones."""
    schema: Schema = {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
    }
    return schema | {"additionalProperties": False} if closed else schema


def _list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _any_case(name: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" for letter in name)


_STRING: Final[Schema] = {"type": "string"}
_TIME: Final[Schema] = {"type": "string", "format": "date-time"}
_VERSION: Final[Schema] = {"type": "integer", "minimum": 1, "maximum": 2**64 - 1}
_NAMES: Final = sorted({*map(str, Environment), "dev", "stage", "prod"})
_ANY_VALUE: Final[Schema] = {
    "description": f"Any JSON, of at most {VALUE_MAX_BYTES} bytes; a secret must be a string."
}
_NAME: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9_.@-]{1,128}$"}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Environment": {"type": "string", "enum": [str(environment) for environment in Environment]},
    "EnvironmentName": {
        "type": "string",
        "pattern": f"^(?:{'|'.join(_any_case(name) for name in _NAMES)})$",
        "description": "An environment, by its name or an alias (dev, stage, prod), in any letter case.",
        "examples": ["production"],
    },
    "Metadata": _object(
        {
            "created_at": _TIME,
            "created_by": _STRING,
            "updated_at": _TIME,
            "updated_by": _STRING,
            "tags": _list_of(_STRING),
            "description": _or_null(_STRING),
        }
    ),
    "Entry": _object(
        {
            "id": {"type": "string", "format": "uuid"},
            "namespace": _STRING,
            "key": _STRING,
            "value": _ANY_VALUE,
            "environment": _ref("Environment"),
            "version": _VERSION,
            "secret": {"type": "boolean"},
            "metadata": _ref("Metadata"),
        }
    ),
    "Version": _object(
        {
            "id": {"type": "string", "format": "uuid"},
            "version": _VERSION,
            "value": _ANY_VALUE,
            "secret": {"type": "boolean"},
            "created_at": _TIME,
            "created_by": _STRING,
            "change_description": _or_null(_STRING),
        }
    ),
    "SetBody": {
        **_object(
            {
                "value": _ANY_VALUE,
                "env": _ref("EnvironmentName"),
                "user": _or_null(_STRING),
                "secret": _or_null({"type": "boolean", "default": False}),
                "tags": _or_null(_list_of(_STRING)),
                "description": _or_null(_STRING),
            },
            "user",
            "secret",
            "tags",
            "description",
            closed=False,
        ),
        "if": {"properties": {"secret": {"const": True}}, "required": ["secret"]},
        "then": {"properties": {"value": {"type": "string", "maxLength": 10_000}}},
        "examples": [{"value": "gpt-4", "env": "production"}],
    },
    "Health": _object({"status": _STRING, "service": _STRING, "version": _STRING}),
    "Grant": _object({"role": _STRING, "scope": _STRING}),
    "User": _object({"user": _STRING, "roles": _list_of(_ref("Grant"))}),
    "Token": _object({"user": _STRING, "token": _STRING}),
    "Role": _object(
        {
            "role": _STRING,
            "permissions": _list_of({"type": "string", "enum": sorted(PERMISSIONS)}),
            "inherits": _list_of(_STRING),
            "built_in": {"type": "boolean"},
        },
        "inherits",
        "built_in",
    ),
    "GrantBody": _object(
        {
            "role": {
                "anyOf": [
                    {"type": "string", "enum": sorted(BUILT_IN_ROLES)},
                    _object({"custom": _NAME}, closed=False),
                ]
            },
            "scope": {
                "type": "string",
                "pattern": r"^(?:\*\*|[A-Za-z0-9_-]{1,40}(?:/[A-Za-z0-9_-]{1,40}){0,3}(?:/\*\*)?)$",
                "default": "**",
            },
        },
        "scope",
        closed=False,
    ),
    "RoleBody": {
        **_object(
            {
                "permissions": _or_null(_list_of({"type": "string", "enum": sorted(PERMISSIONS)})),
                "inherits": _or_null(_list_of(_STRING)),
            },
            "permissions",
            "inherits",
            closed=False,
        ),
        "anyOf": [
            {"required": [name], "properties": {name: {"type": "array", "minItems": 1}}}
            for name in ("permissions", "inherits")
        ],
    },
    "VaultKey": _object(
        {"version": _VERSION, "algorithm": _STRING, "active": {"type": "boolean"}},
    ),
    "VaultKeyBody": _object(
        {
            "material": _or_null(
                {
                    "type": "string",
                    "pattern": r"^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$",
                    "description": "Base64 of 32 bytes; drawn if left out.",
                }
            ),
            "algorithm": _or_null({"type": "string", "const": ALGORITHM}),
        },
        "material",
        "algorithm",
        closed=False,
    ),
    "RotationBody": _object(
        {"reencrypt": _or_null({"type": "boolean", "default": True})}, "reencrypt", closed=False
    ),
    "Rotation": _object(
        {"version": _VERSION, "algorithm": _STRING, "reencrypted": {"type": "integer", "minimum": 0}}
    ),
    "Ciphertext": _object(
        {
            name: _VERSION
            if name == "key_version"
            else {"type": "string", "const": ALGORITHM}
            if name == "algorithm"
            else {"type": "string", "pattern": "^(?:[0-9a-f]{2})*$"}
            for name in sorted(CIPHERTEXT_FIELDS)
        },
        closed=False,
    ),
    "Plaintext": _object({"plaintext": {"type": "string", "maxLength": PLAINTEXT_MAX_BYTES}}, closed=False),
    "CacheEntry": _object(
        {
            "key": _STRING,
            "tier": {"type": "string", "enum": ["l1", "l2"]},
            "version": _VERSION,
            "etag": _STRING,
            "secret": {"type": "boolean"},
            "value": _ANY_VALUE,
        }
    ),
    "AuditEvent": _object(
        {
            "number": {"type": "integer", "minimum": 1},
            "at": _TIME,
            "type": {"type": "string", "enum": sorted(EVENT_TYPES)},
            "user": _STRING,
            "user_id": _or_null(_STRING),
            "resource": _STRING,
            "environment": _or_null(_ref("Environment")),
            "request_id": _STRING,
            "outcome": {"type": "string", "enum": ["done", "failed", "denied"]},
        }
    ),
    "Error": _object(
        {
            "error": _object(
                {
                    "code": {"type": "string", "enum": [str(code) for code in ErrorCode]},
                    "message": _STRING,
                    "details": {
                        "type": "object",
                        "description": "`module` and `variant` name the platform's own error; "
                        "`field` what was wrong with the request.",
                    },
                    "timestamp": _TIME,
                    "request_id": _STRING,
                    "retriable": {"type": "boolean"},
                }
            )
        }
    ),
}

# --- What is said of each route -----------------------------------------------------------------


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "schema": _STRING, "description": description}


_ENV: Final = _query("env", _ref("EnvironmentName"), "The environment; development if left out.")
_IF_NONE_MATCH: Final = _header("If-None-Match", "Answer 304 if this is the current version.")
_IF_MATCH: Final = _header("If-Match", "An ETag or a version: 409 if another one is current.")
_IDEMPOTENCY: Final = _header(
    IDEMPOTENCY_KEY_HEADER,
    "One effect for one key: who repeats the request gets the first reply again; 422 for another body.",
)

_ARGUMENTS: Final[Mapping[str, Schema]] = {
    "namespace": {
        "schema": {
            "type": "string",
            "pattern": f"^{NAMESPACE_PATTERN.pattern}$",
            "minLength": 1,
            "maxLength": NAMESPACE_MAX_LENGTH,
        },
        "description": "The namespace, one segment: a slash in it is sent as %2F.",
        "example": "app/llm",
    },
    "key": {
        "schema": {
            "type": "string",
            "pattern": f"^{KEY_PATTERN.pattern}$",
            "minLength": 1,
            "maxLength": KEY_MAX_LENGTH,
        },
        "example": "model",
    },
    "version": {"schema": _VERSION},
    "user": {"schema": _NAME},
    "role": {"schema": _NAME},
    "key_version": {
        "schema": {"type": "string", "pattern": r"^(?:active|[1-9][0-9]{0,17})$"},
        "description": "A key's number, or `active`.",
    },
}
_ARGUMENTS_BY_ROUTE: Final[Mapping[str, tuple[str, ...]]] = {
    "list": ("namespace",),
    "item": ("namespace", "key"),
    "history": ("namespace", "key"),
    "rollback": ("namespace", "key", "version"),
    "user": ("user",),
    "user roles": ("user",),
    "user tokens": ("user",),
    "role": ("role",),
    "vault key": ("key_version",),
    "cache entry": ("namespace", "key"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What is said of one method of a route, beside what the route itself says.

    Args:
        summary: What it does.
        reply: The schema of its reply; `None` for none (204).
        body: The schema of its body; `None` for none.
        parameters: Query parameters and headers.
        etag: Whether the reply has an ETag.
        refusals: Statuses of errors, beside those that every operation has.
    """

    summary: str
    reply: Schema | None
    body: Schema | None = None
    parameters: tuple[Schema, ...] = ()
    etag: bool = False
    refusals: tuple[int, ...] = field(default=())


_SAID: Final[Mapping[tuple[str, str], Said]] = {
    ("health", "GET"): Said(summary="Ask whether the service is well", reply=_ref("Health")),
    ("list", "GET"): Said(
        summary="List a namespace, by key",
        reply=_list_of(_ref("Entry")),
        parameters=(_ENV, _IF_NONE_MATCH),
        etag=True,
        refusals=(_NOT_MODIFIED,),
    ),
    ("item", "GET"): Said(
        summary="Read a config",
        reply=_ref("Entry"),
        parameters=(
            _ENV,
            _query(
                "with_overrides",
                {"type": "string", "enum": ["true", "false"]},
                "Whether the environments below are looked through too.",
            ),
            _IF_NONE_MATCH,
        ),
        etag=True,
        refusals=(_NOT_MODIFIED, 404),
    ),
    ("item", "POST"): Said(
        summary="Write a config, which makes a version",
        reply=_ref("Entry"),
        body=_ref("SetBody"),
        parameters=(_IF_MATCH, _IDEMPOTENCY),
        etag=True,
        refusals=(409,),
    ),
    ("item", "DELETE"): Said(
        summary="Delete a config; its history stays",
        reply=None,
        parameters=(_ENV, _IF_MATCH),
        refusals=(404, 409),
    ),
    ("history", "GET"): Said(
        summary="List every version, newest first", reply=_list_of(_ref("Version")), parameters=(_ENV,)
    ),
    ("rollback", "POST"): Said(
        summary="Write an earlier version anew",
        reply=_ref("Entry"),
        parameters=(_ENV, _IF_MATCH, _IDEMPOTENCY),
        etag=True,
        refusals=(404, 409),
    ),
    ("users", "GET"): Said(summary="List users and their roles", reply=_list_of(_ref("User"))),
    ("user", "GET"): Said(summary="Read a user's roles", reply=_ref("User"), refusals=(404,)),
    ("user roles", "PUT"): Said(
        summary="Give a user a role within a scope",
        reply=_ref("User"),
        body=_ref("GrantBody"),
        refusals=(404,),
    ),
    ("user tokens", "POST"): Said(summary="Make a user's token", reply=_ref("Token"), refusals=(404,)),
    ("roles", "GET"): Said(summary="List the roles", reply=_list_of(_ref("Role"))),
    ("role", "GET"): Said(
        summary="Read what a role permits, inherited permissions included",
        reply=_ref("Role"),
        refusals=(404,),
    ),
    ("role", "PUT"): Said(
        summary="Make or change a custom role", reply=_ref("Role"), body=_ref("RoleBody"), refusals=(404,)
    ),
    ("vault keys", "GET"): Said(summary="List the vault's keys", reply=_list_of(_ref("VaultKey"))),
    ("vault keys", "POST"): Said(
        summary="Add a key to the vault and make it the active one",
        reply=_ref("VaultKey"),
        body=_ref("VaultKeyBody"),
        parameters=(_IDEMPOTENCY,),
        refusals=(409,),
    ),
    ("vault key", "DELETE"): Said(summary="Destroy a key of the vault", reply=None, refusals=(404,)),
    ("vault rotation", "POST"): Said(
        summary="Add a key and seal every secret with it",
        reply=_ref("Rotation"),
        body=_ref("RotationBody"),
        parameters=(_IDEMPOTENCY,),
        refusals=(409,),
    ),
    ("encryption", "POST"): Said(
        summary="Seal a text",
        reply=_ref("Ciphertext"),
        body=_ref("Plaintext"),
    ),
    ("decryption", "POST"): Said(
        summary="Open a sealed text",
        reply=_object({"plaintext": _STRING}),
        body=_ref("Ciphertext"),
    ),
    ("audit events", "GET"): Said(
        summary="List what was done and what was denied, in order",
        reply=_list_of(_ref("AuditEvent")),
        parameters=(
            _query("type", {"type": "string", "enum": sorted(EVENT_TYPES)}, "Events of this type."),
            _query("user", _STRING, "Events of this user."),
            _query("from", _TIME, "Events from this moment on."),
            _query("to", _TIME, "Events before this moment."),
        ),
    ),
    ("cache", "DELETE"): Said(
        summary="Empty the server's cache", reply=_object({"cleared": {"type": "integer", "minimum": 0}})
    ),
    ("cache entry", "GET"): Said(
        summary="Look a config up in the server's cache, and nowhere else",
        reply=_ref("CacheEntry"),
        parameters=(_ENV,),
        refusals=(404,),
    ),
}
_AREAS: Final = {
    "configs": "Configs",
    "rbac": "Users and roles",
    "vault": "Vault",
    "audit": "Audit",
    "cache": "Cache",
}
_EVERYWHERE: Final = (400, 401, 403, 406, 422, 429, 500, 503)
_WITHOUT_TOKEN: Final = (400, 406, 500, 503)
_BODY_REFUSALS: Final = (413, 415)
_WORDS: Final = {
    _NOT_MODIFIED: "Not modified: the client has the current version.",
    406: "The client takes no JSON.",
    413: "The body is too long.",
    415: "The body is not JSON.",
}

# --- The document -------------------------------------------------------------------------------


def path_template(route: Route) -> str:
    """Return a route's path with names in its gaps."""
    gaps = sum(segment is None for segment in route.segments)
    names = iter(_ARGUMENTS_BY_ROUTE.get(route.name) or [f"part_{place}" for place in range(1, gaps + 1)])
    return "".join(f"/{f'{{{next(names)}}}' if segment is None else segment}" for segment in route.segments)


@cache
def document() -> dict[str, Any]:
    """Return the document. It is made once: nobody may change it."""
    paths: dict[str, Any] = {}
    for route in ROUTES:
        template = path_template(route)
        described = {method.lower(): _operation(route, method) for method in sorted(route.handlers)}
        names = _ARGUMENTS_BY_ROUTE.get(route.name, ())
        arguments = [{"name": name, "in": "path", "required": True, **_ARGUMENTS[name]} for name in names]
        paths[template] = described | ({"parameters": arguments} if arguments else {})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LLM Config Manager",
            "version": "0.5.0",
            "summary": "The platform's HTTP interface, as the reference server speaks it.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in ("Health", *_AREAS.values())],
        "security": [{"bearer": []}],
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "headers": {
                "RequestId": {"description": "The request's id, kept or made.", "schema": _STRING},
                "ETag": {"description": "The strong validator of the version.", "schema": _STRING},
            },
        },
    }


def _operation(route: Route, method: str) -> dict[str, Any]:
    said = _SAID.get((route.name, method)) or Said(summary=route.name.capitalize(), reply={})
    is_open = route.name == "health"
    refusals = {*(_WITHOUT_TOKEN if is_open else _EVERYWHERE), *said.refusals}
    if method in route.reads_json:
        refusals |= {*_BODY_REFUSALS}
    area = next((segment for segment in route.segments if segment in _AREAS), None)
    operation: dict[str, Any] = {
        "operationId": f"{method.lower()}_{route.name.replace(' ', '_')}",
        "summary": said.summary,
        "tags": [_AREAS[area] if area else "Health"],
        "responses": {
            ("200" if said.reply is not None else "204"): _success(said),
            **{str(status): _refusal(status) for status in sorted(refusals)},
        },
    }
    if said.parameters:
        operation["parameters"] = list(said.parameters)
    if said.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": said.body}}}
    if is_open:
        operation["security"] = []
    return operation


def _success(said: Said) -> dict[str, Any]:
    headers = {REQUEST_ID_HEADER: {"$ref": "#/components/headers/RequestId"}}
    if said.etag:
        headers["ETag"] = {"$ref": "#/components/headers/ETag"}
    if said.reply is None:
        return {"description": "Done.", "headers": headers}
    return {
        "description": "Done.",
        "headers": headers,
        "content": {"application/json": {"schema": said.reply}},
    }


def _refusal(status: int) -> dict[str, Any]:
    codes = sorted(str(code) for code, facts in CODES.items() if facts.status == status)
    described: dict[str, Any] = {
        "description": _WORDS.get(status) or f"{', '.join(codes)}.",
        "headers": {REQUEST_ID_HEADER: {"$ref": "#/components/headers/RequestId"}},
    }
    if status != _NOT_MODIFIED:
        described["content"] = {"application/json": {"schema": _ref("Error")}}
    return described
