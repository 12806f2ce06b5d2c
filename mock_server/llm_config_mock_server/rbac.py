"""Who may do what, and where: roles, scopes by namespace, users and their tokens."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from llm_config_sdk.contract import NAMESPACE_MAX_LENGTH

from .tables import Table

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping

    from .conditions import Conditions
    from .randomness import Randomness
    from .storage import Storage

PERMISSIONS: Final = frozenset(
    {
        "config:read",
        "config:write",
        "config:delete",
        "user:impersonate",  # name somebody else as the author of a change
        "audit:read",
        "rbac:read",
        "rbac:write",
        "vault:use",
        "vault:manage",
        "cache:manage",
    }
)
BUILT_IN_ROLES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "admin": PERMISSIONS,
        "editor": frozenset({"config:read", "config:write", "config:delete", "vault:use"}),
        "viewer": frozenset({"config:read"}),
        "auditor": frozenset({"config:read", "audit:read", "rbac:read"}),
    }
)
EVERYWHERE: Final = "**"
_SCOPE: Final = re.compile(r"\*\*|(?:[A-Za-z0-9_-]+|\*)(?:/(?:[A-Za-z0-9_-]+|\*))*(?:/\*\*)?")
_NAME: Final = re.compile(r"[A-Za-z0-9_.@-]{1,128}")


class RbacError(Exception):
    """A variant of the guide's `RbacError`, by name."""

    def __init__(self, variant: str, message: str) -> None:
        """Remember the variant."""
        super().__init__(message)
        self.variant = variant
        self.message = message


@dataclass(frozen=True, slots=True)
class Grant:
    """A role within a scope.

    Args:
        role: The role's name.
        scope: `**` for everywhere, `team-a` for that namespace alone, `team-a/**` for it and
            all below it, `*` for any one segment.
    """

    role: str
    scope: str = EVERYWHERE


@dataclass(frozen=True, slots=True)
class Role:
    """A custom role: permissions of its own and those of the roles that it inherits from."""

    permissions: frozenset[str]
    inherits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a request comes from."""

    user: str
    grants: tuple[Grant, ...]


ANYBODY: Final = Principal("api-user", (Grant("admin"),))
"""Who a request comes from where tokens are not asked for; the name is the platform's default user."""


_BUILT_IN_USERS: Final = {role: Principal(role, (Grant(role),)) for role in BUILT_IN_ROLES}


@dataclass(frozen=True, slots=True)
class _User:
    principal: Principal
    has_token: bool


def scope_covers(scope: str, namespace: str) -> bool:
    """Say whether a scope reaches a namespace."""
    if scope == EVERYWHERE:
        return True
    deep = scope.endswith("/**")
    wanted, given = scope.removesuffix("/**").split("/"), namespace.split("/")
    if len(given) < len(wanted) or (len(given) > len(wanted) and not deep):
        return False
    return all(pattern in {"*", part} for pattern, part in zip(wanted, given, strict=False))


def check_scope(scope: object) -> str:
    """Return a scope that is one.

    Raises:
        RbacError: `InvalidScope`.
    """
    if not isinstance(scope, str) or len(scope) > NAMESPACE_MAX_LENGTH or not _SCOPE.fullmatch(scope):
        raise RbacError("InvalidScope", f"Invalid scope: {scope!r} is no pattern of namespaces")
    return scope


