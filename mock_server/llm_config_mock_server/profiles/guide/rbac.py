"""Roles and users: who may do what, and the tokens that say who somebody is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from llm_config_mock_server.messages import Reply, json_reply
from llm_config_mock_server.rbac import (
    BUILT_IN_ROLES,
    PERMISSIONS,
    Grant,
    Principal,
    RbacError,
    check_scope,
)

from .bodies import optional
from .routing import API, PUT, Route

if TYPE_CHECKING:
    from .visit import Visit


def _principal_body(principal: Principal) -> dict[str, Any]:
    roles = [{"role": grant.role, "scope": grant.scope} for grant in principal.grants]
    return {"user": principal.user, "roles": roles}


def _users(visit: Visit) -> Reply:
    visit.need("rbac:read", "users")
    return json_reply(200, [_principal_body(user) for _, user in sorted(visit.platform.rbac.users.items())])


def _user(visit: Visit) -> Reply:
    visit.need("rbac:read", f"users/{visit.arguments[0]}")
    return json_reply(200, _principal_body(visit.platform.rbac.user(visit.arguments[0])))


def _grant(visit: Visit) -> Reply:
    user = visit.arguments[0]
    visit.need("rbac:write", f"users/{user}")
    body = visit.body()
    wanted = body.get("role")
    if isinstance(wanted, dict):
        role: Any = cast("dict[str, Any]", wanted).get("custom")
        if not isinstance(role, str):
            raise RbacError("InvalidRole", "Invalid role: custom must name a role")
    elif isinstance(wanted, str) and wanted in BUILT_IN_ROLES:
        role = wanted
    else:
        raise RbacError(
            "InvalidRole", f"Invalid role: {wanted!r} is none of {', '.join(sorted(BUILT_IN_ROLES))}"
        )
    grant = Grant(role, check_scope(body.get("scope", "**")))
    visit.platform.rbac.role(role)
    with visit.platform.audit.recording(visit.subject("rbac.grant", f"users/{user}"), visit.call.at):
        principal = visit.platform.rbac.grant(user, grant)
    return json_reply(200, _principal_body(principal))


def _issue_token(visit: Visit) -> Reply:
    user = visit.arguments[0]
    visit.need("rbac:write", f"users/{user}")
    with visit.platform.audit.recording(visit.subject("rbac.grant", f"users/{user}/tokens"), visit.call.at):
        token = visit.platform.rbac.token(user)
    return json_reply(200, {"user": user, "token": token})


def _roles(visit: Visit) -> Reply:
    visit.need("rbac:read", "roles")
    built_in = [
        {"role": name, "permissions": sorted(held), "built_in": True} for name, held in BUILT_IN_ROLES.items()
    ]
    custom = [
        {
            "role": name,
            "permissions": sorted(role.permissions),
            "inherits": list(role.inherits),
            "built_in": False,
        }
        for name, role in sorted(visit.platform.rbac.roles.items())
    ]
    return json_reply(200, built_in + custom)


def _role(visit: Visit) -> Reply:
    name = visit.arguments[0]
    visit.need("rbac:read", f"roles/{name}")
    return json_reply(200, {"role": name, "permissions": sorted(visit.platform.rbac.permissions(name))})


def _define_role(visit: Visit) -> Reply:
    name = visit.arguments[0]
    visit.need("rbac:write", f"roles/{name}")
    body = visit.body()
    permissions, inherits = optional(body, "permissions", list, []), optional(body, "inherits", list, [])
    if not permissions and not inherits:
        raise RbacError(
            "InvalidRole",
            f"Invalid role {name!r}: no permissions; there are {', '.join(sorted(PERMISSIONS))}",
        )
    with visit.platform.audit.recording(visit.subject("rbac.role", f"roles/{name}"), visit.call.at):
        role = visit.platform.rbac.define_role(name, permissions, inherits)
    shown = {"role": name, "permissions": sorted(role.permissions), "inherits": list(role.inherits)}
    return json_reply(200, shown)


_RBAC: Final = (*API, "rbac")
ROUTES: Final = (
    Route("users", (*_RBAC, "users"), {"GET": _users}),
    Route("user", (*_RBAC, "users", None), {"GET": _user}),
    Route("user roles", (*_RBAC, "users", None, "roles"), {"PUT": _grant}, PUT),
    Route(
        "user tokens",
        (*_RBAC, "users", None, "tokens"),
        {"POST": _issue_token},
        honours_idempotency_keys=False,
    ),
    Route("roles", (*_RBAC, "roles"), {"GET": _roles}),
    Route("role", (*_RBAC, "roles", None), {"GET": _role, "PUT": _define_role}, PUT),
)