class Rbac:
    """Users, roles and tokens, subject to the condition `rbac`.

    Args:
        conditions: Where the condition `rbac` is looked up.
        randomness: Where tokens come from: a user's follows from the seed and the name, and is kept nowhere.
        storage: Where users and custom roles are kept.

    Raises:
        ComponentFailureError: From `allows` and what changes something, while the component is not well;
            from every method, where the storage says no.
    """

    def __init__(self, conditions: Conditions, randomness: Randomness, storage: Storage) -> None:
        """Begin with the four built-in roles, and a user of each who has a token."""
        self._conditions = conditions
        self._randomness = randomness
        self._users = Table(storage, "users", _user_json, _user_from_json)
        self._roles = Table(storage, "roles", _role_json, _role_from_json)
        self._tokens: dict[str, str] = {}
        self._tokens_as_of: Hashable = None

    @property
    def users(self) -> Mapping[str, Principal]:
        """Everybody, by name."""
        return {**_BUILT_IN_USERS, **{name: user.principal for name, user in self._users.items()}}

    @property
    def roles(self) -> Mapping[str, Role]:
        """The custom roles, by name."""
        return dict(self._roles)

    def role(self, name: str) -> Role:
        """Return a role, built-in or custom.

        Raises:
            RbacError: `RoleNotFound`.
        """
        self._conditions.check("rbac")
        if name in BUILT_IN_ROLES:
            return Role(BUILT_IN_ROLES[name])
        if name not in self._roles:
            raise RbacError("RoleNotFound", f"Role not found: {name}")
        return self._roles[name]

    def define_role(self, name: str, permissions: Iterable[object], inherits: Iterable[object] = ()) -> Role:
        """Make or change a custom role.

        Roles may inherit from roles that come later, so a circle is found when it is walked.

        Raises:
            RbacError: `InvalidRole`.
        """
        self._conditions.check("rbac")
        wanted, parents = list(permissions), list(inherits)
        unknown = [each for each in wanted if not isinstance(each, str) or each not in PERMISSIONS]
        if unknown:
            raise RbacError("InvalidRole", f"Invalid role {name!r}: unknown permission {unknown[0]!r}")
        nameless = [each for each in parents if not isinstance(each, str)]
        if nameless:
            raise RbacError("InvalidRole", f"Invalid role {name!r}: {nameless[0]!r} is no name of a role")
        if name in BUILT_IN_ROLES or not _NAME.fullmatch(name):
            raise RbacError("InvalidRole", f"Invalid role: {name!r} is built in or no name of a role")
        role = Role(frozenset(map(str, wanted)), tuple(map(str, parents)))
        self._roles[name] = role
        return role

    def user(self, name: str) -> Principal:
        """Return a user.

        Raises:
            RbacError: `UserNotFound`.
        """
        self._conditions.check("rbac")
        principal = self._principal(name)
        if principal is None:
            raise RbacError("UserNotFound", f"User not found: {name}")
        return principal

    def grant(self, user: str, grant: Grant) -> Principal:
        """Give a user a role within a scope, in place of any other grant of that role.

        Raises:
            RbacError: `InvalidScope`, `RoleNotFound`, or `UserNotFound` for what is no name.
        """
        self._conditions.check("rbac")
        if not _NAME.fullmatch(user):
            raise RbacError("UserNotFound", f"User not found: {user!r} is no name of a user")
        self.role(grant.role)
        check_scope(grant.scope)
        before = self._principal(user)
        held = () if before is None else before.grants
        if grant in held:
            return Principal(user, held)
        principal = Principal(user, (*(other for other in held if other.role != grant.role), grant))
        self._users[user] = _User(principal, self._has_token(user))
        return principal

    def token(self, user: str) -> str:
        """Return the token of a user, made at the first call.

        Raises:
            RbacError: `UserNotFound`.
        """
        principal = self.user(user)
        if not self._has_token(user):
            self._users[user] = _User(principal, has_token=True)
        return self._randomness.token(user)

    def authenticate(self, token: str) -> Principal | None:
        """Return who a token belongs to, or `None`."""
        # Every token is compared in constant time: a habit worth keeping where people read the code.
        for known, user in self._known_tokens().items():
            if secrets.compare_digest(known.encode(), token.encode()):
                return self._principal(user)
        return None

    def _principal(self, name: str) -> Principal | None:
        user = self._users.get(name)
        return _BUILT_IN_USERS.get(name) if user is None else user.principal

    def _has_token(self, name: str) -> bool:
        user = self._users.get(name)
        return name in _BUILT_IN_USERS or (user is not None and user.has_token)

    def _known_tokens(self) -> dict[str, str]:
        stamp = self._users.stamp
        if stamp != self._tokens_as_of:
            names = [*_BUILT_IN_USERS, *(name for name in self._users if self._has_token(name))]
            self._tokens = {self._randomness.token(name): name for name in names}
            self._tokens_as_of = stamp
        return self._tokens

    def permissions(self, role: str, walked: tuple[str, ...] = ()) -> frozenset[str]:
        """Return all that a role permits, inherited permissions included.

        Raises:
            RbacError: `InternalError` where roles inherit in a circle, `RoleNotFound`.
        """
        if role in walked:
            raise RbacError("InternalError", f"role hierarchy has a cycle: {' -> '.join((*walked, role))}")
        found = self.role(role)
        return found.permissions.union(
            *(self.permissions(parent, (*walked, role)) for parent in found.inherits)
        )

    def allows(self, principal: Principal, permission: str) -> bool:
        """Say whether any of somebody's roles permits this, wherever it applies."""
        self._conditions.check("rbac")
        return any(permission in self.permissions(grant.role) for grant in principal.grants)

    def allows_in(self, principal: Principal, permission: str, namespace: str) -> bool:
        """Say whether a role that permits this also reaches a namespace."""
        return any(
            scope_covers(grant.scope, namespace) and permission in self.permissions(grant.role)
            for grant in principal.grants
        )


def _user_json(user: _User) -> dict[str, Any]:
    grants = [[grant.role, grant.scope] for grant in user.principal.grants]
    return {"user": user.principal.user, "grants": grants, "has_token": user.has_token}


def _user_from_json(told: Any) -> _User:
    grants = tuple(Grant(role, scope) for role, scope in told["grants"])
    return _User(Principal(told["user"], grants), told["has_token"])


def _role_json(role: Role) -> dict[str, Any]:
    return {"permissions": sorted(role.permissions), "inherits": role.inherits}


def _role_from_json(told: Any) -> Role:
    return Role(frozenset(told["permissions"]), tuple(told["inherits"]))
